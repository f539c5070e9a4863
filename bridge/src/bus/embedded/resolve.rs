//! What a topic means to a publisher: its route and who hears it, looked up once per topic and generation of the table.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    bus::{
        Confirm, Unheard,
        embedded::{Core, member::Member},
    },
    topic::{Pattern, Topic},
};

/// Most topics remembered; beyond that all are looked up again.
const REMEMBERED: usize = 16_384;

/// A route that begins to be heard is not yet judged by who does, for so long after the last subscription: a client that
/// subscribes to several topics may do so in several frames.
const SETTLE: Duration = Duration::from_millis(200);

/// The longest that this takes, however many subscribe.
const SETTLE_AT_MOST: Duration = Duration::from_secs(1);

/// What a topic means.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Who hears it.
    pub(super) audience: Box<[Arc<Member>]>,
    /// How often each of them had given up hearing something.
    departures: Box<[u64]>,
    /// Who hears it too, if it is published.
    pub(super) overhearers: Box<[Arc<Member>]>,
    pub(super) confirm: Confirm,
    /// What happens if nobody hears it. What a consumer has taken is published in any case.
    pub(super) unheard: Unheard,
    /// The hand of the consumer that must take it first, if its route has one.
    pub(super) hand: Option<usize>,
    /// Number of its route, for [`Resolver::pattern`].
    pub(super) route: usize,
    /// Whether some subscription overlaps its route.
    pub(super) heard: bool,
    /// Until when somebody may still be about to subscribe to it: nobody has, but its route has just begun to be heard.
    settles: Option<Instant>,
}

impl Resolved {
    /// Whether its batches wait for a subscriber.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.unheard, Unheard::Hold) && !self.heard
    }

    /// Until when its batches wait for a subscriber although their route is heard.
    pub(super) fn settling(&self) -> Option<Instant> {
        self.settles.filter(|until| Instant::now() < *until)
    }

    /// Whether it should not be published now: the table will stir when it may.
    pub(super) fn must_wait(&self) -> bool {
        // Of what he was to take, something may still be on its way back.
        let gone = self.audience.iter().any(|member| member.is_closed());
        let counts = |member: &&Arc<Member>| member.holds_up() || self.confirm == Confirm::Socket;
        gone || self.audience.iter().filter(counts).any(|member| member.is_full())
    }
}

/// What `topic` means once something was published to it: without those of its audience who have given up hearing
/// something meanwhile, for the broker may not have delivered to them. `None` if that is everybody.
pub(super) fn delivered(topic: Arc<Resolved>) -> Option<Arc<Resolved>> {
    let stayed = |(member, before): &(&Arc<Member>, &u64)| member.departures() == **before;
    let pairs = || topic.audience.iter().zip(&topic.departures);
    if pairs().all(|pair| stayed(&pair)) {
        return Some(topic);
    }
    let (audience, departures): (Vec<_>, Vec<_>) =
        pairs().filter(stayed).map(|(member, before)| (Arc::clone(member), *before)).unzip();
    let rest = Resolved {
        audience: audience.into(),
        departures: departures.into(),
        overhearers: topic.overhearers.clone(),
        ..*topic
    };
    (!rest.audience.is_empty()).then(|| Arc::new(rest))
}

/// A memory of topics.
#[derive(Debug)]
pub(super) struct Resolver {
    core: Arc<Core>,
    topics: HashMap<Topic, (u64, Arc<Resolved>)>,
    /// The routes seen so far.
    routes: Vec<Seen>,
}

