//! How a transport does: sums that only grow, and what they say of the last seconds.
//!
//! Who carries messages counts; who shows a transport asks for [`Totals`] now and then and lets a [`Window`] make rates of
//! them. Separate from both, so that gateway and leaf show the same figures, and so that figures of several processes can be
//! added up: a mean is always a sum and a count.
//!
//! Kept true: no total ever shrinks while the process lives.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// A way that messages take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Between parts of one process.
    InProcess,
    /// Between processes of one Windows host.
    NamedPipe,
    /// Between hosts, with mutual TLS.
    TcpMtls,
    /// Between processes of one UNIX host.
    UnixSocket,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::InProcess, Self::UnixSocket, Self::TcpMtls, Self::NamedPipe];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::NamedPipe => "named-pipe",
            Self::TcpMtls => "tcp-mtls",
            Self::UnixSocket => "unix-socket",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a transport has counted since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that began.
    pub opened: u64,
    /// Those of them that have ended.
    pub closed: u64,
    /// Strangers that were turned away: no connection, and no error of the transport.
    pub refused: u64,
    /// Messages that came in.
    pub received: u64,
    /// Messages that went out.
    pub sent: u64,
    /// Connections that ended badly, and messages that had to be dropped.
    pub errors: u64,
    /// How long messages took.
    pub latency: Sum,
}

impl Totals {
    /// Connections that are there now.
    #[must_use]
    pub const fn connections(&self) -> u64 {
        // Each is read at its own moment, so that for an instant more may seem to have ended than began.
        self.opened.saturating_sub(self.closed)
    }
}

/// Durations added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// How long in all.
    pub time: Duration,
}

impl Sum {
    /// The mean; none of nothing.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let mean = |count| self.time.div_f64(count);
        #[expect(clippy::cast_precision_loss, reason = "a mean, for people")]
        (self.count > 0).then(|| mean(self.count as f64))
    }
}

/// Adds durations up. Any number of tasks may note at once.
#[derive(Debug, Default)]
pub struct Timing {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Timing {
    /// Adds one.
    pub fn note(&self, took: Duration) {
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// What was added up.
    #[must_use]
    pub fn sum(&self) -> Sum {
        let time = Duration::from_nanos(self.nanos.load(Ordering::Relaxed));
        Sum { count: self.count.load(Ordering::Relaxed), time }
    }
}

/// The last thing that went wrong. Written where a connection ends badly, never for a message.
#[derive(Debug, Default)]
pub struct LastError(Mutex<Option<Mishap>>);

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mishap {
    /// What, for people.
    pub cause: String,
    /// When.
    pub at: SystemTime,
}

impl LastError {
    /// Replaces it.
    pub fn note(&self, cause: String) {
        let mishap = Mishap { cause, at: SystemTime::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(mishap);
    }

    /// What it was; none if nothing ever went wrong.
    #[must_use]
    pub fn get(&self) -> Option<Mishap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What happened within a [`Window`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Messages a second, both ways.
    pub messages: f64,
    /// Errors a second.
    pub errors: f64,
    /// How many errors.
    pub error_count: u64,
    /// Mean time of a message; none if none was timed.
    pub latency: Option<Duration>,
}

/// The totals of the last seconds, of which rates are made.
#[derive(Debug)]
pub struct Window {
    length: Duration,
    samples: VecDeque<(Instant, Totals)>,
}

impl Window {
    /// One of this length; it holds as many samples as are noted within it, and two at least.
    #[must_use]
    pub const fn new(length: Duration) -> Self {
        Self { length, samples: VecDeque::new() }
    }

    /// Adds the totals of `now`, and tells what happened since the window began.
    pub fn note(&mut self, now: Instant, totals: Totals) -> Rates {
        // The oldest that is kept is as old as the window at least, as soon as there are such.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= self.length) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, totals));
        let rates = |(then, before): &(Instant, Totals)| between(before, &totals, now.duration_since(*then));
        self.samples.front().map(rates).unwrap_or_default()
    }
}

/// What happened between two samples, `time` apart.
#[must_use]
pub fn between(before: &Totals, after: &Totals, time: Duration) -> Rates {
    let more = |of: fn(&Totals) -> u64| of(after).saturating_sub(of(before));
    let error_count = more(|totals| totals.errors);
    let latency = Sum {
        count: more(|totals| totals.latency.count),
        time: after.latency.time.saturating_sub(before.latency.time),
    };
    let messages = more(|totals| totals.received.saturating_add(totals.sent));
    Rates {
        messages: per_second(messages, time),
        errors: per_second(error_count, time),
        error_count,
        latency: latency.mean(),
    }
}

/// So many in that time, by the second; 0 in no time.
#[must_use]
pub fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
    let count = count as f64;
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(received: u64, errors: u64, latency: (u64, u64)) -> Totals {
        let latency = Sum { count: latency.0, time: Duration::from_millis(latency.1) };
        Totals { received, errors, latency, ..Totals::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_of_the_last_seconds_and_fade_with_them() {
        let mut window = Window::new(Duration::from_secs(2));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(window.note(at(0), totals(1000, 5, (10, 10))), Rates::default(), "nothing is known yet");
        let first = window.note(at(1), totals(1100, 6, (20, 40)));
        assert!((first.messages - 100.0).abs() < 1e-9 && first.error_count == 1, "{first:?}");
        assert_eq!(first.latency, Some(Duration::from_millis(3)));
        let second = window.note(at(2), totals(1100, 6, (20, 40)));
        assert!((second.messages - 50.0).abs() < 1e-9, "{second:?}");
        assert_eq!(window.note(at(3), totals(1100, 6, (20, 40))), Rates::default(), "what was is over");
    }

    #[test]
    fn a_mean_is_a_sum_by_a_count() {
        let timing = Timing::default();
        assert_eq!(timing.sum().mean(), None);
        timing.note(Duration::from_millis(1));
        timing.note(Duration::from_millis(4));
        assert_eq!(timing.sum().mean(), Some(Duration::from_micros(2500)));
    }

    #[test]
    fn more_ended_than_began_is_none_there() {
        assert_eq!(Totals { opened: 1, closed: 2, ..Totals::default() }.connections(), 0);
    }
}
