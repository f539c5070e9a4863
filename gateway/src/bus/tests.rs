//! The bus as its callers see it, over a bus of the simplest kind.

use std::{collections::HashSet, path::Path, sync::Mutex};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{BusState, Command, Counters, Link, Port, Subscription, Taken},
    event::{Event, Events, StreamId},
    topic::Pattern,
};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    identity::PeerId,
    policy::{self, Policy, Rights, Speaker},
};

/// A bus that remembers who is registered and what was submitted.
#[derive(Debug)]
pub(crate) struct Shelf {
    names: Arc<Mutex<HashSet<BusName>>>,
    /// How near each port was opened.
    near: Mutex<Vec<u64>>,
    ports: AtomicU64,
    commands: mpsc::Sender<Command>,
}

impl Shelf {
    /// The bus, and what is asked of it.
    pub(crate) fn new(room: usize) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, asked) = mpsc::channel(room);
        let shelf =
            Self { names: Arc::default(), near: Mutex::default(), ports: AtomicU64::new(1), commands };
        (Arc::new(shelf), asked)
    }

    fn is_registered(&self, name: &str) -> bool {
        self.names.lock().unwrap().contains(&BusName::parse(name).unwrap())
    }
}

impl Bus for Shelf {
    fn port<'a>(&'a self, name: &'a BusName) -> BoxFuture<'a, Result<Port, PortError>> {
        Box::pin(async {
            if !self.names.lock().unwrap().insert(name.clone()) {
                return Err(PortError::Taken);
            }
            let (port, dropped) =
                Port::new(name.clone(), self.ports.fetch_add(1, Ordering::Relaxed), self.commands.clone());
            let (names, name) = (Arc::clone(&self.names), name.clone());
            #[expect(clippy::disallowed_methods, reason = "a test has no leash")]
            tokio::spawn(async move {
                dropped.await.unwrap_err();
                names.lock().unwrap().remove(&name);
            });
            Ok(port)
        })
    }

    fn port_near<'a>(&'a self, name: &'a BusName, near: u64) -> BoxFuture<'a, Result<Port, PortError>> {
        self.near.lock().unwrap().push(near);
        self.port(name)
    }

    fn subscribe<'a>(
        &'a self,
        _name: &'a BusName,
        _patterns: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>> {
        Box::pin(async { Err(PortError::Closed) })
    }

    fn state(&self) -> watch::Receiver<BusState> {
        watch::channel(BusState { link: Link::Up, held: Vec::new() }).1
    }

    fn counters(&self) -> Arc<Counters> {
        Arc::default()
    }
}

fn speaker(name: &str, collector: &str) -> Speaker {
    let text =
        "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\nspeaks_for = [\"*\"]\npublish = [\"#\"]";
    let policy = Policy::parse(text, Path::new("p.toml")).unwrap();
    let peer = PeerId::new("site-a", name).unwrap();
    Rights::of(&peer, policy.rules(), 1, &Arc::new(policy::Metrics::default()))
        .unwrap()
        .speaker(collector)
        .unwrap()
}

fn routes(envelope: &str) -> Routes {
    let rules: Vec<Rule> =
        vec![toml::from_str(&format!("pattern = \"events.#\"\nenvelope = \"{envelope}\"")).unwrap()];
    Routes::new(rules, Broker::Embedded).unwrap()
}

fn outgoing(voice: &Voice, speaker: &mut Speaker, payload: &'static [u8]) -> Outgoing {
    let mut permit = speaker.permit();
    let place = speaker.allow(&mut permit, "events.process.start").unwrap();
    let time = 1_700_000_000_000_000_000;
    let event = Event { topic: place.index, payload: Bytes::from_static(payload), time };
    let stream = StreamId::from_slice(&[7; 16]);
    voice.seal(permit, vec![event], &Origin { stream, seqs: &[9], hops: &[] })
}

async fn submitted(asked: &mut mpsc::Receiver<Command>) -> Events {
    match asked.recv().await.unwrap() {
        Command::Submit { events, done, .. } => {
            done.send(Taken::All).unwrap();
            events
        }
        _ => panic!("something else was asked"),
    }
}

