//! The one who writes: a thread that takes commands in order and writes what waits together in one go.
//!
//! While it writes or flushes, callers queue up; the next round takes all of them. So the price of a flush is shared by as
//! many as are waiting for one.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    event::{Class, Seq, StreamId},
    spool::{
        ClassStats, Config, Record, Stats, Sync,
        dead_letter::DeadLetters,
        folder,
        handle::{Append, BUDGET, Command, PerClass, Shared, SpoolError},
        lane::{Lane, Shape},
        meta::{Durable, Meta},
        round::{self, Round},
        segment::{self, Place},
    },
};

/// The owner of the files.
#[derive(Debug)]
pub(super) struct Owner {
    shared: Arc<Shared>,
    lanes: PerClass<Lane>,
    meta: Meta,
    dead_letters: DeadLetters,
    inbox: mpsc::Receiver<Command>,
    /// Wakes the thread when the owner's future is dropped.
    nudge: mpsc::WeakSender<Command>,
    stop: Arc<AtomicBool>,
    stats: watch::Sender<Stats>,
    rejected: PerClass<u64>,
    disk_error: Option<String>,
    /// What is about to be written; kept for its memory.
    buffer: Vec<u8>,
    /// Whether numbers were spent, in this round, that nothing on disk tells of.
    spent: bool,
    saved: Instant,
    lock: File,
}

/// How often settled numbers are written down, if no segment goes.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Whether there is room for what is about to be written.
enum Room {
    Enough,
    /// Something was removed; what was encoded may not fit the place it would go to.
    Made,
    /// None is left to be removed for its sake.
    None,
}

impl Owner {
    /// Opens the files.
    pub(super) fn open(
        config: Config,
        inbox: mpsc::Receiver<Command>,
        nudge: mpsc::WeakSender<Command>,
    ) -> Result<Self, SpoolError> {
        let lock = folder::take(&config.directory)?;
        let mut found = folder::segments(&config.directory)?;
        let (meta, kept) = Meta::open(&config.directory, || segment::find_marker(&config.directory, &found))?;
        let place = Arc::new(Place { directory: config.directory.clone(), marker: meta.marker });
        let shape = Shape { segment_bytes: config.segment_bytes, sync: config.sync };
        let mut lane = |class| {
            let found = std::mem::take(found.of_mut(class));
            Lane::open(&place, class, shape, found, kept.map(|kept| *kept.of(class)))
        };
        let ((critical, critical_acked), (telemetry, telemetry_acked)) =
            (lane(Class::Critical)?, lane(Class::Telemetry)?);
        let acked = PerClass { critical: critical_acked.into(), telemetry: telemetry_acked.into() };
        let lanes = PerClass { critical, telemetry };
        let (stats, _) = watch::channel(Stats::empty(config.max_bytes));
        let shared = Arc::new(Shared {
            acked,
            corrupt: PerClass::default(),
            corrupt_to: PerClass::default(),
            views: PerClass::from_fn(|class| lanes.of(class).watch()),
            stats: stats.subscribe(),
            budget: Arc::new(Semaphore::new(BUDGET as usize)),
            config,
            place,
        });
        let mut owner = Self {
            dead_letters: DeadLetters::new(Arc::clone(&shared)),
            shared,
            lanes,
            meta,
            inbox,
            nudge,
            stop: Arc::default(),
            stats,
            rejected: PerClass::default(),
            disk_error: None,
            buffer: Vec::new(),
            spent: false,
            saved: Instant::now(),
            lock,
        };
        // New streams must be there before an event of theirs is sent.
        owner.save(Durable::Yes)?;
        owner.publish();
        Ok(owner)
    }

    /// What handles and readers see of it.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Works until the spool is closed, or this future is dropped.
    pub(super) async fn run(self) {
        let _cut = Cut { stop: Arc::clone(&self.stop), nudge: self.nudge.clone() };
        let (ended, end) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("spool".to_owned()).spawn(move || {
            self.work();
            drop(ended);
        });
        match thread {
            // It is never sent: that it is dropped is the message.
            Ok(_) => end.await.unwrap_or_default(),
            Err(error) => tracing::error!(%error, "could not start the thread of the spool"),
        }
    }

