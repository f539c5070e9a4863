//! One turn of a publisher, step by step.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    bus::{
        Broker, Bus, BusName, Message, Routes, Rule, Subscription,
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
    assert_eq!(payloads(&mut second, 2).await, "1 2");
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
    assert_eq!(payloads(&mut engine, 2).await, "1 2");
    assert!(turns.publisher.lanes.is_empty(), "an empty lane stayed");
}

async fn payloads(subscription: &mut Subscription, count: usize) -> String {
    let mut heard = Vec::new();
    while heard.len() < count {
        assert!(time::timeout(PATIENCE, subscription.next(&mut heard, 1)).await.unwrap());
    }
    let text = |message: &Message| String::from_utf8(message.payload.to_vec()).unwrap();
    heard.iter().map(text).collect::<Vec<_>>().join(" ")
}

const HOLD: &str = "pattern = \"alerts.#\"\nunheard = \"hold\"";

#[tokio::test]
async fn what_was_published_in_a_turn_comes_back_before_what_waits_tries_again() {
    let mut turns = Turns::new(vec![toml::from_str(HOLD).unwrap()]).await;
    let first = hear(&turns.bus, "first", "events.#").await;
    let mut groups = Vec::new();
    let (one, _one) = turns.pending("events.a", 1);
    turns.publisher.submit(one, &mut groups).await;
    let (held, _two) = turns.pending("alerts.a", 2);
    turns.publisher.submit(held, &mut groups).await;
    let mut second = hear(&turns.bus, "second", "#").await;
    drop(first);
    let ((mut lost, _zero), (mut next, _three)) =
        (turns.pending("events.b", 0), turns.pending("events.c", 3));
    (lost.lane, next.lane) = (LaneId::new(), LaneId::new());
    turns.publisher.returns.put(vec![lost]);
    turns.publisher.submit(next, &mut groups).await;
    turns.publisher.post(groups);
    turns.publisher.take_back().await;
    let heard = payloads(&mut second, 4).await;
    let place = |payload| heard.find(payload).unwrap();
    assert!(place('1') < place('2'), "{heard}");
}

#[tokio::test]
async fn nothing_is_published_while_something_older_is_on_its_way_back() {
    let mut turns = Turns::new(Vec::new()).await;
    let _engine = hear(&turns.bus, "engine", "#").await;
    let ((older, _one), (newer, _two)) = (turns.pending("events.a", 1), turns.pending("events.a", 2));
    turns.publisher.returns.put(vec![older]);
    let kept = turns.publisher.publish(newer, &mut Vec::new()).await;
    assert!(matches!(kept, Some((_, Wait::Older))));
}

#[tokio::test]
async fn nothing_is_left_of_a_lane_whose_port_closed() {
    let mut turns = Turns::new(vec![toml::from_str(HOLD).unwrap()]).await;
    let (held, mut ticket) = turns.pending("alerts.a", 1);
    turns.publisher.submit(held, &mut Vec::new()).await;
    assert_eq!(turns.publisher.blocked.len(), 1);
    turns.publisher.close(turns.port, None).await;
    assert_eq!(ticket.try_recv(), Ok(Taken::Withdrawn));
    assert!(turns.publisher.lanes.is_empty() && turns.publisher.blocked.is_empty());
}
