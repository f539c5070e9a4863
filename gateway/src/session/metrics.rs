//! What sessions count.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemoneye_bridge::transport::{Sum, Timing, Totals};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::session::{downlink, http2::CutReason};

/// Counters of sessions. `opened - closed = active`, for each role and site.
#[derive(Clone, Debug)]
pub struct Metrics {
    opened: Family<Who, Counter>,
    closed: Family<Why, Counter>,
    active: Family<Who, Gauge>,
    events: Family<Outcome, Counter>,
    gaps: Counter,
    lost: Counter,
    calls: Family<Call, Counter>,
    dropped: Family<Who, Counter>,
    confirm: Histogram,
    cuts: Family<Cuts, Counter>,
    sweeps: Family<Sweep, Histogram, fn() -> Histogram>,
    /// Connections that are served, less those on the roll.
    untracked: Gauge,
    served: Counter,
    served_no_more: Counter,
    delivered: Counter,
    errors: Counter,
    round_trips: Arc<Timing>,
    /// The sum and count of `confirm`, which a histogram does not tell.
    confirms: Arc<Timing>,
    sites: Arc<Mutex<HashSet<String>>>,
    pub(super) downlink: downlink::Metrics,
}

/// Sites that have a label of their own; the rest share `other`, because sites are named by certificates.
const MOST_SITES: usize = 64;

/// Whose session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Who {
    role: String,
    site: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    role: String,
    site: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    call: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cuts {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sweep {
    what: &'static str,
}

fn sweep() -> Histogram {
    Histogram::new([0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0])
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in ["settled", "rejected", "duplicate", "withheld"] {
            metrics.outcome(outcome);
        }
        for reason in CutReason::ALL {
            drop(metrics.cuts.get_or_create(&Cuts { reason: reason.as_str() }));
        }
        let registry = registry.sub_registry_with_prefix("session");
        registry.register("opened", "Sessions admitted", metrics.opened.clone());
        registry.register("closed", "Sessions that ended", metrics.closed.clone());
        registry.register("active", "Sessions now", metrics.active.clone());
        registry.register("events", "Events received on sessions", metrics.events.clone());
        registry.register("gaps", "Gaps told by peers", metrics.gaps.clone());
        registry.register("lost_events", "Events that peers said were lost", metrics.lost.clone());
        registry.register("calls", "Plain calls", metrics.calls.clone());
        registry.register(
            "outbox_dropped_frames",
            "Messages dropped because a subscriber read too slowly",
            metrics.dropped.clone(),
        );
        registry.register_with_unit(
            "confirm_duration",
            "From handing a batch to the bus until it was taken as its route demands",
            Unit::Seconds,
            metrics.confirm.clone(),
        );
        registry.register("cuts", "Connections that lost the right to be here", metrics.cuts.clone());
        registry.register_with_unit(
            "sweep_duration",
            "Time to judge those again from whom something was taken away",
            Unit::Seconds,
            metrics.sweeps.clone(),
        );
        registry.register("connections", "Connections served", metrics.served.clone());
        registry.register(
            "connections_ended",
            "Connections served that have ended",
            metrics.served_no_more.clone(),
        );
        registry.register("delivered_messages", "Messages sent to peers", metrics.delivered.clone());
        registry.register(
            "errors",
            "Sessions that ended by a fault of peer, link or bus",
            metrics.errors.clone(),
        );
        registry.register(
            "untracked",
            "Connections that are served and could not be cut: always 0, but for moments",
            metrics.untracked.clone(),
        );
        metrics.downlink.register(registry);
        metrics
    }

    /// The labels of a session.
    pub(super) fn who(&self, role: String, site: &str) -> Who {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sites.contains(site) || (sites.len() < MOST_SITES && sites.insert(site.to_owned()));
        drop(sites);
        Who { role, site: if known { site.to_owned() } else { "other".to_owned() } }
    }

    /// A connection is served, until what is returned is dropped.
    pub fn serving(&self) -> Served {
        self.untracked.inc();
        self.served.inc();
        Served { untracked: self.untracked.clone(), ended: self.served_no_more.clone() }
    }

    /// A connection was put on the roll.
    pub(super) fn enrolled(&self) {
        self.untracked.dec();
    }

    /// A connection was struck off the roll.
    pub(super) fn struck(&self) {
        self.untracked.inc();
    }

    pub(super) fn cut(&self, reason: CutReason) {
        self.cuts.get_or_create(&Cuts { reason: reason.as_str() }).inc();
    }

    pub(super) fn swept(&self, what: &'static str, took: Duration) {
        self.sweeps.get_or_create(&Sweep { what }).observe(took.as_secs_f64());
    }

    /// Whether there was ever a sweep for `what`.
    #[cfg(test)]
    pub(super) fn has_swept(&self, what: &str) -> bool {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("sweeps", "", self.sweeps.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains(&format!("what=\"{what}\""))
    }

    pub(super) fn opened(&self, who: &Who) {
        self.opened.get_or_create(who).inc();
        self.active.get_or_create(who).inc();
    }

    pub(super) fn closed(&self, who: &Who, reason: &'static str) {
        let why = Why { role: who.role.clone(), site: who.site.clone(), reason };
        self.closed.get_or_create(&why).inc();
        if Self::is_error(reason) {
            self.errors.inc();
        }
        self.active.get_or_create(who).dec();
    }

    pub(super) fn call(&self, call: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&Call { call, outcome }).inc();
    }

    pub(super) fn dropped(&self, who: &Who, messages: u64) {
        self.dropped.get_or_create(who).inc_by(messages);
    }

    pub(super) fn delivered(&self, messages: u64) {
        self.delivered.inc_by(messages);
    }

    pub(super) fn round_trip(&self, took: Duration) {
        self.round_trips.note(took);
    }

    /// Whether a session that ended for `reason` ended badly, as a transport sees it: whose rights ended, who was told to go
    /// or made way did not.
    #[must_use]
    pub fn is_error(reason: &str) -> bool {
        ["aborted", "bus", "lost", "protocol", "silent", "state"].contains(&reason)
    }

    /// The round trips of pings.
    #[must_use]
    pub fn round_trips(&self) -> Sum {
        self.round_trips.sum()
    }

    /// What went over mutual TLS; who was `refused` is known elsewhere.
    #[must_use]
    pub fn transport(&self, refused: u64) -> Totals {
        let received = ["settled", "rejected", "duplicate", "withheld"].map(|word| self.outcome(word).get());
        Totals {
            // Ended before begun, so that nothing seems to have ended that did not begin.
            closed: self.served_no_more.get(),
            opened: self.served.get(),
            refused,
            received: received.iter().sum(),
            sent: self.delivered.get(),
            errors: self.errors.get(),
            latency: self.confirms.sum(),
        }
    }

    /// The counters that a session moves for each batch, looked up once.
    pub(super) fn tally(&self) -> Tally {
        Tally {
            settled: self.outcome("settled"),
            rejected: self.outcome("rejected"),
            duplicate: self.outcome("duplicate"),
            withheld: self.outcome("withheld"),
            gaps: self.gaps.clone(),
            lost: self.lost.clone(),
            confirm: self.confirm.clone(),
            confirms: Arc::clone(&self.confirms),
        }
    }

    fn outcome(&self, outcome: &'static str) -> Counter {
        self.events.get_or_create_owned(&Outcome { outcome })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets =
            [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];
        Self {
            opened: Family::default(),
            closed: Family::default(),
            active: Family::default(),
            events: Family::default(),
            gaps: Counter::default(),
            lost: Counter::default(),
            calls: Family::default(),
            dropped: Family::default(),
            confirm: Histogram::new(buckets),
            cuts: Family::default(),
            sweeps: Family::new_with_constructor(sweep),
            untracked: Gauge::default(),
            served: Counter::default(),
            served_no_more: Counter::default(),
            delivered: Counter::default(),
            errors: Counter::default(),
            round_trips: Arc::default(),
            confirms: Arc::default(),
            sites: Arc::default(),
            downlink: downlink::Metrics::default(),
        }
    }
}

