//! Calls through one client: those that it has open, and those that it owes an answer.
//!
//! BUS/RT sends them as messages, so that nobody but their ends knows of them; here they are counted and end in time, or a
//! client could hold up as many callers as it likes.

use std::{sync::Arc, time::Duration};

use daemoneye_bridge::bus::rpc::{Calls, Gauge, Refused};
use tokio::time::Instant;

use crate::bus::Debt;

/// The calls through one client.
pub(super) struct Ledger {
    /// Whom it has called, by its ids.
    asked: Calls<Arc<str>>,
    /// What it owes, by numbers of ours: callers number their calls as they like.
    owed: Calls<Debt>,
    last: u64,
    budget: Duration,
    begun: Instant,
}

impl Ledger {
    pub(super) fn new(most: usize, budget: Duration, gauge: &Gauge) -> Self {
        let (asked, owed) = (Calls::new(most, gauge.clone()), Calls::new(most, gauge.clone()));
        Self { asked, owed, last: 0, budget, begun: Instant::now() }
    }

    /// It calls `target`; whether it may, as far as numbers go.
    pub(super) fn ask(&mut self, id: u32, target: &str, now: Instant) -> bool {
        self.asked.open(u64::from(id), now + self.budget, target.into()).is_ok()
    }

    /// Its call did not reach anybody.
    pub(super) fn unask(&mut self, id: u32) {
        drop(self.asked.end(u64::from(id)));
    }

    /// `sender` answers its call `id`; whether it has called him.
    pub(super) fn answered(&mut self, id: u32, sender: &str) -> bool {
        let id = u64::from(id);
        let is_his = self.asked.get(id).is_some_and(|target| **target == *sender);
        is_his && self.asked.end(id).is_some()
    }

    /// It owes an answer; the debt again, if it owes too many.
    pub(super) fn owe(&mut self, debt: Debt, now: Instant) -> Result<(), Debt> {
        self.last += 1;
        self.owed.open(self.last, now + self.budget, debt).map_err(|refused| match refused {
            Refused::Duplicate(debt) | Refused::TooMany(debt) => debt,
        })
    }

    /// What it owes `caller` for his call `id`.
    pub(super) fn pay(&mut self, caller: &str, id: u32) -> Option<Debt> {
        // Nothing is due before the beginning, so that this ends what is asked for and nothing else.
        let paid = self.owed.end_where(self.begun, |debt| debt.is(caller, id));
        paid.into_iter().map(|(_, debt)| debt).next()
    }

    /// When the next of them is due.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.asked.due(), self.owed.due()].into_iter().flatten().min()
    }

    /// Ends what is due: its own calls, by id and whom it called, and its debts.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<(u32, Arc<str>)>, Vec<Debt>) {
        let asked = self.asked.end_where(now, |_| false);
        let asked = asked.into_iter().filter_map(|(id, target)| Some((u32::try_from(id).ok()?, target)));
        (asked.collect(), self.owed.end_where(now, |_| false).into_iter().map(|(_, debt)| debt).collect())
    }

    /// Ends all; the debts.
    pub(super) fn close(&mut self) -> Vec<Debt> {
        drop(self.asked.end_all());
        self.owed.end_all().into_iter().map(|(_, debt)| debt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_answered_once_by_whom_it_went_to_or_ends_in_time() {
        let gauge = Gauge::default();
        let mut calls = Ledger::new(2, Duration::from_secs(30), &gauge);
        let now = Instant::now();
        assert!(calls.ask(7, "engine", now));
        assert!(!calls.ask(7, "other", now), "the same id");
        assert!(calls.ask(8, "engine", now));
        assert!(!calls.ask(9, "engine", now), "too many");
        assert!(!calls.answered(7, "forger"));
        assert!(calls.answered(7, "engine"));
        assert!(!calls.answered(7, "engine"), "twice");
        assert_eq!(gauge.get(), 1);
        assert_eq!(calls.due(), Some(now + Duration::from_secs(30)));
        let (asked, owed) = calls.expire(now + Duration::from_secs(30));
        assert_eq!((asked, owed.len()), (vec![(8, Arc::from("engine"))], 0));
        assert_eq!((gauge.get(), calls.due()), (0, None));
    }
}
