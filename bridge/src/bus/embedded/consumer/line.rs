//! The batches of one lane in front of a consumer, oldest first.

use std::{collections::VecDeque, time::Duration};

use crate::bus::embedded::consumer::Item;

/// Events of one call, unless a single batch has more.
const EVENTS: usize = 1024;

/// Bytes of payload of one call, unless a single batch has more.
const BYTES: usize = 256 << 10;

/// Pause before the second call.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between calls.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The batches of one lane in front of a consumer, oldest first.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) items: VecDeque<Item>,
    /// How many of the first ones an open call is about.
    pub(super) called: usize,
    /// Calls in a row that did not end with the batches taken.
    pub(super) attempts: u32,
    /// Whether it stands among the ready ones, or pauses.
    pub(super) waits: bool,
}

impl Line {
    /// How many of the first batches one call takes: of one port, and of one stream.
    pub(super) fn portion(&self) -> usize {
        let stream = |item: &Item| item.batch.events.numbers.as_ref().map(|numbers| numbers.stream);
        let whose = |item: &Item| (item.batch.port, stream(item));
        let first = self.items.front().map(whose);
        let (mut events, mut bytes) = (0, 0);
        let fits = |item: &&Item| {
            events += item.batch.events.len();
            bytes += item.batch.events.payload_bytes();
            events <= EVENTS && bytes <= BYTES && Some(whose(item)) == first
        };
        self.items.iter().take_while(fits).count().max(1)
    }

    /// How long to wait before the next call, which begins to grow with the first one in vain: between half of it and all.
    pub(super) fn pause(&self) -> Duration {
        let doubled = 1_u32 << self.attempts.saturating_sub(1).min(16);
        let whole = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pause = |attempts| Line { attempts, ..Line::default() }.pause();
        assert!((FIRST_PAUSE / 2..=FIRST_PAUSE).contains(&pause(1)));
        assert!((FIRST_PAUSE..=2 * FIRST_PAUSE).contains(&pause(2)));
        assert!((LONGEST_PAUSE / 2..=LONGEST_PAUSE).contains(&pause(1000)));
    }
}
