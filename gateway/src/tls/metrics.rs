//! What the TLS stage counts.

use std::time::{Duration, SystemTime};

use daemoneye_bridge::trust::{
    Certificate, LoadError, Material, RefusalReason, Reload,
    revocation::{ListStatus, ListWord},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// What the TLS stage counts. Every handshake that begins ends in one outcome; a refused one also in one reason.
#[derive(Clone, Debug)]
pub struct Metrics {
    handshakes: Family<Handshake, Counter>,
    duration: Family<Handshake, Histogram, fn() -> Histogram>,
    refusals: Family<Refused, Counter>,
    reloads: Family<Reloaded, Counter>,
    expiry: Family<Expiry, Gauge>,
    lists: Family<ListsAre, Gauge>,
    revoked: Gauge,
    next_update: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            handshakes: Family::default(),
            duration: Family::new_with_constructor(histogram),
            refusals: Family::default(),
            reloads: Family::default(),
            expiry: Family::default(),
            lists: Family::default(),
            revoked: Gauge::default(),
            next_update: Gauge::default(),
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0])
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in Outcome::ALL {
            drop(metrics.handshakes.get_or_create(&outcome.label()));
            drop(metrics.duration.get_or_create(&outcome.label()));
        }
        for &reason in RefusalReason::ALL {
            drop(metrics.refusals.get_or_create(&Refused { reason: reason.as_str() }));
        }
        for outcome in ["changed", "refused", "unchanged"] {
            drop(metrics.reloads.get_or_create(&Reloaded { outcome }));
        }
        let registry = registry.sub_registry_with_prefix("tls");
        registry.register("handshakes", "Handshakes ended", metrics.handshakes.clone());
        registry.register_with_unit(
            "handshake_duration",
            "Time from acceptance to the end of the handshake",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("refusals", "Connections turned away, by reason", metrics.refusals.clone());
        registry.register("reloads", "Reloads of the own certificates", metrics.reloads.clone());
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the own certificate, and the first of the authorities, expires",
            Unit::Seconds,
            metrics.expiry.clone(),
        );
        registry.register("revocation_lists", "Revocation lists, by how they are", metrics.lists.clone());
        registry.register("revoked_certificates", "Entries of all revocation lists", metrics.revoked.clone());
        registry.register_with_unit(
            "revocation_next_update_timestamp",
            "When the first of the revocation lists goes stale; 0 without one",
            Unit::Seconds,
            metrics.next_update.clone(),
        );
        metrics.lists(&[]);
        metrics
    }

    pub(super) fn handshake(&self, outcome: Outcome, took: Duration) {
        self.handshakes.get_or_create(&outcome.label()).inc();
        self.duration.get_or_create(&outcome.label()).observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, reason: RefusalReason) {
        self.refusals.get_or_create(&Refused { reason: reason.as_str() }).inc();
    }

    pub(super) fn reload(&self, outcome: &Result<Reload, LoadError>) {
        let outcome = match outcome {
            Ok(Reload::Changed { .. }) => "changed",
            Ok(Reload::Unchanged) => "unchanged",
            Err(_) => "refused",
        };
        self.reloads.get_or_create(&Reloaded { outcome }).inc();
    }

    pub(super) fn material(&self, material: &Material) {
        let show = |role, moment| {
            self.expiry.get_or_create(&Expiry { role }).set(seconds(moment));
        };
        let chain = std::iter::once(material.leaf()).chain(material.intermediates());
        let authorities = material.anchors().iter().map(|anchor| anchor.certificate().not_after());
        if let Some(first) = chain.map(Certificate::not_after).min() {
            show("server", first);
        }
        if let Some(first) = authorities.min() {
            show("ca", first);
        }
    }

    pub(super) fn lists(&self, lists: &[ListStatus]) {
        for word in [ListWord::Fresh, ListWord::Grace, ListWord::Stale, ListWord::Waiting] {
            let many = lists.iter().filter(|list| list.word == word).count();
            let label = ListsAre { status: word.as_str() };
            self.lists.get_or_create(&label).set(i64::try_from(many).unwrap_or(i64::MAX));
        }
        let entries: usize = lists.iter().map(|list| list.entries).sum();
        self.revoked.set(i64::try_from(entries).unwrap_or(i64::MAX));
        let first =
            lists.iter().filter(|list| list.word != ListWord::Waiting).map(|list| list.next_update).min();
        self.next_update.set(first.map_or(0, seconds));
    }
}

fn seconds(moment: SystemTime) -> i64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handshake {
    outcome: &'static str,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Refused,
    TimedOut,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::TimedOut];

    const fn label(self) -> Handshake {
        let outcome = match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
        };
        Handshake { outcome }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reloaded {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ListsAre {
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Expiry {
    role: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_exported_under_its_name_from_zero() {
        let mut registry = Registry::with_prefix("daemoneye_gateway");
        let metrics = Metrics::register(&mut registry);
        metrics.handshake(Outcome::Refused, Duration::from_millis(3));
        metrics.refused(RefusalReason::UnknownIssuer);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "daemoneye_gateway_tls_handshakes_total{outcome=\"refused\"} 1",
            "daemoneye_gateway_tls_handshakes_total{outcome=\"timed_out\"} 0",
            "daemoneye_gateway_tls_handshake_duration_seconds_count{outcome=\"refused\"} 1",
            "daemoneye_gateway_tls_refusals_total{reason=\"unknown_issuer\"} 1",
            "daemoneye_gateway_tls_reloads_total{outcome=\"changed\"} 0",
            "daemoneye_gateway_tls_revocation_lists{status=\"stale\"} 0",
            "daemoneye_gateway_tls_revoked_certificates 0",
            "daemoneye_gateway_tls_revocation_next_update_timestamp_seconds 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
