//! Batches between publishing and confirmation.
//!
//! A [`Ledger`] is what a publisher's barrier settles: a batch is confirmed if each of its topics was taken by at least one
//! member who heard it, and comes back to the publisher if all who heard some topic went away first. Kept true: each batch is in one place at a time (waiting
//! at its port, in one ledger, or among the returns), and its ticket is told once.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

use crate::{
    bus::{
        Counters, LaneId, Taken,
        embedded::{barrier::Outcome, resolve::Resolved},
    },
    event::Events,
};

/// A batch whose ticket waits.
#[derive(Debug)]
pub(super) struct Pending {
    /// Whose it is.
    pub(super) port: u64,
    /// Whose order it keeps.
    pub(super) lane: LaneId,
    /// Position among all batches of the publisher.
    pub(super) order: u64,
    pub(super) events: Events,
    /// Once it is published, its topics that must each be taken by one who hears them. None, if all have one audience.
    pub(super) needs: Vec<Arc<Resolved>>,
    pub(super) done: oneshot::Sender<Taken>,
    pub(super) consumed: Consumed,
}

/// What is settled of a batch with the consumers of its routes.
#[derive(Debug, Default)]
pub(super) struct Consumed {
    /// The hands whose consumers have taken their part.
    by: Vec<usize>,
    /// The hand that has it now.
    at: Option<usize>,
}

impl Consumed {
    /// The next hand that must have it, of those its topics need.
    pub(super) fn next(&self, topics: &[Arc<Resolved>]) -> Option<usize> {
        topics.iter().filter_map(|topic| topic.hand).find(|hand| !self.by.contains(hand))
    }

    /// It goes to a hand.
    pub(super) const fn leave(&mut self, hand: usize) {
        self.at = Some(hand);
    }

    /// It comes back; whether from a hand, whose consumer has then taken it.
    pub(super) fn arrive(&mut self) -> bool {
        let from = self.at.take();
        self.by.extend(from);
        from.is_some()
    }
}

impl Pending {
    /// Whether those who passed have taken all of it.
    fn is_taken(&self, passed: &[u64]) -> bool {
        let taken = |topic: &Arc<Resolved>| topic.audience.iter().any(|member| passed.contains(&member.id));
        !passed.is_empty() && self.needs.iter().all(taken)
    }

    /// Whether one of its topics, of several audiences, is heard by none but those who missed it.
    fn is_lost(&self, missed: &[u64]) -> bool {
        let gone = |topic: &Arc<Resolved>| topic.audience.iter().all(|member| missed.contains(&member.id));
        self.needs.iter().any(gone)
    }

    /// Tells the ticket; that nobody reads it any more is his own business.
    pub(super) fn tell(self, taken: Taken) {
        self.done.send(taken).unwrap_or_default();
    }
}

/// Batches that one barrier stands behind.
#[derive(Debug)]
pub(super) struct Ledger {
    held: Mutex<Held>,
    /// Set when each has been told or returned.
    done: AtomicBool,
    returns: Arc<Returns>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Held {
    batches: Vec<Pending>,
    /// Members that went away before they took them.
    missed: Vec<u64>,
}

impl Ledger {
    pub(super) const fn new(batches: Vec<Pending>, returns: Arc<Returns>, counters: Arc<Counters>) -> Self {
        let held = Held { batches, missed: Vec::new() };
        Self { held: Mutex::new(held), done: AtomicBool::new(false), returns, counters }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is left in it.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Tells the batches of `port` that they are withdrawn, unless they have been told or returned. Returns the lane and place
    /// of each.
    pub(super) fn withdraw(&self, port: u64) -> Vec<(LaneId, u64)> {
        let withdraw = |batch: Pending| {
            let place = (batch.lane, batch.order);
            batch.tell(Taken::Withdrawn);
            place
        };
        self.held().batches.extract_if(.., |batch| batch.port == port).map(withdraw).collect()
    }
}

impl Outcome for Ledger {
    fn settle(&self, passed: &[u64]) {
        // Under the lock to the end, so that after `withdraw` no ticket of that port is still to be told.
        let mut held = self.held();
        let (taken, lost): (Vec<_>, Vec<_>) =
            mem::take(&mut held.batches).into_iter().partition(|batch| batch.is_taken(passed));
        self.counters.confirmed.add(taken.len() as u64);
        for batch in taken {
            batch.tell(Taken::All);
        }
        if !lost.is_empty() {
            self.returns.put(lost);
        }
        self.done.store(true, Ordering::Release);
        drop(held);
    }

    /// What can never be taken comes back at once: whoever else hears it may be slow, and what is newer must not pass it.
    fn missed(&self, member: u64) {
        let mut held = self.held();
        let Held { batches, missed } = &mut *held;
        missed.push(member);
        let lost: Vec<_> = batches.extract_if(.., |batch| batch.is_lost(missed)).collect();
        if !lost.is_empty() {
            self.returns.put(lost);
        }
        drop(held);
    }
}

/// Batches on their way back to the publisher: nobody took them, or their consumer did.
#[derive(Debug, Default)]
pub(super) struct Returns {
    batches: Mutex<Vec<Pending>>,
    /// Whether there are any, to look without the lock.
    any: AtomicBool,
    pub(super) wake: Notify,
}

impl Returns {
    pub(super) fn put(&self, mut returned: Vec<Pending>) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.append(&mut returned);
        self.any.store(true, Ordering::Release);
        drop(batches);
        self.wake.notify_one();
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes them, oldest first.
    pub(super) fn take(&self) -> Vec<Pending> {
        if !self.any() {
            return Vec::new();
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Release);
        let mut taken = mem::take(&mut *batches);
        drop(batches);
        taken.sort_unstable_by_key(|batch| batch.order);
        taken
    }
}
