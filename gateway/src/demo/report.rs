//! What a child of the demo tells its parent: a line of JSON on standard output, now and then and at its end.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// Where a collector's events are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Report {
    /// Who, as `<site>/<name>`.
    pub(super) collector: String,
    /// Events handed to the local bus.
    pub(super) sent: u64,
    /// Events that the gateway has acknowledged.
    pub(super) acked: u64,
    /// Whether its leaf was ever welcomed by the gateway.
    pub(super) joined: bool,
    /// Why the gateway does not let it in, if so.
    pub(super) refused: Option<String>,
}

impl Report {
    /// Says it to the parent.
    ///
    /// # Errors
    ///
    /// The parent no longer listens.
    pub(super) fn tell(&self) -> io::Result<()> {
        line(self)
    }
}

/// Says something to the parent, on a line of its own.
///
/// # Errors
///
/// The parent no longer listens.
pub(super) fn line(report: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
