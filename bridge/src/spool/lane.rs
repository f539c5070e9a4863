//! The log of one class: its segments, and the one that is written to.
//!
//! What is written counts only once it is committed: until then readers do not see it, and a failure takes it back, so
//! that an append is there as a whole or not at all. Numbers are taken back with it, unless the event was evicted before:
//! such a number is spent.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    event::{Class, Seq, StreamId},
    spool::{
        ClassStats, Record, Sync,
        age::{self, Ages},
        block::{self, Marker},
        folder,
        handle::{SpoolError, View},
        meta::Kept,
        recover::{self, Recovered},
        segment::{Header, Place},
    },
};

/// The log of one class.
#[derive(Debug)]
pub(super) struct Lane {
    class: Class,
    place: Arc<Place>,
    shape: Shape,
    stream: StreamId,
    /// Number of the next event.
    next: Seq,
    /// All up to here that is not settled was evicted.
    evicted: Seq,
    segments: VecDeque<Segment>,
    /// The last of `segments`, as long as it is written to.
    active: Option<Active>,
    /// What a failure falls back to.
    committed: Committed,
    /// Files that were left since the last commit and are not yet on the disk; with [`Sync::Always`] only.
    unsynced: Vec<File>,
    /// Whether a file was made since the last commit.
    created: bool,
    ages: Ages,
    view: watch::Sender<View>,
    /// Events appended, and those that went because the spool was full, since it was opened.
    appended: u64,
    evictions: u64,
}

/// How segments are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) segment_bytes: u64,
    pub(super) sync: Sync,
}

impl Shape {
    /// Most payload bytes of a block, unless a single event is larger.
    fn block_bytes(self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX).min(64 * 1024)
    }

    /// About how much is written at once.
    fn flush_bytes(self) -> u64 {
        self.segment_bytes.min(1024 * 1024)
    }
}

/// A file of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) first: Seq,
    pub(super) bytes: u64,
}

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: File,
    pub(super) marker: Marker,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    next: Seq,
    /// The last segment.
    tail: Option<Segment>,
}

/// A stretch of a log that is encoded and not yet written.
#[derive(Debug)]
pub(super) struct Stretch {
    /// The header at its front, if it begins a segment.
    header: Option<Header>,
    /// How many events are in it.
    pub(super) events: usize,
    /// When the first of them happened.
    time: u64,
}

impl Lane {
    /// Opens the log of `class` from the segments `found`, and repairs its end. Returns also how far it is settled.
    pub(super) fn open(
        place: &Arc<Place>,
        class: Class,
        shape: Shape,
        found: BTreeMap<Seq, u64>,
        kept: Option<Kept>,
    ) -> Result<(Self, Seq), SpoolError> {
        let Recovered { kept, segments, active, ages } = recover::recover(place, class, found, kept)?;
        let tail = segments.back().copied();
        let listed: Arc<[Seq]> = segments.iter().map(|segment| segment.first).collect();
        let view = View {
            stream: kept.stream,
            next: kept.next,
            opened: kept.next,
            evicted: kept.evicted,
            segments: listed,
            tail_bytes: tail.map_or(0, |tail| tail.bytes),
        };
        let lane = Self {
            class,
            place: Arc::clone(place),
            shape,
            stream: kept.stream,
            next: kept.next,
            evicted: kept.evicted,
            segments,
            active,
            committed: Committed { next: kept.next, tail },
            unsynced: Vec::new(),
            created: false,
            ages,
            view: watch::Sender::new(view),
            appended: 0,
            evictions: 0,
        };
        Ok((lane, kept.acked))
    }

    /// What readers look at.
    pub(super) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// What is to be written down of it.
    pub(super) const fn kept(&self, acked: Seq) -> Kept {
        Kept { stream: self.stream, acked, next: self.next, evicted: self.evicted }
    }

    /// Bytes of its segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// What it can tell of itself.
    pub(super) fn stats(&mut self, acked: Seq) -> ClassStats {
        let settled = acked.max(self.evicted);
        let events = self.committed.next.saturating_sub(settled + 1);
        ClassStats {
            class: self.class,
            events,
            bytes: self.bytes(),
            oldest: if events == 0 { None } else { self.ages.of(settled + 1) },
            appended: self.appended,
            evicted: self.evictions,
            corrupt: 0,
            rejected: 0,
        }
    }

