//! What one peer may do: its roles expanded, and the verdicts on topics that it has already been given.
//!
//! Computed once for a session and generation of the policy. A [`Speaker`] judges a topic the first time it is named and
//! remembers the verdict, so that the data path pays a look-up for it. Kept true: a topic is allowed only if some rule
//! allows it and none denies it.

use std::{collections::HashMap, sync::Arc};

use daemoneye_bridge::topic::{Pattern, Topic, TopicError, is_segment};

use crate::{
    identity::PeerId,
    policy::{
        Limits,
        metrics::{Decision, Metrics, Tally, Verb},
        rule::{LONGEST_NAME, Role, Template},
    },
};

/// What a peer may do under one generation of the policy.
#[derive(Debug)]
pub struct Rights {
    peer: PeerId,
    roles: Vec<Arc<Role>>,
    limits: Limits,
    generation: u64,
    metrics: Arc<Metrics>,
}

impl Rights {
    /// Adds up the roles that match `peer`.
    ///
    /// # Errors
    ///
    /// [`Denial::Stranger`] if there is none.
    pub(crate) fn of(
        peer: &PeerId,
        roles: &[Arc<Role>],
        generation: u64,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Denial> {
        let roles: Vec<_> = roles.iter().filter(|role| role.is_of(peer)).map(Arc::clone).collect();
        if roles.is_empty() || !is_name(peer.site()) || !is_name(peer.name()) {
            return Err(Denial::Stranger);
        }
        let limits = Limits::of(roles.iter().map(|role| &role.bounds));
        Ok(Self { peer: peer.clone(), roles, limits, generation, metrics: Arc::clone(metrics) })
    }

    /// Whose rights they are.
    #[must_use]
    pub const fn peer(&self) -> &PeerId {
        &self.peer
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
        self.roles.iter().map(|role| role.name.clone()).collect()
    }

    /// The collector on whose behalf the peer publishes; empty: itself.
    ///
    /// # Errors
    ///
    /// [`Denial::Collector`], if its roles do not let it speak for that name.
    pub fn speaker(&self, collector: &str) -> Result<Speaker, Denial> {
        let name = if collector.is_empty() { self.peer.name() } else { collector };
        let may = name == self.peer.name()
            || (is_name(name)
                && self.roles.iter().flat_map(|role| &role.speaks_for).any(|glob| glob.matches(name)));
        let tally = Tally::new(&self.metrics, &self.label(), Verb::Publish);
        if !may {
            tally.count(Decision::Deny, 1);
            return Err(Denial::Collector);
        }
        let site = self.peer.site();
        let expand = |templates: fn(&Role) -> &[Template]| expand(&self.roles, templates, site, name);
        Ok(Speaker {
            collector: Arc::new(Collector { owner: self.peer.clone(), name: name.into() }),
            allow: expand(|role| &role.publish),
            deny: expand_deny(&self.roles, |role| &role.deny_publish, site, name),
            json: expand(|role| &role.json),
            known: HashMap::new(),
            tally,
        })
    }

    /// Lets the peer hear `patterns`, if each is covered by a rule and none meets a denial.
    ///
    /// # Errors
    ///
    /// [`Denial::Pattern`] names the first that is not.
    pub fn subscribe(&self, patterns: Vec<Pattern>) -> Result<SubscribePermit, Denial> {
        let (site, name) = (self.peer.site(), self.peer.name());
        let allow = expand(&self.roles, |role| &role.subscribe, site, name);
        let deny = expand_deny(&self.roles, |role| &role.deny_subscribe, site, name);
        let refused = patterns.iter().find(|wanted| {
            !allow.iter().any(|rule| rule.covers(wanted)) || deny.iter().any(|rule| rule.overlaps(wanted))
        });
        let tally = Tally::new(&self.metrics, &self.label(), Verb::Subscribe);
        if let Some(pattern) = refused {
            tally.count(Decision::Deny, 1);
            return Err(Denial::Pattern(pattern.clone()));
        }
        tally.count(Decision::Allow, 1);
        Ok(SubscribePermit { peer: self.peer.clone(), patterns })
    }

    /// The role that stands for all of them in metrics: the first in the file.
    #[must_use]
    pub fn label(&self) -> String {
        self.roles.first().map(|role| role.name.clone()).unwrap_or_default()
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && is_segment(name)
}

fn expand(roles: &[Arc<Role>], of: fn(&Role) -> &[Template], site: &str, name: &str) -> Vec<Pattern> {
    let templates = roles.iter().flat_map(|role| of(role));
    templates.filter_map(|template| template.expand(site, name).ok()).collect()
}

/// Like [`expand`]; but should a denial not expand, everything is denied.
fn expand_deny(roles: &[Arc<Role>], of: fn(&Role) -> &[Template], site: &str, name: &str) -> Vec<Pattern> {
    let templates = roles.iter().flat_map(|role| of(role));
    templates.map(|template| template.expand(site, name).unwrap_or_else(|_| Pattern::all())).collect()
}

/// A collector, and the peer that may speak for it. Made only by [`Rights::speaker`].
#[derive(Debug, PartialEq, Eq)]
pub struct Collector {
    owner: PeerId,
    name: Box<str>,
}

impl Collector {
    /// The peer whose certificate vouches for what the collector says.
    #[must_use]
    pub const fn owner(&self) -> &PeerId {
        &self.owner
    }

    /// Its name within the owner's site.
    #[must_use]
    pub const fn name(&self) -> &str {
        &self.name
    }

    /// Whether the owner speaks for somebody else.
    #[must_use]
    pub fn is_asserted(&self) -> bool {
        *self.name != *self.owner.name()
    }
}

/// One collector on whose behalf a session publishes, and what it has been told about topics.
#[derive(Debug)]
pub struct Speaker {
    collector: Arc<Collector>,
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    json: Vec<Pattern>,
    /// Verdicts by the topic's text as it came. Bounded, for the texts are the peer's.
    known: HashMap<Box<str>, Verdict>,
    tally: Tally,
}

/// What was found about a topic.
#[derive(Clone, Debug)]
enum Verdict {
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
        PublishPermit { collector: Arc::clone(&self.collector), topics: Vec::new() }
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
        if let Some(verdict) = self.known.get(topic) {
            return permit.add(verdict);
        }
        let verdict = self.judge(topic);
        let place = permit.add(&verdict);
        if self.known.len() >= Self::MOST_KNOWN {
            self.known.clear();
        }
        // A text longer than any topic is not worth the memory.
        if !matches!(verdict, Verdict::Deny(Denial::Malformed(TopicError::TooLong))) {
            self.known.insert(topic.into(), verdict);
        }
        place
    }

    /// Counts decisions, an event each.
    pub fn count(&self, allowed: u64, denied: u64) {
        self.tally.count(Decision::Allow, allowed);
        self.tally.count(Decision::Deny, denied);
    }

    fn judge(&self, text: &str) -> Verdict {
        let topic = match Topic::parse(text) {
            Ok(topic) => topic,
            Err(error) => return Verdict::Deny(Denial::Malformed(error)),
        };
        let matches = |rules: &[Pattern]| rules.iter().any(|rule| rule.matches(&topic));
        if matches(&self.deny) || !matches(&self.allow) {
            return Verdict::Deny(Denial::Topic);
        }
        let payload = if matches(&self.json) { Payload::Json } else { Payload::Opaque };
        Verdict::Allow { topic, payload }
    }
}

/// What a payload must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Well-formed JSON.
    Json,
    /// Anything.
    Opaque,
}

