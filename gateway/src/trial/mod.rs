//! Trials of a transport: real messages there and back, timed and counted (`daemoneye-cli transport test`, `analyze`).
//!
//! ```text
//!   stand (in_process, unix_socket, tcp) ─► mouths, an ear ─► drive ─► Report
//!   bus, door, session, connected and timed    one at a time, then as many as go
//! ```
//!
//! Every stand uses the parts that carry real events: the embedded broker, the bus client on a socket, a session over mutual
//! TLS. Messages are numbered in their payload, so that what is lost or comes twice is known whatever the parts promise.
//!
//! Kept true: a message counts only when it was heard, or, where the trial may not hear, acknowledged; nothing waits without
//! a deadline; what is in flight is bounded.

use std::{future, num::NonZeroU64, time::Duration};

use daemoneye_bridge::{
    bus::{BusName, PortError, door::DoorError},
    lifecycle::Lifecycle,
    topic::{Pattern, Topic, TopicError},
    uplink::{Failure, probe::ProbeError},
};
use serde::Serialize;

use crate::demo::latencies::Latencies;

mod drive;
mod ear;
mod in_process;
mod mouth;
mod payload;
mod report;
pub mod select;
mod stages;
mod tcp;
mod unix_socket;

pub use in_process::in_process;
pub use payload::LEAST as LEAST_SIZE;
pub use report::Report;
pub use stages::Stage;
pub use tcp::{Dial, tcp};
pub use unix_socket::{Place, unix_socket};

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages of the second phase, as many at once as go; a tenth of them, at most 1,000, are sent one at a time before.
    pub messages: NonZeroU64,
    /// Bytes of each payload, at least [`LEAST_SIZE`].
    pub size: usize,
    /// Connections that send.
    pub connections: usize,
    /// How long nothing may happen before a trial gives up what it waits for.
    pub patience: Duration,
    /// Whether stages are measured beside.
    pub analyze: bool,
}

impl Options {
    /// Messages that are sent one at a time.
    const fn singles(&self) -> u64 {
        let tenth = self.messages.get() / 10;
        if tenth < 1 {
            1
        } else if tenth > 1000 {
            1000
        } else {
            tenth
        }
    }
}

/// How far messages were followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The gateway said that they are on its bus.
    Acknowledged,
    /// They came out at the other end.
    Heard,
    /// Nothing was published: pings were answered.
    Pinged,
}

/// Names of a trial differ from those of every other, so that it hears nobody else and nobody is shut out by it.
#[derive(Clone, Debug)]
struct Names {
    tag: String,
}

impl Names {
    fn new() -> Self {
        Self { tag: format!("{:08x}", fastrand::u32(..)) }
    }

    fn bus(&self, what: &str) -> Result<BusName, TopicError> {
        BusName::parse(&format!("transport-test.{}.{what}", self.tag))
    }

    fn topic(&self, what: &str) -> Result<Topic, TopicError> {
        Topic::parse(&format!("transport-test.{}.{what}", self.tag))
    }
}

fn exactly(topic: &Topic) -> Result<Pattern, TopicError> {
    Pattern::parse(topic.dotted())
}

/// Why a trial came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The bus of the trial.
    #[error("could not use the bus")]
    Bus(#[from] PortError),
    /// The door of the trial.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// A session that was carried on beside has ended.
    #[error("{0}")]
    Ended(String),
    /// The connection to a gateway.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A temporary folder.
    #[error("could not make a temporary folder")]
    Folder(#[source] std::io::Error),
    /// A name.
    #[error("could not name the trial on the bus")]
    Name(#[from] TopicError),
    /// A message was not heard of.
    #[error("no message was {what} within {} s", patience.as_secs())]
    Nothing {
        /// What was waited for.
        what: &'static str,
        /// How long.
        patience: Duration,
    },
    /// Certificates, or the way to a gateway.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The gateway will not have what is sent.
    #[error(
        "the gateway rejects {topic}: {reason}; name a topic that its policy lets {peer} publish with --topic"
    )]
    Rejected {
        /// What was sent to.
        topic: String,
        /// The gateway's words.
        reason: String,
        /// Who sent.
        peer: String,
    },
    /// A raw socket, for comparison.
    #[error("could not measure a bare socket")]
    Socket(#[source] std::io::Error),
    /// The door does not let the trial in.
    #[error("could not enter the bus at {}: {cause}; {remedy}", path.display())]
    Unreached {
        /// Which socket.
        path: std::path::PathBuf,
        /// Why not.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// The times from saying until hearing of a trial, and what else it found.
#[derive(Debug, Default)]
struct Measured {
    /// Of messages sent one at a time.
    alone: Latencies,
    /// Of the others.
    loaded: Latencies,
    sent: u64,
    arrived: u64,
    duplicates: u64,
    rejected: u64,
    /// From the first word of the second phase to its last message at the other end.
    time: Duration,
    /// Messages of the second phase that arrived within it.
    counted: u64,
}

/// Messages of this size that may be on their way where an ear reads as fast as it can.
fn window(size: usize) -> u64 {
    (MOST_FLYING_BYTES / size.max(1) as u64).clamp(1, MOST_FLYING)
}

const MOST_FLYING: u64 = 8192;

const MOST_FLYING_BYTES: u64 = 8 << 20;

/// Ends what a trial has started, with a moment for goodbyes.
async fn end(life: Lifecycle) {
    let _cut = life.drain(GOODBYE, future::pending()).await;
}

const GOODBYE: Duration = Duration::from_secs(1);
