//! A port as its publisher sees it, and the lanes in which batches wait.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use crate::bus::{
    LaneId,
    embedded::{
        barrier::Barrier,
        broker::Client,
        ledger::{Ledger, Pending},
        listen::Listener,
    },
};

/// A port, from the publisher's side.
pub(super) struct Speaker {
    pub(super) client: Client,
    /// There if the port hears.
    pub(super) listener: Option<Listener>,
    /// Lanes in which batches of it may wait, here or at a consumer.
    pub(super) lanes: HashSet<LaneId>,
    /// Barriers with batches of this port, oldest first.
    pub(super) unsettled: VecDeque<Arc<Barrier<Ledger>>>,
}

impl Speaker {
    pub(super) fn new(client: Client) -> Self {
        Self { client, listener: None, lanes: HashSet::new(), unsettled: VecDeque::new() }
    }
}

/// What waits in one lane. It is there only while something does.
#[derive(Default)]
pub(super) struct Lane {
    /// Batches that cannot be taken now, oldest first.
    pub(super) waiting: VecDeque<Pending>,
    /// The route that the oldest of them waits for.
    pub(super) held: Option<usize>,
    /// Ports that know of it.
    pub(super) ports: HashSet<u64>,
    away: Option<Away>,
}

/// Batches of a lane that are at a consumer.
struct Away {
    hand: usize,
    count: usize,
    /// None of them is older than this.
    from: u64,
}

impl Lane {
    /// Puts a batch among those that wait.
    pub(super) fn insert(&mut self, batch: Pending) {
        let place = self.waiting.partition_point(|other| other.order < batch.order);
        self.waiting.insert(place, batch);
    }

    /// Forgets a port; returns the place of its oldest batch that waits.
    pub(super) fn leave(&mut self, port: u64) -> Option<u64> {
        self.ports.remove(&port);
        self.waiting.iter().find(|batch| batch.port == port).map(|batch| batch.order)
    }

    /// Takes out what waits from a place on.
    pub(super) fn cut(&mut self, since: u64) -> VecDeque<Pending> {
        self.waiting.split_off(self.waiting.partition_point(|batch| batch.order < since))
    }

    /// Whether some of its batches are at a consumer.
    pub(super) const fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Whether a batch that needs `hand` next, or nobody, must not overtake those that are at a consumer.
    pub(super) fn must_wait(&self, order: u64, hand: Option<usize>) -> bool {
        self.away.as_ref().is_some_and(|away| hand.map_or(order > away.from, |hand| away.hand != hand))
    }

    /// Notes that a batch goes to a hand; [`Self::must_wait`] was asked before.
    pub(super) fn send_away(&mut self, order: u64, hand: usize) {
        let away = self.away.get_or_insert(Away { hand, count: 0, from: order });
        away.count += 1;
        away.from = away.from.min(order);
    }

    /// Notes that the oldest batch at the consumer has come back.
    pub(super) fn welcome(&mut self, order: u64) {
        if let Some(away) = self.away.as_mut() {
            away.from = order + 1;
        }
        self.forget();
    }

    /// Notes that some batch at the consumer is there no more.
    pub(super) fn forget(&mut self) {
        if let Some(away) = self.away.as_mut() {
            away.count = away.count.saturating_sub(1);
        }
        self.away.take_if(|away| away.count == 0);
    }
}

/// Why a batch cannot be taken now.
pub(super) enum Wait {
    /// Older ones of its lane are at a consumer.
    Away,
    /// Somebody who hears it has too much to read, or is just going away, or all who do have just unsubscribed.
    Full,
    /// Something older has just come back.
    Older,
    /// Its route has just begun to be heard, and somebody may still be about to subscribe to its topic.
    Settling,
    /// Nobody hears this route.
    Unheard(usize),
}
