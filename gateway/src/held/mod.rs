//! Commands held for collectors that are not here.
//!
//! An operator's message to one collector, kept for as long as he says and delivered when the collector is attached. Separate
//! from the bus, which keeps nothing for who is not there. Kept true: a command is in the audit and on the disk before the
//! operator is told that it is held; it is forgotten only when its collector has it, its time is over, or an operator
//! cancels it; it comes again, under the same number, until one of these is so. What the audit says of a command is said
//! once: if the disk does not take it, a change that was refused is told as failed, and an end is owed to the disk.

mod entry;
mod error;
mod metrics;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{sync::watch, task, time};

pub use self::{
    entry::Entry,
    error::{HoldError, OpenError},
    metrics::{Counts, Metrics},
};
use crate::{
    identity::PeerId,
    state::{
        State, StoreError,
        audit::{Action, Audit},
    },
};

/// All that is held, by number.
type Table = BTreeMap<u64, Arc<Entry>>;

/// Commands that are held. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    audit: Audit,
    current: watch::Sender<Arc<Table>>,
    metrics: Metrics,
    /// Held for a whole change, so that audit, disk and table tell the same order. Inside are commands that the disk may have
    /// and should not; they come again only if the process ends before it lets go of them.
    changing: Mutex<BTreeSet<u64>>,
}

/// What an operator wants a collector to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose it is.
    pub collector: PeerId,
    /// What it is to have.
    pub payload: Bytes,
    /// For how long it is held: 1 s to 30 days.
    pub hold_for: Duration,
}

/// Why a command is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Cancelled,
    Expired,
    Received,
}

impl Handle {
    /// Most commands.
    pub const MOST: usize = 4096;

    /// Most commands of one collector.
    pub const MOST_OF_ONE: usize = 64;

    /// Most bytes of one command: what the admin API takes.
    pub const MOST_PAYLOAD: usize = 128 << 10;

    /// Most bytes of all commands.
    pub const MOST_BYTES: usize = 64 << 20;

    /// For how long a command may be held.
    pub const LONGEST: Duration = Duration::from_hours(30 * 24);

    /// How often is looked for what is over.
    const LOOK: Duration = Duration::from_secs(1);

    /// Reads what was held, and returns the future that forgets what is over. Blocking.
    ///
    /// # Errors
    ///
    /// [`OpenError`], if the state file has a command that cannot be read.
    pub fn open(state: State, audit: Audit, metrics: Metrics) -> Result<Self, OpenError> {
        let mut table = Table::new();
        for (number, about, payload) in state.commands()? {
            let entry = Entry::read(number, &about, payload).ok_or(OpenError::Entry { number })?;
            table.insert(number, Arc::new(entry));
        }
        metrics.holds(table.len());
        let current = watch::Sender::new(Arc::new(table));
        Ok(Self(Arc::new(Inner { state, audit, current, metrics, changing: Mutex::default() })))
    }

    /// Forgets what is over, for as long as it lives.
    pub async fn run(self) {
        let mut clock = time::interval(Self::LOOK);
        loop {
            clock.tick().await;
            let inner = Arc::clone(&self.0);
            // An error of the join means that the runtime is going away, and this task with it.
            task::spawn_blocking(move || inner.settle()).await.unwrap_or_default();
            if self.0.audit.trouble().borrow().is_some() {
                // Nothing ends unrecorded; the audit says in its own time that it can be written.
                continue;
            }
            let now = SystemTime::now();
            let over: Vec<u64> =
                self.list().values().filter(|entry| entry.is_over(now)).map(|e| e.number()).collect();
            for number in over {
                if let Err(error) = self.end(number, "gateway", End::Expired).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        number,
                        "command not forgotten"
                    );
                }
            }
        }
    }

    /// All that is held now, by number.
    #[must_use]
    pub fn list(&self) -> Arc<Table> {
        Arc::clone(&self.0.current.borrow())
    }

    /// What became of commands since the process began.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.metrics.counts()
    }

    /// Tells of changes from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Table>> {
        self.0.current.subscribe()
    }

    /// The oldest command of `collector` that holds and whose number is not in `sent`.
    #[must_use]
    pub fn next_for(&self, collector: &PeerId, sent: &BTreeSet<u64>) -> Option<Arc<Entry>> {
        let now = SystemTime::now();
        let table = self.list();
        let mut its = table.values().filter(|entry| entry.collector() == collector && !entry.is_over(now));
        its.find(|entry| !sent.contains(&entry.number())).map(Arc::clone)
    }

    /// Holds a command, in the name of `actor`. When this returns it is on the disk.
    ///
    /// A dropped call may still take effect.
    ///
    /// # Errors
    ///
    /// [`HoldError`]: nothing is held.
    pub async fn hold(&self, order: Order, actor: &str) -> Result<Arc<Entry>, HoldError> {
        if order.payload.len() > Self::MOST_PAYLOAD {
            return Err(HoldError::TooLarge { bytes: order.payload.len() });
        }
        if !(Duration::from_secs(1)..=Self::LONGEST).contains(&order.hold_for) {
            return Err(HoldError::Time);
        }
        let (inner, actor) = (Arc::clone(&self.0), actor.to_owned());
        task::spawn_blocking(move || inner.hold(order, actor)).await.unwrap_or(Err(HoldError::Ended))
    }

    /// Forgets a command, in the name of `actor`.
    ///
    /// # Errors
    ///
    /// [`HoldError`]: nothing has changed.
    pub async fn cancel(&self, number: u64, actor: &str) -> Result<Arc<Entry>, HoldError> {
        self.end(number, actor, End::Cancelled).await
    }

    /// `collector` has a command; one that is another's stays. If the disk does not let go of it, it comes again after a restart.
    ///
    /// # Errors
    ///
    /// [`HoldError`]: nothing has changed, and it will come again.
    pub async fn received(&self, number: u64, collector: &PeerId) -> Result<Arc<Entry>, HoldError> {
        if self.list().get(&number).is_none_or(|entry| entry.collector() != collector) {
            return Err(HoldError::Absent(number));
        }
        self.end(number, &format!("collector {collector}"), End::Received).await
    }

    async fn end(&self, number: u64, actor: &str, end: End) -> Result<Arc<Entry>, HoldError> {
        let (inner, actor) = (Arc::clone(&self.0), actor.to_owned());
        task::spawn_blocking(move || inner.end(number, &actor, end)).await.unwrap_or(Err(HoldError::Ended))
    }
}

