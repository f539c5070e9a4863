//! One stream's mark in memory: how far it is confirmed, and what was rejected lately.
//!
//! Advancing is two atomic operations; only the first advance after a flush also puts the mark on the flusher's list.

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use daemoneye_bridge::event::{Class, Seq, StreamId};

/// An event that was refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its sequence number.
    pub seq: Seq,
    /// Why, for machines: a `RejectCode` of the wire.
    pub code: i32,
    /// Why, for people. At most [`Mark::MAX_REASON`] bytes.
    pub reason: Box<str>,
}

/// How far one stream of one peer is confirmed.
pub struct Mark {
    peer: Arc<str>,
    stream: StreamId,
    class: Class,
    hwm: AtomicU64,
    /// Whether the mark is on `list`, so that it is put there once a flush and not once a batch.
    dirty: AtomicBool,
    /// Kept beside the mark because the ack that told them may have been lost with its connection.
    rejections: Mutex<BTreeMap<Seq, Kept>>,
    /// Where the flusher finds changed marks.
    list: Arc<Dirty>,
}

struct Kept {
    code: i32,
    reason: Box<str>,
    /// Whether it is in the file.
    saved: bool,
}

impl Mark {
    /// Most rejections kept for a stream; the lowest sequence numbers go first.
    pub const MAX_REJECTIONS: usize = 256;

    /// Most bytes kept of a reason.
    pub const MAX_REASON: usize = 256;

    /// Makes the mark of a stream as the file has it.
    pub(super) fn new(key: (Arc<str>, StreamId), class: Class, saved: Saved, list: Arc<Dirty>) -> Arc<Self> {
        let kept = |rejection: Rejection| {
            (rejection.seq, Kept { code: rejection.code, reason: rejection.reason, saved: true })
        };
        Arc::new(Self {
            peer: key.0,
            stream: key.1,
            class,
            hwm: AtomicU64::new(saved.hwm),
            dirty: AtomicBool::new(false),
            rejections: Mutex::new(saved.rejections.into_iter().map(kept).collect()),
            list,
        })
    }

    /// Whose stream it is, as `<site>/<name>`.
    #[must_use]
    pub const fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// The class that the peer has said last.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The highest sequence number that is settled; 0: none.
    #[must_use]
    pub fn hwm(&self) -> Seq {
        self.hwm.load(Ordering::Acquire)
    }

    /// Settles everything up to `seq`; going back is ignored.
    pub fn advance(self: &Arc<Self>, seq: Seq) {
        if self.hwm.fetch_max(seq, Ordering::AcqRel) < seq {
            self.touch();
        }
    }

    /// Keeps a rejection, so that it can be told again. Call it before the [`Self::advance`] that covers it.
    pub fn reject(self: &Arc<Self>, seq: Seq, code: i32, reason: &str) {
        let reason = reason.get(..reason.floor_char_boundary(Self::MAX_REASON)).unwrap_or_default();
        let mut rejections = self.lock();
        rejections.insert(seq, Kept { code, reason: reason.into(), saved: false });
        if rejections.len() > Self::MAX_REJECTIONS {
            rejections.pop_first();
        }
        drop(rejections);
        self.touch();
    }

    /// The newest rejections, by sequence number.
    #[must_use]
    pub fn rejections(&self) -> Vec<Rejection> {
        self.lock().iter().map(|(seq, kept)| kept.rejection(*seq)).collect()
    }

    /// Puts the mark on the flusher's list, which also records that the stream is in use.
    pub(super) fn touch(self: &Arc<Self>) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.list.lock().push(Arc::clone(self));
        }
    }

    /// What has to be written. Takes the mark off the list first: what comes after puts it there again.
    pub(super) fn snapshot(&self) -> Saved {
        self.dirty.swap(false, Ordering::AcqRel);
        let rejections = self.lock();
        let oldest = rejections.keys().next().copied().unwrap_or_default();
        let unsaved = rejections.iter().filter(|(_, kept)| !kept.saved);
        let unsaved = unsaved.map(|(seq, kept)| kept.rejection(*seq)).collect();
        drop(rejections);
        Saved { hwm: self.hwm(), rejections: unsaved, oldest }
    }

    /// Learns that a snapshot is in the file.
    pub(super) fn saved(&self, saved: &Saved) {
        if saved.rejections.is_empty() {
            return;
        }
        let mut rejections = self.lock();
        for written in &saved.rejections {
            if let Some(kept) = rejections.get_mut(&written.seq) {
                kept.saved = kept.code == written.code;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Seq, Kept>> {
        self.rejections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn rejection(&self, seq: Seq) -> Rejection {
        Rejection { seq, code: self.code, reason: self.reason.clone() }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark")
            .field("peer", &self.peer)
            .field("stream", &self.stream)
            .field("hwm", &self.hwm())
            .finish_non_exhaustive()
    }
}

/// What the file has of a stream, or is to have.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) hwm: Seq,
    /// All of them when read; the new ones when written.
    pub(super) rejections: Vec<Rejection>,
    /// The lowest one kept: what the file has below it goes.
    pub(super) oldest: Seq,
}

/// The marks that differ from the file. Each is in it at most once, so it is bounded by the streams in use.
#[derive(Debug, Default)]
pub(super) struct Dirty(Mutex<Vec<Arc<Mark>>>);

impl Dirty {
    /// Takes them all.
    pub(super) fn take(&self) -> Vec<Arc<Mark>> {
        mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mark>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
