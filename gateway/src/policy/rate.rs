//! How fast an identity may go: a bucket of tokens for events and one for bytes, shared by all of its sessions.
//!
//! A bucket is one number, the moment at which it will be full again, so that sessions share it without a lock. What was
//! read is always charged, for it is already here; who is in debt waits before reading more. Rates are given with each
//! question, so that a new policy needs no new bucket.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{identity::PeerId, policy::Limits};

/// What an identity has used of its rates.
#[derive(Debug)]
pub struct Meter {
    epoch: Instant,
    events: Bucket,
    bytes: Bucket,
}

impl Meter {
    fn new(epoch: Instant) -> Self {
        Self { epoch, events: Bucket::default(), bytes: Bucket::default() }
    }

    /// How long to hold back before the next event; zero if it may go now.
    #[must_use]
    pub fn debt(&self, now: Instant) -> Duration {
        let now = self.nanos(now);
        Duration::from_nanos(self.events.debt(now).max(self.bytes.debt(now)))
    }

    /// Takes the tokens of what was read, going into debt if they are not there.
    pub fn charge(&self, now: Instant, events: u64, bytes: u64, limits: &Limits) {
        let now = self.nanos(now);
        self.events.charge(now, events, limits.events_per_second);
        self.bytes.charge(now, bytes, limits.bytes_per_second);
    }

    fn is_full(&self, now: Instant) -> bool {
        let now = self.nanos(now);
        [&self.events, &self.bytes].iter().all(|bucket| bucket.0.load(Ordering::Relaxed) <= now)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A bucket that holds a second's worth of tokens: the nanosecond at which it will be full.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    const DEPTH: u64 = 1_000_000_000;

    fn debt(&self, now: u64) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(now.saturating_add(Self::DEPTH))
    }

    fn charge(&self, now: u64, tokens: u64, rate: NonZeroU32) {
        let cost = tokens.saturating_mul(Self::DEPTH) / u64::from(rate.get());
        // Only the sum counts, not who came first; so no ordering is needed.
        let _previous = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
            Some(full.max(now).saturating_add(cost))
        });
    }
}

/// The meters of all identities.
///
/// A meter outlives its sessions until its buckets are full again, or a peer could reset them by dialling anew.
#[derive(Debug)]
pub(crate) struct Ledger {
    epoch: Instant,
    /// Taken once a session or a plain call, never for an event.
    meters: Mutex<Meters>,
}

#[derive(Debug)]
struct Meters {
    by_peer: HashMap<PeerId, Arc<Meter>>,
    /// How many there may be before those that say nothing any more are dropped.
    sweep_at: usize,
}

impl Ledger {
    const SWEEP_FROM: usize = 1024;

    pub(crate) fn new() -> Self {
        let meters = Meters { by_peer: HashMap::new(), sweep_at: Self::SWEEP_FROM };
        Self { epoch: Instant::now(), meters: Mutex::new(meters) }
    }

    /// The meter of `peer`.
    pub(crate) fn meter(&self, peer: &PeerId) -> Arc<Meter> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = meters.by_peer.get(peer) {
            return Arc::clone(meter);
        }
        if meters.by_peer.len() >= meters.sweep_at {
            let now = Instant::now();
            meters.by_peer.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_full(now));
            meters.sweep_at = Self::SWEEP_FROM.max(meters.by_peer.len().saturating_mul(2));
        }
        let meter = Arc::new(Meter::new(self.epoch));
        meters.by_peer.insert(peer.clone(), Arc::clone(&meter));
        meter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(events: u32, bytes: u32) -> Limits {
        Limits {
            same_identity: None,
            events_per_second: NonZeroU32::new(events).unwrap(),
            bytes_per_second: NonZeroU32::new(bytes).unwrap(),
            ..Limits::DEFAULT
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_tokens_goes_at_once_and_debt_is_waited_for() {
        let start = Instant::now();
        let meter = Meter::new(start);
        let limits = limits(100, u32::MAX);
        meter.charge(start, 100, 0, &limits);
        assert_eq!(meter.debt(start), Duration::ZERO);
        meter.charge(start, 50, 0, &limits);
        assert_eq!(meter.debt(start), Duration::from_millis(500));
        assert_eq!(meter.debt(start + Duration::from_millis(500)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_counted_beside_events() {
        let start = Instant::now();
        let meter = Meter::new(start);
        meter.charge(start, 1, 3000, &limits(1000, 1000));
        assert_eq!(meter.debt(start), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_hour_does_not_add_up_to_more_than_a_bucket() {
        let start = Instant::now();
        let meter = Meter::new(start);
        let later = start + Duration::from_hours(1);
        meter.charge(later, 300, 0, &limits(100, u32::MAX));
        assert_eq!(meter.debt(later), Duration::from_secs(2));
    }
}
