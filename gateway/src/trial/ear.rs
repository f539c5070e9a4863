//! What a trial hears, and its tally: each message once, and how long it took.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use daemoneye_bridge::{bus::Subscription, uplink::probe};
use tokio::{sync::Notify, time::Instant};

use crate::{demo::latencies::Latencies, trial::payload};

/// Where the messages of a trial come out.
pub(super) enum Ear {
    /// On a bus.
    Bus(Subscription),
    /// At a collector that has subscribed.
    Link(Box<probe::Listener>),
}

/// What arrived. Shared by the ear and whoever waits.
#[derive(Debug)]
pub(super) struct Tally {
    epoch: Instant,
    /// Messages that arrived, each once.
    arrived: AtomicU64,
    news: Notify,
    found: Mutex<Found>,
}

/// What is looked at when a phase is over.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) latencies: Latencies,
    pub(super) duplicates: u64,
    /// When the last message arrived.
    pub(super) last: Option<Instant>,
    /// Numbers below which every message of a connection has arrived, and those beyond that have.
    seen: HashMap<usize, (u64, std::collections::BTreeSet<u64>)>,
}

impl Tally {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            arrived: AtomicU64::new(0),
            news: Notify::new(),
            found: Mutex::default(),
        })
    }

    /// The time that payloads carry.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// How many messages arrived.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found since the last call; numbers that were seen are kept.
    pub(super) fn take(&self) -> Found {
        let mut found = self.found();
        let seen = std::mem::take(&mut found.seen);
        std::mem::replace(&mut *found, Found { seen, ..Found::default() })
    }

    /// Notes messages that came together.
    pub(super) fn note<'a>(&self, payloads: impl Iterator<Item = &'a Bytes>) {
        let (now, mut count) = (self.now(), 0);
        let mut found = self.found();
        for payload in payloads {
            let Some((connection, number, sent)) = payload::read(payload) else { continue };
            if found.is_new(connection, number) {
                found.latencies.note(now.saturating_sub(sent));
                count += 1;
            } else {
                found.duplicates += 1;
            }
        }
        found.last = Some(Instant::now());
        drop(found);
        self.arrived.fetch_add(count, Ordering::AcqRel);
        self.news.notify_waiters();
    }

    /// Notes messages that were acknowledged so long after they were sent, where nobody hears them.
    pub(super) fn acknowledged(&self, count: u64, took: Duration) {
        let mut found = self.found();
        for _ in 0..count {
            found.latencies.note(took);
        }
        found.last = Some(Instant::now());
        drop(found);
        self.arrived.fetch_add(count, Ordering::AcqRel);
        self.news.notify_waiters();
    }

    /// Waits until `count` messages have arrived in all; whether they did before nothing happened for `patience`.
    pub(super) async fn reaches(&self, count: u64, patience: Duration) -> bool {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // Registered before the look, so that what comes in between is not slept over.
            news.as_mut().enable();
            if self.arrived() >= count {
                return true;
            }
            if tokio::time::timeout(patience, news).await.is_err() {
                return self.arrived() >= count;
            }
        }
    }
}

impl Found {
    fn is_new(&mut self, connection: usize, number: u64) -> bool {
        let (below, beyond) = self.seen.entry(connection).or_default();
        if number < *below || !beyond.insert(number) {
            return false;
        }
        while beyond.remove(below) {
            *below += 1;
        }
        true
    }
}

impl Ear {
    /// Hears until the other end is gone.
    pub(super) async fn run(self, tally: Arc<Tally>) {
        match self {
            Self::Bus(mut subscription) => {
                let mut messages = Vec::new();
                while subscription.next(&mut messages, AT_ONCE).await {
                    tally.note(messages.iter().map(|message| &message.payload));
                    messages.clear();
                }
            }
            Self::Link(mut listener) => {
                while let Some(heard) = listener.next().await {
                    if let Ok(payload) = heard {
                        tally.note(std::iter::once(&payload));
                    }
                }
            }
        }
    }
}

/// Messages that are taken off the bus at once.
const AT_ONCE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_counts_once_in_whatever_order_they_come() {
        let tally = Tally::new();
        let made: Vec<Bytes> =
            [2, 0, 1, 1, 0, 3].map(|number| payload::make(1, number, Duration::ZERO, 64)).to_vec();
        tally.note(made.iter());
        assert_eq!(tally.arrived(), 4);
        let found = tally.take();
        assert_eq!((found.duplicates, found.latencies.count()), (2, 4));
        tally.note(made[..1].iter());
        assert_eq!(tally.take().duplicates, 1, "what was seen is remembered");
        assert!(tally.reaches(4, Duration::ZERO).await);
        assert!(!tally.reaches(5, Duration::from_millis(1)).await);
    }
}
