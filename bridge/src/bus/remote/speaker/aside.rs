//! What a connection says beside batches, and what it hears.
//!
//! Kept true: what is to be heard is asked for again on each connection; nothing else is ever sent twice; every question ends
//! with the broker's answer, with its deadline, or with the connection.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::Arc,
};

use bytes::BytesMut;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    bus::{Ask, Beat, Counters, Drum, Filter, Heard, HeardAs, SendError, remote::known::Known},
    native::codec::{
        Code, CodecError, Qos,
        client::{self, Head, TopicsOf},
        server::{Delivery, Kind},
    },
};

/// Where the ids of these frames begin; those of batches end below.
pub(in crate::bus::remote) const FIRST_ID: u32 = 1 << 31;

/// Whom to tell.
type Done = oneshot::Sender<Result<(), SendError>>;

/// What a connection says beside batches, and what it hears.
#[derive(Debug)]
pub(super) struct Aside {
    /// There if its name hears.
    drum: Option<Drum>,
    heard: BTreeSet<Filter>,
    excluded: BTreeSet<Filter>,
    /// Not encoded yet; as bounded as the commands that are read.
    waiting: VecDeque<(Ask, Arc<str>, Option<Done>)>,
    /// Encoded and not answered.
    open: VecDeque<Open>,
    /// Whether there is a connection.
    connected: bool,
    next_id: u32,
    known: Known,
}

#[derive(Debug)]
struct Open {
    id: u32,
    due: Instant,
    /// `None` for what is only asked for again.
    done: Option<Done>,
}

impl Aside {
    pub(super) fn new() -> Self {
        Self {
            drum: None,
            heard: BTreeSet::new(),
            excluded: BTreeSet::new(),
            waiting: VecDeque::new(),
            open: VecDeque::new(),
            connected: false,
            next_id: FIRST_ID,
            known: Known::default(),
        }
    }

    /// Lets the name hear, through another ear than before if it had one: what that one asked for is forgotten.
    pub(super) fn attach(&mut self, drum: Drum) {
        let heard = mem::take(&mut self.heard).into_iter().collect();
        let excluded = mem::take(&mut self.excluded).into_iter().collect();
        if self.connected && self.hears() {
            for ask in [Ask::Unhear(heard), Ask::Unexclude(excluded)] {
                self.waiting.push_back((ask, Arc::from(""), None));
            }
        }
        self.drum = Some(drum);
    }

    /// Whether the name hears.
    pub(super) const fn hears(&self) -> bool {
        self.drum.is_some()
    }

    /// Takes what a port asks; `prefix` stands before the topics of that port.
    pub(super) fn take(&mut self, ask: Ask, prefix: &Arc<str>, done: Done) {
        match &ask {
            Ask::Exclude(filters) => self.excluded.extend(filters.iter().cloned()),
            Ask::Hear(filters) => self.heard.extend(filters.iter().cloned()),
            Ask::Unexclude(filters) => self.excluded.retain(|known| !filters.contains(known)),
            Ask::Unhear(filters) => self.heard.retain(|known| !filters.contains(known)),
            Ask::Broadcast { .. } | Ask::PublishFor { .. } | Ask::Send { .. } => {
                return if self.connected {
                    self.waiting.push_back((ask, Arc::clone(prefix), Some(done)));
                } else {
                    tell(Some(done), Err(SendError::Lost));
                };
            }
        }
        // Without an ear nothing is asked for; without a connection it will be, on the next.
        if self.connected && self.hears() {
            self.waiting.push_back((ask, Arc::clone(prefix), Some(done)));
        } else {
            tell(Some(done), Ok(()));
        }
    }

    /// A connection begins: what is to be heard is asked for.
    pub(super) fn connect(&mut self) {
        self.connected = true;
        if !self.hears() {
            return;
        }
        let list = |filters: &BTreeSet<Filter>| filters.iter().cloned().collect::<Vec<_>>();
        for ask in [Ask::Exclude(list(&self.excluded)), Ask::Hear(list(&self.heard))] {
            self.waiting.push_back((ask, Arc::from(""), None));
        }
    }

    /// The connection is lost, and with it all answers.
    pub(super) fn lose(&mut self) {
        self.connected = false;
        let waiting = self.waiting.drain(..).map(|(ask, _, done)| (is_kept(&ask), done));
        let open = self.open.drain(..).map(|open| (false, open.done));
        for (kept, done) in waiting.chain(open) {
            tell(done, if kept { Ok(()) } else { Err(SendError::Lost) });
        }
    }

