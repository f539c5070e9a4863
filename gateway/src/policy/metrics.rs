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
    shadow: Family<ShadowLabels, Counter>,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("policy");
        registry.register("decisions", "Decisions of the policy, an event each", metrics.decisions.clone());
        registry.register(
            "shadow_differences",
            "Decisions that would be others under the policy in the shadow, a topic of a batch each",
            metrics.shadow.clone(),
        );
        metrics
    }

    /// Counts somebody whom no role matches.
    pub(super) fn stranger(&self) {
        Tally::new(self, "", Verb::Connect).count(Decision::Deny, 1);
    }

    /// Counts a decision on the way down.
    pub(super) fn downlink(&self, decision: Decision) {
        Tally::new(self, "", Verb::Downlink).count(decision, 1);
    }

    /// The counter of decisions that would be `would` under the policy in the shadow.
    pub(super) fn shadow(&self, verb: Verb, would: Decision) -> Counter {
        self.shadow.get_or_create_owned(&ShadowLabels { verb: verb.as_str(), shadow: would.as_str() })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    role: String,
    verb: &'static str,
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabels {
    verb: &'static str,
    shadow: &'static str,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    /// To call a client of the bus.
    Call,
    /// To connect at all.
    Connect,
    /// To reach a collector from the bus.
    Downlink,
    /// To publish an event.
    Publish,
    /// To speak for a collector.
    Speak,
    /// To hear patterns.
    Subscribe,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Connect => "connect",
            Self::Downlink => "downlink",
            Self::Publish => "publish",
            Self::Speak => "speak",
            Self::Subscribe => "subscribe",
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Decision {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
}

impl Decision {
    pub(super) const fn of(may: bool) -> Self {
        if may { Self::Allow } else { Self::Deny }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The two counters of one role and verb, looked up once.
#[derive(Debug)]
pub(super) struct Tally {
    allow: Counter,
    deny: Counter,
}

impl Tally {
    pub(super) fn new(metrics: &Metrics, role: &str, verb: Verb) -> Self {
        let counter = |decision: Decision| {
            let labels = Labels { role: role.to_owned(), verb: verb.as_str(), decision: decision.as_str() };
            metrics.decisions.get_or_create_owned(&labels)
        };
        Self { allow: counter(Decision::Allow), deny: counter(Decision::Deny) }
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
