//! Puts a changed policy file in force without a restart.
//!
//! Certificates are followed by [`daemoneye_bridge::trust::Store`] in the same way: on SIGHUP at once, else by looking at
//! the file several times a second, through whatever symbolic links lead to it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use daemoneye_bridge::settings::Chain;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task, time,
};

use crate::policy::{Applied, Force, Judge};

/// How often the file is looked at: who loses his role is gone within a second of the change, as with a revocation list.
const LOOK: Duration = Duration::from_millis(200);

/// Reads the policy anew on SIGHUP and when its file is no longer as it was `seen`; one that cannot be used, or would cut more
/// than a fifth of the connected, leaves the old one in force. Never ends.
pub(super) async fn policy(judge: Judge, file: PathBuf, mut seen: Option<Mark>) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    loop {
        let asked = tokio::select! {
            biased;
            // An operator's word before our own clock.
            () = heard(&mut hangup) => true,
            () = time::sleep(LOOK) => false,
        };
        let path = file.clone();
        // An error means that the runtime is going away.
        let now = task::spawn_blocking(move || look(&path)).await.ok().flatten();
        if asked || now != seen {
            seen = now;
            let (judge, file) = (judge.clone(), file.clone());
            let by = if asked { "SIGHUP" } else { "change of the file" };
            let read = task::spawn_blocking(move || reload(&judge, &file, by));
            // An error means that the runtime is going away, and this task with it.
            read.await.unwrap_or_default();
        }
    }
}

fn reload(judge: &Judge, file: &Path, by: &str) {
    match judge.reload(file, by, Force::Ask) {
        Ok(Applied::Changed { generation, impact }) => {
            tracing::info!(file = %file.display(), by, generation, cut = impact.cut.len(), "policy reloaded");
        }
        Ok(Applied::Unchanged { generation }) => {
            tracing::debug!(file = %file.display(), by, generation, "policy unchanged");
        }
        Err(error) => {
            tracing::error!(error = %Chain(&error), "policy not reloaded, the old one stays in force");
        }
    }
}

async fn heard(hangup: &mut Option<Signal>) {
    let heard = match hangup {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending::<()>().await;
    }
}

/// What tells one content of a path from another without reading it; the change time moves with a `chmod` too, which may be
/// the repair.
pub(super) type Mark = (u64, u64, i64, i64);

/// How the file is now. What is loaded is loaded after this, so that a change meanwhile is seen as one. Blocking.
pub(super) fn look(file: &Path) -> Option<Mark> {
    let seen = fs::metadata(file).ok()?;
    Some((seen.ino(), seen.len(), seen.ctime(), seen.ctime_nsec()))
}
