//! What the downlink counts.

use daemoneye_bridge::bus::rpc::code;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters of the downlink. Every call that was opened is in `calls` once it has ended, and in `open` until then.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct Metrics {
    attached: Gauge,
    open: Family<Direction, Gauge>,
    calls: Family<Ended, Counter>,
    delivered: Counter,
    dropped: Family<Why, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    direction: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// From a client of the bus to a collector.
pub(in crate::session) const DOWN: &str = "down";

/// From a collector to a client of the bus.
pub(in crate::session) const UP: &str = "up";

/// Why a message was dropped.
pub(in crate::session) const DENIED: &str = "denied";
/// See [`DENIED`].
pub(in crate::session) const CUT: &str = "cut";
/// See [`DENIED`].
pub(in crate::session) const SLOW: &str = "slow";

impl Metrics {
    pub(in crate::session) fn register(&self, registry: &mut Registry) {
        for direction in [DOWN, UP] {
            drop(self.open.get_or_create(&Direction { direction }));
            self.ended(direction, "answered", 0);
        }
        for reason in [CUT, DENIED, SLOW] {
            self.dropped(reason, 0);
        }
        registry.register("downlink_attached", "Collectors that can be reached", self.attached.clone());
        registry.register("downlink_calls_open", "Calls that are open", self.open.clone());
        registry.register("downlink_calls", "Calls that ended", self.calls.clone());
        registry.register(
            "downlink_delivered",
            "Messages put on their way to collectors",
            self.delivered.clone(),
        );
        registry.register(
            "downlink_dropped",
            "Messages for collectors that were dropped",
            self.dropped.clone(),
        );
    }

    pub(in crate::session) fn attach(&self) -> Counted {
        Counted::up(self.attached.clone())
    }

    pub(in crate::session) fn open(&self, direction: &'static str) -> Counted {
        Counted::up(self.open.get_or_create_owned(&Direction { direction }))
    }

    pub(in crate::session) fn ended(&self, direction: &'static str, outcome: &'static str, calls: u64) {
        self.calls.get_or_create(&Ended { direction, outcome }).inc_by(calls);
    }

    pub(in crate::session) fn delivered(&self) {
        self.delivered.inc();
    }

    pub(in crate::session) fn dropped(&self, reason: &'static str, messages: u64) {
        self.dropped.get_or_create(&Why { reason }).inc_by(messages);
    }
}

/// Counted for as long as it lives.
#[derive(Debug)]
pub(in crate::session) struct Counted(Gauge);

impl Counted {
    fn up(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The word for what a caller was told.
pub(in crate::session) const fn outcome(code: i16) -> &'static str {
    match code {
        code::ABSENT => "absent",
        code::CANCELLED => "cancelled",
        code::CUT => "cut",
        code::DENIED => "denied",
        code::TIMED_OUT => "timed_out",
        code::TOO_MANY => "too_many",
        _ => "failed",
    }
}

/// The same for what a caller has as its answer.
pub(in crate::session) fn word<T, M>(answer: &Result<T, (i16, M)>) -> &'static str {
    answer.as_ref().map_or_else(|(code, _)| outcome(*code), |_| "answered")
}