    /// Encodes into `buffer` as many of `records` as are written at once, for [`Self::write`].
    pub(super) fn encode(&mut self, records: &[Record], buffer: &mut Vec<u8>) -> Stretch {
        buffer.clear();
        let tail_bytes = self.segments.back().map_or(0, |tail| tail.bytes);
        if tail_bytes >= self.shape.segment_bytes {
            self.leave();
        }
        let time = records.first().map_or(0, |record| record.time);
        let time = if time == 0 { age::now() } else { time };
        let (header, marker, room) = if let Some(active) = &self.active {
            (None, active.marker, self.shape.segment_bytes - tail_bytes)
        } else {
            let header = Header { class: self.class, first: self.next, time, marker: self.place.marker };
            buffer.extend_from_slice(&header.encode());
            (Some(header), header.marker, self.shape.segment_bytes)
        };
        let most = usize::try_from(room.min(self.shape.flush_bytes())).unwrap_or(usize::MAX);
        let mut events = 0;
        while let Some(rest) = records.get(events..).filter(|rest| !rest.is_empty()) {
            events +=
                block::encode(buffer, marker, self.next + events as u64, rest, self.shape.block_bytes());
            if buffer.len() >= most {
                break;
            }
        }
        Stretch { header, events, time }
    }

    /// Writes what [`Self::encode`] has made. If it fails, nothing of it is there.
    pub(super) fn write(&mut self, stretch: &Stretch, buffer: &[u8]) -> Result<(), SpoolError> {
        match stretch.header {
            Some(header) => self.begin_segment(&header, buffer)?,
            None => self.extend_segment(buffer)?,
        }
        self.ages.note(self.next, stretch.time);
        self.next += stretch.events as u64;
        self.appended += stretch.events as u64;
        Ok(())
    }

    fn begin_segment(&mut self, header: &Header, buffer: &[u8]) -> Result<(), SpoolError> {
        let path = self.place.path(self.class, header.first);
        // A file of this name can only be one that could not be removed and holds nothing that counts. Appending matters:
        // after a write that was taken back, the next one must begin at the new end.
        if path.try_exists().map_err(SpoolError::io("examine", &path))? {
            fs::remove_file(&path).map_err(SpoolError::io("remove", &path))?;
        }
        let mut file = folder::private()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(SpoolError::io("create", &path))?;
        if let Err(error) = file.write_all(buffer) {
            drop(file);
            folder::remove(&path);
            return Err(SpoolError::io("write", &path)(error));
        }
        self.segments.push_back(Segment { first: header.first, bytes: buffer.len() as u64 });
        self.active = Some(Active { file, marker: header.marker });
        self.created = true;
        Ok(())
    }

    fn extend_segment(&mut self, buffer: &[u8]) -> Result<(), SpoolError> {
        let (Some(active), Some(tail)) = (&mut self.active, self.segments.back_mut()) else {
            return Err(SpoolError::Closed);
        };
        if let Err(error) = active.file.write_all(buffer) {
            let path = self.place.path(self.class, tail.first);
            if active.file.set_len(tail.bytes).is_err() {
                // What stands behind the end is bounded by the segment that comes next.
                self.active = None;
            }
            return Err(SpoolError::io("write", &path)(error));
        }
        tail.bytes += buffer.len() as u64;
        Ok(())
    }

    /// Stops writing to the last segment.
    fn leave(&mut self) {
        if let Some(active) = self.active.take()
            && self.shape.sync == Sync::Always
        {
            self.unsynced.push(active.file);
        }
    }

