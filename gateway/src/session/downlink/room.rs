//! Room for what a peer said that no relay has looked at yet: frames are few, but each may be large.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use daemoneye_proto::MAX_MESSAGE;

/// Bytes of calls and messages that may wait for all relays of a session: two of the largest.
const MOST: usize = 2 * MAX_MESSAGE;

/// The room of a session.
#[derive(Debug, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

/// Room that is taken, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    size: usize,
    taken: Arc<AtomicUsize>,
}

impl Room {
    /// Takes so many bytes of it, if they are left.
    pub(super) fn take(&self, size: usize) -> Option<Place> {
        let more = |taken: usize| taken.checked_add(size).filter(|taken| *taken <= MOST);
        self.0.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Place { size, taken: Arc::clone(&self.0) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _before = self.taken.fetch_sub(self.size, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_is_taken_comes_back() {
        let room = Room::default();
        let (half, other) = (room.take(MOST / 2), room.take(MOST / 2));
        assert!(half.is_some() && other.is_some() && room.take(1).is_none());
        drop(half);
        assert!(room.take(usize::MAX).is_none() && room.take(MOST / 2).is_some());
    }
}
