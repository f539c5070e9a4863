//! The queue on disk between a local bus and a gateway that may be away for days.
//!
//! ```text
//!   append ──► owner thread ──► critical-….seg   critical-….seg ◄── blocks written here
//!              (group commit)   telemetry-….seg  telemetry-….seg
//!                 ▲                  │
//!    ack, reject, renew              └──► Reader ──► Chunk::Events | Chunk::Gap ──► uplink
//! ```
//!
//! Each class of events is a stream of its own: a UUID and contiguous numbers. Its events lie in segment files, appended
//! in checksummed blocks; an acknowledgement removes whole segments, a full spool evicts them. The file work is done by
//! one thread; readers do theirs on the blocking pool.
//!
//! Kept true: an event whose `append` has returned is delivered, or lies in a [`Chunk::Gap`] that is; a sequence number
//! is never given twice; the disk, and the memory, that all this takes is bounded.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    event::{Class, Events, Origin, Relayed, Seq, StreamId},
    topic::Topic,
};

mod config;

mod handle;

mod owner;

mod round;

mod lane;

mod recover;

mod reader;

mod cursor;

mod dead_letter;

mod segment;

mod block;

mod meta;

mod folder;

mod fields;

mod origin;

mod age;

pub use config::{ClassRule, Config, ConfigError, Sync};
pub use handle::{Spool, SpoolError};
pub use reader::Reader;

/// An event on its way into the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The collector that speaks; none: the owner of the spool itself.
    pub collector: Option<Arc<str>>,
    /// Where it comes from, and its number there, if it is relayed from a gateway.
    pub origin: Option<(Arc<Origin>, Seq)>,
    /// Its topic, which decides its class.
    pub topic: Topic,
    /// The payload, opaque.
    pub payload: Bytes,
    /// When it happened at its source, nanoseconds since the UNIX epoch; 0: not said.
    pub time: u64,
}

/// What a reader hands out. Chunks of one reader follow each other without a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Consecutive events of one collector; at least one.
    Events {
        /// Number of the first.
        first_seq: Seq,
        /// Who speaks; none: the owner of the spool itself.
        collector: Option<Arc<str>>,
        /// Where they come from, if they are relayed: boxed, for few are.
        relayed: Option<Box<Relayed>>,
        /// The events.
        events: Events,
    },
    /// Events that were appended and are no longer there.
    Gap {
        /// Number of the first.
        first_seq: Seq,
        /// Number of the last.
        last_seq: Seq,
        /// Why.
        reason: GapReason,
    },
}

impl Chunk {
    /// Number of its first event.
    #[must_use]
    pub const fn first_seq(&self) -> Seq {
        match self {
            Self::Events { first_seq, .. } | Self::Gap { first_seq, .. } => *first_seq,
        }
    }

    /// Number of its last event.
    #[must_use]
    pub const fn last_seq(&self) -> Seq {
        match self {
            Self::Events { first_seq, events, .. } => *first_seq + (events.len() as u64).saturating_sub(1),
            Self::Gap { last_seq, .. } => *last_seq,
        }
    }
}

/// Why events are no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// Their bytes on disk are damaged or gone.
    Corrupt,
    /// The spool was full and the oldest went.
    Evicted,
}

impl GapReason {
    /// The word used in logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Evicted => "evicted",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Its name.
    pub stream: StreamId,
    /// Class of all of its events.
    pub class: Class,
    /// The highest number known to be settled; 0 for none.
    pub acked: Seq,
    /// The number that the next new event will get.
    pub next: Seq,
    /// What `next` was when this process opened the spool.
    ///
    /// Until it has sent anything, a gateway that has seen this number or a higher one has seen events that this spool
    /// has lost (power cut, older copy of the disk). Then all events below are settled there, and the numbers from here
    /// on are taken: acknowledge `opened - 1`, then [`Spool::renew`]. Comparing with `next` instead would miss the case
    /// in which new events have been appended since.
    pub opened: Seq,
}

/// What the spool shows of itself. The counts are since it was opened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Each class, in the order of [`Class::ALL`].
    pub classes: [ClassStats; 2],
    /// Bytes of all segments on disk.
    pub bytes: u64,
    /// The bound of `bytes`.
    pub max_bytes: u64,
    /// What last went wrong with the disk, until a write succeeds.
    pub disk_error: Option<String>,
}

impl Stats {
    /// Those of a spool in which nothing has happened.
    pub(crate) fn empty(max_bytes: u64) -> Self {
        let empty = |class| ClassStats {
            class,
            events: 0,
            bytes: 0,
            oldest: None,
            appended: 0,
            evicted: 0,
            corrupt: 0,
            rejected: 0,
        };
        Self { classes: Class::ALL.map(empty), bytes: 0, max_bytes, disk_error: None }
    }

    /// The figures of one class.
    #[must_use]
    pub const fn of(&self, class: Class) -> &ClassStats {
        let [critical, telemetry] = &self.classes;
        match class {
            Class::Critical => critical,
            Class::Telemetry => telemetry,
        }
    }
}

/// What the spool shows of one class.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ClassStats {
    /// Which.
    pub class: Class,
    /// Events that wait for their acknowledgement.
    pub events: u64,
    /// Bytes on disk; what is acknowledged is removed segment by segment, so this is seldom 0.
    pub bytes: u64,
    /// About when the oldest waiting event happened, nanoseconds since the UNIX epoch.
    pub oldest: Option<u64>,
    /// Events appended.
    pub appended: u64,
    /// Events that went because the spool was full.
    pub evicted: u64,
    /// Events found damaged or gone.
    pub corrupt: u64,
    /// Events that the gateway rejected.
    pub rejected: u64,
}

#[cfg(test)]
mod tests;
