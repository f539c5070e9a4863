//! What one peer may do: the verdicts on topics that it has already been given.
//!
//! Computed once for a session and generation of the policy. A [`Speaker`] judges a topic the first time it is named and
//! remembers the verdict, so that the data path pays a look-up for it. Kept true: a permit is made only where
//! [`crate::policy::grant`] rules that it may be.

use std::{collections::HashMap, fmt, sync::Arc};

use daemoneye_bridge::topic::{Pattern, Topic, TopicError};

use crate::{
    identity::PeerId,
    policy::{
        Limits,
        fleet::Tenure,
        grant::{Grant, Hearing, Rules, is_name},
        metrics::{Decision, Metrics, Tally, Verb},
        permit::{CallPermit, Collector, Payload, Place, PublishPermit, SubscribePermit},
        rule::Role,
        shadow::{Counted, Second},
        subject::Subject,
    },
};

/// What a peer may do under one generation of the policy.
#[derive(Debug)]
pub struct Rights {
    pub(super) grant: Grant,
    limits: Limits,
    generation: u64,
    metrics: Arc<Metrics>,
    /// Shows that somebody has them, as long as they live.
    tenure: Option<Arc<Tenure>>,
    /// What a second policy would grant.
    second: Option<Second>,
}

impl Rights {
    /// Adds up the roles that match `subject`.
    ///
    /// # Errors
    ///
    /// [`Denial::Stranger`] if there is none.
    pub(crate) fn of(
        subject: impl Into<Subject>,
        roles: &[Arc<Role>],
        generation: u64,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Denial> {
        let subject = subject.into();
        if !is_name(subject.id().site()) || !is_name(subject.id().name()) {
            return Err(Denial::Stranger);
        }
        let grant = Grant::of(subject, roles).ok_or(Denial::Stranger)?;
        let limits = grant.limits();
        Ok(Self { grant, limits, generation, metrics: Arc::clone(metrics), tenure: None, second: None })
    }

    /// The same, held by somebody, and judged by a second policy too.
    pub(super) fn held(mut self, tenure: Arc<Tenure>, second: Option<Second>) -> Self {
        self.tenure = Some(tenure);
        self.second = second;
        self
    }

    pub(super) const fn tenure(&self) -> Option<&Arc<Tenure>> {
        self.tenure.as_ref()
    }

    /// Whose rights they are.
    #[must_use]
    pub const fn peer(&self) -> &PeerId {
        self.grant.peer()
    }

    pub(super) const fn subject(&self) -> &Subject {
        self.grant.subject()
    }

    /// Which generation of the policy gave them.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The bounds in force.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Names of the roles that the peer has, in the order of the file; the first is its label in metrics.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        self.grant.roles().iter().map(|role| role.name.clone()).collect()
    }

    /// The collector on whose behalf the peer publishes; empty: itself.
    ///
    /// # Errors
    ///
    /// [`Denial::Collector`], if its roles do not let it speak for that name.
    pub fn speaker(&self, collector: &str) -> Result<Speaker, Denial> {
        let name = if collector.is_empty() { self.peer().name() } else { collector };
        // A slash means another gateway's collector, which this is not.
        self.speak(if name.contains('/') { "/" } else { name })
    }

    /// A collector of another gateway whose events the peer relays.
    ///
    /// # Errors
    ///
    /// [`Denial::Collector`], if its roles do not let it relay that collector's.
    pub fn relay(&self, site: &str, name: &str) -> Result<Speaker, Denial> {
        self.speak(&format!("{site}/{name}"))
    }

    fn speak(&self, name: &str) -> Result<Speaker, Denial> {
        let may = self.grant.speaks_for(name);
        if let Some(second) = &self.second {
            second.speak(self.peer(), name, may);
        }
        let tally = self.tally(Verb::Publish);
        if !may {
            tally.count(Decision::Deny, 1);
            return Err(Denial::Collector);
        }
        Ok(Speaker {
            collector: Collector::new(self.peer().clone(), name),
            rules: self.grant.publish(name),
            json: self.grant.json(name),
            known: HashMap::new(),
            tally,
            second: self.second.as_ref().map(|second| second.speaker(name)),
        })
    }

