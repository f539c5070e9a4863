//! What the rest of the process holds: a handle that classifies, waits its turn and asks the owner thread.
//!
//! Kept true: what waits for the disk is bounded in bytes, however many callers there are.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::{
    event::{Class, Origin, Seq, StreamId},
    spool::{
        Config, Reader, Record, Stats, StreamState, block::MAX_COLLECTOR, origin, owner::Owner,
        segment::Place,
    },
};

/// The queue on disk. Cheap to clone; when the last clone is dropped, or [`Self::close`] is called, its owner ends.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("directory", &self.shared.config.directory).finish_non_exhaustive()
    }
}

/// What handles, readers and the owner see at once. No locks: numbers that only grow, and watches that the owner writes.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) place: Arc<Place>,
    /// Settled numbers, one a class: written by [`Spool::ack`] at once, so that an ack waits for no disk.
    pub(super) acked: PerClass<AtomicU64>,
    /// Events lost to damage, counted by readers.
    pub(super) corrupt: PerClass<AtomicU64>,
    /// Up to where `corrupt` has been counted, so that a second reader of the same hole does not count it again.
    pub(super) corrupt_to: PerClass<AtomicU64>,
    pub(super) views: PerClass<watch::Receiver<View>>,
    pub(super) stats: watch::Receiver<Stats>,
    /// Bytes that wait for the disk, in units of [`BUDGET_UNIT`].
    pub(super) budget: Arc<Semaphore>,
}

/// One of each class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PerClass<T> {
    pub(super) critical: T,
    pub(super) telemetry: T,
}

impl<T> PerClass<T> {
    pub(super) fn from_fn(mut make: impl FnMut(Class) -> T) -> Self {
        Self { critical: make(Class::Critical), telemetry: make(Class::Telemetry) }
    }

    pub(super) const fn of(&self, class: Class) -> &T {
        match class {
            Class::Critical => &self.critical,
            Class::Telemetry => &self.telemetry,
        }
    }

    pub(super) const fn of_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Critical => &mut self.critical,
            Class::Telemetry => &mut self.telemetry,
        }
    }
}

/// What readers must know of a class.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) stream: StreamId,
    /// Number of the next event; what is below is committed.
    pub(super) next: Seq,
    /// `next` at open.
    pub(super) opened: Seq,
    /// All numbers up to here that are not settled were evicted.
    pub(super) evicted: Seq,
    /// First numbers of the segments, ascending.
    pub(super) segments: Arc<[Seq]>,
    /// Committed bytes of the last segment, which may be followed by what is being written.
    pub(super) tail_bytes: u64,
}

/// What the owner is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Write these.
    Append(Append),
    /// The settled numbers have grown: remove what they cover.
    Trim,
    /// Copy these into the dead-letter file.
    Reject { class: Class, rejected: Vec<(Seq, i32, String)>, done: oneshot::Sender<()> },
    /// Give the class a new stream.
    Renew { class: Class, done: oneshot::Sender<Result<(), SpoolError>> },
    /// Write everything down and end.
    Close,
}

/// One call of [`Spool::append`].
#[derive(Debug)]
pub(super) struct Append {
    pub(super) records: PerClass<Vec<Record>>,
    pub(super) done: oneshot::Sender<Result<(), SpoolError>>,
    /// Given back when the records are written.
    pub(super) budget: OwnedSemaphorePermit,
}

/// Commands that may wait for the owner; more make their senders wait.
pub(super) const QUEUE: usize = 1024;

/// A permit of [`Shared::budget`], in bytes.
const BUDGET_UNIT: usize = 1024;

/// Permits of [`Shared::budget`]: 16 MiB.
pub(super) const BUDGET: u32 = 16 * 1024;

/// What a record weighs beside its payload, about.
const RECORD_WEIGHT: usize = 96;

impl Spool {
    /// Opens the spool of `config.directory`, or makes it, and repairs what a crash has left. Does file work: milliseconds,
    /// however large the spool.
    ///
    /// The future is the owner: it writes until the spool is closed or its last handle is dropped. If it is dropped, all
    /// calls fail with [`SpoolError::Closed`].
    ///
    /// # Errors
    ///
    /// [`SpoolError`] says which file of the folder cannot be used and why.
    pub fn open(config: Config) -> Result<(Self, BoxFuture<'static, ()>), SpoolError> {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let owner = Owner::open(config, inbox, commands.downgrade())?;
        let spool = Self { shared: owner.shared(), commands };
        Ok((spool, Box::pin(owner.run())))
    }

    /// Appends events; returns when they are safe as [`Config::sync`] demands. All or none of them are.
    ///
    /// Numbers are given in order, but of events of different collectors in one call those of one collector may be
    /// brought together, so that batches stay large. Waits while much is waiting for the disk. Not cancel safe: a call
    /// dropped midway may or may not append.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], if they could not be written; then none of them is in the spool.
    pub async fn append(&self, records: Vec<Record>) -> Result<(), SpoolError> {
        let mut weight = 0;
        for record in &records {
            if let Some(name) = record.collector.as_deref().filter(|name| name.len() > MAX_COLLECTOR) {
                return Err(SpoolError::CollectorTooLong { bytes: name.len() });
            }
            if record.origin.as_ref().is_some_and(|(origin, _)| !origin::fits(origin)) {
                return Err(SpoolError::OriginTooLong);
            }
            let bytes = record.payload.len();
            let most = self.shared.max_payload();
            if bytes > most {
                return Err(SpoolError::TooLarge { bytes, most });
            }
            weight += bytes + RECORD_WEIGHT;
        }
        let permits = u32::try_from(weight / BUDGET_UNIT + 1).unwrap_or(BUDGET).min(BUDGET);
        let budget = Arc::clone(&self.shared.budget).acquire_many_owned(permits).await;
        let budget = budget.map_err(|_| SpoolError::Closed)?;
        let records = self.shared.classify(records);
        let (done, written) = oneshot::channel();
        self.ask(Command::Append(Append { records, done, budget })).await?;
        written.await.unwrap_or(Err(SpoolError::Closed))
    }

