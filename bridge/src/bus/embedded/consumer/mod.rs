//! Routes whose batches a named client of the bus answers for.
//!
//! ```text
//!   publisher ─ Errand ─► Hand ─► Caller ─ events.take ─► consumer
//!       ▲                            │ ◄──── its answer ────┘
//!       └──── Returns ◄──────────────┘ then published for everybody else, and confirmed
//! ```
//!
//! A publisher gives such a batch away to the [`Hand`] of its route. The hand's caller, a task of its own, calls the consumer
//! until it has answered and gives the batch back. Nothing of the batch is published before that, so that others hear what
//! the consumer has, once.
//!
//! Kept true: a batch comes back only when its consumer has answered, or its port is closed; the batches of one lane are
//! called in their order and by one call at a time, for a consumer may serve calls side by side; no publisher waits for a
//! consumer. Queues here hold what the credit of sessions lets in flight, and no more.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::{
    bus::{
        Consumer, LaneId,
        embedded::{
            ledger::{Pending, Returns},
            resolve::Resolved,
        },
    },
    topic::Pattern,
};

mod call;
mod caller;
mod line;

pub(super) use self::caller::serve;

/// What a consumer is asked.
pub(super) const METHOD: &str = "events.take";

/// The hands of all routes that have a consumer.
#[derive(Debug, Default)]
pub(super) struct Hands(Box<[Arc<Hand>]>);

impl Hands {
    pub(super) fn new<'a>(routes: impl Iterator<Item = (&'a Pattern, &'a Consumer)>) -> Self {
        let hand = |(index, (route, consumer)): (usize, (&Pattern, &Consumer))| {
            let errands = Mutex::new(Some(Vec::new()));
            let (route, consumer) = (route.clone(), consumer.clone());
            Arc::new(Hand { index, route, consumer, errands, wake: Notify::new() })
        };
        Self(routes.enumerate().map(hand).collect())
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Hand>> {
        self.0.iter()
    }

    /// Whether there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of a route's hand.
    pub(super) fn of(&self, route: &Pattern) -> Option<usize> {
        self.0.iter().position(|hand| hand.route == *route)
    }

    /// Gives a batch away.
    pub(super) fn give(&self, hand: usize, item: Item) {
        match self.0.get(hand) {
            Some(hand) => hand.send(Errand::Take(Box::new(item))),
            // No route has such a number: dropping the batch withdraws it.
            None => drop(item),
        }
    }

    /// Tells the batches of a port, and what came after them in the same lane, that they are withdrawn; when this returns, no hand
    /// calls anybody with them any more. They are in some of `lanes`; returns the lane and place of each.
    pub(super) async fn withdraw(&self, port: u64, lanes: &HashSet<LaneId>) -> Vec<(LaneId, u64)> {
        let mut found = Vec::new();
        for hand in &self.0 {
            let (done, withdrawn) = oneshot::channel();
            hand.send(Errand::Withdraw { port, lanes: lanes.clone(), done });
            // An error means that its caller has ended, and all it held with it.
            found.extend(withdrawn.await.unwrap_or_default());
        }
        found
    }
}

/// Where the batches of one route wait for its consumer.
#[derive(Debug)]
pub(super) struct Hand {
    index: usize,
    route: Pattern,
    consumer: Consumer,
    /// What the caller is still to look at; `None` once it has ended.
    errands: Mutex<Option<Vec<Errand>>>,
    wake: Notify,
}

/// What a publisher asks of a hand.
#[derive(Debug)]
enum Errand {
    /// Let the consumer take a batch.
    Take(Box<Item>),
    /// Forget the batches of a port and what came after them, then tell the lane and place of each.
    Withdraw { port: u64, lanes: HashSet<LaneId>, done: oneshot::Sender<Vec<(LaneId, u64)>> },
}

impl Hand {
    fn send(&self, errand: Errand) {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(errands) = errands.as_mut() {
            errands.push(errand);
            self.wake.notify_one();
        }
    }

    fn errands(&self) -> Vec<Errand> {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        errands.as_mut().map(mem::take).unwrap_or_default()
    }

    /// Drops what is asked, now and later: nobody serves it any more.
    fn close(&self) {
        let errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(errands);
    }
}

/// A batch on its way to a consumer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) batch: Pending,
    /// Which of its topics are on the consumer's route.
    mine: Box<[bool]>,
    /// The name under which its port speaks.
    collector: Arc<str>,
    /// Where it goes when the consumer has answered.
    returns: Arc<Returns>,
}

impl Item {
    pub(super) fn new(
        batch: Pending,
        topics: &[Arc<Resolved>],
        hand: usize,
        (collector, returns): (Arc<str>, Arc<Returns>),
    ) -> Self {
        let mine = topics.iter().map(|topic| topic.hand == Some(hand)).collect();
        Self { batch, mine, collector, returns }
    }

    /// The events that the consumer is to take, each with its place in the batch.
    fn events(&self) -> impl Iterator<Item = (usize, &crate::event::Event)> {
        let mine =
            |topic: u32| usize::try_from(topic).ok().and_then(|topic| self.mine.get(topic)) == Some(&true);
        self.batch.events.events.iter().enumerate().filter(move |(_, event)| mine(event.topic))
    }
}

#[cfg(test)]
mod tests;
