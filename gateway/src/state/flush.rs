//! Keeps the file up to date with the marks in memory, and says whether it can.
//!
//! A disk that is full or broken does not stop the gateway: marks go on in memory, [`Health`] says so, and the flusher
//! tries again until the file takes them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use daemoneye_bridge::{
    event::{Class, StreamId},
    settings::Chain,
};
use serde::Serialize;
use tokio::{
    sync::watch,
    task,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::state::{
    Metrics, StreamError,
    index::Index,
    mark::{Dirty, Mark},
    metrics::{Forgotten, Outcome},
    store::{Store, StoreError},
};

/// Whether the file can be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Health {
    /// Marks are kept in memory only: a crash now would make the events since then come again.
    Failing {
        /// Since when.
        since: SystemTime,
        /// For people.
        cause: String,
    },
    /// It can.
    Healthy,
}

/// The owner of the file.
#[derive(Debug)]
pub(super) struct Flusher {
    store: Store,
    index: Index,
    list: Arc<Dirty>,
    metrics: Metrics,
    health: watch::Sender<Health>,
    end: CancellationToken,
    /// Held for a whole flush, so that who asked for one knows that all before it is written.
    flushing: Mutex<()>,
}

/// How often streams in use are recorded as such, and idle ones forgotten.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// How often a file that could not be written is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Most streams forgotten by one sweep, which bounds its transaction.
const SWEEP_MOST: usize = 4096;

impl Flusher {
    pub(super) fn new(store: Store, index: Index, metrics: Metrics) -> Self {
        Self {
            store,
            index,
            list: Arc::default(),
            metrics,
            health: watch::Sender::new(Health::Healthy),
            end: CancellationToken::new(),
            flushing: Mutex::default(),
        }
    }

    /// Opens a stream; reads the file.
    pub(super) fn stream(
        &self,
        peer: &Arc<str>,
        stream: StreamId,
        class: Class,
    ) -> Result<Arc<Mark>, StreamError> {
        let opened = self.index.open(&self.store, (Arc::clone(peer), stream), class, &self.list)?;
        // Recorded at once, or a stream that is only ever opened would not count against the cap after a restart.
        opened.mark.touch();
        if opened.displaced {
            self.metrics.forgot(Forgotten::Cap, 1);
        }
        Ok(opened.mark)
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(super) fn path(&self) -> &Path {
        self.store.path()
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    /// Asks [`Self::run`] to write what is left and end.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    /// Writes changed marks every `interval`, until [`Self::end`].
    pub(super) async fn run(self: Arc<Self>, interval: Duration, forget_after: Duration) {
        let mut ticks = time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = Instant::now() + SWEEP_EVERY;
        let mut ended = false;
        while !ended {
            let failing = matches!(*self.health.borrow(), Health::Failing { .. });
            let pause = if failing { RETRY_EVERY } else { Duration::ZERO };
            ended = tokio::select! {
                // First: the last flush must not wait for a tick.
                biased;
                () = self.end.cancelled() => true,
                () = async { time::sleep(pause).await; ticks.tick().await; } => false,
            };
            if Instant::now() >= sweep {
                sweep = Instant::now() + SWEEP_EVERY;
                self.on_disk(move |flusher| flusher.sweep(now().saturating_sub(forget_after.as_secs())))
                    .await;
            }
            self.on_disk(|flusher| {
                // Told by `settle` already.
                flusher.flush().unwrap_or_default();
            })
            .await;
        }
    }

    async fn on_disk(self: &Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) {
        let flusher = Arc::clone(self);
        if let Err(error) = task::spawn_blocking(move || work(&flusher)).await {
            tracing::error!(%error, "writing marks broke off");
        }
    }

    /// Writes every changed mark in one transaction; returns how many there were.
    pub(super) fn flush(&self) -> Result<usize, StoreError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = self.list.take();
        let forgotten = self.index.take_forgotten();
        if marks.is_empty() && forgotten.is_empty() {
            return Ok(0);
        }
        let began = Instant::now();
        let changed: Vec<_> = marks
            .into_iter()
            .map(|mark| {
                let saved = mark.snapshot();
                (mark, saved)
            })
            .collect();
        let written = self.store.write(&forgotten, &changed, now());
        for (mark, saved) in &changed {
            if written.is_ok() {
                mark.saved(saved);
            } else {
                mark.touch();
            }
        }
        if written.is_err() {
            self.index.restore_forgotten(forgotten);
        }
        self.settle(written.as_ref().err(), began.elapsed());
        written.map(|()| changed.len())
    }

    /// Counts a transaction, and tells of a change between working and failing.
    fn settle(&self, error: Option<&StoreError>, took: Duration) {
        let outcome = if error.is_some() { Outcome::Failed } else { Outcome::Done };
        self.metrics.flush(outcome, took.as_secs_f64());
        self.health.send_if_modified(|health| match (error, &*health) {
            (None, Health::Healthy) => false,
            (Some(error), Health::Failing { since, .. }) => {
                *health = Health::Failing { since: *since, cause: Chain(error).to_string() };
                false
            }
            (None, Health::Failing { .. }) => {
                tracing::info!(path = %self.path().display(), "marks are written again");
                *health = Health::Healthy;
                true
            }
            (Some(error), Health::Healthy) => {
                let cause = Chain(error).to_string();
                tracing::error!(error = %cause, "marks could not be written; they are kept in memory and tried again");
                *health = Health::Failing { since: SystemTime::now(), cause };
                true
            }
        });
    }

    /// Records which streams are in use, and forgets those that nobody has used since `before`.
    pub(super) fn sweep(&self, before: u64) {
        for mark in self.index.sweep() {
            mark.touch();
        }
        match self.store.idle(before, SWEEP_MOST) {
            Ok(idle) => self.metrics.forgot(Forgotten::Idle, self.index.forget(idle)),
            Err(error) => tracing::warn!(error = %Chain(&error), "idle streams could not be looked for"),
        }
    }
}

/// Seconds since the UNIX epoch; 0 on a clock before it.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
