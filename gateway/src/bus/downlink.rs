//! The way down: what reaches a collector from the bus, and what it asks of bus clients.
//!
//! What is sent to a collector by name is a [`Letter`], which only a permit for its sender opens. Kept true: a letter that is
//! not opened is seen by nobody; an answer goes to who called, once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{
        self, Ear, Filter, HeardAs, PortError, Room, SendError,
        rpc::{Rpc, code},
    },
    topic::Topic,
};
use futures_util::future::BoxFuture;
use tokio::time;

use crate::{
    bus::{AuthorizedBus, Heard, OpenError, Voice},
    identity::PeerId,
    policy::{CallPermit, Collector, DownlinkPermit, LocalClient, SubscribePermit, Way},
};

/// How long the bus may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

impl AuthorizedBus {
    /// Opens the voice of a collector, and lets it be addressed. Of the sessions of one peer the last that asks is the one
    /// that hears; the ear of the one before ends.
    ///
    /// Cancel safe: a dropped call claims nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says who has the name, or why it cannot be addressed.
    pub async fn attach(&self, collector: &Collector, room: Room) -> Result<(Voice, Listening), OpenError> {
        let voice = self.open(collector).await?;
        let port = voice.claim.port().ok_or(OpenError::Closed)?;
        let attached = time::timeout(self.0.patience, port.attach(room)).await;
        let ear = attached.map_err(|_| OpenError::TimedOut)?.map_err(|error| match error {
            PortError::Shared => OpenError::Nameless,
            PortError::Taken => OpenError::AlreadyConnected,
            _ => OpenError::Closed,
        })?;
        Ok((voice, Listening { ear, collector: collector.id(), batch: Vec::new() }))
    }

    /// A client of the bus, as the downlink is judged.
    #[must_use]
    pub fn client<'a>(&self, name: &'a str) -> LocalClient<'a> {
        LocalClient { name, uid: self.0.bus.user_of(name) }
    }

    /// Ends when that client of the bus is gone; `None` if that cannot be known.
    #[must_use]
    pub fn departure(&self, client: &str) -> Option<BoxFuture<'static, ()>> {
        self.0.bus.departure(client)
    }
}

/// What a collector hears of the bus. At most once: what it does not take in time is dropped and counted.
#[derive(Debug)]
pub struct Listening {
    ear: Ear,
    collector: PeerId,
    /// Kept between calls for its memory.
    batch: Vec<bus::Heard>,
}

/// Something that a collector hears.
#[derive(Debug)]
pub enum Arrived {
    /// An answer to a call of its own, if it comes from whom it called.
    Answer(Answer),
    /// Something sent to it by name, or to a mask of names.
    Letter(Letter),
    /// Something published that it subscribes to, by a permit.
    Published(Heard),
}

impl Listening {
    /// Waits for something and gives each to `take`, at most `most`; `false` when the name is no longer heard: the bus has
    /// ended, or another session of the peer has the name. What is published on a topic that is not of our grammar is passed
    /// over: no policy has judged it.
    ///
    /// Cancel safe.
    pub async fn next(&mut self, most: usize, mut take: impl FnMut(Arrived) + Send) -> bool {
        let alive = self.ear.next(&mut self.batch, most).await;
        for heard in self.batch.drain(..) {
            if let Some(arrived) = arrived(heard, &self.collector) {
                take(arrived);
            }
        }
        alive
    }

    /// How many messages were dropped since this was last asked.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.ear.dropped()
    }
}

fn arrived(heard: bus::Heard, collector: &PeerId) -> Option<Arrived> {
    let bus::Heard { kind, sender, topic, payload } = heard;
    if kind == HeardAs::Published {
        let topic = Topic::parse_slashed(&topic).ok()?;
        return Some(Arrived::Published(Heard { topic, sender, payload }));
    }
    let rpc = if kind == HeardAs::Message { Rpc::decode(&payload).ok() } else { None };
    let content = match rpc {
        Some(Rpc::Reply { id, result }) => {
            return Some(Arrived::Answer(Answer { sender, id, outcome: Ok(result) }));
        }
        Some(Rpc::Error { id, code, message }) => {
            return Some(Arrived::Answer(Answer { sender, id, outcome: Err((code, message)) }));
        }
        Some(Rpc::Request { id, method, params }) => Content::Call { id, method, params },
        Some(Rpc::Notification(_)) | None => Content::Message(payload),
    };
    Some(Arrived::Letter(Letter { sender, collector: collector.clone(), content }))
}

/// An answer to a call.
#[derive(Debug)]
pub struct Answer {
    /// Who answers.
    pub sender: Arc<str>,
    /// The id of the call, as the caller numbered it.
    pub id: u32,
    /// The result; or code and message of the error.
    pub outcome: Result<Bytes, (i16, Bytes)>,
}

/// Something sent to a collector by a client of the bus, sealed until that client's right to is shown.
#[derive(Debug)]
pub struct Letter {
    sender: Arc<str>,
    collector: PeerId,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Call { id: u32, method: Box<str>, params: Bytes },
    Message(Bytes),
}