    fn work(mut self) {
        self.serve();
        self.finish();
        let Self { inbox, lanes, meta, lock, .. } = self;
        // The inbox last: who sees it closed may open the spool again.
        // Not by dropping it alone: a child process on its way to its program would hold it a moment longer.
        let _unlocked = lock.unlock();
        drop((lanes, meta, lock));
        drop(inbox);
    }

    fn serve(&mut self) {
        while let Some(command) = self.inbox.blocking_recv() {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                match command {
                    Command::Append(first) => next = self.append(first),
                    Command::Close => return,
                    Command::Reject { class, rejected, done } => {
                        self.reject(class, &rejected);
                        self.publish();
                        let _gone = done.send(());
                    }
                    Command::Renew { class, done } => {
                        let renewed = self.renew(class);
                        self.publish();
                        let _gone = done.send(renewed);
                    }
                    Command::Trim => {
                        self.trim();
                        self.publish();
                    }
                }
            }
        }
    }

    /// Writes down all that a quick start needs.
    fn finish(&mut self) {
        self.trim();
        for class in Class::ALL {
            if let Err(error) = self.lanes.of_mut(class).sync() {
                self.complain("could not flush the spool", &error);
            }
        }
        // What failed has been told.
        let _failed = self.save(Durable::Yes);
        self.publish();
    }

    /// Writes this and what else waits to be written; returns the command that came after those.
    fn append(&mut self, first: Append) -> Option<Command> {
        let (mut round, next) = Round::gather(first, &mut self.inbox);
        let written = self.write(&mut round.records);
        for class in Class::ALL {
            let lane = self.lanes.of_mut(class);
            if written.is_ok() { lane.commit() } else { lane.roll_back() }
        }
        match &written {
            Ok(()) => self.disk_error = None,
            Err(error) => self.complain("could not write to the spool", error),
        }
        // Before the answers: who has one finds it in the figures.
        self.publish();
        round.tell(&written);
        next
    }

    fn write(&mut self, records: &mut PerClass<Vec<Record>>) -> Result<(), SpoolError> {
        self.spent = false;
        for class in Class::ALL {
            let records = records.of_mut(class);
            round::bring_together(records);
            self.write_class(class, records)?;
        }
        let durable = self.shared.config.sync == Sync::Always;
        if self.spent {
            self.save(if durable { Durable::Yes } else { Durable::No })?;
        }
        if durable {
            for class in Class::ALL.into_iter().filter(|class| !records.of(*class).is_empty()) {
                self.lanes.of_mut(class).sync()?;
            }
        }
        Ok(())
    }

    fn write_class(&mut self, class: Class, records: &[Record]) -> Result<(), SpoolError> {
        let mut rest = records;
        while !rest.is_empty() {
            let mut buffer = std::mem::take(&mut self.buffer);
            let stretch = self.lanes.of_mut(class).encode(rest, &mut buffer);
            let room = self.make_room(class, buffer.len() as u64);
            let written = match room {
                Room::Enough => self.lanes.of_mut(class).write(&stretch, &buffer),
                Room::Made | Room::None => Ok(()),
            };
            self.buffer = buffer;
            match (room, written) {
                (Room::Enough, Ok(())) => rest = rest.get(stretch.events..).unwrap_or_default(),
                // The disk is full, though we may use more of it: what is precious may take the place of what is not.
                (_, Err(error))
                    if class == Class::Critical && error.is_disk_full() && self.evict(Class::Telemetry) => {}
                (_, Err(error)) => return Err(error),
                (Room::Made, Ok(())) => {}
                (Room::None, Ok(())) => {
                    let acked = self.acked(class);
                    self.lanes.of_mut(class).pass_over(rest.len(), acked);
                    self.spent = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Makes room for `bytes` of `class` within the bound: what is settled goes first, then the oldest telemetry, then,
    /// for a critical event's sake only, the oldest critical.
    fn make_room(&mut self, class: Class, bytes: u64) -> Room {
        let used: u64 = Class::ALL.into_iter().map(|class| self.lanes.of(class).bytes()).sum();
        if used + bytes <= self.shared.config.max_bytes {
            return Room::Enough;
        }
        for settled in Class::ALL {
            if self.lanes.of(settled).is_settled(self.acked(settled)) && self.evict(settled) {
                return Room::Made;
            }
        }
        if self.evict(Class::Telemetry) || (class == Class::Critical && self.evict(class)) {
            return Room::Made;
        }
        Room::None
    }

    /// Removes the oldest segment of a class; `false` if there is none.
    fn evict(&mut self, class: Class) -> bool {
        let acked = self.acked(class);
        let Some(path) = self.lanes.of_mut(class).evict(acked) else { return false };
        self.remove(class, &[path]);
        true
    }

    /// Removes files: first it is written down that they are not missing, then no reader looks for them, then they go.
    fn remove(&mut self, class: Class, paths: &[impl AsRef<Path>]) {
        let durable = self.shared.config.sync == Sync::Always;
        // If it cannot be written down, what was evicted is taken for damaged after a restart: the loss is said all the
        // same.
        let _failed = self.save(if durable { Durable::Yes } else { Durable::No });
        self.lanes.of_mut(class).publish();
        for path in paths {
            folder::remove(path.as_ref());
        }
    }

    fn trim(&mut self) {
        for class in Class::ALL {
            let acked = self.acked(class);
            let removed = self.lanes.of_mut(class).trim(acked);
            if !removed.is_empty() {
                self.remove(class, &removed);
            }
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            let _failed = self.save(Durable::No);
        }
    }

    fn reject(&mut self, class: Class, rejected: &[(Seq, i32, String)]) {
        *self.rejected.of_mut(class) += rejected.len() as u64;
        if let Err(error) = self.dead_letters.keep(class, rejected) {
            let path = &self.shared.config.directory;
            let error = SpoolError::io("write dead letters in", path)(error);
            self.complain("rejected events were not kept", &error);
        }
    }

    fn renew(&mut self, class: Class) -> Result<(), SpoolError> {
        let before = self.lanes.of_mut(class).rename(StreamId::random());
        let saved = self.save(Durable::Yes);
        if saved.is_err() {
            self.lanes.of_mut(class).rename(before);
        }
        self.lanes.of_mut(class).publish();
        saved
    }

    fn save(&mut self, durable: Durable) -> Result<(), SpoolError> {
        let kept = PerClass::from_fn(|class| self.lanes.of(class).kept(self.acked(class)));
        let saved = self.meta.save(&kept, durable);
        self.saved = Instant::now();
        if let Err(error) = &saved {
            self.complain("could not write down the state of the spool", error);
        }
        saved
    }

    fn acked(&self, class: Class) -> Seq {
        self.shared.acked.of(class).load(Ordering::Acquire)
    }

    /// Notes what went wrong with the disk, and logs it once until a write succeeds.
    fn complain(&mut self, what: &'static str, error: &SpoolError) {
        let source = std::error::Error::source(error);
        let text = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        if self.disk_error.as_ref() != Some(&text) {
            tracing::error!(error = %text, "{what}");
            self.disk_error = Some(text);
        }
    }

    fn publish(&mut self) {
        let stats = Stats {
            classes: Class::ALL.map(|class| self.class_stats(class)),
            bytes: Class::ALL.into_iter().map(|class| self.lanes.of(class).bytes()).sum(),
            max_bytes: self.shared.config.max_bytes,
            disk_error: self.disk_error.clone(),
        };
        self.stats.send_if_modified(|shown| {
            let differs = *shown != stats;
            if differs {
                *shown = stats;
            }
            differs
        });
    }

    fn class_stats(&mut self, class: Class) -> ClassStats {
        let acked = self.acked(class);
        ClassStats {
            corrupt: self.shared.corrupt.of(class).load(Ordering::Acquire),
            rejected: *self.rejected.of(class),
            ..self.lanes.of_mut(class).stats(acked)
        }
    }
}

/// Ends the thread when the future that stands for it is dropped.
struct Cut {
    stop: Arc<AtomicBool>,
    nudge: mpsc::WeakSender<Command>,
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(commands) = self.nudge.upgrade() {
            // A full queue wakes the thread as well.
            let _full = commands.try_send(Command::Close);
        }
    }
}