    /// Encodes what waits.
    pub(super) fn begin(&mut self, into: &mut BytesMut, due: Instant) {
        while let Some((ask, prefix, done)) = self.waiting.pop_front() {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1).max(FIRST_ID);
            match encode(into, id, &ask, &prefix) {
                Ok(true) => self.open.push_back(Open { id, due, done }),
                Ok(false) => tell(done, Ok(())),
                Err(_) => tell(done, Err(SendError::Undelivered)),
            }
        }
    }

    /// Learns the answer to a frame, if it is one of these.
    pub(super) fn answered(&mut self, id: u32, code: Code) -> bool {
        if id < FIRST_ID {
            return false;
        }
        // In order, but for the broker's haste.
        if let Some(place) = self.open.iter().position(|open| open.id == id)
            && let Some(open) = self.open.remove(place)
        {
            if open.done.is_none() && code != Code::OK {
                tracing::warn!(%code, "the broker lets a name not hear what it heard before");
            }
            tell(open.done, outcome(code));
        }
        true
    }

    /// Gives up what is overdue, and hearing if nobody listens any more.
    pub(super) fn tick(&mut self, now: Instant) {
        while self.open.front().is_some_and(|open| open.due <= now) {
            tell(self.open.pop_front().and_then(|open| open.done), Err(SendError::Lost));
        }
        if self.drum.as_ref().is_some_and(Drum::is_deaf) {
            self.drum = None;
            let heard = mem::take(&mut self.heard).into_iter().collect();
            self.waiting.push_back((Ask::Unhear(heard), Arc::from(""), None));
        }
    }

    /// Passes on what another client sent.
    pub(super) fn hear(&mut self, delivery: Delivery, counters: &Counters) {
        let Some(drum) = &self.drum else { return };
        // The broker's own notices; every client is subscribed to them.
        if delivery.topic.as_bytes().starts_with(b".") {
            return;
        }
        let kind = match delivery.kind {
            Kind::Broadcast => HeardAs::Broadcast,
            Kind::Message => HeardAs::Message,
            Kind::Publish => HeardAs::Published,
        };
        let sender = self.known.remember(&delivery.sender);
        let topic = self.known.remember(&delivery.topic);
        if let Beat::Dropped(count) = drum.offer(Heard { kind, sender, topic, payload: delivery.payload }) {
            counters.inbox_dropped.add(count);
        }
    }
}

/// Whether it is done on the next connection, if it was not on this one.
const fn is_kept(ask: &Ask) -> bool {
    matches!(ask, Ask::Exclude(_) | Ask::Hear(_) | Ask::Unexclude(_) | Ask::Unhear(_))
}

/// Appends the frame of an ask; `false` if it asks for nothing.
fn encode(into: &mut BytesMut, id: u32, ask: &Ask, prefix: &str) -> Result<bool, CodecError> {
    let head = Head { id, qos: Qos::Processed };
    let mut list = |of: TopicsOf, filters: &[Filter]| {
        let filters: Vec<&str> = filters.iter().map(Filter::as_str).collect();
        (!filters.is_empty())
            .then(|| client::topics(into, head, of, &filters))
            .transpose()
            .map(|put| put.is_some())
    };
    match ask {
        Ask::Exclude(filters) => list(TopicsOf::Exclude, filters),
        Ask::Hear(filters) => list(TopicsOf::Subscribe, filters),
        Ask::Unexclude(filters) => list(TopicsOf::Unexclude, filters),
        Ask::Unhear(filters) => list(TopicsOf::Unsubscribe, filters),
        Ask::Broadcast { mask, payload } => client::broadcast(into, head, mask, payload).map(|()| true),
        Ask::PublishFor { topic, receiver, payload } => {
            let topic = format!("{prefix}{}", topic.slashed());
            client::publish_for(into, head, &topic, receiver, payload).map(|()| true)
        }
        Ask::Send { target, payload } => client::message(into, head, target, payload).map(|()| true),
    }
}

const fn outcome(code: Code) -> Result<(), SendError> {
    match code {
        Code::OK => Ok(()),
        Code::NOT_REGISTERED => Err(SendError::NoClient),
        Code::BUSY => Err(SendError::Busy),
        _ => Err(SendError::Undelivered),
    }
}

fn tell(done: Option<Done>, outcome: Result<(), SendError>) {
    if let Some(done) = done {
        // An error means that nobody waits for the answer.
        done.send(outcome).unwrap_or_default();
    }
}