    /// Where each stream stands.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamState> {
        Class::ALL.into_iter().map(|class| self.shared.state(class)).collect()
    }

    /// Reads the events of a class from number `from` on; what is settled is passed over.
    #[must_use]
    pub fn reader(&self, class: Class, from: Seq) -> Reader {
        Reader::new(Arc::clone(&self.shared), class, from)
    }

    /// Takes all events of the class up to `seq` as settled: they may be removed.
    ///
    /// Counts at once; the removal follows in the background. A number that was never given settles what there is.
    pub async fn ack(&self, class: Class, seq: Seq) {
        let seq = seq.min(self.shared.views.of(class).borrow().next.saturating_sub(1));
        if self.shared.acked.of(class).fetch_max(seq, Ordering::AcqRel) < seq {
            // An error means that the owner has ended, and has written down what was settled until then.
            let _ended = self.ask(Command::Trim).await;
        }
    }

    /// Copies events that the gateway rejected, with code and reason, into the dead-letter file; to be called before
    /// the [`Self::ack`] that covers them.
    ///
    /// A dead letter that cannot be written is logged and counted; it holds nothing up.
    pub async fn reject(&self, class: Class, rejected: Vec<(Seq, i32, String)>) {
        if rejected.is_empty() {
            return;
        }
        let (done, copied) = oneshot::channel();
        if self.ask(Command::Reject { class, rejected, done }).await.is_ok() {
            copied.await.unwrap_or_default();
        }
    }

    /// Gives the class a new stream, in which its remaining events keep their numbers.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], if that could not be made durable; then the old name stays.
    pub async fn renew(&self, class: Class) -> Result<StreamState, SpoolError> {
        let (done, renewed) = oneshot::channel();
        self.ask(Command::Renew { class, done }).await?;
        renewed.await.unwrap_or(Err(SpoolError::Closed))?;
        Ok(self.shared.state(class))
    }

    /// What the spool shows of itself; changes with every write and removal.
    #[must_use]
    pub fn stats(&self) -> watch::Receiver<Stats> {
        self.shared.stats.clone()
    }

    /// Finishes what was asked before, writes down the settled numbers, flushes to the disk, and ends the owner.
    pub async fn close(&self) {
        if self.ask(Command::Close).await.is_ok() {
            self.commands.closed().await;
        }
    }

    async fn ask(&self, command: Command) -> Result<(), SpoolError> {
        self.commands.send(command).await.map_err(|_| SpoolError::Closed)
    }
}

impl Shared {
    /// Where the stream of a class stands.
    fn state(&self, class: Class) -> StreamState {
        let view = self.views.of(class).borrow();
        let acked = self.acked.of(class).load(Ordering::Acquire);
        StreamState { stream: view.stream, class, acked, next: view.next, opened: view.opened }
    }

    /// Parts records by class; runs of one topic, the rule in a batch, are looked up once.
    fn classify(&self, records: Vec<Record>) -> PerClass<Vec<Record>> {
        let mut parted = PerClass::<Vec<Record>>::default();
        let mut last = None;
        for record in records {
            let class = match &last {
                Some((topic, class)) if *topic == record.topic => *class,
                _ => {
                    let class = self.config.class_of(&record.topic);
                    last = Some((record.topic.clone(), class));
                    class
                }
            };
            parted.of_mut(class).push(record);
        }
        parted
    }

    /// Counts events lost to damage, each once however often its place is read.
    pub(super) fn count_corrupt(&self, class: Class, first: Seq, last: Seq) {
        let counted = self.corrupt_to.of(class).fetch_max(last, Ordering::AcqRel).max(first - 1);
        if let Some(more) = last.checked_sub(counted) {
            self.corrupt.of(class).fetch_add(more, Ordering::AcqRel);
            tracing::warn!(%class, first, last, "events of the spool were damaged or gone");
        }
    }

    /// Most bytes of one payload: half a segment always has room for it and for what is written around it.
    fn max_payload(&self) -> usize {
        usize::try_from(self.config.segment_bytes / 2).unwrap_or(usize::MAX)
    }
}

/// Why the spool cannot do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The owner has ended.
    #[error("the spool is closed")]
    Closed,
    /// A collector's name that no block can hold.
    #[error("a collector name of {bytes} bytes is longer than {MAX_COLLECTOR}")]
    CollectorTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A file or the folder cannot be used.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process, or another part of this one, has it open.
    #[error("the spool in {} is in use by another process; give each its own directory", directory.display())]
    Locked {
        /// The folder.
        directory: PathBuf,
    },
    /// An origin that no block can hold.
    #[error("an origin has more than {} hops, or a name longer than {MAX_COLLECTOR}", Origin::MOST_HOPS)]
    OriginTooLong,
    /// Others could read the events, or put some in.
    #[error(
        "the spool directory {} is open to others (mode {mode:04o}); \
         run chmod 700 on it, or name a directory in it that is not there yet", directory.display()
    )]
    OpenToOthers {
        /// The folder.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A payload that no segment can hold.
    #[error("a payload of {bytes} bytes is larger than the {most} that a segment holds; raise segment_bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// Written by another version of this software.
    #[error("{} has format version {found}, and only {} is known", path.display(), VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl SpoolError {
    /// For `map_err` of an operation on `path`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether the disk, or the share of it that we may use, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Version of the files' format.
pub(super) const VERSION: u32 = 1;