impl Inner {
    fn hold(&self, order: Order, actor: String) -> Result<Arc<Entry>, HoldError> {
        let mut owed = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.current.borrow());
        let bytes: usize = table.values().map(|entry| entry.payload().len()).sum();
        if table.len() >= Handle::MOST || bytes.saturating_add(order.payload.len()) > Handle::MOST_BYTES {
            return Err(HoldError::Full);
        }
        let its = table.values().filter(|entry| *entry.collector() == order.collector).count();
        if its >= Handle::MOST_OF_ONE {
            return Err(HoldError::FullOf(order.collector));
        }
        // By the clock, so that no number comes twice, whatever was forgotten before a restart.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let after = table.keys().chain(&*owed).max().map_or(1, |last| last.saturating_add(1));
        let number = u64::try_from(clock).unwrap_or(u64::MAX).max(after);
        let entry = Arc::new(Entry::new(number, order, actor));
        self.audit.append(entry.actor(), Action::CommandHeld, &*entry)?;
        let row = (entry.about(), entry.payload().clone());
        if let Err(error) = self.state.set_command(number, Some((&row.0, &row.1))) {
            // What a disk has of a write that it reports as failed is not known.
            owed.insert(number);
            return Err(self.failed(number, entry.actor(), error));
        }
        table.insert(number, Arc::clone(&entry));
        self.metrics.holds(table.len());
        self.current.send_replace(Arc::new(table));
        drop(owed);
        tracing::info!(number, collector = %entry.collector(), actor = entry.actor(), "command held");
        Ok(entry)
    }

    fn end(&self, number: u64, actor: &str, end: End) -> Result<Arc<Entry>, HoldError> {
        let mut owed = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.current.borrow());
        let entry = table.remove(&number).ok_or(HoldError::Absent(number))?;
        self.audit.append(actor, Action::CommandEnded, &Ended { outcome: end, command: &entry })?;
        match self.state.set_command(number, None) {
            Ok(()) => {}
            // An operator can try again.
            Err(error) if end == End::Cancelled => return Err(self.failed(number, actor, error)),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    number,
                    "ended command still on the disk"
                );
                owed.insert(number);
            }
        }
        self.metrics.ended(end);
        self.metrics.holds(table.len());
        self.current.send_replace(Arc::new(table));
        drop(owed);
        tracing::info!(number, collector = %entry.collector(), actor, outcome = ?end, "command no longer held");
        Ok(entry)
    }

    /// Takes from the disk what has ended, as far as it lets go.
    fn settle(&self) {
        let mut owed = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // The first that fails tells of all: the state file is one.
        while let Some(number) = owed.first().copied()
            && self.state.set_command(number, None).is_ok()
        {
            owed.remove(&number);
        }
        drop(owed);
    }

    /// Tells the audit that what it recorded of a command was not done.
    fn failed(&self, number: u64, actor: &str, error: StoreError) -> HoldError {
        if let Err(untold) = self.audit.append(actor, Action::CommandFailed, &Failed { number }) {
            tracing::error!(error = &untold as &dyn std::error::Error, "audit not told of a failed change");
        }
        HoldError::State(error)
    }
}

/// What is recorded of a change that could not be made.
#[derive(Serialize)]
struct Failed {
    number: u64,
}

/// What is recorded of the end of a command.
#[derive(Serialize)]
struct Ended<'a> {
    outcome: End,
    command: &'a Entry,
}

#[cfg(test)]
mod tests;
