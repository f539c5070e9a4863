//! The phases of a process, and the leash that every task hangs on.
//!
//! A process goes through [`Phase`]s in order and never back, so that a late reload or "ready" cannot undo a drain. Tasks
//! are born by [`Leash::spawn`]: each has an owner who can wait for its end and, when patience ends, cut it.

use std::{future::Future, time::Duration};

use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Where a process is in its life. Ordered; it only advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not yet ready.
    Starting,
    /// At work.
    Serving,
    /// Finishing what it has; takes on nothing new.
    Draining,
    /// Done.
    Stopped,
}

impl Phase {
    /// The word used in logs, labels and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// The one writer of the phase, and the owner of all tasks.
#[derive(Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    leash: Leash,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// Begins a life in [`Phase::Starting`].
    #[must_use]
    pub fn new() -> Self {
        let leash = Leash {
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Self { phase: watch::Sender::new(Phase::Starting), leash }
    }

    /// What tasks are born from.
    #[must_use]
    pub fn leash(&self) -> Leash {
        self.leash.clone()
    }

    /// Where the process is, for whoever must know.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Goes on to `next`; going back is ignored.
    pub fn advance(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < next;
            if forward {
                *phase = next;
            }
            forward
        });
    }

    /// Asks every task to finish, waits up to `grace` or until `hurry` ends, then cuts what is left.
    ///
    /// Returns the number of tasks that had to be cut.
    pub async fn drain(self, grace: Duration, hurry: impl Future<Output = ()> + Send) -> usize {
        self.advance(Phase::Draining);
        self.leash.tasks.close();
        self.leash.drain.cancel();
        let finished = tokio::select! {
            biased;
            () = self.leash.tasks.wait() => true,
            () = hurry => false,
            () = time::sleep(grace) => false,
        };
        let cut = if finished { 0 } else { self.leash.tasks.len() };
        self.leash.abort.cancel();
        self.leash.tasks.wait().await;
        self.advance(Phase::Stopped);
        cut
    }
}

/// What a task hangs on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leash {
    tasks: TaskTracker,
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Leash {
    /// Starts `task` and keeps hold of it: it is waited for at the end, and dropped when patience ends.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let abort = self.abort.clone();
        // Boxed first: a future that is waited for beside another is kept twice, as what was handed over and as what runs.
        let task = Box::pin(task);
        #[expect(clippy::disallowed_methods, reason = "the one place where tasks are born")]
        tokio::spawn(self.tasks.track_future(async move {
            // Abort first: a task that is always ready must not outlive the end of patience.
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = task => {}
            }
        }));
    }

    /// Ends when the process begins to drain: finish what you are doing.
    ///
    /// Cancel safe: it holds no state.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether the process has begun to drain.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// The token behind [`Self::draining`], for code that takes one.
    #[must_use]
    pub fn drain_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// How many tasks are alive.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// The signals that a process obeys.
#[cfg(unix)]
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Begins to listen; from here on neither signal kills the process by itself.
    ///
    /// # Errors
    ///
    /// The operating system's, if handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for SIGTERM or SIGINT.
    ///
    /// Cancel safe: a signal that nobody waited for is seen by the next call.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What a console tells a process to end by.
#[cfg(windows)]
#[derive(Debug)]
pub struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    pause: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Signals {
    /// Begins to listen; from here on none of them ends the process by itself.
    ///
    /// # Errors
    ///
    /// The operating system's, if handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::windows;

        Ok(Self {
            interrupt: windows::ctrl_c()?,
            pause: windows::ctrl_break()?,
            close: windows::ctrl_close()?,
            shutdown: windows::ctrl_shutdown()?,
        })
    }

    /// Waits for Ctrl-C, Ctrl-Break, the end of the console or that of the system. Windows gives a few seconds after the
    /// last two.
    ///
    /// Cancel safe: what nobody waited for is seen by the next call.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.pause.recv() => {}
            _ = self.close.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_will_not_end_is_cut_and_counted() {
        let life = Lifecycle::new();
        let leash = life.leash();
        leash.spawn(std::future::pending());
        let obedient = leash.clone();
        leash.spawn(async move { obedient.draining().await });
        let mut phase = life.watch();
        let cut = life.drain(Duration::from_secs(5), std::future::pending()).await;
        assert_eq!(cut, 1);
        assert_eq!(*phase.borrow_and_update(), Phase::Stopped);
    }

    #[test]
    fn a_phase_never_goes_back() {
        let life = Lifecycle::new();
        life.advance(Phase::Draining);
        life.advance(Phase::Serving);
        assert_eq!(*life.watch().borrow(), Phase::Draining);
    }
}
