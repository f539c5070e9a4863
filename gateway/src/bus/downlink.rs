//! The way down: what reaches a collector from the bus.
//!
//! What is sent to a collector by name is a [`Letter`], which only a permit for its sender opens. Whoever speaks BUS/RT is
//! passed on what was sent as it is, so that it is kept beside what was read of it. Kept true: a letter that is not opened is
//! seen by nobody.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{self, Ear, HeardAs, PortError, Room, rpc::Rpc},
    topic::Topic,
};
use futures_util::future::BoxFuture;
use tokio::time;

use crate::{
    bus::{AuthorizedBus, Heard, OpenError, Voice},
    identity::PeerId,
    policy::{Collector, DownlinkPermit, LocalClient, Way},
};

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
    if heard.kind == HeardAs::Published {
        let topic = Topic::parse_slashed(&heard.topic).ok()?;
        return Some(Arrived::Published(Heard { topic, sender: heard.sender, payload: heard.payload }));
    }
    let rpc = if heard.kind == HeardAs::Message { Rpc::decode(&heard.payload).ok() } else { None };
    let call = match rpc {
        Some(Rpc::Reply { id, result }) => {
            return Some(Arrived::Answer(Answer { id, outcome: Ok(result), heard }));
        }
        Some(Rpc::Error { id, code, message }) => {
            return Some(Arrived::Answer(Answer { id, outcome: Err((code, message)), heard }));
        }
        Some(Rpc::Request { id, method, params }) => Some(Call { id, method, params }),
        Some(Rpc::Notification(_)) | None => None,
    };
    Some(Arrived::Letter(Letter { heard, call, collector: collector.clone() }))
}

/// An answer to a call.
#[derive(Debug)]
pub struct Answer {
    /// The id of the call, as the caller numbered it.
    pub id: u32,
    /// The result; or code and message of the error.
    pub outcome: Result<Bytes, (i16, Bytes)>,
    /// The message, with who answers.
    pub heard: bus::Heard,
}

/// Something sent to a collector by a client of the bus, sealed until that client's right to is shown.
#[derive(Debug)]
pub struct Letter {
    heard: bus::Heard,
    call: Option<Call>,
    collector: PeerId,
}

/// A call of a client of the bus.
#[derive(Debug)]
pub struct Call {
    id: u32,
    /// The method.
    pub method: Box<str>,
    /// Its parameters.
    pub params: Bytes,
}

/// What is in a letter.
#[derive(Debug)]
pub struct Opened {
    /// The message.
    pub heard: bus::Heard,
    /// What it asks, if it is a call.
    pub call: Option<Call>,
    /// How the caller is answered; none, if nobody waits for that.
    pub back: Option<Return>,
}

impl Letter {
    /// Who sent it.
    #[must_use]
    pub const fn sender(&self) -> &Arc<str> {
        &self.heard.sender
    }

    /// What its sender wants.
    #[must_use]
    pub const fn way(&self) -> Way {
        if self.call.is_some() { Way::Call } else { Way::Send }
    }

    /// Throws it away; what is returned tells its sender why not, if he waits for an answer.
    #[must_use]
    pub fn refuse(self) -> Option<Return> {
        Return::of(&self.heard.sender, self.call.as_ref())
    }

    /// Spends a permit on it; `None` if that is for another collector or another way.
    #[must_use]
    pub fn open(self, permit: DownlinkPermit) -> Option<Opened> {
        let way = self.way();
        let Self { heard, call, collector } = self;
        if permit.spend() != (collector, way) {
            return None;
        }
        let back = Return::of(&heard.sender, call.as_ref());
        Some(Opened { heard, call, back })
    }
}

/// The way back to a caller; it is answered once.
#[derive(Debug)]
pub struct Return {
    pub(super) caller: Arc<str>,
    pub(super) id: u32,
}

impl Return {
    fn of(caller: &Arc<str>, call: Option<&Call>) -> Option<Self> {
        // By BUS/RT's rule nobody waits for the answer to call 0.
        let id = call.map(|call| call.id).filter(|id| *id != 0)?;
        Some(Self { caller: Arc::clone(caller), id })
    }

    /// Whether it is to `caller` for his call `id`.
    #[must_use]
    pub fn is(&self, caller: &str, id: u32) -> bool {
        *self.caller == *caller && self.id == id
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} of {}", self.id, self.caller)
    }
}