/// Where an allowed topic stands in its permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the topic.
    pub index: u32,
    /// What its payloads must be.
    pub payload: Payload,
}

/// Permission for one collector to publish one batch on certain topics. The events of the batch name topics by their place
/// here, so that it cannot be spent on another one.
#[derive(Debug)]
#[must_use = "a permit that is not spent was checked for nothing"]
pub struct PublishPermit {
    collector: Arc<Collector>,
    topics: Vec<Topic>,
}

impl PublishPermit {
    fn add(&mut self, verdict: &Verdict) -> Result<Place, Denial> {
        let (topic, payload) = match verdict {
            Verdict::Allow { topic, payload } => (topic, *payload),
            Verdict::Deny(denial) => return Err(denial.clone()),
        };
        let known = self.topics.iter().position(|known| known == topic);
        let index = known.unwrap_or_else(|| {
            self.topics.push(topic.clone());
            self.topics.len() - 1
        });
        Ok(Place { index: u32::try_from(index).unwrap_or(u32::MAX), payload })
    }

    /// Who may publish.
    #[must_use]
    pub const fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    /// How many topics it allows.
    #[must_use]
    pub const fn topics(&self) -> usize {
        self.topics.len()
    }

    /// Spends it: the topics that may be published on.
    #[must_use]
    pub fn spend(self) -> Vec<Topic> {
        self.topics
    }
}

/// Permission for a peer to hear certain patterns.
#[derive(Debug)]
#[must_use = "a permit that is not spent was checked for nothing"]
pub struct SubscribePermit {
    peer: PeerId,
    patterns: Vec<Pattern>,
}

impl SubscribePermit {
    /// Spends it: who may hear what.
    #[must_use]
    pub fn spend(self) -> (PeerId, Vec<Pattern>) {
        (self.peer, self.patterns)
    }
}

/// Why something may not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// The peer may not speak for that collector.
    #[error("the policy does not let this peer speak for that collector")]
    Collector,
    /// The topic is not well-formed.
    #[error("the topic is not well-formed: {0}")]
    Malformed(TopicError),
    /// The peer may not hear this pattern.
    #[error("the policy does not let this peer hear `{0}`")]
    Pattern(Pattern),
    /// No role matches the peer.
    #[error("no role of the policy matches this peer")]
    Stranger,
    /// The collector may not publish this topic.
    #[error("the policy does not let this collector publish the topic")]
    Topic,
}