/// What is in a letter.
#[derive(Debug)]
pub enum Opened {
    /// A call; nobody waits for its answer if there is no way to return it.
    Call {
        /// How the caller is answered.
        back: Option<Return>,
        /// The method.
        method: Box<str>,
        /// Its parameters.
        params: Bytes,
    },
    /// A message.
    Message(Bytes),
}

impl Letter {
    /// Who sent it.
    #[must_use]
    pub const fn sender(&self) -> &Arc<str> {
        &self.sender
    }

    /// What its sender wants.
    #[must_use]
    pub const fn way(&self) -> Way {
        match self.content {
            Content::Call { .. } => Way::Call,
            Content::Message(_) => Way::Send,
        }
    }

    /// Throws it away; what is returned tells its sender why not, if he waits for an answer.
    #[must_use]
    pub fn refuse(self) -> Option<Return> {
        match self.content {
            Content::Call { id, .. } => Return::to(self.sender, id),
            Content::Message(_) => None,
        }
    }

    /// Spends a permit on it; `None` if that is for another collector or another way.
    #[must_use]
    pub fn open(self, permit: DownlinkPermit) -> Option<Opened> {
        let way = self.way();
        if permit.spend() != (self.collector, way) {
            return None;
        }
        Some(match self.content {
            Content::Call { id, method, params } => {
                Opened::Call { back: Return::to(self.sender, id), method, params }
            }
            Content::Message(payload) => Opened::Message(payload),
        })
    }
}

/// The way back to a caller; it is answered once.
#[derive(Debug)]
pub struct Return {
    caller: Arc<str>,
    id: u32,
}

impl Return {
    fn to(caller: Arc<str>, id: u32) -> Option<Self> {
        // By BUS/RT's rule nobody waits for the answer to call 0.
        (id != 0).then_some(Self { caller, id })
    }
}

/// Why a message or call did not reach its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// Nobody of that name is there, or listens.
    #[error("no such client on the bus, or it does not listen")]
    Absent,
    /// It has too much to read.
    #[error("the client is too busy")]
    Busy,
    /// The bus is not there, or did not answer in time.
    #[error("the bus is not there")]
    BusGone,
    /// The permit is not the voice's.
    #[error("the policy does not let this collector do that")]
    Denied,
}

impl Undelivered {
    /// The code that a caller is told.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Absent => code::ABSENT,
            Self::Busy => code::TOO_MANY,
            Self::BusGone => code::CUT,
            Self::Denied => code::DENIED,
        }
    }
}

impl From<SendError> for Undelivered {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Busy => Self::Busy,
            SendError::Name | SendError::NoClient | SendError::Undelivered => Self::Absent,
            _ => Self::BusGone,
        }
    }
}

impl Voice {
    /// Hears what `permit` allows instead of what is in `heard`, which is brought up to date.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not all of it is heard, or no longer.
    pub async fn hear(
        &self,
        permit: SubscribePermit,
        heard: &mut BTreeSet<Filter>,
    ) -> Result<(), Undelivered> {
        let (peer, patterns) = permit.spend();
        let port = self.claim.port().filter(|_| self.claim.is_named(&peer)).ok_or(Undelivered::Denied)?;
        let wanted: BTreeSet<Filter> = patterns.iter().flat_map(Filter::of).collect();
        let fewer: Vec<_> = heard.difference(&wanted).cloned().collect();
        let more: Vec<_> = wanted.difference(heard).cloned().collect();
        let changed = async {
            // What may no longer be heard goes first.
            if !fewer.is_empty() {
                port.unhear(fewer).await?;
            }
            if more.is_empty() { Ok(()) } else { port.hear(more).await }
        };
        time::timeout(PATIENCE, changed).await.unwrap_or(Err(SendError::Lost))?;
        *heard = wanted;
        Ok(())
    }

    /// Sends the client of `permit` a message.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not.
    pub async fn send(&self, permit: CallPermit, payload: Bytes) -> Result<(), Undelivered> {
        let (collector, client) = permit.spend();
        if !self.claim.is_of(&collector) {
            return Err(Undelivered::Denied);
        }
        self.put(&client, payload).await
    }

    /// Calls the client of `permit`; the answer is heard, under `id`, which is not 0.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not.
    pub async fn call(
        &self,
        permit: CallPermit,
        id: u32,
        method: &str,
        params: Bytes,
    ) -> Result<(), Undelivered> {
        let request = Rpc::Request { id, method: method.into(), params };
        self.send(permit, request.encode()).await
    }

    /// Answers a call: with its result, or with code and message of an error.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why the caller does not have it.
    pub async fn answer(
        &self,
        back: Return,
        outcome: Result<Bytes, (i16, String)>,
    ) -> Result<(), Undelivered> {
        let Return { caller, id } = back;
        let reply = match outcome {
            Ok(result) => Rpc::Reply { id, result },
            Err((code, message)) => Rpc::failure(id, code, &message),
        };
        self.put(&caller, reply.encode()).await
    }

    async fn put(&self, client: &str, payload: Bytes) -> Result<(), Undelivered> {
        let port = self.claim.port().ok_or(Undelivered::BusGone)?;
        let sent = time::timeout(PATIENCE, port.send(client, payload)).await;
        sent.unwrap_or(Err(SendError::Lost)).map_err(Undelivered::from)
    }
}
