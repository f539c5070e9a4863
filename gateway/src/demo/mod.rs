//! A whole federation on one machine, made, shown and torn down: `daemoneye-gateway demo`.
//!
//! ```text
//!  demo ─┬─ gateway          the real one, on an embedded bus with a UNIX socket
//!        ├─ leaf site-a      the real one, with a collector that reads this machine's processes
//!        ├─ leaf site-b      the same
//!        ├─ leaf site-c      a valid certificate that no rule of the policy lets in
//!        ├─ leaf site-d      a certificate of an authority that the gateway does not know
//!        ├─ naps             short-lived processes, so that there is something to see
//!        └─ (itself)         a bus client on the gateway's socket: counts, and shows a live tail
//! ```
//!
//! Every other process is this program again. What is counted is numbered by the collectors inside the payload, so the
//! result does not rest on any promise of the parts that are shown.
//!
//! Kept true: it succeeds only if every event sent was received, and who is not allowed was refused; no process outlives it,
//! and no file that it was not asked to keep.

use std::{path::PathBuf, time::Duration};

mod ask;
mod child;
mod collector;
mod federation;
mod folder;
pub mod latencies;
mod naps;
mod observation;
mod process;
mod report;
mod screen;
mod show;
mod table;
mod tail;
mod tally;

pub use child::hung_up;
pub use collector::{CollectorError, Post, collect};
pub use federation::{DemoError, announce};
pub use naps::NAP;
pub use show::run;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long events are sent; until Ctrl-C if none.
    pub time: Option<Duration>,
    /// Where certificates, settings, logs and spools are kept; nowhere if none.
    pub keep: Option<PathBuf>,
}

/// How a demo went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a demo may end well and have failed"]
pub enum Outcome {
    /// Something was lost, or not refused; it was said what.
    Faulty,
    /// Nothing was lost, and who is not allowed was refused.
    Whole,
}

/// The hidden subcommand that runs the gateway until it is told to stop or standard input ends.
pub const GATEWAY: &str = "demo-gateway";

/// The hidden subcommand that runs [`collect`].
pub const LEAF: &str = "demo-leaf";

/// Reads a length of time such as `20s`, for the command line.
///
/// # Errors
///
/// A sentence about what is wrong with it.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}
