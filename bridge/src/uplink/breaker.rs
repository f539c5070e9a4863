//! Which gateways are left out for a while, because they failed again and again.
//!
//! ```text
//!   closed ── 5 failures in a row ──► open ── 30 s ──► half open ── 3 sessions that served ──► closed
//!                                      ▲                  │
//!                                      └──── a failure ───┘
//! ```
//!
//! The numbers are those of `DaemonEye`'s agents.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of one gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    /// In a row.
    failures: u32,
    /// When it was opened; none while it is closed.
    opened: Option<Instant>,
    /// Sessions that served since it was opened.
    served: u32,
}

impl Breaker {
    /// Notes an attempt that came to nothing.
    pub(super) const fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.served = 0;
        if self.opened.is_some() || self.failures >= FAILURES {
            self.opened = Some(now);
        }
    }

    /// Notes a session that served.
    pub(super) const fn served(&mut self) {
        self.failures = 0;
        self.served = self.served.saturating_add(1);
        if self.served >= SUCCESSES {
            self.opened = None;
        }
    }

    /// Whether the gateway is to be left out at `now`.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.opened.is_some_and(|opened| now.saturating_duration_since(opened) < REST)
    }

    /// Whether there is nothing to remember.
    pub(super) const fn is_well(&self) -> bool {
        self.failures == 0 && self.opened.is_none()
    }
}

/// Failures in a row that open it.
const FAILURES: u32 = 5;

/// How long it stays open.
const REST: Duration = Duration::from_secs(30);

/// Sessions that served which close it again.
const SUCCESSES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_at_the_fifth_failure_and_asks_again_after_half_a_minute() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..4 {
            breaker.failed(start);
            assert!(!breaker.is_open(start));
        }
        breaker.failed(start);
        assert!(breaker.is_open(start + 29 * SECOND));
        assert!(!breaker.is_open(start + 30 * SECOND));
        breaker.failed(start + 30 * SECOND);
        assert!(breaker.is_open(start + 59 * SECOND), "one failure is enough while it is half open");
    }

    #[test]
    fn it_closes_after_three_sessions_that_served() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        (0..5).for_each(|_| breaker.failed(start));
        let later = start + 31 * SECOND;
        breaker.served();
        breaker.served();
        breaker.failed(later);
        assert!(breaker.is_open(later));
        (0..3).for_each(|_| breaker.served());
        assert!(breaker.is_well() && !breaker.is_open(later));
        breaker.failed(later);
        assert!(!breaker.is_open(later), "counted from the beginning");
    }
}
