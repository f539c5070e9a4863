//! Credit: how much each session may have in flight, so that memory is bounded whatever the bus does.
//!
//! A session begins with the least credit, and doubles it whenever half of it is in use, up to its share of what all busy
//! sessions may have in flight together; one that has been idle goes back to the least. So few busy sessions go fast over
//! long links, and many busy ones do not queue up behind each other.
//!
//! Kept true: what is in flight over all sessions is at most the budget, plus the least credit and one batch of each
//! session. A peer that ignores its credit is not read any more until what it sent has been settled.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// An amount of events and of their payload's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Amount {
    fn clamp(self, least: Self, most: Self) -> Self {
        Self {
            events: self.events.clamp(least.events, most.events.max(least.events)),
            bytes: self.bytes.clamp(least.bytes, most.bytes.max(least.bytes)),
        }
    }
}

/// What all sessions may have in flight.
#[derive(Debug)]
pub(super) struct Budget {
    /// All sessions together.
    pub(super) all: Amount,
    /// One session, whatever the others do.
    pub(super) least: Amount,
    /// One session, even if it is alone.
    pub(super) most: Amount,
    busy: AtomicU64,
}

impl Budget {
    pub(super) const fn new(all: Amount, least: Amount, most: Amount) -> Self {
        Self { all, least, most, busy: AtomicU64::new(0) }
    }

    /// Counts more busy sessions, for tests.
    #[cfg(test)]
    pub(super) fn add_busy(&self, many: u64) {
        self.busy.fetch_add(many, Ordering::Relaxed);
    }

    /// What each busy session may have in flight now.
    fn share(&self) -> Amount {
        let busy = self.busy.load(Ordering::Relaxed).max(1);
        let share = Amount { events: self.all.events / busy, bytes: self.all.bytes / busy };
        share.clamp(self.least, self.most)
    }
}

/// The credit of one session, and what of it is in use.
#[derive(Debug)]
pub(super) struct Window {
    budget: Arc<Budget>,
    credit: Amount,
    /// The most that the peer may believe in: a lower credit reaches it after it has sent.
    believed: Amount,
    in_flight: Amount,
    /// Batches in flight: one may always be, whatever its size.
    batches: u64,
    /// Whether anything came since the last tick.
    used: bool,
    /// Whether it is counted among the busy.
    busy: bool,
}

