//! What the policy counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Counters of the policy. Labels are role names, of which a policy has few.
#[derive(Debug, Default)]
pub struct Metrics {
    decisions: Family<Labels, Counter>,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("policy");
        registry.register("decisions", "Decisions of the policy, an event each", metrics.decisions.clone());
        metrics
    }

    /// Counts somebody whom no role matches.
    pub(super) fn stranger(&self) {
        Tally::new(self, "", Verb::Connect).count(Decision::Deny, 1);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    role: String,
    verb: &'static str,
    decision: &'static str,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    /// To connect at all.
    Connect,
    /// To publish an event.
    Publish,
    /// To hear patterns.
    Subscribe,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decision {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
}

/// The two counters of one role and verb, looked up once.
#[derive(Debug)]
pub(super) struct Tally {
    allow: Counter,
    deny: Counter,
}

impl Tally {
    pub(super) fn new(metrics: &Metrics, role: &str, verb: Verb) -> Self {
        let counter = |decision| {
            let labels = Labels { role: role.to_owned(), verb: verb.as_str(), decision };
            metrics.decisions.get_or_create_owned(&labels)
        };
        Self { allow: counter("allow"), deny: counter("deny") }
    }

    pub(super) fn count(&self, decision: Decision, many: u64) {
        // The counters are shared by all sessions of a role: not touched for nothing.
        if many == 0 {
            return;
        }
        match decision {
            Decision::Allow => self.allow.inc_by(many),
            Decision::Deny => self.deny.inc_by(many),
        };
    }
}