/// A route seen before.
#[derive(Debug)]
struct Seen {
    pattern: Pattern,
    /// The generation of the table to which the answer belongs.
    generation: u64,
    /// Since when it is heard, as far as was asked.
    heard: Option<Instant>,
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
        let (audience, departures): (Vec<_>, Vec<_>) =
            self.core.table.hearers(topic.slashed()).into_iter().unzip();
        let overhearers = self.core.table.overhearers(topic.slashed());
        let core = Arc::clone(&self.core);
        let rule = core.routes.of(topic);
        let route = self.number(&rule.pattern);
        let since = if audience.is_empty() { self.heard(route, now) } else { None };
        let heard = !audience.is_empty() || since.is_some();
        let hand = core.hands.of(&rule.pattern);
        let confirm = rule.confirm;
        let unheard = if hand.is_some() { Unheard::Discard } else { rule.unheard };
        let settles = since.filter(|_| unheard == Unheard::Hold).and_then(|since| {
            self.core.table.subscribed().map(|last| (last + SETTLE).min(since + SETTLE_AT_MOST))
        });
        let (audience, departures) = (audience.into(), departures.into());
        let resolved =
            Resolved { audience, departures, overhearers, confirm, unheard, hand, route, heard, settles };
        let resolved = Arc::new(resolved);
        if self.topics.len() >= REMEMBERED {
            self.topics.clear();
        }
        self.topics.insert(topic.clone(), (now, Arc::clone(&resolved)));
        resolved
    }

    /// The pattern of a route.
    pub(super) fn pattern(&self, route: usize) -> Option<&Pattern> {
        self.routes.get(route).map(|seen| &seen.pattern)
    }

    fn number(&mut self, pattern: &Pattern) -> usize {
        self.routes.iter().position(|seen| seen.pattern == *pattern).unwrap_or_else(|| {
            // No generation is that high: not yet asked.
            self.routes.push(Seen { pattern: pattern.clone(), generation: u64::MAX, heard: None });
            self.routes.len() - 1
        })
    }

    fn heard(&mut self, route: usize, now: u64) -> Option<Instant> {
        let seen = self.routes.get_mut(route)?;
        if seen.generation != now {
            let heard = self.core.table.hears(&seen.pattern);
            seen.heard = heard.then(|| seen.heard.unwrap_or_else(Instant::now));
            seen.generation = now;
        }
        seen.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::{
        broker::{Broker, Client, Engine},
        member::Kind,
    };

    async fn member(broker: &mut Broker, id: u64, name: &str) -> Arc<Member> {
        let mut client = broker.register(name, 16).await.unwrap();
        let queue = client.take_queue().unwrap();
        Arc::new(Member::new(id, name.into(), queue, (Kind::Door, 1)))
    }

    fn resolved(audience: &[Arc<Member>]) -> Arc<Resolved> {
        Arc::new(Resolved {
            audience: audience.into(),
            departures: audience.iter().map(|member| member.departures()).collect(),
            overhearers: Box::default(),
            confirm: Confirm::Socket,
            unheard: Unheard::Hold,
            hand: None,
            route: 0,
            heard: true,
            settles: None,
        })
    }

    #[tokio::test]
    async fn who_unsubscribes_while_it_is_published_has_not_heard_it() {
        let mut broker = Broker::new(Engine::default());
        let (stays, leaves) = (member(&mut broker, 1, "stays").await, member(&mut broker, 2, "leaves").await);
        let (both, one) =
            (resolved(&[Arc::clone(&stays), Arc::clone(&leaves)]), resolved(&[Arc::clone(&leaves)]));
        assert!(Arc::ptr_eq(&delivered(Arc::clone(&both)).unwrap(), &both));

        leaves.exclude("events/process/start");

        let rest = delivered(both).unwrap();
        assert_eq!(rest.audience.iter().map(|member| member.id).collect::<Vec<_>>(), [1]);
        assert!(delivered(one).is_none(), "nobody is left to confirm it");
        assert!(delivered(resolved(&[])).is_some(), "nobody was to hear it");
    }

    #[tokio::test]
    async fn while_one_of_many_is_going_nothing_is_published_past_what_he_did_not_take() {
        let mut broker = Broker::new(Engine::default());
        let mut clients = Vec::new();
        for name in ["stays", "leaves"] {
            clients.push(broker.register(name, 16).await.unwrap());
        }
        let member = |(client, id): (&mut Client, u64)| {
            Arc::new(Member::new(id, "member".into(), client.take_queue().unwrap(), (Kind::Door, 1)))
        };
        let members: Vec<_> = clients.iter_mut().zip(1..).map(member).collect();
        let both = resolved(&members);
        assert!(!both.must_wait());
        members[1].close();
        assert!(both.must_wait());
    }
}
