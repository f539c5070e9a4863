//! How long to wait before dialling again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from 100 ms to 5 s; each wait is shortened by up to half at random, so that the connections of a broker that was
/// restarted do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The first time does not wait.
    pub(super) const fn eager() -> Self {
        Self(Duration::ZERO)
    }

    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let longest = self.0;
        self.0 = (longest * 2).clamp(FIRST, LONGEST);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eager_one_does_not_wait_the_first_time() {
        let mut backoff = Backoff::eager();
        assert_eq!(backoff.next(), Duration::ZERO);
        assert!(backoff.next() >= FIRST / 2);
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
        assert!(waits[19] >= LONGEST / 2 && waits[19] <= LONGEST, "{waits:?}");
    }
}
