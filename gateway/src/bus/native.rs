//! The bus as one peer of BUS/RT sees it: everything that its protocol can ask, each against a permit.
//!
//! What such a peer hears and says by name goes through as it is, calls included; so that rights and limits hold for calls,
//! what stands in a message is looked at here, and no answer is sent to whom nothing is owed.
//!
//! Kept true: what is sent to a peer by name is sealed until its sender's right to is shown; a call is answered once.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{self, Ear, Filter, HeardAs, PortError, Room, SendError, rpc::Rpc},
    topic::Topic,
};
use tokio::time;

use crate::{
    bus::{AuthorizedBus, OpenError, Voice},
    identity::PeerId,
    policy::{
        BroadcastPermit, CallPermit, Collector, DownlinkPermit, LocalClient, PublishPermit, SubscribePermit,
        Way,
    },
};

/// How long the bus may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

impl AuthorizedBus {
    /// Opens the voice of a peer, and lets it be addressed. Of the connections of one peer the last that asks is the one that
    /// hears; what the one before hears ends.
    ///
    /// Cancel safe: a dropped call claims nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says who has the name, or that the bus is not there. A bus that has one name for all speaks for the
    /// peer, but it hears nothing.
    pub async fn join(&self, collector: &Collector, room: Room) -> Result<(Voice, Option<Inbox>), OpenError> {
        let voice = self.open(collector).await?;
        let port = voice.port().ok_or(OpenError::Closed)?;
        let attached = time::timeout(self.0.patience, port.attach(room)).await;
        let ear = match attached.map_err(|_| OpenError::TimedOut)? {
            Ok(ear) => ear,
            Err(PortError::Shared) => return Ok((voice, None)),
            Err(PortError::Taken) => return Err(OpenError::AlreadyConnected),
            Err(_) => return Err(OpenError::Closed),
        };
        Ok((voice, Some(Inbox { ear, peer: collector.owner().clone(), batch: Vec::new() })))
    }

    /// A client of the bus, as the way down is judged.
    #[must_use]
    pub fn local<'a>(&self, name: &'a str) -> LocalClient<'a> {
        LocalClient { name, uid: self.0.bus.user_of(name) }
    }
}

/// What a peer hears. At most once: what it does not take in time is dropped and counted.
#[derive(Debug)]
pub struct Inbox {
    ear: Ear,
    peer: PeerId,
    /// Kept between calls for its memory.
    batch: Vec<bus::Heard>,
}

/// Something that a peer hears.
#[derive(Debug)]
pub enum Parcel {
    /// An answer to call `id` of its own, if it comes from whom it called.
    Answer {
        /// The id of the call.
        id: u32,
        /// The message.
        heard: bus::Heard,
    },
    /// Published, and it subscribes to that by a permit.
    Published(bus::Heard),
    /// Sent by name, or to a mask of names.
    Sealed(Sealed),
}

impl Inbox {
    /// Waits for something and appends at most `most` of it; `false` when no more will come. What is published on a topic that
    /// is not of our grammar is passed over: no policy has judged it.
    ///
    /// Cancel safe.
    pub async fn next(&mut self, into: &mut Vec<Parcel>, most: usize) -> bool {
        let alive = self.ear.next(&mut self.batch, most).await;
        into.extend(self.batch.drain(..).filter_map(|heard| sort(heard, &self.peer)));
        alive
    }

    /// How many messages were dropped since this was last asked.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.ear.dropped()
    }
}

fn sort(heard: bus::Heard, peer: &PeerId) -> Option<Parcel> {
    if heard.kind == HeardAs::Published {
        return Topic::parse_slashed(&heard.topic).is_ok().then_some(Parcel::Published(heard));
    }
    let call = match (heard.kind, Rpc::decode(&heard.payload)) {
        (HeardAs::Message, Ok(Rpc::Reply { id, .. } | Rpc::Error { id, .. })) => {
            return Some(Parcel::Answer { id, heard });
        }
        (HeardAs::Message, Ok(Rpc::Request { id, .. })) => Some(id),
        _ => None,
    };
    Some(Parcel::Sealed(Sealed { heard, call, peer: peer.clone() }))
}

/// Something sent to a peer by a client of the bus.
#[derive(Debug)]
pub struct Sealed {
    heard: bus::Heard,
    call: Option<u32>,
    peer: PeerId,
}

