//! What a topic means to a publisher: its route and who hears it, looked up once per topic and generation of the table.

use std::{collections::HashMap, sync::Arc};

use crate::{
    bus::{
        Confirm, Unheard,
        embedded::{Core, member::Member},
    },
    topic::{Pattern, Topic},
};

/// Most topics remembered; beyond that all are looked up again.
const REMEMBERED: usize = 16_384;

/// What a topic means.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Who hears it.
    pub(super) audience: Box<[Arc<Member>]>,
    /// Who hears it too, if it is published.
    pub(super) overhearers: Box<[Arc<Member>]>,
    pub(super) confirm: Confirm,
    pub(super) unheard: Unheard,
    /// Number of its route, for [`Resolver::pattern`].
    pub(super) route: usize,
    /// Whether some subscription overlaps its route.
    pub(super) heard: bool,
}

impl Resolved {
    /// Whether its batches wait for a subscriber.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.unheard, Unheard::Hold) && !self.heard
    }

    /// Whether it should not be published now: the table will stir when it may.
    pub(super) fn must_wait(&self) -> bool {
        let gone = !self.audience.is_empty() && self.audience.iter().all(|member| member.is_closed());
        let counts = |member: &&Arc<Member>| member.is_in_process() || self.confirm == Confirm::Socket;
        gone || self.audience.iter().filter(counts).any(|member| member.is_full())
    }
}

/// A memory of topics.
#[derive(Debug)]
pub(super) struct Resolver {
    core: Arc<Core>,
    topics: HashMap<Topic, (u64, Arc<Resolved>)>,
    /// The routes seen so far, and whether they were heard in a generation.
    routes: Vec<(Pattern, u64, bool)>,
}

impl Resolver {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, topics: HashMap::new(), routes: Vec::new() }
    }

    /// What `topic` means now.
    pub(super) fn resolve(&mut self, topic: &Topic) -> Arc<Resolved> {
        let now = self.core.table.generation();
        if let Some((generation, resolved)) = self.topics.get(topic)
            && *generation == now
        {
            return Arc::clone(resolved);
        }
        let audience = self.core.table.audience(topic.slashed());
        let overhearers = self.core.table.overhearers(topic.slashed());
        let core = Arc::clone(&self.core);
        let rule = core.routes.of(topic);
        let route = self.number(&rule.pattern);
        let heard = !audience.is_empty() || self.is_heard(route, now);
        let (confirm, unheard) = (rule.confirm, rule.unheard);
        let resolved = Arc::new(Resolved { audience, overhearers, confirm, unheard, route, heard });
        if self.topics.len() >= REMEMBERED {
            self.topics.clear();
        }
        self.topics.insert(topic.clone(), (now, Arc::clone(&resolved)));
        resolved
    }

    /// The pattern of a route.
    pub(super) fn pattern(&self, route: usize) -> Option<&Pattern> {
        self.routes.get(route).map(|(pattern, ..)| pattern)
    }

    fn number(&mut self, pattern: &Pattern) -> usize {
        self.routes.iter().position(|(known, ..)| known == pattern).unwrap_or_else(|| {
            // No generation is that high: not yet asked.
            self.routes.push((pattern.clone(), u64::MAX, false));
            self.routes.len() - 1
        })
    }

    fn is_heard(&mut self, route: usize, now: u64) -> bool {
        let Some((pattern, generation, heard)) = self.routes.get_mut(route) else { return false };
        if *generation != now {
            *heard = self.core.table.hears(pattern);
            *generation = now;
        }
        *heard
    }
}
