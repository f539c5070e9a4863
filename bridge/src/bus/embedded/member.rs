//! A member: a client of the broker whose subscriptions we know, and which takes part in barriers.
//!
//! Every member has one owner that drains its queue at all times into an outbox with a rule (the writer of a door
//! connection, the pump of a subscription), because the broker blocks whoever publishes to a full queue. Before they
//! publish, publishers look whether a member [is full](Member::is_full): for a subscription they wait in any case; for a
//! client of the door only with what must be confirmed by it, unless its rule is to block. One that takes nothing is sent away
//! in the end, if its rule is not another.
//! Who overhears is never waited for.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::embedded::{barrier::Token, broker::Queue, filter},
    transport::Timing,
};

/// A client of the broker whose subscriptions we know.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    kind: Kind,
    load: Load,
    /// The broker's queue, to see how full it is, and to close it: nobody must wait for one who is gone.
    queue: Queue,
    /// Tokens not yet taken by the owner; `None` once the member is gone.
    posted: Mutex<Option<Vec<Token>>>,
    /// Tells the owner about tokens, and about anything else that it shares with others.
    pub(crate) wake: Notify,
    /// Topics that its subscriptions match, but which it does not want.
    excluded: RwLock<Vec<Box<str>>>,
    /// How often it has given up hearing something while it stayed.
    departures: AtomicU64,
    /// Its user, if it is a client of the door and users have numbers.
    user: Option<u32>,
    /// Cancelled when it is gone, for who waits for an answer of it, or for it to take one.
    gone: CancellationToken,
    /// Where is noted how long tokens take, if anywhere.
    timing: Option<Arc<Timing>>,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A client of the door whose publishers wait for it, whatever they must confirm.
    Blocks,
    /// A client of the door.
    Door,
    /// A consumer in this process.
    InProcess,
    /// One that hears at most once: it is no audience, and nobody waits for it.
    Overhears,
}

/// What a message costs an in-process consumer beside its payload.
pub(crate) const OVERHEAD: usize = 256;

/// How much a member has not taken yet.
struct Load {
    /// Bytes that wait, here or on their way. An ear keeps its own.
    waiting: Arc<AtomicUsize>,
    /// How many make it full.
    most: usize,
}

impl Member {
    /// A member that is full when `most` bytes wait for it.
    pub(crate) fn new(id: u64, name: Arc<str>, queue: Queue, (kind, most): (Kind, usize)) -> Self {
        Self::loaded((id, name, kind), queue, Load { waiting: Arc::default(), most })
    }

    /// A port that hears: who sends to it by name is told when `waiting` is as much as `most`.
    pub(crate) fn listening(
        id: u64,
        name: Arc<str>,
        queue: Queue,
        (waiting, most): (Arc<AtomicUsize>, usize),
    ) -> Self {
        Self::loaded((id, name, Kind::Overhears), queue, Load { waiting, most })
    }

    fn loaded((id, name, kind): (u64, Arc<str>, Kind), queue: Queue, load: Load) -> Self {
        Self {
            id,
            name,
            kind,
            load,
            queue,
            posted: Mutex::new(Some(Vec::new())),
            wake: Notify::new(),
            excluded: RwLock::default(),
            departures: AtomicU64::new(0),
            user: None,
            gone: CancellationToken::new(),
            timing: None,
        }
    }

    /// The same, of a user that the operating system has named.
    pub(crate) const fn of_user(mut self, user: Option<u32>) -> Self {
        self.user = user;
        self
    }

    /// Its user, if it is a client of the door and users have numbers.
    pub(crate) const fn user(&self) -> Option<u32> {
        self.user
    }

    /// Cancelled when it is gone.
    pub(crate) const fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Notes in `timing` how long what is published takes until this member has taken it.
    pub(crate) fn timed(self, timing: &Arc<Timing>) -> Self {
        Self { timing: Some(Arc::clone(timing)), ..self }
    }

