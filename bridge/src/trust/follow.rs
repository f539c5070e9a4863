//! When the files of a generation are looked at: every so often, and when an operator says so.
//!
//! A look is a `stat` of each file, by what the path leads to now: Kubernetes swaps a symbolic link, so that neither the
//! path nor the modification time of the link says anything, and notification by the kernel is lost on a network's file
//! system. Looking at ten files ten times a second costs a thousandth of a core.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::trust::Plan;

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
