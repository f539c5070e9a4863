//! When a session must look at something: silence, a client that does not read, signs of life, its end.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::native::config::Config;

/// How long a client that leaves in order may take to settle, and to take its last acks.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// How a session ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    Aged,
    Done,
    Drained,
    Superseded,
}

impl Farewell {
    pub(super) const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Aged => ("aged", "the connection was old"),
            Self::Done => ("done", "the client hung up"),
            Self::Drained => ("drained", "the gateway is going away"),
            Self::Superseded => ("superseded", "a newer connection of this peer has taken over"),
        }
    }
}

/// When what is due.
pub(super) struct Clocks {
    /// When the client was heard last, or not read last.
    pub(super) heard: Instant,
    pub(super) reading: bool,
    /// When it took something last, or had nothing to take.
    pub(super) took: Instant,
    pub(super) writing: bool,
    pub(super) ping: Instant,
    /// When it is to leave, and why; sooner than it is old once the gateway drains.
    pub(super) retire: (Instant, Farewell),
    /// It leaves when all is settled, or then.
    pub(super) leaving: Option<(Instant, Farewell)>,
}

impl Clocks {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        // Connections that began together, as after a restart, need not end together.
        let age = config.max_connection_age.mul_f64(fastrand::f64().mul_add(0.2, 0.9));
        Self {
            heard: now,
            reading: true,
            took: now,
            writing: false,
            ping: now + config.timeout / 2,
            retire: (now + age, Farewell::Aged),
            leaving: None,
        }
    }

    /// Notes whether the client is read and written to from here on.
    pub(super) const fn note(&mut self, now: Instant, reading: bool, writing: bool) {
        if reading && !self.reading {
            self.heard = now;
        }
        if writing && !self.writing {
            self.took = now;
        }
        (self.reading, self.writing) = (reading, writing);
    }

    pub(super) fn leave(&mut self, now: Instant, farewell: Farewell) {
        if self.leaving.is_none() {
            self.leaving = Some((now + GRACE, farewell));
        }
    }

    /// The next moment at which something must be looked at.
    pub(super) fn alarm(&self, config: &Config) -> Instant {
        let silent = self.reading.then(|| self.heard + config.timeout.mul_f64(1.25));
        let slow = self.writing.then(|| self.took + config.slow_reader_timeout);
        let leaving = self.leaving.map_or(self.retire.0, |(until, _)| until);
        [silent, slow, Some(leaving)].into_iter().flatten().fold(self.ping, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_not_read_for_long_is_not_taken_for_silent() {
        let (config, begun) = (Config::default(), Instant::now());
        let mut clocks = Clocks::new(&config, begun);
        clocks.ping = begun + Duration::from_hours(1);
        clocks.note(begun, false, false);
        let later = begun + Duration::from_mins(10);
        clocks.note(later, true, true);
        assert_eq!(clocks.alarm(&config), later + Duration::from_millis(6250));
        clocks.heard = later + Duration::from_mins(1);
        assert_eq!(clocks.alarm(&config), later + Duration::from_secs(10), "it takes nothing");
        clocks.leave(later, Farewell::Done);
        clocks.leave(later + GRACE, Farewell::Aged);
        assert_eq!(clocks.leaving, Some((later + GRACE, Farewell::Done)), "the first reason stands");
    }
}
