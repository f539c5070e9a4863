//! What is counted of held commands.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;

use crate::held::End;

/// Counters of held commands.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    held: Gauge,
    ended: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What became of commands since the process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Their collectors have them.
    pub received: u64,
    /// Their time was over before.
    pub expired: u64,
    /// An operator took them back.
    pub cancelled: u64,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.counts();
        let registry = registry.sub_registry_with_prefix("commands");
        registry.register("held", "Commands held for collectors", metrics.held.clone());
        registry.register("ended", "Commands that are no longer held", metrics.ended.clone());
        metrics
    }

    pub(super) fn holds(&self, commands: usize) {
        self.held.set(i64::try_from(commands).unwrap_or(i64::MAX));
    }

    pub(super) fn ended(&self, end: End) {
        self.of(end).inc();
    }

    fn of(&self, end: End) -> Counter {
        let outcome = match end {
            End::Cancelled => "cancelled",
            End::Expired => "expired",
            End::Received => "received",
        };
        self.ended.get_or_create_owned(&Outcome { outcome })
    }

    pub(super) fn counts(&self) -> Counts {
        let [received, expired, cancelled] =
            [End::Received, End::Expired, End::Cancelled].map(|end| self.of(end).get());
        Counts { received, expired, cancelled }
    }
}
