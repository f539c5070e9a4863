//! The other processes of the demo: this program again, with other arguments.
//!
//! A child that belongs to the demo ends when its standard input does, so that it outlives its parent in no case, not even
//! `kill -9`. Each is in a process group of its own, because a terminal sends Ctrl-C to the whole group of the parent, who
//! wants to stop producers before the gateway.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    thread,
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout, Command},
    time,
};
use tokio_util::sync::CancellationToken;

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    process: tokio::process::Child,
    /// Open for as long as the child shall run.
    stdin: Option<ChildStdin>,
    reports: Option<Lines<BufReader<ChildStdout>>>,
    log: PathBuf,
}

impl Child {
    /// Starts this program with `args`; what it says on standard error goes into `log`.
    pub(super) fn start<A>(name: &'static str, args: A, log: &Path) -> Result<Self, ChildError>
    where
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
    {
        let failed = |source| ChildError::Start { name, source };
        let stderr = open_log(log).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut process = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = process.stdin.take();
        let reports = process.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Self { name, process, stdin, reports, log: log.to_owned() })
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Takes what the child says on standard output: one JSON value a line. A line of another kind is passed over.
    ///
    /// The stream ends when the child closes its output, as a rule by ending. It can be taken once.
    pub(super) fn reports<T: DeserializeOwned + Send + 'static>(&mut self) -> BoxStream<'static, T> {
        let lines = self.reports.take();
        futures_util::stream::unfold(lines, async |lines| {
            let mut lines = lines?;
            loop {
                let line = lines.next_line().await.ok()??;
                if let Ok(report) = serde_json::from_str(&line) {
                    return Some((report, Some(lines)));
                }
            }
        })
        .boxed()
    }

    /// Asks it to end, by closing its standard input.
    pub(super) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        const LINES: usize = 5;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().take(LINES).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Waits until it ends by itself, which is an error.
    ///
    /// Cancel safe.
    pub(super) async fn ended(&mut self) -> ChildError {
        let name = self.name;
        match self.process.wait().await {
            Ok(status) => ChildError::Ended { name, status, words: self.last_words() },
            Err(source) => ChildError::Wait { name, source },
        }
    }

    /// Waits for its end, which must be a good one, and kills it when `grace` is over.
    pub(super) async fn finish(&mut self, grace: Duration) -> Result<(), ChildError> {
        let name = self.name;
        match time::timeout(grace, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ChildError::Ended { name, status, words: self.last_words() }),
            Ok(Err(source)) => Err(ChildError::Wait { name, source }),
            Err(_) => {
                self.process.kill().await.map_err(|source| ChildError::Wait { name, source })?;
                Err(ChildError::Late { name, grace })
            }
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Is cancelled when standard input ends, which is when the parent wants this process to end, or has itself ended.
#[must_use]
pub fn hung_up() -> CancellationToken {
    let token = CancellationToken::new();
    let hung_up = token.clone();
    // A thread of its own, for nothing can end a read of standard input; it ends with the process.
    thread::spawn(move || {
        // An error is as good as an end.
        let _ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
        hung_up.cancel();
    });
    token
}

/// A child that did not do as it should.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It ended by itself, or badly.
    #[error("the {name} ended ({status}); its last words:\n{words}")]
    Ended {
        /// Which.
        name: &'static str,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        words: String,
    },
    /// It had to be killed.
    #[error("the {name} did not end within {} s and was killed", grace.as_secs())]
    Late {
        /// Which.
        name: &'static str,
        /// How long it had.
        grace: Duration,
    },
    /// It could not be started.
    #[error("could not start the {name}")]
    Start {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its end could not be waited for.
    #[error("could not wait for the end of the {name}")]
    Wait {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
