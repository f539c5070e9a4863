//! Whether the gateway is alive, proven on the stream that carries the data.

use std::time::Duration;

use tokio::time::Instant;

/// Keeps the time of pings and of what is heard.
#[derive(Debug)]
pub(super) struct Pulse {
    interval: Duration,
    /// When the next ping is due.
    next: Instant,
    /// When anything was last heard.
    heard: Instant,
    /// Number and time of the last ping, until it is answered.
    asked: Option<(u64, Instant)>,
    count: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send a ping with this number.
    Ping(u64),
    /// Nothing was heard for so long that the gateway is dead.
    Silent(Duration),
    /// Nothing yet.
    Wait,
}

impl Pulse {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, next: now + interval, heard: now, asked: None, count: 0 }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        self.next.min(self.heard + self.patience())
    }

    /// Notes that something was heard.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// What is to be done now.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        let silence = now.saturating_duration_since(self.heard);
        if silence >= self.patience() {
            return Beat::Silent(silence);
        }
        if now < self.next {
            return Beat::Wait;
        }
        self.next = now + self.interval;
        self.count = self.count.wrapping_add(1);
        self.asked = Some((self.count, now));
        Beat::Ping(self.count)
    }

    /// How long the answer to the last ping took; none if it answers something else.
    pub(super) fn answered(&mut self, nonce: u64, now: Instant) -> Option<Duration> {
        let (_, at) = self.asked.take_if(|(asked, _)| *asked == nonce)?;
        Some(now.saturating_duration_since(at))
    }

    const fn patience(&self) -> Duration {
        self.interval.saturating_mul(MISSED)
    }
}

/// Intervals without a word after which the gateway is dead.
const MISSED: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_gateway_is_dead_after_three_silent_intervals() {
        let start = Instant::now();
        let mut pulse = Pulse::new(10 * SECOND, start);
        assert_eq!(pulse.beat(start + 9 * SECOND), Beat::Wait);
        assert_eq!(pulse.beat(start + 10 * SECOND), Beat::Ping(1));
        assert_eq!(pulse.answered(1, start + 11 * SECOND), Some(SECOND));
        assert_eq!(pulse.answered(1, start + 11 * SECOND), None);
        pulse.heard(start + 11 * SECOND);
        assert_eq!(pulse.beat(start + 20 * SECOND), Beat::Ping(2));
        assert_eq!(pulse.due(), start + 30 * SECOND);
        assert_eq!(pulse.beat(start + 30 * SECOND), Beat::Ping(3));
        assert_eq!(pulse.beat(start + 41 * SECOND), Beat::Silent(30 * SECOND));
    }
}
