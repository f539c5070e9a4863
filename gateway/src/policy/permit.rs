//! Permits: proof that the policy allowed something. Made here and in [`crate::policy::downlink`] only, spent by
//! [`crate::bus`]; none can be copied.

use std::sync::Arc;

use daemoneye_bridge::topic::{Pattern, Topic};

use crate::{
    identity::PeerId,
    policy::verdict::{Denial, Verdict},
};

/// A collector, and the peer that may speak for it. Made only by [`crate::policy::Rights`].
#[derive(Debug, PartialEq, Eq)]
pub struct Collector {
    owner: PeerId,
    /// Of another gateway, whose events the owner relays.
    site: Option<Box<str>>,
    name: Box<str>,
}

impl Collector {
    /// `site/name` is a collector of another gateway.
    pub(super) fn new(owner: PeerId, collector: &str) -> Arc<Self> {
        let (site, name) =
            collector.split_once('/').map_or((None, collector), |(site, name)| (Some(site), name));
        Arc::new(Self { owner, site: site.map(Into::into), name: name.into() })
    }

    /// The peer whose certificate vouches for what the collector says.
    #[must_use]
    pub const fn owner(&self) -> &PeerId {
        &self.owner
    }

    /// Its site.
    #[must_use]
    pub fn site(&self) -> &str {
        self.site.as_deref().unwrap_or_else(|| self.owner.site())
    }

    /// Whether it is another gateway's, whose events the owner relays.
    #[must_use]
    pub const fn is_relayed(&self) -> bool {
        self.site.is_some()
    }

    /// Its name within its site.
    #[must_use]
    pub const fn name(&self) -> &str {
        &self.name
    }

    /// The collector itself, as the downlink is judged: its name, in its owner's site.
    #[must_use]
    pub fn id(&self) -> PeerId {
        // The name has been judged to be one.
        PeerId::new(self.owner.site(), &self.name).unwrap_or_else(|_| self.owner.clone())
    }

    /// Whether the owner speaks for somebody else.
    #[must_use]
    pub fn is_asserted(&self) -> bool {
        self.is_relayed() || *self.name != *self.owner.name()
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
    pub(super) collector: Arc<Collector>,
    topics: Vec<Topic>,
}

impl PublishPermit {
    /// One that allows nothing yet.
    pub(super) const fn of(collector: Arc<Collector>) -> Self {
        Self { collector, topics: Vec::new() }
    }

    pub(super) fn add(&mut self, verdict: &Verdict) -> Result<Place, Denial> {
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
    pub(super) peer: PeerId,
    pub(super) patterns: Vec<Pattern>,
}

impl SubscribePermit {
    /// Spends it: who may hear what.
    #[must_use]
    pub fn spend(self) -> (PeerId, Vec<Pattern>) {
        (self.peer, self.patterns)
    }
}

/// Permission for a collector to call one client of the bus once.
#[derive(Debug)]
#[must_use = "a permit that is not spent was checked for nothing"]
pub struct CallPermit {
    pub(super) collector: Arc<Collector>,
    pub(super) client: Box<str>,
}

impl CallPermit {
    /// Spends it: who may call whom.
    #[must_use]
    pub fn spend(self) -> (Arc<Collector>, Box<str>) {
        (self.collector, self.client)
    }
}
