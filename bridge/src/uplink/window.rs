//! How much may be in flight: the gateway's credit, and each stream's share of it.
//!
//! No stream may fill the whole credit: a route that the gateway holds back would otherwise stop the streams beside it.
//!
//! Kept true: what is in flight never exceeds the credit by more than one batch, and that only in bytes.

use crate::event::Seq;

/// The credit in force. Absolute: each replaces the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// An amount of events and gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Gaps, each of which counts as an event against the credit.
    pub(super) gaps: u64,
}

impl Load {
    /// What it counts against a credit of events.
    pub(super) const fn count(self) -> u64 {
        self.events.saturating_add(self.gaps)
    }

    const fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.gaps = self.gaps.saturating_add(other.gaps);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    const fn sub(&mut self, other: Self) {
        self.events = self.events.saturating_sub(other.events);
        self.gaps = self.gaps.saturating_sub(other.gaps);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What is sent and not yet acknowledged, over all streams.
#[derive(Debug, Default)]
pub(super) struct Window {
    credit: Credit,
    in_flight: Load,
}

impl Window {
    pub(super) const fn new(credit: Credit) -> Self {
        Self { credit, in_flight: Load { events: 0, bytes: 0, gaps: 0 } }
    }

    pub(super) const fn replace(&mut self, credit: Credit) {
        self.credit = credit;
    }

    pub(super) const fn in_flight(&self) -> Load {
        self.in_flight
    }

    /// The largest batch to cut: small enough that several are in flight.
    pub(super) fn batch_events(&self, most: usize) -> usize {
        let share = usize::try_from(self.credit.events / PARTS).unwrap_or(usize::MAX);
        share.clamp(1, most.max(1))
    }

    /// The most payload of a batch, for the same reason.
    pub(super) fn batch_bytes(&self, most: usize) -> usize {
        let share = usize::try_from(self.credit.bytes / PARTS).unwrap_or(usize::MAX);
        share.clamp(1, most.max(1))
    }

    /// How many of the `wanted` events may be sent now, by a stream that has `own` in flight itself. Less than all only
    /// if the credit is so small that they would never fit.
    pub(super) fn admits(&self, own: Load, wanted: Load) -> u64 {
        let Credit { events, bytes } = self.credit;
        if events == 0 {
            return 0;
        }
        let count = wanted.count();
        if self.in_flight.count() == 0 {
            // The bytes of one batch are always admitted.
            return count.min(events);
        }
        let fits = |used: u64, more: u64, all: u64| used.saturating_add(more) <= all;
        let whole = fits(self.in_flight.count(), count, events)
            && fits(self.in_flight.bytes, wanted.bytes, bytes)
            && (own.count() == 0
                || (fits(own.count(), count, events - events / PARTS)
                    && fits(own.bytes, wanted.bytes, bytes - bytes / PARTS)));
        if whole { count } else { 0 }
    }

    pub(super) const fn sent(&mut self, load: Load) {
        self.in_flight.add(load);
    }

    pub(super) const fn settled(&mut self, load: Load) {
        self.in_flight.sub(load);
    }
}

/// The credit is cut into so many parts: the size of a batch, and what each stream leaves to the others.
const PARTS: u64 = 8;

/// What one stream has in flight, oldest first.
#[derive(Debug, Default)]
pub(super) struct Flight {
    sent: std::collections::VecDeque<(Seq, Load)>,
    load: Load,
}

impl Flight {
    pub(super) const fn load(&self) -> Load {
        self.load
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The highest number sent.
    pub(super) fn last(&self) -> Option<Seq> {
        self.sent.back().map(|(last, _)| *last)
    }

    /// Notes a batch that ends with `last`.
    pub(super) fn push(&mut self, last: Seq, load: Load) {
        self.sent.push_back((last, load));
        self.load.add(load);
    }

    /// Forgets what an acknowledgement up to `acked` settles. A batch settled in part counts until it is settled whole.
    pub(super) fn settle(&mut self, acked: Seq) -> Load {
        let mut settled = Load::default();
        while let Some((_, load)) = self.sent.pop_front_if(|(last, _)| *last <= acked) {
            settled.add(load);
        }
        self.load.sub(settled);
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn load(events: u64, bytes: u64) -> Load {
        Load { events, bytes, gaps: 0 }
    }

    fn window(events: u64, bytes: u64) -> Window {
        Window::new(Credit { events, bytes })
    }

    #[test]
    fn a_gap_takes_the_room_of_an_event() {
        let mut window = window(8, 800);
        let (mut critical, gap) = (Flight::default(), Load { gaps: 1, ..Load::default() });
        window.sent(load(7, 7));
        critical.push(7, load(7, 7));
        assert_eq!(window.admits(critical.load(), gap), 0, "its stream leaves room to others");
        assert_eq!(window.admits(Load::default(), gap), 1);
        window.sent(gap);
        assert_eq!(window.admits(Load::default(), gap), 0);
        assert_eq!(window.in_flight().events, 7);
        window.settled(gap);
        assert_eq!(window.admits(Load::default(), gap), 1);
    }

    #[test]
    fn nothing_is_sent_without_credit() {
        assert_eq!(window(0, 1000).admits(load(0, 0), load(5, 5)), 0);
    }

    #[test]
    fn one_batch_may_be_in_flight_whatever_its_bytes() {
        let mut window = window(100, 1000);
        assert_eq!(window.admits(load(0, 0), load(1, 1_000_000)), 1);
        window.sent(load(1, 1_000_000));
        assert_eq!(window.admits(load(0, 0), load(1, 1)), 0);
        window.settled(load(1, 1_000_000));
        assert_eq!(window.admits(load(0, 0), load(1, 1)), 1);
    }

    #[test]
    fn a_batch_over_the_whole_credit_is_cut() {
        let mut window = window(3, 1000);
        assert_eq!(window.admits(load(0, 0), load(10, 10)), 3);
        window.sent(load(3, 3));
        assert_eq!(window.admits(load(3, 3), load(7, 7)), 0);
    }

    #[test]
    fn one_stream_leaves_room_for_the_others() {
        let mut window = window(80, 80_000);
        let mut own = load(0, 0);
        while window.admits(own, load(10, 10)) == 10 {
            window.sent(load(10, 10));
            own.add(load(10, 10));
        }
        assert_eq!(own.events, 70);
        assert_eq!(window.admits(load(0, 0), load(10, 10)), 10, "the other stream");
    }

    #[test]
    fn a_lower_credit_stops_until_acks_bring_it_below() {
        let mut window = window(80, 80_000);
        window.sent(load(60, 600));
        window.replace(Credit { events: 10, bytes: 80_000 });
        assert_eq!(window.admits(load(0, 0), load(1, 1)), 0);
        window.settled(load(55, 550));
        assert_eq!(window.admits(load(0, 0), load(1, 1)), 1);
    }

    #[test]
    fn an_ack_settles_whole_batches() {
        let mut flight = Flight::default();
        flight.push(10, load(10, 100));
        flight.push(20, load(10, 200));
        assert_eq!(flight.settle(15), load(10, 100));
        assert_eq!(flight.settle(15), load(0, 0));
        assert_eq!((flight.load(), flight.last()), (load(10, 200), Some(20)));
        assert_eq!(flight.settle(u64::MAX), load(10, 200));
        assert!(flight.is_empty());
    }

    #[test]
    fn batches_shrink_with_the_credit() {
        assert_eq!(window(1024, 1).batch_events(256), 128);
        assert_eq!(window(1_000_000, 1).batch_events(256), 256);
        assert_eq!(window(3, 1).batch_events(256), 1);
    }
}
