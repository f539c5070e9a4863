//! What a collector asks of the bus beside publishing to all: to hear, to send, to call, to answer. Each against a permit.
//!
//! Kept true: an answer goes to who called, once, and to nobody else.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use daemoneye_bridge::bus::{
    self, Filter, SendError,
    rpc::{Rpc, code},
};
use tokio::time;

use crate::{
    bus::{Return, Voice},
    policy::{BroadcastPermit, CallPermit, Collector, PublishPermit, SubscribePermit},
};

/// How long the bus may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the bus did not do what a collector asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// Nobody of that name is there.
    #[error("no such client on the bus")]
    Absent,
    /// It has too much to read.
    #[error("the client is too busy")]
    Busy,
    /// The bus is not there.
    #[error("the bus is not there")]
    BusGone,
    /// It does not listen.
    #[error("the client does not listen")]
    Deaf,
    /// The permit is not the voice's.
    #[error("the policy does not let this collector do that")]
    Denied,
    /// The bus did not answer in time.
    #[error("the bus did not answer in time")]
    TimedOut,
}

impl Undelivered {
    /// The code that a caller is told.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Absent | Self::Deaf => code::ABSENT,
            Self::Busy => code::TOO_MANY,
            Self::BusGone | Self::TimedOut => code::CUT,
            Self::Denied => code::DENIED,
        }
    }
}

impl From<SendError> for Undelivered {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Busy => Self::Busy,
            SendError::Name | SendError::NoClient => Self::Absent,
            SendError::Undelivered => Self::Deaf,
            SendError::Lost => Self::TimedOut,
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
        if !self.claim.is_named(&peer) {
            return Err(Undelivered::Denied);
        }
        let wanted: BTreeSet<Filter> = patterns.iter().flat_map(Filter::of).collect();
        // What may no longer be heard goes first.
        self.narrow(Narrow::Unsubscribe, heard.difference(&wanted).cloned().collect()).await?;
        let more: Vec<_> = wanted.difference(heard).cloned().collect();
        if !more.is_empty() {
            within(self.mouth()?.hear(more)).await?;
        }
        *heard = wanted;
        Ok(())
    }

    /// Hears `filters` too, which are what `permit` allows.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not.
    pub async fn subscribe(&self, permit: SubscribePermit, filters: Vec<Filter>) -> Result<(), Undelivered> {
        let (peer, patterns) = permit.spend();
        let allowed: Vec<Filter> = patterns.iter().flat_map(Filter::of).collect();
        if !self.claim.is_named(&peer) || filters.iter().any(|filter| !allowed.contains(filter)) {
            return Err(Undelivered::Denied);
        }
        within(self.mouth()?.hear(filters)).await
    }

    /// Hears less: it takes back what it heard, does not hear what it subscribes to, or takes that back. No right is needed.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not.
    pub async fn narrow(&self, how: Narrow, filters: Vec<Filter>) -> Result<(), Undelivered> {
        if filters.is_empty() {
            return Ok(());
        }
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
    /// [`Undelivered`] says why not.
    pub async fn send(&self, permit: CallPermit, payload: Bytes) -> Result<(), Undelivered> {
        let (collector, client) = permit.spend();
        within(self.mouth_of(&collector)?.send(&client, payload)).await
    }

    /// Sends a message to all whom `permit` names.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not.
    pub async fn broadcast(&self, permit: BroadcastPermit, payload: Bytes) -> Result<(), Undelivered> {
        let (collector, mask) = permit.spend();
        within(self.mouth_of(&collector)?.broadcast(&mask, payload)).await
    }

    /// Publishes to one subscriber of a topic, at most once: both must be permitted.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why not.
    pub async fn publish_for(
        &self,
        topic: PublishPermit,
        receiver: CallPermit,
        payload: Bytes,
    ) -> Result<(), Undelivered> {
        let (collector, receiver) = receiver.spend();
        self.mouth_of(topic.collector())?;
        let topic = topic.spend().pop().ok_or(Undelivered::Denied)?;
        within(self.mouth_of(&collector)?.publish_for(&topic, &receiver, payload)).await
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
        let id = back.id;
        let answer = match outcome {
            Ok(result) => Rpc::Reply { id, result },
            Err((code, message)) => Rpc::failure(id, code, &message),
        };
        self.pass(back, answer.encode()).await
    }

    /// Answers a call with the message by which the collector does.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] says why the caller does not have it.
    pub async fn pass(&self, back: Return, answer: Bytes) -> Result<(), Undelivered> {
        match Rpc::decode(&answer) {
            Ok(Rpc::Reply { id, .. } | Rpc::Error { id, .. }) if id == back.id => {
                within(self.mouth()?.send(&back.caller, answer)).await
            }
            _ => Err(Undelivered::Denied),
        }
    }

    fn mouth(&self) -> Result<&bus::Port, Undelivered> {
        self.claim.port().ok_or(Undelivered::BusGone)
    }

    /// The same, for what `collector` may say.
    fn mouth_of(&self, collector: &Collector) -> Result<&bus::Port, Undelivered> {
        if self.claim.is_of(collector) { self.mouth() } else { Err(Undelivered::Denied) }
    }
}

/// How a collector hears less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Not these, though a subscription matches.
    Exclude,
    /// These again.
    Unexclude,
    /// No longer these.
    Unsubscribe,
}

async fn within(asked: impl Future<Output = Result<(), SendError>>) -> Result<(), Undelivered> {
    time::timeout(PATIENCE, asked).await.unwrap_or(Err(SendError::Lost)).map_err(Undelivered::from)
}
