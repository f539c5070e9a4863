//! What the state counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// What the state counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    flushes: Family<FlushLabels, Counter>,
    duration: Histogram,
    forgotten: Family<ForgottenLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        Self { flushes: Family::default(), duration: Histogram::new(buckets), forgotten: Family::default() }
    }
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in [Outcome::Done, Outcome::Failed] {
            drop(metrics.flushes.get_or_create(&FlushLabels { outcome }));
        }
        for reason in [Forgotten::Cap, Forgotten::Idle] {
            drop(metrics.forgotten.get_or_create(&ForgottenLabels { reason }));
        }
        let registry = registry.sub_registry_with_prefix("state");
        registry.register("flushes", "Transactions that wrote marks", metrics.flushes.clone());
        registry.register_with_unit(
            "flush_duration",
            "Time to write the marks that had changed",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("forgotten_streams", "Streams forgotten", metrics.forgotten.clone());
        metrics
    }

    /// Counts a transaction.
    pub(super) fn flush(&self, outcome: Outcome, seconds: f64) {
        self.flushes.get_or_create(&FlushLabels { outcome }).inc();
        self.duration.observe(seconds);
    }

    /// Counts streams forgotten.
    pub(super) fn forgot(&self, reason: Forgotten, streams: usize) {
        let streams = u64::try_from(streams).unwrap_or(u64::MAX);
        self.forgotten.get_or_create(&ForgottenLabels { reason }).inc_by(streams);
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FlushLabels {
    outcome: Outcome,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Done => "done",
            Self::Failed => "failed",
        };
        word.encode(encoder)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ForgottenLabels {
    reason: Forgotten,
}

/// Why a stream was forgotten.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// Its peer has opened more streams than it may keep.
    Cap,
    /// Nobody used it for too long.
    Idle,
}

impl EncodeLabelValue for Forgotten {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Cap => "cap",
            Self::Idle => "idle",
        };
        word.encode(encoder)
    }
}