/// A connection is served, until this is dropped.
#[derive(Debug)]
#[must_use = "it counts for as long as it lives"]
pub struct Served {
    untracked: Gauge,
    ended: Counter,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.untracked.dec();
        self.ended.inc();
    }
}

/// Counters of one session.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) settled: Counter,
    pub(super) rejected: Counter,
    pub(super) duplicate: Counter,
    /// Read, and dropped because the right to say it was withdrawn meanwhile.
    pub(super) withheld: Counter,
    pub(super) gaps: Counter,
    pub(super) lost: Counter,
    confirm: Histogram,
    confirms: Arc<Timing>,
}

impl Tally {
    /// A batch was confirmed so long after it was handed over.
    pub(super) fn confirmed(&self, took: Duration) {
        self.confirm.observe(took.as_secs_f64());
        self.confirms.note(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_authority_cannot_fill_the_labels() {
        let metrics = Metrics::default();
        for number in 0..1000 {
            metrics.opened(&metrics.who("r".to_owned(), &format!("site-{number}")));
        }
        assert_eq!(metrics.who("r".to_owned(), "site-3").site, "site-3");
        assert_eq!(metrics.who("r".to_owned(), "site-900").site, "other");
    }

    #[test]
    fn opened_less_closed_is_active() {
        let metrics = Metrics::default();
        let who = metrics.who("r".to_owned(), "s");
        metrics.opened(&who);
        metrics.opened(&who);
        metrics.closed(&who, "lost");
        let opened = metrics.opened.get_or_create(&who).get();
        let why = Why { role: "r".to_owned(), site: "s".to_owned(), reason: "lost" };
        let closed = metrics.closed.get_or_create(&why).get();
        assert_eq!(i64::try_from(opened - closed).unwrap(), metrics.active.get_or_create(&who).get());
    }
}