    /// Brings to the disk what was written since the last commit.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        let failed = || SpoolError::io("flush to disk the segments in", &self.place.directory);
        for file in &self.unsynced {
            file.sync_data().map_err(failed())?;
        }
        if let Some(active) = &self.active {
            active.file.sync_data().map_err(failed())?;
        }
        if self.created {
            folder::sync(&self.place.directory).map_err(failed())?;
        }
        Ok(())
    }

    /// Shows readers what was written.
    pub(super) fn commit(&mut self) {
        self.unsynced.clear();
        self.created = false;
        self.committed = Committed { next: self.next, tail: self.segments.back().copied() };
        self.publish();
    }

    /// Takes back what was written since the last commit.
    pub(super) fn roll_back(&mut self) {
        self.unsynced.clear();
        self.created = false;
        let taken_back = self.next.saturating_sub(self.committed.next);
        while let Some(tail) = self.segments.pop_back_if(|tail| tail.first >= self.committed.next) {
            self.active = None;
            folder::remove(&self.place.path(self.class, tail.first));
        }
        if let (Some(tail), Some(committed)) = (self.segments.back_mut(), self.committed.tail)
            && tail.first == committed.first
            && tail.bytes > committed.bytes
        {
            let path = self.place.path(self.class, tail.first);
            // Not the open file: it may have been left, and after a flush that failed it is not to be trusted.
            self.active = None;
            match File::options().write(true).open(&path).and_then(|file| file.set_len(committed.bytes)) {
                Ok(()) => tail.bytes = committed.bytes,
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "could not take back a failed write");
                }
            }
        }
        self.next = self.committed.next.max(self.evicted + 1);
        self.appended -= taken_back.min(self.appended);
        self.committed.next = self.next;
        self.committed.tail = self.segments.back().copied();
        self.publish();
    }

    /// Gives the stream a new name.
    pub(super) const fn rename(&mut self, stream: StreamId) -> StreamId {
        std::mem::replace(&mut self.stream, stream)
    }

    /// Takes the oldest segment off the list, and counts what goes with it; its file is to be removed once that is
    /// written down and shown. `None` if there is none.
    pub(super) fn evict(&mut self, acked: Seq) -> Option<PathBuf> {
        let oldest = self.segments.pop_front()?;
        if self.segments.is_empty() {
            self.active = None;
        }
        let last = self.segments.front().map_or(self.next, |front| front.first) - 1;
        self.spend(last, acked);
        Some(self.place.path(self.class, oldest.first))
    }

    /// Numbers events that find no room, not even that of older ones: they are evicted as they come.
    pub(super) fn pass_over(&mut self, events: usize, acked: Seq) {
        self.next += events as u64;
        self.appended += events as u64;
        self.spend(self.next - 1, acked);
    }

    fn spend(&mut self, last: Seq, acked: Seq) {
        let settled = acked.max(self.evicted);
        self.evictions += last.saturating_sub(settled);
        if last > settled {
            self.evicted = last;
        }
    }

    /// Takes off the list the segments that are settled; as [`Self::evict`]. The last one stays as long as it is written
    /// to.
    pub(super) fn trim(&mut self, acked: Seq) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        while let Some(front) = self.segments.front().copied() {
            let end = match self.segments.get(1) {
                Some(following) => following.first,
                None if self.active.is_none() => self.committed.next,
                None => break,
            };
            if end > acked + 1 {
                break;
            }
            self.segments.pop_front();
            removed.push(self.place.path(self.class, front.first));
        }
        removed
    }

    /// Whether nothing in it waits any more, though it takes room.
    pub(super) fn is_settled(&self, acked: Seq) -> bool {
        !self.segments.is_empty() && acked + 1 >= self.next
    }

    /// Shows readers the list of segments and where they end.
    pub(super) fn publish(&self) {
        let committed = self.committed;
        // What was begun since the last commit is not shown; so the last one that is, is the committed tail.
        let shown =
            || self.segments.iter().map(|segment| segment.first).filter(|first| *first < committed.next);
        self.view.send_modify(|view| {
            if !view.segments.iter().copied().eq(shown()) {
                view.segments = shown().collect();
            }
            view.stream = self.stream;
            view.next = committed.next;
            // Some of what was evicted may not have been committed.
            view.evicted = self.evicted.min(committed.next - 1);
            view.tail_bytes = committed.tail.map_or(0, |tail| tail.bytes);
        });
    }
}