    /// The collector for which the peer may be addressed, sent to and called; empty: itself.
    ///
    /// # Errors
    ///
    /// [`Denial::Collector`], if its roles do not let it speak for that name.
    pub fn collector(&self, name: &str) -> Result<Arc<Collector>, Denial> {
        let name = if name.is_empty() { self.peer().name() } else { name };
        // A right to relay what collectors of other gateways publish is none to their names here.
        if name.contains('/') {
            return Err(Denial::Collector);
        }
        let may = self.grant.speaks_for(name);
        if let Some(second) = &self.second {
            second.speak(self.peer(), name, may);
        }
        if may { Ok(Collector::new(self.peer().clone(), name)) } else { Err(Denial::Collector) }
    }

    /// Lets a collector hear those of `patterns` that the rules cover and no denial meets, each judged by itself.
    pub fn hear(
        &self,
        collector: &Collector,
        patterns: Vec<Pattern>,
    ) -> (SubscribePermit, Vec<(Pattern, Denial)>) {
        let rules = self.grant.hear(collector.name());
        let tally = self.tally(Verb::Subscribe);
        let (mut allowed, mut refused) = (Vec::new(), Vec::new());
        for wanted in patterns {
            let unheard = Unheard::of(&wanted, &rules);
            if let Some(second) = &self.second {
                second.hear(self.peer(), collector.name(), &wanted, unheard.is_none());
            }
            tally.count(Decision::of(unheard.is_none()), 1);
            match unheard {
                None => allowed.push(wanted),
                Some(unheard) => refused.push((wanted, Denial::Pattern(unheard))),
            }
        }
        (SubscribePermit { peer: collector.id(), patterns: allowed }, refused)
    }

    /// Lets the peer hear `patterns`, if the rules cover each and no denial meets it.
    ///
    /// # Errors
    ///
    /// [`Denial::Pattern`] names the first that is not, and why.
    pub fn subscribe(&self, patterns: Vec<Pattern>) -> Result<SubscribePermit, Denial> {
        let rules = self.grant.subscribe();
        let refused = patterns.iter().find_map(|wanted| Unheard::of(wanted, &rules));
        if let Some(second) = &self.second {
            for wanted in &patterns {
                second.subscribe(self.peer(), wanted, Unheard::of(wanted, &rules).is_none());
            }
        }
        let tally = self.tally(Verb::Subscribe);
        if let Some(unheard) = refused {
            tally.count(Decision::Deny, 1);
            return Err(Denial::Pattern(unheard));
        }
        tally.count(Decision::Allow, 1);
        if let Some(tenure) = &self.tenure {
            tenure.hears(&patterns);
        }
        Ok(SubscribePermit { peer: self.peer().clone(), patterns })
    }

    /// Lets a collector for which the peer may speak, itself if empty, call a client of the bus.
    ///
    /// # Errors
    ///
    /// [`Denial::Collector`], or [`Denial::Client`] if no rule allows it or one denies it.
    pub fn call(&self, collector: &str, client: &str) -> Result<CallPermit, Denial> {
        let name = if collector.is_empty() { self.peer().name() } else { collector };
        let denial = if name.contains('/') || !self.grant.speaks_for(name) {
            Some(Denial::Collector)
        } else if self.grant.call(name).call(client).is_allowed() {
            None
        } else {
            Some(Denial::Client)
        };
        if let Some(second) = &self.second {
            second.call(self.peer(), name, client, denial.is_none());
        }
        let tally = self.tally(Verb::Call);
        if let Some(denial) = denial {
            tally.count(Decision::Deny, 1);
            return Err(denial);
        }
        tally.count(Decision::Allow, 1);
        Ok(CallPermit { collector: Collector::new(self.peer().clone(), name), client: client.into() })
    }

    pub(super) fn tally(&self, verb: Verb) -> Tally {
        Tally::new(&self.metrics, &self.label(), verb)
    }

    /// The role that stands for all of them in metrics: the first in the file.
    #[must_use]
    pub fn label(&self) -> String {
        self.grant.roles().first().map(|role| role.name.clone()).unwrap_or_default()
    }
}

/// One collector on whose behalf a session publishes, and what it has been told about topics.
#[derive(Debug)]
pub struct Speaker {
    collector: Arc<Collector>,
    rules: Rules<Pattern>,
    json: Vec<Pattern>,
    /// Verdicts by the topic's text as it came. Bounded, for the texts are the peer's.
    known: HashMap<Box<str>, Known>,
    tally: Tally,
    /// What a second policy says of the same topics.
    second: Option<Second>,
}

/// What was found about a topic.
#[derive(Debug)]
struct Known {
    verdict: Verdict,
    /// Counts each time that a second policy would have decided otherwise.
    differs: Option<Counted>,
}

impl Known {
    fn note(&self) {
        if let Some(counted) = &self.differs {
            counted.count();
        }
    }
}

