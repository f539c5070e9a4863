//! Which streams are in use, and which are to be forgotten.
//!
//! Only what is in use stands in memory; the rest is in the file. A peer's cap is judged here, over both.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use daemoneye_bridge::event::{Class, StreamId};

use crate::state::{
    StreamError,
    mark::{Dirty, Mark, Saved},
    store::{Row, Store},
};

/// A stream of a peer.
pub(super) type Key = (Arc<str>, StreamId);

/// What is in use, and what is to be forgotten.
#[derive(Debug)]
pub(super) struct Index {
    max: NonZeroUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<Arc<str>, HashMap<StreamId, Weak<Mark>>>,
    /// Still in the file, and gone from it with the next flush.
    forgotten: HashSet<Key>,
}

/// A stream as it was opened.
pub(super) struct Opened {
    pub(super) mark: Arc<Mark>,
    /// Whether another stream had to go for it.
    pub(super) displaced: bool,
}

impl Index {
    pub(super) fn new(max: NonZeroUsize) -> Self {
        Self { max, inner: Mutex::default() }
    }

    /// The mark of a stream: the one in use, the one of the file, or a new one.
    ///
    /// The file is read under the lock, so that two calls cannot make two marks of one stream. No data path waits for it.
    #[expect(clippy::significant_drop_tightening, reason = "the whole of it is one step")]
    pub(super) fn open(
        &self,
        store: &Store,
        key: Key,
        class: Class,
        list: &Arc<Dirty>,
    ) -> Result<Opened, StreamError> {
        let mut inner = self.lock();
        if let Some(mark) = inner.live(&key) {
            return Ok(Opened { mark, displaced: false });
        }
        let read = |source| StreamError::Read { peer: Arc::clone(&key.0), source };
        let mut rows = store.streams(&key.0).map_err(read)?;
        rows.retain(|row| !inner.is_forgotten(&key.0, row.stream));
        let known = rows.iter().any(|row| row.stream == key.1);
        let saved = if known { store.load(&key.0, key.1).map_err(read)? } else { Saved::default() };
        let displaced = !known && inner.make_room(&key.0, &rows, self.max)?;
        let mark = Mark::new(key.clone(), class, saved, Arc::clone(list));
        inner.live.entry(key.0).or_default().insert(key.1, Arc::downgrade(&mark));
        Ok(Opened { mark, displaced })
    }

    /// Marks streams as forgotten, but for those in use; says how many.
    pub(super) fn forget(&self, idle: Vec<Key>) -> usize {
        let mut inner = self.lock();
        let mut forgotten = 0;
        for key in idle {
            if inner.live(&key).is_none() && inner.forgotten.insert(key) {
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Takes what is to be removed from the file.
    pub(super) fn take_forgotten(&self) -> HashSet<Key> {
        std::mem::take(&mut self.lock().forgotten)
    }

    /// Puts back what could not be removed, but for what has come into use since.
    pub(super) fn restore_forgotten(&self, keys: HashSet<Key>) {
        let mut inner = self.lock();
        for key in keys {
            if inner.live(&key).is_none() {
                inner.forgotten.insert(key);
            }
        }
    }

    /// Drops the traces of streams that nobody uses, and returns the marks of the others.
    pub(super) fn sweep(&self) -> Vec<Arc<Mark>> {
        let mut marks = Vec::new();
        self.lock().live.retain(|_, streams| {
            streams.retain(|_, mark| {
                let mark = mark.upgrade();
                let used = mark.is_some();
                marks.extend(mark);
                used
            });
            !streams.is_empty()
        });
        marks
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn live(&self, key: &Key) -> Option<Arc<Mark>> {
        self.live.get(&key.0)?.get(&key.1)?.upgrade()
    }

    fn is_forgotten(&self, peer: &Arc<str>, stream: StreamId) -> bool {
        self.forgotten.contains(&(Arc::clone(peer), stream))
    }

    /// Forgets the longest idle of `rows` if the peer has as many streams as it may; says whether it did.
    fn make_room(&mut self, peer: &Arc<str>, rows: &[Row], max: NonZeroUsize) -> Result<bool, StreamError> {
        let live: HashSet<StreamId> = self.live.get_mut(peer).map_or_else(HashSet::new, |streams| {
            streams.retain(|_, mark| mark.strong_count() > 0);
            streams.keys().copied().collect()
        });
        let mut idle: Vec<&Row> = rows.iter().filter(|row| !live.contains(&row.stream)).collect();
        if live.len() + idle.len() < max.get() {
            return Ok(false);
        }
        if live.len() >= max.get() {
            return Err(StreamError::TooMany { peer: Arc::clone(peer), max: max.get() });
        }
        // More than one only after the cap was lowered.
        idle.sort_unstable_by_key(|row| row.used);
        let surplus = (live.len() + idle.len() + 1).saturating_sub(max.get());
        self.forgotten.extend(idle.iter().take(surplus).map(|row| (Arc::clone(peer), row.stream)));
        Ok(true)
    }
}
