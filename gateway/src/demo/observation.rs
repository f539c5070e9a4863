//! One event as JSON: what was seen of a process, by whom, and its number.
//!
//! The number is what the demo counts by: it stands in the payload, which nothing on the way reads or changes, so that
//! the count depends on no header, sequence or promise of the bridge itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::demo::process::Process;

/// What a collector sends.
#[derive(Debug, Serialize)]
pub(super) struct Observation<'a> {
    /// Who saw it, as `<site>/<name>`.
    pub(super) collector: &'a str,
    /// Number of the event among those of its collector, from 1.
    pub(super) seq: u64,
    /// When it was sent, microseconds since the UNIX epoch.
    pub(super) timestamp: u64,
    /// What was seen.
    #[serde(flatten)]
    pub(super) process: &'a Process,
}

impl Observation<'_> {
    /// The payload; none if the process cannot be told in JSON.
    pub(super) fn to_payload(&self) -> Option<Bytes> {
        serde_json::to_vec(self).ok().map(Bytes::from)
    }
}

/// What the subscriber reads of it.
#[derive(Debug, Deserialize)]
pub(super) struct Heard {
    /// Who says to have seen it.
    pub(super) collector: String,
    /// Its number.
    pub(super) seq: u64,
    /// When it was sent.
    timestamp: u64,
    /// The process.
    pub(super) pid: u32,
    /// Its name.
    pub(super) name: String,
}

impl Heard {
    /// How long it took; zero if the clock went back meanwhile.
    pub(super) const fn age(&self, now: u64) -> Duration {
        Duration::from_micros(now.saturating_sub(self.timestamp))
    }
}

/// Microseconds since the UNIX epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
