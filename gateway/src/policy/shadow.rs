//! A second policy judged beside the one in force: what it would decide otherwise is counted and shown, nothing is enforced.
//!
//! Costs a speaker one more judgement the first time a topic is named; after that a counter, and only where the two differ.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use daemoneye_bridge::topic::{Pattern, Topic};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::{
    identity::PeerId,
    policy::{
        Policy,
        grant::{Grant, Hearing, Rules},
        metrics::{Decision, Metrics, Verb},
        permit::Collector,
        subject::Subject,
    },
    snapshot::Timestamp,
};

/// The second policy, and what it would decide otherwise.
#[derive(Debug)]
pub(super) struct Shadow {
    policy: Policy,
    since: Timestamp,
    by: String,
    metrics: Arc<Metrics>,
    /// Taken when a difference is found, not when one is counted.
    differences: Mutex<HashMap<Difference, Arc<AtomicU64>>>,
    /// Counts what found no place among them.
    others: Arc<AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Difference {
    peer: PeerId,
    verb: Verb,
    object: Box<str>,
    would: Decision,
}

/// Counts one difference. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    own: Arc<AtomicU64>,
    all: Counter,
}

impl Counted {
    pub(super) fn count(&self) {
        self.own.fetch_add(1, Relaxed);
        self.all.inc();
    }
}

impl Shadow {
    /// Most differences that are told apart: names and topics are the peers'.
    const MOST: usize = 1024;

    pub(super) fn new(policy: Policy, by: &str, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            policy,
            since: Timestamp::now(),
            by: by.to_owned(),
            metrics: Arc::clone(metrics),
            differences: Mutex::default(),
            others: Arc::default(),
        })
    }

    /// What it would grant.
    pub(super) fn second(self: &Arc<Self>, subject: &Subject) -> Second {
        let grant = Grant::of(subject.clone(), self.policy.rules());
        Second { shadow: Arc::clone(self), grant, rules: None }
    }

    /// The counter of a difference.
    fn difference(&self, peer: &PeerId, verb: Verb, object: &str, would: Decision) -> Counted {
        let key = Difference { peer: peer.clone(), verb, object: object.into(), would };
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        let own = match differences.get(&key) {
            Some(known) => Arc::clone(known),
            None if differences.len() >= Self::MOST => Arc::clone(&self.others),
            None => Arc::clone(differences.entry(key).or_default()),
        };
        drop(differences);
        Counted { own, all: self.metrics.shadow(verb, would) }
    }

    pub(super) fn view(&self) -> ShadowView {
        let differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = differences
            .iter()
            .map(|(difference, count)| DifferenceView {
                identity: difference.peer.to_string(),
                verb: difference.verb.as_str(),
                object: difference.object.to_string(),
                shadow: difference.would.as_str(),
                count: count.load(Relaxed),
            })
            .collect();
        drop(differences);
        rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.identity.cmp(&b.identity)));
        ShadowView {
            since: self.since,
            by: self.by.clone(),
            roles: self.policy.roles(),
            others: self.others.load(Relaxed),
            differences: rows,
        }
    }
}

/// What the second policy grants to one subject, or says of one speaker.
#[derive(Clone, Debug)]
pub(super) struct Second {
    shadow: Arc<Shadow>,
    /// `None` if it has no role there.
    grant: Option<Grant>,
    /// On publishing, for a speaker.
    rules: Option<Arc<Rules<Pattern>>>,
}

impl Second {
    /// The peer was let in, or not.
    pub(super) fn connect(&self, peer: &PeerId, may: bool) {
        let would = self.grant.is_some();
        if would != may {
            self.note(peer, Verb::Connect, "", would);
        }
    }

    pub(super) fn speak(&self, peer: &PeerId, collector: &str, may: bool) {
        let would = self.grant.as_ref().is_some_and(|grant| grant.speaks_for(collector));
        if would != may {
            self.note(peer, Verb::Speak, collector, would);
        }
    }

    pub(super) fn subscribe(&self, peer: &PeerId, wanted: &Pattern, may: bool) {
        let would = self.grant.as_ref().is_some_and(|grant| {
            let rules = grant.subscribe();
            matches!(rules.hear(wanted), Hearing::Allowed(_))
        });
        if would != may {
            self.note(peer, Verb::Subscribe, &wanted.to_string(), would);
        }
    }

    /// The same for one collector of the peer.
    pub(super) fn hear(&self, peer: &PeerId, collector: &str, wanted: &Pattern, may: bool) {
        let would = self.grant.as_ref().is_some_and(|grant| {
            grant.speaks_for(collector) && matches!(grant.hear(collector).hear(wanted), Hearing::Allowed(_))
        });
        if would != may {
            self.note(peer, Verb::Subscribe, &wanted.to_string(), would);
        }
    }

    pub(super) fn call(&self, peer: &PeerId, collector: &str, client: &str, may: bool) {
        let would = self.grant.as_ref().is_some_and(|grant| {
            !collector.contains('/')
                && grant.speaks_for(collector)
                && grant.call(collector).call(client).is_allowed()
        });
        // The name is the peer's own text.
        let shown: String = client.chars().take(256).collect();
        if would != may {
            self.note(peer, Verb::Call, &shown, would);
        }
    }

    /// The same for one collector.
    pub(super) fn speaker(&self, collector: &str) -> Self {
        let grant = self.grant.as_ref().filter(|grant| grant.speaks_for(collector));
        let rules = grant.map(|grant| Arc::new(grant.publish(collector)));
        Self { rules, ..self.clone() }
    }

    /// The counter of the difference, if it decides otherwise on `topic`.
    pub(super) fn publish(&self, collector: &Collector, topic: &Topic, may: bool) -> Option<Counted> {
        let would = self.rules.as_ref().is_some_and(|rules| rules.publish(topic).is_allowed());
        let differs = would != may;
        differs.then(|| {
            let would = Decision::of(would);
            self.shadow.difference(collector.owner(), Verb::Publish, topic.dotted(), would)
        })
    }

    fn note(&self, peer: &PeerId, verb: Verb, object: &str, would: bool) {
        self.shadow.difference(peer, verb, object, Decision::of(would)).count();
    }
}

/// A second policy, for people.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowView {
    /// Since when it is judged beside the one in force.
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Names of its roles.
    pub roles: Vec<String>,
    /// Decisions that would be others, each with its count; the most frequent first.
    pub differences: Vec<DifferenceView>,
    /// Count of those for which there was no room among them.
    pub others: u64,
}

/// A decision that would be another under the second policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferenceView {
    /// Whose.
    pub identity: String,
    /// `connect`, `speak`, `publish`, `subscribe` or `call`.
    pub verb: &'static str,
    /// Topic, pattern, collector or client; empty for `connect`.
    pub object: String,
    /// What the second policy says: `allow` or `deny`. The one in force says the other.
    pub shadow: &'static str,
    /// How often, for topics once a batch.
    pub count: u64,
}
