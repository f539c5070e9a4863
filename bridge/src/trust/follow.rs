//! When the files of a generation are looked at: every so often, and when an operator says so.
//!
//! A look is a `stat` of each file, by what the path leads to now: Kubernetes swaps a symbolic link, so that neither the
//! path nor the modification time of the link says anything, and notification by the kernel is lost on a network's file
//! system. Looking at ten files ten times a second costs a thousandth of a core.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::trust::{LoadError, Plan, Reload};

/// What every file of a plan looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(Vec<(PathBuf, Option<Mark>)>);

impl Marks {
    /// Blocking: it asks the file system.
    pub(super) fn of(plan: &Plan) -> Self {
        let files = &plan.files;
        let own = [&files.cert_file, &files.key_file, &files.ca_file].map(Clone::clone);
        let limited = plan.anchors.iter().map(|group| group.ca_file.clone());
        let all = own.into_iter().chain(limited).chain(plan.revocation.files());
        Self(all.map(|path| (path.clone(), Mark::of(&path))).collect())
    }
}

/// What tells one content of a path from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    place: (u64, u64),
}

impl Mark {
    /// Follows symbolic links; `None` if there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let seen = std::fs::metadata(path).ok()?;
        Some(Self { modified: seen.modified().ok(), length: seen.len(), place: place(&seen) })
    }
}

#[cfg(unix)]
fn place(seen: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;

    // The change time moves with the mode too: `chmod 600` is a repair.
    (
        seen.ino(),
        seen.ctime()
            .unsigned_abs()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(seen.ctime_nsec().unsigned_abs()),
    )
}

#[cfg(not(unix))]
fn place(_seen: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}

/// SIGHUP, where there is one.
pub(super) struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    #[cfg(unix)]
    pub(super) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};

        Self { signal: signal(SignalKind::hangup()).ok() }
    }

    #[cfg(not(unix))]
    pub(super) const fn listen() -> Self {
        Self {}
    }

    /// Waits for the next one. Cancel safe: one that nobody waited for is seen by the next call.
    #[cfg(unix)]
    pub(super) async fn heard(&mut self) {
        let heard = match &mut self.signal {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }

    #[cfg(not(unix))]
    pub(super) async fn heard(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// When a reload that failed is tried again although no file has changed: what was wrong may have been a clock that is
/// right by now, or a file system that did not answer.
#[derive(Debug, Default)]
pub(super) struct Again(Option<(Instant, Duration)>);

impl Again {
    pub(super) fn is_due(&self) -> bool {
        self.0.is_some_and(|(due, _)| due <= Instant::now())
    }

    pub(super) fn after(&mut self, outcome: &Result<Reload, LoadError>) {
        let wait = self.0.map_or(FIRST_AGAIN, |(_, wait)| wait.saturating_mul(2).min(LAST_AGAIN));
        self.0 = outcome.is_err().then(|| (Instant::now() + wait, wait));
    }
}

/// How long after a failed reload the first attempt is made that nothing asked for; it doubles up to the next.
const FIRST_AGAIN: Duration = Duration::from_secs(5);

/// The longest time between two such attempts.
const LAST_AGAIN: Duration = Duration::from_mins(5);
