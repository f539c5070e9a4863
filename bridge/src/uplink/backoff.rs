//! How long to wait before dialling again.
//!
//! Exponential with full jitter: after an outage the leaves of a whole region come back spread out, not in step. What the
//! gateway asked for is a floor below which no jitter goes.

use std::time::Duration;

/// How a failure is to be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// It passes by itself: a lost connection, a gateway that restarts.
    Passing,
    /// Somebody has to change something first: a refused certificate, an unknown protocol.
    Lasting,
}

/// Counts failures in a row and says how long to wait.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    refused: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration, refused: Duration) -> Self {
        Self { first, longest, refused, failures: 0 }
    }

    /// Begins anew, because something worked.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since something last worked.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and says how long to wait; `asked` is what the gateway wants at the least, `chance` is in 0..1.
    pub(super) fn failed(&mut self, severity: Severity, asked: Option<Duration>, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let jittered = match severity {
            Severity::Passing => doubled.min(self.longest).mul_f64(chance),
            // Never at once, and never all together.
            Severity::Lasting => self.refused.mul_f64(0.5 + chance / 2.0),
        };
        jittered.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// More than this no gateway may ask for: one that is wrong must not silence a leaf for days.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(100), 30 * SECOND, 60 * SECOND)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = backoff();
        let waits: Vec<u128> =
            (0..40).map(|_| backoff.failed(Severity::Passing, None, 1.0).as_millis()).collect();
        assert_eq!(waits.get(..4), Some([100, 200, 400, 800].as_slice()));
        assert!(waits.iter().skip(9).all(|wait| *wait == 30_000), "{waits:?}");
        backoff.reset();
        assert_eq!(backoff.failed(Severity::Passing, None, 1.0).as_millis(), 100);
    }

    #[test]
    fn jitter_is_full_but_never_below_what_the_gateway_asks() {
        let mut backoff = backoff();
        assert_eq!(backoff.failed(Severity::Passing, None, 0.0), Duration::ZERO);
        assert_eq!(backoff.failed(Severity::Passing, Some(7 * SECOND), 0.5), 7 * SECOND);
        let bounded = backoff.failed(Severity::Passing, Some(86_400 * SECOND), 0.5);
        assert_eq!(bounded, LONGEST_ASKED);
    }

    #[test]
    fn a_lasting_refusal_waits_long_from_the_first() {
        let mut backoff = backoff();
        assert_eq!(backoff.failed(Severity::Lasting, None, 0.0), 30 * SECOND);
        assert_eq!(backoff.failed(Severity::Lasting, None, 1.0), 60 * SECOND);
    }
}