impl Window {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        let credit = budget.least;
        Self {
            budget,
            credit,
            believed: credit,
            in_flight: Amount::default(),
            batches: 0,
            used: false,
            busy: false,
        }
    }

    /// What the peer was told last.
    pub(super) const fn credit(&self) -> Amount {
        self.credit
    }

    /// What is in flight.
    pub(super) const fn in_flight(&self) -> Amount {
        self.in_flight
    }

    /// Whether the credit is above the least, so that [`Self::tick`] is of use.
    pub(super) const fn is_grown(&self) -> bool {
        self.busy
    }

    /// Whether the peer has sent more than it may: it is not read until that is settled.
    pub(super) const fn is_over(&self) -> bool {
        self.batches > 1
            && (self.in_flight.events > self.believed.events || self.in_flight.bytes > self.believed.bytes)
    }

    /// A batch has come; answers with a new credit, if it should be raised.
    pub(super) fn received(&mut self, amount: Amount) -> Option<Amount> {
        self.in_flight.events = self.in_flight.events.saturating_add(amount.events);
        self.in_flight.bytes = self.in_flight.bytes.saturating_add(amount.bytes);
        self.batches = self.batches.saturating_add(1);
        self.used = true;
        let half_used =
            self.in_flight.events >= self.credit.events / 2 || self.in_flight.bytes >= self.credit.bytes / 2;
        if half_used { self.grow() } else { None }
    }

    /// Batches have been settled, and the peer is told so.
    pub(super) const fn settled(&mut self, amount: Amount, batches: u64) {
        self.in_flight.events = self.in_flight.events.saturating_sub(amount.events);
        self.in_flight.bytes = self.in_flight.bytes.saturating_sub(amount.bytes);
        self.batches = self.batches.saturating_sub(batches);
    }

    /// A second has passed; answers with a new credit, if it should be lowered.
    pub(super) fn tick(&mut self) -> Option<Amount> {
        let idle = !std::mem::take(&mut self.used) && self.batches == 0;
        if idle {
            self.rest();
            return self.set(self.budget.least);
        }
        let share = self.budget.share();
        let lower = share.events < self.credit.events || share.bytes < self.credit.bytes;
        if lower { self.set(self.credit.clamp(self.budget.least, share)) } else { None }
    }

    fn grow(&mut self) -> Option<Amount> {
        if !self.busy {
            self.busy = true;
            self.budget.busy.fetch_add(1, Ordering::Relaxed);
        }
        let doubled = Amount {
            events: self.credit.events.saturating_mul(2),
            bytes: self.credit.bytes.saturating_mul(2),
        };
        let share = self.budget.share();
        let next = doubled.clamp(self.budget.least, share);
        // Growing never takes away: that is for the tick.
        let next =
            Amount { events: next.events.max(self.credit.events), bytes: next.bytes.max(self.credit.bytes) };
        self.set(next)
    }

    fn set(&mut self, credit: Amount) -> Option<Amount> {
        if self.credit == credit {
            return None;
        }
        self.credit = credit;
        self.believed.events = self.believed.events.max(credit.events);
        self.believed.bytes = self.believed.bytes.max(credit.bytes);
        Some(credit)
    }

    fn rest(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.budget.busy.fetch_sub(1, Ordering::Relaxed);
        }
        // Nothing is in flight, so by now the peer has heard.
        self.believed = self.budget.least;
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn amount(events: u64, bytes: u64) -> Amount {
        Amount { events, bytes }
    }

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(amount(4096, 1 << 20), amount(512, 1 << 16), amount(2048, 1 << 19)))
    }

    #[test]
    fn a_busy_session_doubles_its_credit_up_to_its_share() {
        let mut window = Window::new(budget());
        assert_eq!(window.credit(), amount(512, 1 << 16));
        assert_eq!(window.received(amount(100, 100)), None);
        assert_eq!(window.received(amount(200, 100)), Some(amount(1024, 1 << 17)));
        assert_eq!(window.received(amount(400, 100)), Some(amount(2048, 1 << 18)));
        assert_eq!(window.received(amount(400, 100)), Some(amount(2048, 1 << 19)));
        assert_eq!(window.received(amount(400, 100)), None);
        assert!(!window.is_over());
    }

    #[test]
    fn many_busy_sessions_share_the_budget_and_idle_ones_give_it_back() {
        let budget = budget();
        let mut windows: Vec<Window> = (0..8).map(|_| Window::new(Arc::clone(&budget))).collect();
        for window in &mut windows {
            for _ in 0..4 {
                window.received(amount(300, 10));
            }
        }
        for window in &mut windows {
            window.tick();
        }
        assert!(windows.iter().all(|window| window.credit().events == 512));
        for window in windows.iter_mut().skip(1) {
            window.settled(amount(1200, 40), 4);
            window.tick();
            window.tick();
            assert!(!window.is_grown());
        }
        let first = windows.first_mut().unwrap();
        assert_eq!(first.received(amount(1, 1)).unwrap().events, 1024);
        drop(windows);
        assert_eq!(budget.busy.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_peer_over_its_credit_is_seen_but_one_large_batch_may_go() {
        let mut window = Window::new(budget());
        window.received(amount(1, 1 << 22));
        assert!(!window.is_over(), "one batch may always be in flight");
        window.received(amount(1, 1 << 22));
        assert!(window.is_over());
        window.settled(amount(1, 1 << 22), 1);
        assert!(!window.is_over());
    }

    #[test]
    fn a_peer_that_has_not_heard_of_a_lower_credit_is_not_over_it() {
        let budget = budget();
        let mut window = Window::new(Arc::clone(&budget));
        while window.received(amount(256, 1)).is_some() {}
        budget.busy.fetch_add(7, Ordering::Relaxed);
        assert_eq!(window.tick().unwrap().events, 512);
        assert!(!window.is_over());
        budget.busy.fetch_sub(7, Ordering::Relaxed);
    }
}