impl Sealed {
    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.heard.sender
    }

    /// What its sender wants.
    #[must_use]
    pub const fn way(&self) -> Way {
        if self.call.is_some() { Way::Call } else { Way::Send }
    }

    /// Throws it away; what is returned is owed to its sender, if he waits for an answer.
    #[must_use]
    pub fn refuse(self) -> Option<Debt> {
        // By BUS/RT's rule nobody waits for the answer to call 0.
        let id = self.call.filter(|id| *id != 0)?;
        Some(Debt { caller: self.heard.sender, id })
    }

    /// Spends a permit on it: the message, and what is owed for it; `None` if that is for another peer or another way.
    #[must_use]
    pub fn open(self, permit: DownlinkPermit) -> Option<(bus::Heard, Option<Debt>)> {
        if permit.spend() != (self.peer.clone(), self.way()) {
            return None;
        }
        let debt =
            self.call.filter(|id| *id != 0).map(|id| Debt { caller: Arc::clone(&self.heard.sender), id });
        Some((self.heard, debt))
    }
}

/// An answer that a caller waits for.
#[derive(Debug)]
pub struct Debt {
    caller: Arc<str>,
    id: u32,
}

impl Debt {
    /// Whether it is to `caller` for his call `id`.
    #[must_use]
    pub fn is(&self, caller: &str, id: u32) -> bool {
        *self.caller == *caller && self.id == id
    }
}

impl fmt::Display for Debt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} of {}", self.id, self.caller)
    }
}

impl Voice {
    /// Hears `filters` too, which are what `permit` allows.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn subscribe(&self, permit: SubscribePermit, filters: Vec<Filter>) -> Result<(), SendError> {
        let (_, patterns) = permit.spend();
        let allowed: Vec<Filter> = patterns.iter().flat_map(Filter::of).collect();
        if filters.iter().any(|filter| !allowed.contains(filter)) {
            return Err(SendError::Undelivered);
        }
        within(self.mouth()?.hear(filters)).await
    }

    /// Hears less: it takes back what it heard, does not hear what it subscribes to, or takes that back. No right is needed.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn narrow(&self, how: Narrow, filters: Vec<Filter>) -> Result<(), SendError> {
        let port = self.mouth()?;
        match how {
            Narrow::Exclude => within(port.exclude(filters)).await,
            Narrow::Unexclude => within(port.unexclude(filters)).await,
            Narrow::Unsubscribe => within(port.unhear(filters)).await,
        }
    }

    /// Sends the client of `permit` a message.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn tell(&self, permit: CallPermit, payload: Bytes) -> Result<(), SendError> {
        let (collector, target) = permit.spend();
        self.judge(&collector)?;
        within(self.mouth()?.send(&target, payload)).await
    }

    /// Sends a message to all whom `permit` names.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn tell_all(&self, permit: BroadcastPermit, payload: Bytes) -> Result<(), SendError> {
        let (collector, mask) = permit.spend();
        self.judge(&collector)?;
        within(self.mouth()?.broadcast(&mask, payload)).await
    }

    /// Publishes to one subscriber of a topic, at most once: both must be permitted.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn publish_for(
        &self,
        topic: PublishPermit,
        receiver: CallPermit,
        payload: Bytes,
    ) -> Result<(), SendError> {
        let (collector, receiver) = receiver.spend();
        self.judge(&collector)?;
        self.judge(topic.collector())?;
        let topic = topic.spend().pop().ok_or(SendError::Undelivered)?;
        within(self.mouth()?.publish_for(&topic, &receiver, payload)).await
    }

    /// Pays a debt with the answer that the peer wrote.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why the caller does not have it.
    pub async fn pay(&self, debt: Debt, answer: Bytes) -> Result<(), SendError> {
        match Rpc::decode(&answer) {
            Ok(Rpc::Reply { id, .. } | Rpc::Error { id, .. }) if id == debt.id => {
                within(self.mouth()?.send(&debt.caller, answer)).await
            }
            _ => Err(SendError::Undelivered),
        }
    }

    /// Pays a debt with an error: the peer did not.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why the caller does not have it.
    pub async fn fail(&self, debt: Debt, code: i16, message: &str) -> Result<(), SendError> {
        let answer = Rpc::failure(debt.id, code, message).encode();
        self.pay(debt, answer).await
    }

    fn judge(&self, collector: &Collector) -> Result<(), SendError> {
        if self.is_of(collector) { Ok(()) } else { Err(SendError::Undelivered) }
    }

    fn mouth(&self) -> Result<&bus::Port, SendError> {
        self.port().ok_or(SendError::Closed)
    }
}

async fn within(asked: impl Future<Output = Result<(), SendError>>) -> Result<(), SendError> {
    time::timeout(PATIENCE, asked).await.unwrap_or(Err(SendError::Lost))
}

/// How a peer hears less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Not these, though a subscription matches.
    Exclude,
    /// These again.
    Unexclude,
    /// No longer these.
    Unsubscribe,
}