#[tokio::test]
async fn a_name_belongs_to_one_peer_at_a_time() {
    let (shelf, _asked) = Shelf::new(4);
    let bus = AuthorizedBus::new(Arc::clone(&shelf) as Arc<dyn Bus>, routes("none"));
    let leaf = speaker("leaf-1", "procmond");
    let held = bus.open(leaf.collector()).await.unwrap();
    assert!(shelf.is_registered("collector.site-a.procmond"));
    let itself = speaker("procmond", "");
    assert_eq!(bus.open(itself.collector()).await.unwrap_err(), OpenError::AlreadyConnected);
    let shared = bus.open(leaf.collector()).await.unwrap();
    assert!(held.is_shared());
    drop((held, shared));
    assert!(bus.open(itself.collector()).await.is_ok(), "the name is free again");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_the_bus_lets_go_of_late_is_waited_for() {
    let (shelf, _asked) = Shelf::new(4);
    let patience = Duration::from_secs(8);
    let bus = AuthorizedBus::patient(Arc::clone(&shelf) as Arc<dyn Bus>, routes("none"), patience);
    let squatter = shelf.port(&BusName::parse("collector.site-a.x").unwrap()).await.unwrap();
    let speaker = speaker("x", "");
    assert_eq!(bus.open(speaker.collector()).await.unwrap_err(), OpenError::AlreadyConnected);
    let leaving = async {
        time::sleep(Duration::from_secs(7)).await;
        drop(squatter);
    };
    let (opened, ()) = tokio::join!(bus.open(speaker.collector()), leaving);
    assert!(opened.is_ok());
}

#[test]
fn a_foreign_broker_is_waited_for_longer_than_it_is_asked() {
    let text = "broker = \"foreign\"\nforeign = { name_timeout = \"60s\" }";
    let config: Config = toml::from_str(text).unwrap();
    assert!(config.patience() > config.foreign.name_timeout);
}

#[tokio::test]
async fn a_retired_name_can_be_claimed_once_the_bus_lets_go_of_it() {
    let (shelf, _asked) = Shelf::new(4);
    let bus = AuthorizedBus::new(shelf, routes("none"));
    let (leaf, other) = (speaker("leaf-1", "procmond"), speaker("leaf-2", "procmond"));
    let held = bus.open(leaf.collector()).await.unwrap();
    let shared = bus.open(leaf.collector()).await.unwrap();
    held.retire();
    assert!(bus.open(other.collector()).await.is_err(), "one sharer does not end the other's claim");
    drop(shared);
    held.retire();
    let leaving = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let (opened, ()) = tokio::join!(bus.open(other.collector()), leaving);
    assert!(opened.is_ok());
}

#[tokio::test]
async fn a_batch_of_one_collector_does_not_go_out_of_anothers_mouth() {
    let (shelf, mut asked) = Shelf::new(4);
    let bus = AuthorizedBus::new(shelf, routes("none"));
    let (mut one, other) = (speaker("leaf-1", "one"), speaker("leaf-1", "other"));
    let voice = bus.open(one.collector()).await.unwrap();
    let foreign = bus.open(other.collector()).await.unwrap();
    let batch = outgoing(&voice, &mut one, b"x");
    assert!(matches!(foreign.try_send(voice.lane(), batch), Err(Unsent::Closed)));
    let ticket = voice.try_send(voice.lane(), outgoing(&voice, &mut one, b"x")).unwrap();
    assert_eq!(submitted(&mut asked).await.events.len(), 1);
    assert_eq!(ticket.await, Taken::All);
}

#[tokio::test]
async fn the_voices_of_one_peer_are_near_each_other() {
    let (shelf, _asked) = Shelf::new(4);
    let bus = AuthorizedBus::new(Arc::clone(&shelf) as Arc<dyn Bus>, routes("none"));
    let open = async |leaf, collector| bus.open(speaker(leaf, collector).collector()).await.unwrap();
    let first = open("leaf-1", "one").await;
    let _other = open("leaf-2", "two").await;
    let second = open("leaf-1", "three").await;
    drop((first, second));
    let _later = open("leaf-1", "four").await;
    let near = shelf.near.lock().unwrap().clone();
    assert_eq!(near[0], near[2]);
    assert_ne!(near[0], near[1]);
    assert_ne!(near[0], near[3], "a peer that is gone was remembered");
}

#[tokio::test]
async fn a_full_bus_gives_the_batch_back() {
    let (shelf, mut asked) = Shelf::new(1);
    let bus = AuthorizedBus::new(shelf, routes("none"));
    let mut speaker = speaker("a", "");
    let voice = bus.open(speaker.collector()).await.unwrap();
    let _first = voice.try_send(voice.lane(), outgoing(&voice, &mut speaker, b"1")).unwrap();
    let Err(Unsent::Full(second)) = voice.try_send(voice.lane(), outgoing(&voice, &mut speaker, b"2")) else {
        panic!("the bus took more than it has room for");
    };
    submitted(&mut asked).await;
    voice.ready().await;
    assert!(voice.try_send(voice.lane(), second).is_ok());
}

#[tokio::test]
async fn events_are_wrapped_where_their_route_asks_for_it() {
    let (shelf, mut asked) = Shelf::new(4);
    let bus = AuthorizedBus::new(shelf, routes("cloudevents"));
    let mut speaker = speaker("leaf-1", "procmond");
    let voice = bus.open(speaker.collector()).await.unwrap();
    let mut wrapped = Vec::new();
    for payload in [b"{\"pid\": 1}".as_slice(), b"\xff\0"] {
        let _ticket = voice.try_send(voice.lane(), outgoing(&voice, &mut speaker, payload)).unwrap();
        let events = submitted(&mut asked).await;
        let json: serde_json::Value = serde_json::from_slice(&events.events[0].payload).unwrap();
        wrapped.push(json);
    }
    let expected = serde_json::json!({
        "specversion": "1.0",
        "id": "07070707-0707-0707-0707-070707070707/9",
        "source": "site-a/procmond",
        "type": "events.process.start",
        "time": "2023-11-14T22:13:20Z",
        "assertedby": "site-a/leaf-1",
        "datacontenttype": "application/json",
        "data": {"pid": 1},
    });
    assert_eq!(wrapped[0], expected);
    assert_eq!(wrapped[1]["data_base64"], "/wA=");
    assert_eq!(wrapped[1]["datacontenttype"], "application/octet-stream");
    assert!(wrapped[1].get("data").is_none());
}

#[tokio::test]
async fn a_closed_voice_takes_nothing_and_its_name_can_be_opened_anew() {
    let (shelf, mut asked) = Shelf::new(4);
    let bus = AuthorizedBus::new(shelf, routes("none"));
    let speaker = speaker("a", "");
    let voice = bus.open(speaker.collector()).await.unwrap();
    let closing = voice.close();
    let publisher = async {
        match asked.recv().await.unwrap() {
            Command::Close { done, .. } => done.send(()).unwrap(),
            _ => panic!("something else was asked"),
        }
    };
    tokio::join!(closing, publisher);
    drop(voice);
    assert!(bus.open(speaker.collector()).await.is_ok());
}
