//! Short-lived children that do nothing, so that there is something to see in an empty container.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{self, Interval, MissedTickBehavior},
};

/// The argument that makes this program nap.
pub const NAP: &str = "demo-nap";

/// How often one is started.
const EVERY: Duration = Duration::from_millis(250);

/// How long each runs: longer than a second, so that no reading misses it.
const LENGTH: Duration = Duration::from_millis(1500);

/// Starts naps and collects those that are over. Dropping it kills what still runs.
#[derive(Debug)]
pub(super) struct Naps {
    program: PathBuf,
    running: Vec<Child>,
    clock: Interval,
}

impl Naps {
    /// Lays a link to this program into `folder`, for a process is named after the file it was started from.
    ///
    /// # Errors
    ///
    /// The operating system's, if the link cannot be made.
    pub(super) fn new(folder: &Path) -> std::io::Result<Self> {
        let program = folder.join("nap");
        match std::os::unix::fs::symlink(std::env::current_exe()?, &program) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut clock = time::interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { program, running: Vec::new(), clock })
    }

    /// Waits for the time of the next one and starts it. One that cannot be started is left out: it is only a show.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) {
        self.clock.tick().await;
        self.running.retain_mut(|nap| matches!(nap.try_wait(), Ok(None)));
        let nap = Command::new(&self.program)
            .arg(NAP)
            .arg(LENGTH.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        self.running.extend(nap);
    }
}
