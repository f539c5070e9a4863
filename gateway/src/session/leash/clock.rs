//! Whether the wall clock was set.
//!
//! Certificates expire by the wall clock, timers run by one that nobody can set. As long as both go on alike, a timer may
//! stand for the wall clock; when they come apart by more than they drift, it must be looked at anew.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

impl Reading {
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// How far the wall clock was set since `before`, if it was.
    pub(super) fn step_since(&self, before: &Self) -> Option<Duration> {
        let passed = self.steady.saturating_duration_since(before.steady);
        let expected = before.wall.checked_add(passed)?;
        let step = match self.wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        (step > DRIFT).then_some(step)
    }
}

/// What clocks may come apart between two looks: more than any slewing does, less than what matters to a certificate.
const DRIFT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_either_way_is_told_from_one_that_went_on() {
        let before = Reading::now();
        let later = |wall: Duration, steady: Duration| Reading {
            wall: before.wall + wall,
            steady: before.steady + steady,
        };
        let second = Duration::from_secs(1);
        assert_eq!(later(second, second).step_since(&before), None);
        assert_eq!(later(second + DRIFT, second).step_since(&before), None);
        assert_eq!(later(second * 61, second).step_since(&before), Some(second * 60));
        let back = Reading { wall: before.wall - second * 9, steady: before.steady + second };
        assert_eq!(back.step_since(&before), Some(second * 10));
    }
}