/// Whether a topic may be published on.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Allow { topic: Topic, payload: Payload },
    Deny(Denial),
}

impl Speaker {
    /// Most topics whose verdict is remembered; the few dozen of a real collector fit many times over.
    const MOST_KNOWN: usize = 1024;

    /// Who speaks.
    #[must_use]
    pub const fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    /// A permit that allows nothing yet.
    pub fn permit(&self) -> PublishPermit {
        PublishPermit::of(Arc::clone(&self.collector))
    }

    /// Adds `topic` to `permit`, which must be of this speaker, and says where it stands there.
    ///
    /// # Errors
    ///
    /// [`Denial::Malformed`] or [`Denial::Topic`]; the permit is as it was.
    pub fn allow(&mut self, permit: &mut PublishPermit, topic: &str) -> Result<Place, Denial> {
        if !Arc::ptr_eq(&self.collector, &permit.collector) {
            return Err(Denial::Collector);
        }
        if let Some(known) = self.known.get(topic) {
            known.note();
            return permit.add(&known.verdict);
        }
        let known = self.judge(topic);
        known.note();
        let place = permit.add(&known.verdict);
        if self.known.len() >= Self::MOST_KNOWN {
            self.known.clear();
        }
        // A text longer than any topic is not worth the memory.
        if !matches!(known.verdict, Verdict::Deny(Denial::Malformed(TopicError::TooLong))) {
            self.known.insert(topic.into(), known);
        }
        place
    }

    /// Counts decisions, an event each.
    pub fn count(&self, allowed: u64, denied: u64) {
        self.tally.count(Decision::Allow, allowed);
        self.tally.count(Decision::Deny, denied);
    }

    fn judge(&self, text: &str) -> Known {
        let topic = match Topic::parse(text) {
            Ok(topic) => topic,
            Err(error) => return Known { verdict: Verdict::Deny(Denial::Malformed(error)), differs: None },
        };
        let may = self.rules.publish(&topic).is_allowed();
        let second = self.second.as_ref();
        let differs = second.and_then(|second| second.publish(&self.collector, &topic, may));
        if !may {
            return Known { verdict: Verdict::Deny(Denial::Topic), differs };
        }
        let is_json = self.json.iter().any(|rule| rule.matches(&topic));
        let payload = if is_json { Payload::Json } else { Payload::Opaque };
        Known { verdict: Verdict::Allow { topic, payload }, differs }
    }
}

/// Why something may not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// The peer may not call that client of the bus.
    #[error("the policy does not let this peer call that client")]
    Client,
    /// The peer may not speak for that collector.
    #[error("the policy does not let this peer speak for that collector")]
    Collector,
    /// The local client may not reach that collector.
    #[error("the policy does not let this client reach that collector")]
    Downlink,
    /// The topic is not well-formed.
    #[error("the topic is not well-formed: {0}")]
    Malformed(TopicError),
    /// The peer may not hear this pattern.
    #[error("the policy does not let this peer hear {0}")]
    Pattern(Unheard),
    /// No role matches the peer.
    #[error("no role of the policy matches this peer")]
    Stranger,
    /// The collector may not publish this topic.
    #[error("the policy does not let this collector publish the topic")]
    Topic,
}

/// A pattern that may not be heard, and what of it is at fault. Says no more of the policy than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    wanted: Pattern,
    part: Pattern,
    is_denied: bool,
}

impl Unheard {
    fn of(wanted: &Pattern, rules: &Rules<Pattern>) -> Option<Self> {
        let (part, is_denied) = match rules.hear(wanted) {
            Hearing::Allowed(_) => return None,
            Hearing::Denied { common, .. } => (common, true),
            Hearing::Uncovered(part) => (part, false),
        };
        Some(Self { wanted: wanted.clone(), part, is_denied })
    }

    /// The pattern that was asked for.
    #[must_use]
    pub const fn wanted(&self) -> &Pattern {
        &self.wanted
    }

    /// The part of it that may not be heard.
    #[must_use]
    pub const fn part(&self) -> &Pattern {
        &self.part
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, part, is_denied } = self;
        write!(f, "`{wanted}`")?;
        match (part.covers(wanted), is_denied) {
            (true, true) => f.write_str(", which a rule denies"),
            (false, true) => {
                write!(f, ", of which a rule denies `{part}`; ask for patterns that leave that out")
            }
            (true, false) => f.write_str(", which no rule allows"),
            (false, false) => write!(f, ", of which no rule allows `{part}`; ask for less"),
        }
    }
}