    /// Whether it is a client of the door.
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Blocks | Kind::Door)
    }

    /// Whether it is a consumer in this process.
    pub(crate) const fn is_in_process(&self) -> bool {
        matches!(self.kind, Kind::InProcess)
    }

    /// Whether whoever publishes to it waits while it is full, whether or not it must confirm what is published.
    pub(crate) const fn holds_up(&self) -> bool {
        matches!(self.kind, Kind::Blocks | Kind::InProcess)
    }

    /// Whether it is no audience.
    pub(crate) const fn overhears(&self) -> bool {
        matches!(self.kind, Kind::Overhears)
    }

    /// Posts a token behind everything already in the queue; one posted to a member that is gone is dropped.
    pub(crate) fn post(&self, mut token: Token) {
        if let Some(timing) = &self.timing {
            token.time(timing);
        }
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = posted.as_mut() {
            tokens.push(token);
            drop(posted);
            self.wake.notify_one();
        }
    }

    /// Takes the tokens posted so far; the owner drains the queue *after* this, so that it finds all they stand behind.
    pub(crate) fn collect(&self, into: &mut Vec<Token>) {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = posted.as_mut() {
            into.append(tokens);
        }
    }

    /// Ends it: publishers no longer wait for it, its tokens are dropped.
    pub(crate) fn close(&self) {
        self.queue.close();
        let tokens = self.posted.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Dropped outside the lock, for a barrier may settle here.
        drop(tokens);
        self.gone.cancel();
    }

    /// Whether it has ended; it leaves the table next.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Whether its broker queue is nearly full, so that a publisher should let its owner run.
    pub(crate) fn is_pressed(&self) -> bool {
        self.queue.len() > self.queue.capacity() / 2 && !self.queue.is_closed()
    }

    /// Whether publishers should keep back what it would have to hear.
    pub(crate) fn is_full(&self) -> bool {
        self.load.waiting.load(Ordering::Acquire) >= self.load.most
    }

    /// Whether what was sent by name, which no publisher keeps back, must be dropped.
    pub(crate) fn is_overfull(&self) -> bool {
        self.load.waiting.load(Ordering::Acquire) >= self.load.most.saturating_mul(2)
    }

    /// Notes that `bytes` more will wait. Said before publishing, so that no other publisher overlooks them on their way.
    pub(crate) fn expect(&self, bytes: usize) {
        self.load.waiting.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Notes that a consumer in this process took `bytes`; whether that made room in a full inbox.
    pub(crate) fn unload(&self, bytes: usize) -> bool {
        // Saturating, for while a subscription begins the broker may deliver what nobody expected.
        let less = |waiting: usize| Some(waiting.saturating_sub(bytes));
        let before = self.load.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.is_ok_and(|before| self.made_room(before, before.saturating_sub(bytes)))
    }

    /// Says how much waits for a client of the door; whether that made room in a full outbox.
    ///
    /// What is still on its way is forgotten: it will be part of the next report, whereas what the broker did not deliver
    /// after all (the client has just unsubscribed) must not count for ever.
    pub(crate) fn report(&self, waiting: usize) -> bool {
        let before = self.load.waiting.swap(waiting, Ordering::AcqRel);
        self.made_room(before, waiting)
    }

    const fn made_room(&self, before: usize, after: usize) -> bool {
        before >= self.load.most && after < self.load.most
    }

    /// Notes that it gives up hearing something. Said before the broker knows, so that whoever published to it meanwhile
    /// finds the number changed.
    pub(crate) fn depart(&self) {
        self.departures.fetch_add(1, Ordering::AcqRel);
    }

    /// How often it has given up hearing something.
    pub(crate) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// Whether it does not want `topic`.
    pub(crate) fn excludes(&self, topic: &str) -> bool {
        let excluded = self.excluded.read().unwrap_or_else(PoisonError::into_inner);
        excluded.iter().any(|filter| filter::matches(filter, topic))
    }

    /// Adds an exclusion; how many it has.
    pub(crate) fn exclude(&self, filter: &str) -> usize {
        let mut excluded = self.excluded.write().unwrap_or_else(PoisonError::into_inner);
        if !excluded.iter().any(|known| **known == *filter) {
            excluded.push(filter.into());
        }
        // Behind the entry: who reads the old number reads it before he looks for the entry, or finds the number changed.
        self.depart();
        excluded.len()
    }

    /// Takes an exclusion back.
    pub(crate) fn unexclude(&self, filter: &str) {
        self.excluded.write().unwrap_or_else(PoisonError::into_inner).retain(|known| **known != *filter);
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}
