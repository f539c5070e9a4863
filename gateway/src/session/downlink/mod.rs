//! The way down: collectors that can be reached through a session.
//!
//! ```text
//!   bus ─► ear ─► relay ─┐                    relay: one a collector, of its calls the one owner
//!   bus ─► ear ─► relay ─┼─► told ─► outbox ─► wire
//!                        │
//!   wire ─► actor ─ said ┘
//! ```
//!
//! Each attached collector has a relay, a future that the session's actor drives. What waits for a peer that does not read
//! waits in the ear of its collector, which has the rule for too much. Kept true: every call gets one answer; who loses his
//! session, his name or his right loses his open calls, and their callers are told.

mod answers;
mod calls;
mod commands;
mod config;
mod hears;
pub(super) mod metrics;
pub(super) mod open;
mod relay;
mod room;

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll};

use daemoneye_bridge::{bus::rpc::code, topic::MAX_BYTES};
use daemoneye_proto::{
    MAX_PATTERNS,
    v1::{self, link_request, link_response::Frame},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

pub use self::config::Config;
pub(super) use self::metrics::Metrics;
use self::{
    relay::{Begun, Said, Told},
    room::{Place, Room},
};
use crate::{
    identity::PeerId,
    policy::Rights,
    session::{Hall, intake::Rejection, outbox::Outbox, status::Fault},
};

/// Most collectors that can be reached through one session.
const MOST_ATTACHED: usize = 256;

/// Most Attach frames that wait for their answer, and answers that wait to be told before no more is read.
const MOST_ATTACHING: usize = 8;

/// Most numbers in a Received: as many as there may be commands.
const MOST_RECEIVED: usize = crate::held::Handle::MOST;

/// What the peer said to one collector's relay that waits for it; a relay takes all there is whenever it runs, and no more
/// than that is read in between.
const SAID: usize = 128;

/// Frames of all relays that wait for the wire; the rest waits in ears.
const TOLD: usize = 4;

/// The collectors that can be reached through a session. Nothing but two words as long as nobody asks for any.
pub(super) struct Downlink {
    hall: Arc<Hall>,
    peer: PeerId,
    open: Option<Box<Open>>,
}

struct Open {
    relays: Vec<Handle>,
    running: FuturesUnordered<BoxFuture<'static, u32>>,
    told: mpsc::Sender<Told>,
    waiting: mpsc::Receiver<Told>,
    /// Attach frames whose names are not all attached or refused yet, oldest first.
    attaching: VecDeque<Attaching>,
    /// Answers to Attach frames.
    answers: VecDeque<Frame>,
    /// For what the peer said that no relay has looked at yet.
    room: Room,
    /// Number of the next relay.
    next: u32,
}

/// How a relay is reached.
struct Handle {
    number: u32,
    /// The collector's name within its site.
    name: String,
    /// Whether no Attach has named it.
    implied: bool,
    said: mpsc::Sender<Said>,
    /// Beside the queue: however much the peer says, what it may do now gets through.
    rights: watch::Sender<Arc<Rights>>,
}

struct Attaching {
    /// Numbers of relays that are not attached yet.
    waits: Vec<u32>,
    refused: Vec<v1::RefusedName>,
}

impl Downlink {
    pub(super) const fn new(hall: Arc<Hall>, peer: PeerId) -> Self {
        Self { hall, peer, open: None }
    }

    /// Whether something waits to be told.
    pub(super) fn has_word(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.answers.is_empty() || !open.waiting.is_empty())
    }

    /// Whether so many answers wait to be told that no more should be asked.
    pub(super) fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.answers.len() >= MOST_ATTACHING)
    }

    /// The next frame to be told.
    pub(super) fn word(&mut self) -> Option<Frame> {
        let open = self.open.as_mut()?;
        loop {
            if let Some(answer) = open.answers.pop_front() {
                return Some(answer);
            }
            match open.waiting.try_recv().ok()? {
                Told::Frame(frame) => return Some(frame),
                Told::Attached(relay) => open.settle(relay, None),
                Told::Refused(relay, refused) => open.settle(relay, Some(refused)),
            }
        }
    }

    /// Drives the relays; ends when there is something to tell, unless the caller knows that (`speaks`).
    ///
    /// Cancel safe.
    pub(super) async fn turn(&mut self, speaks: bool) {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        poll_fn(|cx| {
            while let Poll::Ready(Some(ended)) = open.running.poll_next_unpin(cx) {
                open.relays.retain(|relay| relay.number != ended);
            }
            if speaks || open.waiting.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Takes in what the peer says.
    pub(super) fn hear(
        &mut self,
        frame: link_request::Frame,
        rights: &Arc<Rights>,
        outbox: &mut Outbox,
    ) -> Result<(), Fault> {
        match frame {
            link_request::Frame::Attach(attach) => self.attach(attach.collectors, rights)?,
            link_request::Frame::Subscriptions(wanted) => {
                if wanted.patterns.len() > MAX_PATTERNS {
                    return Err(Fault::broken("subscriptions.patterns", format!("more than {MAX_PATTERNS}")));
                }
                if wanted.patterns.iter().any(|pattern| pattern.len() > MAX_BYTES) {
                    return Err(Fault::broken(
                        "subscriptions.patterns",
                        format!("longer than {MAX_BYTES} bytes"),
                    ));
                }
                is_name("subscriptions.collector", &wanted.collector)?;
                let v1::Subscriptions { patterns, collector } = wanted;
                if let Err(refusal) = self.say(&collector, rights, |_| Said::Subscriptions(patterns.clone()))
                {
                    let refused = patterns.iter().map(|pattern| refusal.of(pattern)).collect();
                    outbox.say(Frame::Subscribed(v1::Subscribed { collector, refused }));
                }
            }
            link_request::Frame::Call(call) => {
                let id = call.id;
                if id == 0 {
                    return Err(Fault::broken("call.id", "must not be 0"));
                }
                is_name("call.caller", &call.caller)?;
                let caller = call.caller.clone();
                let size = [call.target.len(), call.method.len(), call.params.len()].into_iter().sum();
                let said =
                    self.room(size).and_then(|room| self.say(&caller, rights, |_| Said::Call(call, room)));
                if let Err(refusal) = said {
                    outbox.say(refusal.reply(id));
                }
            }
            link_request::Frame::Send(send) => {
                is_name("send.collector", &send.collector)?;
                let (id, sender) = (send.id, send.collector.clone());
                let said = self
                    .room(send.target.len().saturating_add(send.payload.len()))
                    .and_then(|room| self.say(&sender, rights, |_| Said::Send(send, room)));
                if let Err(refusal) = said
                    && id != 0
                {
                    outbox.say(refusal.reply(id));
                }
            }
            link_request::Frame::Cancel(v1::Cancel { id }) => self.say_all(|| Said::Cancel(id)),
            link_request::Frame::Reply(reply) => self.reply(reply),
            link_request::Frame::Received(received) => {
                if received.commands.len() > MOST_RECEIVED {
                    return Err(Fault::broken("received.commands", format!("more than {MOST_RECEIVED}")));
                }
                self.say_all(|| Said::Received(received.commands.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes new rights.
    pub(super) fn rejudge(&self, rights: &Arc<Rights>) {
        for relay in self.open.iter().flat_map(|open| &open.relays) {
            drop(relay.rights.send_replace(Arc::clone(rights)));
        }
    }

    /// Lets go of all collectors; their callers are told. When this returns their names are free.
    pub(super) async fn end(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.waiting.close();
        open.relays.clear();
        while open.running.next().await.is_some() {}
    }

    fn attach(&mut self, names: Vec<String>, rights: &Arc<Rights>) -> Result<(), Fault> {
        if names.len() > MOST_ATTACHED {
            return Err(Fault::broken("attach.collectors", format!("more than {MOST_ATTACHED}")));
        }
        let twice =
            names.iter().enumerate().find(|(place, name)| names.iter().take(*place).any(|n| n == *name));
        if twice.is_some() {
            return Err(Fault::broken("attach.collectors", "a name is listed twice"));
        }
        let open = self.open.get_or_insert_with(Open::new);
        if open.attaching.len() >= MOST_ATTACHING {
            return Err(Fault::broken("attach", format!("{MOST_ATTACHING} wait for their answer already")));
        }
        open.relays.retain(|relay| relay.implied || names.contains(&relay.name));
        let (mut waits, mut refused) = (Vec::new(), Vec::new());
        for name in names {
            match rights.collector(&name) {
                Err(denial) => refused.push(Rejection::from(&denial).of_name(&name)),
                Ok(collector) => {
                    if let Some(relay) = open.relays.iter_mut().find(|relay| relay.name == name) {
                        relay.implied = false;
                        continue;
                    }
                    let wire = if name == self.peer.name() { String::new() } else { name.clone() };
                    let begun = Begun { collector, wire, rights: Arc::clone(rights) };
                    waits.push(open.begin(&self.hall, name, begun, false));
                }
            }
        }
        open.attaching.push_back(Attaching { waits, refused });
        open.answer();
        Ok(())
    }

    /// Room for so many bytes that wait for a relay.
    fn room(&mut self, size: usize) -> Result<Place, Refusal> {
        self.open.get_or_insert_with(Open::new).room.take(size).ok_or(Refusal::TooMany)
    }

    /// Says something to the relay of a collector; that of the peer itself begins with it.
    fn say(
        &mut self,
        collector: &str,
        rights: &Arc<Rights>,
        what: impl FnOnce(u32) -> Said,
    ) -> Result<(), Refusal> {
        let name = if collector.is_empty() { self.peer.name() } else { collector };
        let open = self.open.get_or_insert_with(Open::new);
        if !open.relays.iter().any(|relay| relay.name == name) {
            if name != self.peer.name() {
                return Err(Refusal::Unattached);
            }
            let collector = rights.collector("").map_err(|_| Refusal::Unattached)?;
            let begun = Begun { collector, wire: String::new(), rights: Arc::clone(rights) };
            open.begin(&self.hall, name.to_owned(), begun, true);
        }
        let relay = open.relays.iter().find(|relay| relay.name == name).ok_or(Refusal::Unattached)?;
        relay.said.try_send(what(relay.number)).map_err(|_| Refusal::TooMany)
    }

    fn say_all(&self, what: impl Fn() -> Said) {
        for relay in self.open.iter().flat_map(|open| &open.relays) {
            // A relay that takes nothing is ending, or its peer does not read what it is told.
            drop(relay.said.try_send(what()));
        }
    }

    /// Passes an answer on to the relay that numbered its call.
    fn reply(&self, reply: v1::Reply) {
        let number = reply.id >> 32;
        let mut relays = self.open.iter().flat_map(|open| &open.relays);
        if let Some(relay) = relays.find(|relay| u64::from(relay.number) == number) {
            // If it cannot be taken its call is timed out.
            drop(relay.said.try_send(Said::Reply(reply)));
        }
    }
}

impl Open {
    fn new() -> Box<Self> {
        let (told, waiting) = mpsc::channel(TOLD);
        Box::new(Self {
            relays: Vec::new(),
            running: FuturesUnordered::new(),
            told,
            waiting,
            attaching: VecDeque::new(),
            answers: VecDeque::new(),
            room: Room::default(),
            next: 1,
        })
    }

    fn begin(&mut self, hall: &Arc<Hall>, name: String, begun: Begun, implied: bool) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        let (said, hears) = mpsc::channel(SAID);
        let rights = watch::Sender::new(Arc::clone(&begun.rights));
        let renewed = rights.subscribe();
        self.relays.push(Handle { number, name, implied, said, rights });
        let relay = relay::run(Arc::clone(hall), number, begun, (hears, renewed, self.told.clone()));
        self.running.push(relay.map(move |()| number).boxed());
        number
    }

    /// A relay is attached, or is not any longer.
    fn settle(&mut self, relay: u32, refused: Option<v1::RefusedName>) {
        let waiting = self.attaching.iter_mut().find(|attaching| attaching.waits.contains(&relay));
        match (waiting, refused) {
            (Some(attaching), refused) => {
                attaching.waits.retain(|waits| *waits != relay);
                attaching.refused.extend(refused);
            }
            // Nobody asked: the name was lost later.
            (None, Some(refused)) => {
                self.answers.push_back(Frame::Attached(v1::Attached { refused: vec![refused] }));
            }
            (None, None) => {}
        }
        self.answer();
    }

    /// Answers Attach frames of which nothing is open, in order.
    fn answer(&mut self) {
        while self.attaching.front().is_some_and(|attaching| attaching.waits.is_empty()) {
            let refused = self.attaching.pop_front().map(|attaching| attaching.refused).unwrap_or_default();
            self.answers.push_back(Frame::Attached(v1::Attached { refused }));
        }
    }
}

/// Longest name of a collector that is worth a look: the grammar allows less.
const LONGEST: usize = 256;

/// Whether a name that may be echoed is short enough to be one.
fn is_name(field: &'static str, name: &str) -> Result<(), Fault> {
    if name.len() > LONGEST {
        Err(Fault::broken(field, format!("longer than {LONGEST} bytes")))
    } else {
        Ok(())
    }
}

/// Why something could not be said to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    TooMany,
    Unattached,
}

impl Refusal {
    const fn message(self) -> &'static str {
        match self {
            Self::TooMany => "too much at once for this collector",
            Self::Unattached => "this collector is not attached to the session",
        }
    }

    fn of(self, pattern: &str) -> v1::RefusedName {
        let reason = self.message().to_owned();
        Rejection { code: v1::RejectCode::CollectorDenied, reason }.of_name(pattern)
    }

    fn reply(self, id: u64) -> Frame {
        let code = match self {
            Self::TooMany => code::TOO_MANY,
            Self::Unattached => code::DENIED,
        };
        failure(id, code, self.message())
    }
}

/// Tells the peer that a call or message of its failed.
fn failure(id: u64, code: i16, message: &str) -> Frame {
    let error = v1::CallError { code: code.into(), message: message.to_owned() };
    Frame::Reply(v1::Reply { id, outcome: Some(v1::reply::Outcome::Error(error)) })
}
