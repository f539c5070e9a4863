//! One turn of a publisher, step by step.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    bus::{
        Broker, Bus, BusName, Routes, Rule, Subscription,
        embedded::{self, Embedded},
    },
    event::Events,
    lifecycle::Lifecycle,
    topic::Topic,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A publisher whose turns a test makes, with one port, on a bus that does its own.
struct Turns {
    bus: Arc<Embedded>,
    publisher: Publisher,
    port: u64,
    lane: LaneId,
    _life: Lifecycle,
    _ends: (mpsc::Receiver<BoxFuture<'static, ()>>, oneshot::Sender<()>),
}

impl Turns {
    async fn new(routes: Vec<Rule>) -> Self {
        let routes = Routes::new(routes, Broker::Embedded).unwrap();
        let (bus, tasks) = embedded::open(embedded::Config::default(), routes);
        let life = Lifecycle::new();
        for task in tasks {
            life.leash().spawn(task);
        }
        let core = Arc::clone(bus.core());
        let (opening, commanded) = (mpsc::channel(1).1, mpsc::channel(1).1);
        let (pumps, pumped) = mpsc::channel(1);
        let mut publisher = Publisher::new(Arc::clone(&core), opening, commanded, pumps);
        let (client, port) = core.register("port", 1).await.unwrap();
        let (gone, ended) = oneshot::channel();
        publisher.open(Opened { id: port, client, gone: ended });
        Self { bus, publisher, port, lane: LaneId::new(), _life: life, _ends: (pumped, gone) }
    }

    fn pending(&self, topic: &str, order: u64) -> (Pending, oneshot::Receiver<Taken>) {
        let mut events = Events::default();
        events.push(&Topic::parse(topic).unwrap(), Bytes::from(order.to_string()), 0);
        let (done, ticket) = oneshot::channel();
        let (port, lane, consumed) = (self.port, self.lane, Consumed::default());
        (Pending { port, lane, order, events, needs: Vec::new(), done, consumed }, ticket)
    }
}

async fn hear(bus: &Embedded, name: &str, pattern: &str) -> Subscription {
    bus.subscribe(&BusName::parse(name).unwrap(), &[pattern.parse().unwrap()]).await.unwrap()
}

#[tokio::test]
async fn what_comes_back_within_a_turn_goes_before_what_follows_it() {
    let mut turns = Turns::new(Vec::new()).await;
    let first = hear(&turns.bus, "first", "events.#").await;
    let (mut groups, (one, _one), (two, _two)) =
        (Vec::new(), turns.pending("events.a", 1), turns.pending("events.a", 2));
    turns.publisher.submit(one, &mut groups).await;
    let mut second = hear(&turns.bus, "second", "events.#").await;
    drop(first);
    turns.publisher.submit(two, &mut groups).await;
    turns.publisher.post(groups);
    turns.publisher.take_back().await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        assert!(second.next(&mut heard, 1).await);
    }
    assert_eq!((&heard[0].payload[..], &heard[1].payload[..]), (&b"1"[..], &b"2"[..]));
}

#[tokio::test]
async fn what_a_consumer_gives_back_goes_although_something_was_lost_at_the_same_time() {
    let rule = "pattern = \"events.#\"\nconfirm = \"consumer\"\nconsumer = \"engine\"";
    let mut turns = Turns::new(vec![toml::from_str(rule).unwrap()]).await;
    let mut engine = hear(&turns.bus, "second", "#").await;
    let ((mut consumed, _one), (mut lost, _two)) =
        (turns.pending("events.a", 1), turns.pending("control.a", 2));
    consumed.consumed.leave(0);
    lost.lane = LaneId::new();
    turns.publisher.returns.put(vec![consumed, lost]);
    turns.publisher.take_back().await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        assert!(time::timeout(PATIENCE, engine.next(&mut heard, 1)).await.unwrap());
    }
    assert!(turns.publisher.lanes.is_empty(), "an empty lane stayed");
}
