//! About when the oldest waiting event happened, in little memory.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::event::Seq;

/// Marks that are kept; with more, every second one goes.
const MARKS: usize = 512;

/// Times of some events, ascending by number.
#[derive(Debug, Default)]
pub(super) struct Ages {
    marks: VecDeque<(Seq, u64)>,
    /// Least distance of two marks.
    stride: u64,
}

impl Ages {
    /// Notes that event `seq` happened at `time`.
    pub(super) fn note(&mut self, seq: Seq, time: u64) {
        // Numbers come again when a write was taken back.
        while self.marks.pop_back_if(|(last, _)| *last >= seq).is_some() {}
        if self.marks.back().is_some_and(|(last, _)| seq - last < self.stride) {
            return;
        }
        self.marks.push_back((seq, time));
        if self.marks.len() > MARKS {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride = self.stride.saturating_mul(2).max(2);
        }
    }

    /// When the last marked event at or before `seq` happened; what is before that is forgotten.
    pub(super) fn of(&mut self, seq: Seq) -> Option<u64> {
        while self.marks.get(1).is_some_and(|(second, _)| *second <= seq) {
            self.marks.pop_front();
        }
        if self.marks.len() <= 1 {
            self.stride = 1;
        }
        self.marks.front().map(|(_, time)| *time)
    }
}

/// Nanoseconds since the UNIX epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_bounded_and_stay_close() {
        let mut ages = Ages::default();
        for seq in 1..=100_000 {
            ages.note(seq, seq * 10);
        }
        assert!(ages.marks.len() <= MARKS);
        let found = ages.of(50_000).unwrap();
        assert!((490_000..=500_000).contains(&found), "{found}");
        assert!(ages.of(50_000).unwrap() == found);
        // A write was taken back, and another was made in its place.
        ages.note(50_001, 7);
        assert_eq!(ages.of(60_000), Some(found));
    }
}
