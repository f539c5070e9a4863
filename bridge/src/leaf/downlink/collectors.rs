//! The local collectors: who is there, what each wants to hear, which calls are open to and from each.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    bus::{
        embedded::LocalClient,
        rpc::{Calls, Gauge},
    },
    leaf::downlink::Config,
    topic::{Pattern, is_segment},
};

/// A call of the datacentre to a local collector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Down {
    /// The gateway's number of it.
    pub(super) call: u64,
    /// Under which of the relay's names it was made, and is answered.
    pub(super) mouth: usize,
}

/// A call of a local collector to the datacentre.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Up {
    /// The collector's number of it; 0 if nobody waits.
    pub(super) call: u32,
    /// The stand-in that was called, and answers.
    pub(super) mouth: usize,
}

/// A local collector.
#[derive(Debug)]
pub(super) struct Collector {
    /// Number of its connection.
    id: u64,
    /// What it wants to hear from the datacentre, in order.
    pub(super) wanted: Vec<String>,
    /// What the gateway was told of that on this session.
    pub(super) told: Vec<String>,
    /// By the relay's own numbers.
    pub(super) down: Calls<Down>,
    /// By the relay's own numbers.
    pub(super) up: Calls<Up>,
}

/// What a change of the local clients means.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Whether the set of names is another.
    pub(super) names: bool,
    /// Collectors that went, with the calls that were open. One that came back went first.
    pub(super) gone: Vec<(Arc<str>, Collector)>,
}

/// All of them, by name. Bounded by [`MOST`].
#[derive(Debug)]
pub(super) struct Collectors {
    known: BTreeMap<Arc<str>, Collector>,
    config: Config,
    gauge: Gauge,
    /// Whether it was said that there are too many.
    warned: bool,
}

impl Collectors {
    pub(super) const fn new(config: Config, gauge: Gauge) -> Self {
        Self { known: BTreeMap::new(), config, gauge, warned: false }
    }

    /// Takes note of who is at the door.
    pub(super) fn update(&mut self, mut clients: Vec<LocalClient>) -> Change {
        let config = &self.config;
        clients.retain(|client| may_cross(&client.name));
        clients.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if clients.len() > MOST && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                clients = clients.len(),
                "more local clients than can be reached from the datacentre; the first {MOST} by name can"
            );
        }
        clients.truncate(MOST);
        let stays = |name: &Arc<str>, collector: &Collector| {
            clients.iter().any(|client| client.name == *name && client.id == collector.id)
        };
        let gone: Vec<_> = self.known.extract_if(.., |name, collector| !stays(name, collector)).collect();
        let mut change = Change { names: !gone.is_empty(), gone };
        for LocalClient { id, name, filters } in clients {
            let collector = self.known.entry(name).or_insert_with(|| {
                change.names = true;
                Collector {
                    id,
                    wanted: Vec::new(),
                    told: Vec::new(),
                    down: Calls::new(config.calls.get(), self.gauge.clone()),
                    up: Calls::new(config.calls.get(), self.gauge.clone()),
                }
            });
            collector.wanted = wanted(&filters, &config.subscribe);
        }
        change
    }

    pub(super) fn get(&mut self, name: &str) -> Option<&mut Collector> {
        self.known.get_mut(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.known.keys()
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Collector)> {
        self.known.iter_mut()
    }

    /// Ends the call of the datacentre that the gateway numbers so; whether it was open.
    pub(super) fn cancel(&mut self, call: u64) -> bool {
        self.known.values_mut().any(|collector| {
            let found = collector.down.find(|down| down.call == call);
            found.is_some_and(|id| collector.down.end(id).is_some())
        })
    }

    /// Ends the call of a collector that has this number.
    pub(super) fn answered(&mut self, id: u64) -> Option<(Arc<str>, Up)> {
        self.known.iter_mut().find_map(|(name, collector)| Some((Arc::clone(name), collector.up.end(id)?)))
    }

    /// When the first open call is due.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.gauge.get() == 0 {
            return None;
        }
        self.known.values().filter_map(|one| one.down.due().into_iter().chain(one.up.due()).min()).min()
    }
}

/// What of a client's own subscriptions is to be served from the datacentre.
fn wanted(filters: &[Box<str>], served: &[Pattern]) -> Vec<String> {
    let patterns = filters.iter().filter_map(|filter| Pattern::parse(&filter.replace('/', ".")).ok());
    let covered = patterns.filter(|pattern| served.iter().any(|served| served.covers(pattern)));
    let mut wanted: Vec<String> = covered.map(|pattern| pattern.to_string()).collect();
    // `x` and `x.#` are what a client of ours makes of `x.#`.
    wanted.sort_unstable();
    wanted.dedup();
    let open: Vec<String> =
        wanted.iter().filter_map(|one| Some(one.strip_suffix(".#")?.to_owned())).collect();
    wanted.retain(|one| !open.contains(one));
    wanted.truncate(MOST_PATTERNS);
    wanted
}

/// Whether a local client's name can stand in the federation.
pub(super) fn may_cross(name: &str) -> bool {
    is_segment(name) && name.len() <= MAX_NAME
}

/// Collectors of one session.
const MOST: usize = 256;

/// Patterns of one collector.
const MOST_PATTERNS: usize = 64;

/// Longest name of a collector on the wire.
const MAX_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(id: u64, name: &str, filters: &[&str]) -> LocalClient {
        LocalClient {
            id,
            name: name.into(),
            filters: filters.iter().map(|filter| (*filter).into()).collect(),
        }
    }

    fn collectors() -> (Collectors, Gauge) {
        let gauge = Gauge::default();
        (Collectors::new(Config::default(), gauge.clone()), gauge)
    }

    #[test]
    fn only_what_can_stand_in_the_federation_is_a_collector() {
        let (mut collectors, _) = collectors();
        let change = collectors.update(vec![client(1, "cli.host.7", &[]), client(2, "procmond-1", &[])]);
        assert!(change.names && change.gone.is_empty());
        assert_eq!(collectors.names().map(|name| &**name).collect::<Vec<_>>(), ["procmond-1"]);
        assert!(!collectors.update(vec![client(2, "procmond-1", &["control/x"])]).names);
    }

    #[test]
    fn of_the_subscriptions_those_are_served_that_the_configuration_covers() {
        let filters = ["control/collector/x", "control/task", "control/task/#", "events/#", "#", "odd topic"];
        let filters: Vec<Box<str>> = filters.iter().map(|filter| (*filter).into()).collect();
        let served = [Pattern::parse("control.#").unwrap()];
        assert_eq!(wanted(&filters, &served), ["control.collector.x", "control.task.#"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_comes_back_has_lost_its_calls() {
        let (mut collectors, gauge) = collectors();
        collectors.update(vec![client(1, "a", &[]), client(2, "b", &[])]);
        let due = Instant::now() + Duration::from_secs(5);
        for (name, call) in [("a", 7), ("b", 8)] {
            collectors.get(name).unwrap().down.open(1, due, Down { call, mouth: 0 }).unwrap();
        }
        assert_eq!((gauge.get(), collectors.due()), (2, Some(due)));
        let mut change = collectors.update(vec![client(3, "a", &[]), client(2, "b", &[])]);
        assert!(change.names);
        let (name, mut gone) = change.gone.swap_remove(0);
        assert_eq!((&*name, gone.down.end(1)), ("a", Some(Down { call: 7, mouth: 0 })));
        assert!(collectors.cancel(8) && !collectors.cancel(8));
        assert_eq!((gauge.get(), collectors.due()), (0, None));
    }
}
