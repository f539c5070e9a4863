//! What a collector links: a spool and an uplink, and nothing to wire.
//!
//! An event that [`Collector::publish`] has taken survives the death of the process, every outage of the network and of
//! the gateway, and is delivered in order with its class. What it does not survive is told: a gap where the spool was full,
//! a dead letter where the gateway's policy refused.

use std::{
    num::TryFromIntError,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use daemoneye_proto::MAX_PAYLOAD;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    event::{Class, Seq},
    spool::{self, Record, Spool, SpoolError, Stats},
    topic::{Topic, is_segment},
    trust::LoadError,
    uplink::{self, Link, Status, Uplink},
};

/// Settings of a collector; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// The collector on whose behalf events are sent; none: whom the certificate names.
    pub collector: Option<Arc<str>>,
    /// The queue on disk.
    pub spool: spool::Config,
    /// The way to the gateways.
    pub uplink: uplink::Config,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// 63 bytes of `[a-z0-9_-]`; the gateway's policy must let this peer speak for it. Default: none.
    collector: Option<String>,
    spool: spool::Config,
    uplink: uplink::Config,
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        if let Some(name) = &file.collector
            && (!is_segment(name) || name.len() > MAX_NAME)
        {
            return Err(format!(
                "collector = \"{}\" is no name; use up to {MAX_NAME} of a-z, 0-9, `_`, `-`",
                name.escape_debug()
            ));
        }
        Ok(Self { collector: file.collector.map(Into::into), spool: file.spool, uplink: file.uplink })
    }
}

/// Longest name of a collector on the wire.
const MAX_NAME: usize = 63;

/// A collector's mouth. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Collector {
    name: Option<Arc<str>>,
    spool: Spool,
    uplink: Uplink,
}

impl Collector {
    /// Opens the spool and the way up; reads files.
    ///
    /// The futures are its tasks, to be spawned by whoever owns them; they end after [`Self::close`].
    ///
    /// # Errors
    ///
    /// [`OpenError`] says which file cannot be used, why, and what to do.
    pub fn open(config: Config) -> Result<(Self, Vec<BoxFuture<'static, ()>>), OpenError> {
        let (spool, owner) = Spool::open(config.spool)?;
        let (uplink, mut tasks) = Uplink::open(config.uplink, spool.clone())?;
        tasks.push(owner);
        Ok((Self { name: config.collector, spool, uplink }, tasks))
    }

    /// Puts an event into the spool, which gives it the time of now. From here on it is delivered.
    ///
    /// Waits while the disk is busy. Not cancel safe: a call dropped midway may or may not have put it there.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; then it is not in the spool.
    pub async fn publish(&self, topic: &Topic, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        self.publish_all([(topic.clone(), payload.into(), now())]).await
    }

    /// Puts events into the spool together, all or none, each with its time in nanoseconds since the UNIX epoch (0: not
    /// said). Much cheaper than one by one.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; then none of them is in the spool.
    pub async fn publish_all(
        &self,
        events: impl IntoIterator<Item = (Topic, Bytes, u64)>,
    ) -> Result<(), PublishError> {
        let record = |(topic, payload, time): (Topic, Bytes, u64)| {
            if payload.len() > MAX_PAYLOAD {
                return Err(PublishError::TooLarge { topic, bytes: payload.len() });
            }
            Ok(Record { collector: self.name.clone(), origin: None, topic, payload, time })
        };
        let records: Vec<Record> = events.into_iter().map(record).collect::<Result<_, _>>()?;
        Ok(self.spool.append(records).await?)
    }

    /// Waits until everything published before this call is acknowledged, rejected, or reported as lost.
    ///
    /// Waits as long as no gateway is there: bound it with a time-out. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Ended`], if the collector is closed before.
    pub async fn flush(&self) -> Result<(), Ended> {
        let goals: Vec<(Class, Seq)> = self
            .spool
            .streams()
            .into_iter()
            .map(|state| (state.class, state.next.saturating_sub(1)))
            .collect();
        let mut status = self.uplink.status();
        loop {
            // Marked before the spool is asked: an acknowledgement in between is seen by `changed`.
            let ended = status.borrow_and_update().link == Link::Ended;
            let reached = |(class, goal): &(Class, Seq)| {
                self.spool.streams().iter().any(|state| state.class == *class && state.acked >= *goal)
            };
            if goals.iter().all(reached) {
                return Ok(());
            }
            if ended || status.changed().await.is_err() {
                return Err(Ended);
            }
        }
    }

    /// What the way up shows of itself.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.uplink.status()
    }

    /// The certificates in force.
    #[cfg(test)]
    pub(crate) const fn certificates(&self) -> &crate::trust::Store {
        self.uplink.certificates()
    }

    /// What the spool shows of itself.
    #[must_use]
    pub fn spool(&self) -> watch::Receiver<Stats> {
        self.spool.stats()
    }

    /// Delivers what is in the spool, for at most `patience`, and ends; what is left is delivered by the next to open it.
    pub async fn close(self, patience: Duration) {
        self.uplink.finish(patience);
        self.uplink.ended().await;
        self.spool.close().await;
    }
}

fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos: Result<u64, TryFromIntError> = elapsed.as_nanos().try_into();
    nanos.unwrap_or(u64::MAX)
}

/// Why a collector could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The queue on disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The way to the gateways.
    #[error(transparent)]
    Uplink(#[from] LoadError),
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It could not be written.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// No gateway would take it.
    #[error("a payload of {bytes} bytes on {topic} is over the limit of {MAX_PAYLOAD}")]
    TooLarge {
        /// Of which topic.
        topic: Topic,
        /// Its size.
        bytes: usize,
    },
}

/// The collector was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the collector is closed")]
pub struct Ended;
