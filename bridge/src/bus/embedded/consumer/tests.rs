//! Routes with a consumer, from the port to the consumer's answer.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rmp::decode;
use tokio::time;

use super::*;
use crate::{
    bus::{
        Broker, Bus, BusName, LaneId, Port, Routes, Rule, Subscription, Taken, Ticket,
        embedded::{
            Config, Embedded,
            broker::{Client, Queue},
            member::{Kind, Member},
            open,
            table::Seat,
        },
    },
    event::{Events, Numbers, StreamId},
    lifecycle::Lifecycle,
    topic::Topic,
};

struct Bench {
    bus: Arc<Embedded>,
    _life: Lifecycle,
}

fn bench(routes: &str) -> Bench {
    #[derive(serde::Deserialize)]
    struct File {
        route: Vec<Rule>,
    }
    let rules = toml::from_str::<File>(routes).unwrap().route;
    let (bus, tasks) = open(Config::default(), Routes::new(rules, Broker::Embedded).unwrap());
    let life = Lifecycle::new();
    for task in tasks {
        life.leash().spawn(task);
    }
    Bench { bus, _life: life }
}

const ENGINE: &str = r#"
[[route]]
pattern = "events.#"
confirm = "consumer"
consumer = "engine"
answer_within = "10s"
"#;

fn name(name: &str) -> BusName {
    BusName::parse(name).unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(10), what).await.expect("in time")
}

async fn stays_open(ticket: &mut Ticket) -> bool {
    time::timeout(Duration::from_millis(50), ticket).await.is_err()
}

fn one(topic: &str, payload: &str) -> Events {
    let mut events = Events::default();
    events.push(&Topic::parse(topic).unwrap(), Bytes::copy_from_slice(payload.as_bytes()), 7);
    events
}

impl Bench {
    async fn port(&self, called: &str) -> Port {
        soon(self.bus.port(&name(called))).await.unwrap()
    }

    async fn hear(&self, called: &str, pattern: &str) -> Subscription {
        soon(self.bus.subscribe(&name(called), &[pattern.parse().unwrap()])).await.unwrap()
    }

    /// Lets a consumer in, as the door would.
    async fn engine(&self) -> Engine {
        let core = Arc::clone(self.bus.core());
        let (mut client, id) = loop {
            match core.register("engine", 128).await {
                Ok(registered) => break registered,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let queue = client.take_queue().unwrap();
        let member = Arc::new(Member::new(id, "engine".into(), queue.clone(), (Kind::Door, 1 << 20)));
        Engine { client, queue, _seat: Seat::take(core, member) }
    }

    fn held(&self) -> Vec<(String, Option<String>)> {
        let held = self.bus.state().borrow().held.clone();
        let cause = |held: crate::bus::Held| {
            (held.route, held.refusal.map(|refusal| format!("{} {}", refusal.consumer, refusal.cause)))
        };
        held.into_iter().map(cause).collect()
    }

    async fn until_held(&self, cause: &str) {
        soon(async {
            while !self
                .held()
                .iter()
                .any(|(_, held)| held.as_deref().is_some_and(|held| held.contains(cause)))
            {
                time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    async fn until_free(&self) {
        soon(async {
            while !self.held().is_empty() {
                time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// A consumer.
struct Engine {
    client: Client,
    queue: Queue,
    _seat: Seat,
}

/// What it was called with.
#[derive(Debug)]
struct Asked {
    id: u32,
    from: String,
    stream: Option<String>,
    collector: String,
    /// Number, topic, time and payload of each event.
    events: Vec<(Option<u64>, String, u64, String)>,
}

impl Asked {
    fn payloads(&self) -> Vec<&str> {
        self.events.iter().map(|(.., payload)| payload.as_str()).collect()
    }
}

impl Engine {
    async fn asked(&self) -> Asked {
        let frame = soon(self.queue.recv()).await.unwrap();
        read(frame.sender(), frame.payload())
    }

    async fn is_not_asked(&self) -> bool {
        time::timeout(Duration::from_millis(50), self.queue.recv()).await.is_err()
    }

    async fn answer(&mut self, asked: &Asked, answer: &[u8]) {
        let mut payload = vec![answer[0]];
        payload.extend_from_slice(&asked.id.to_le_bytes());
        payload.extend_from_slice(&answer[1..]);
        self.client.send(&asked.from, &payload, false).await.unwrap();
    }

    async fn take(&mut self, asked: &Asked) {
        self.answer(asked, &[0x11]).await;
    }

    async fn refuse(&mut self, asked: &Asked) {
        self.answer(asked, &[&[0x12][..], &(-32603_i16).to_le_bytes(), b"disk full"].concat()).await;
    }
}

fn text(rest: &mut &[u8]) -> String {
    let whole = *rest;
    let (text, left) = decode::read_str_from_slice(whole).unwrap();
    *rest = left;
    text.to_owned()
}

fn read(from: &str, payload: &[u8]) -> Asked {
    assert_eq!(payload[0], 1, "a request");
    let id = u32::from_le_bytes(payload[1..5].try_into().unwrap());
    let method = payload[5..].split(|byte| *byte == 0).next().unwrap();
    assert_eq!(method, METHOD.as_bytes());
    let mut rest = &payload[5 + method.len() + 1..];
    let nil = |rest: &mut &[u8]| {
        let nil = rest[0] == 0xC0;
        if nil {
            *rest = &rest[1..];
        }
        nil
    };
    assert_eq!(decode::read_map_len(&mut rest).unwrap(), 4);
    assert_eq!(text(&mut rest), "stream");
    let stream = (!nil(&mut rest)).then(|| text(&mut rest));
    assert_eq!(text(&mut rest), "collector");
    let collector = text(&mut rest);
    assert_eq!(text(&mut rest), "topics");
    let topics: Vec<String> =
        (0..decode::read_array_len(&mut rest).unwrap()).map(|_| text(&mut rest)).collect();
    assert_eq!(text(&mut rest), "events");
    let mut events = Vec::new();
    for _ in 0..decode::read_array_len(&mut rest).unwrap() {
        assert_eq!(decode::read_array_len(&mut rest).unwrap(), 4);
        let seq = (!nil(&mut rest)).then(|| decode::read_int(&mut rest).unwrap());
        let topic: usize = decode::read_int(&mut rest).unwrap();
        let time = decode::read_int(&mut rest).unwrap();
        let length = decode::read_bin_len(&mut rest).unwrap() as usize;
        let payload = String::from_utf8(rest[..length].to_vec()).unwrap();
        rest = &rest[length..];
        events.push((seq, topics[topic].clone(), time, payload));
    }
    assert!(rest.is_empty());
    Asked { id, from: from.to_owned(), stream, collector, events }
}

#[tokio::test]
async fn a_batch_is_taken_when_its_consumer_has_answered_and_then_others_hear_it() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let mut other = bench.hear("other", "#").await;
    let port = bench.port("collector.site-a.procmond-1").await;
    let mut batch = one("events.process.start", "x");
    batch.push(&Topic::parse("events.network.dns").unwrap(), Bytes::from_static(b"y"), 0);
    let stream = StreamId::random();
    batch.numbers = Some(Numbers { stream, seqs: vec![41, 43] });
    let mut ticket = port.submit(batch).await.unwrap();

    let asked = engine.asked().await;
    assert_eq!(asked.from, "daemoneye.confirm.0");
    assert_eq!(asked.stream, Some(stream.to_string()));
    assert_eq!(asked.collector, "collector.site-a.procmond-1");
    let event =
        |seq, topic: &str, time, payload: &str| (Some(seq), topic.to_owned(), time, payload.to_owned());
    assert_eq!(
        asked.events,
        [event(41, "events/process/start", 7, "x"), event(43, "events/network/dns", 0, "y")]
    );
    assert!(stays_open(&mut ticket).await);
    let mut heard = Vec::new();
    assert!(other.next(&mut heard, 1).now_or_never().is_none(), "not yet");
    engine.take(&asked).await;
    assert_eq!(soon(ticket).await, Taken::All, "whether or not others have taken it");
    while heard.len() < 2 {
        assert!(soon(other.next(&mut heard, 2)).await);
    }
    assert_eq!(&heard[0].payload[..], b"x");
    let counters = bench.bus.counters();
    assert_eq!((counters.consumer_calls.get(), counters.consumer_taken.get()), (1, 2));
    assert_eq!((counters.passed_over.get(), counters.discarded.get()), (0, 0));
    assert_eq!((counters.confirmed.get(), counters.resubmitted.get()), (1, 0));
}

#[tokio::test]
async fn a_refused_batch_comes_again_before_what_follows_it_and_the_state_says_why() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let port = bench.port("a").await;
    let first = port.submit(one("events.a", "1")).await.unwrap();
    let asked = engine.asked().await;
    let mut second = port.submit(one("events.a", "2")).await.unwrap();
    let third = port.submit(one("events.a", "3")).await.unwrap();
    assert!(engine.is_not_asked().await, "one call of a lane at a time");
    engine.refuse(&asked).await;
    bench.until_held("engine refused: code -32603, disk full").await;
    assert_eq!(bench.held()[0].0, "events.#");

    let again = engine.asked().await;
    assert_eq!(
        (again.stream.as_ref(), again.payloads()),
        (None, vec!["1", "2", "3"]),
        "what waits goes along"
    );
    assert_eq!(again.events[0].0, None);
    engine.take(&asked).await;
    assert!(stays_open(&mut second).await, "an answer to a call that is over says nothing");
    engine.take(&again).await;
    for ticket in [first, second, third] {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    bench.until_free().await;
    assert_eq!(bench.bus.counters().consumer_refusals.get(), 1);
}

#[tokio::test]
async fn a_route_whose_consumer_is_away_is_held_until_it_comes_and_answers() {
    let bench = bench(ENGINE);
    let port = bench.port("a").await;
    let mut ticket = port.submit(one("events.a", "1")).await.unwrap();
    bench.until_held("engine is not connected").await;
    let _other = bench.hear("other", "#").await;
    assert!(stays_open(&mut ticket).await, "another subscriber is no consumer");
    let engine = bench.engine().await;
    let asked = engine.asked().await;
    assert_eq!(asked.payloads(), ["1"]);
    drop(engine);
    bench.until_held("engine is not connected").await;
    assert!(stays_open(&mut ticket).await, "it went without an answer");

    let mut engine = bench.engine().await;
    let asked = engine.asked().await;
    assert_eq!(asked.payloads(), ["1"]);
    engine.take(&asked).await;
    assert_eq!(soon(ticket).await, Taken::All);
    bench.until_free().await;
    assert_eq!(bench.bus.counters().consumer_unanswered.get(), 1);
}

#[tokio::test]
async fn a_call_that_nobody_answers_is_made_again() {
    let bench = bench(&ENGINE.replace("10s", "100ms"));
    let mut engine = bench.engine().await;
    let port = bench.port("a").await;
    let ticket = port.submit(one("events.a", "1")).await.unwrap();
    let late = engine.asked().await;
    bench.until_held("did not answer within 100ms").await;
    let again = engine.asked().await;
    assert_ne!(late.id, again.id);
    engine.take(&again).await;
    assert_eq!(soon(ticket).await, Taken::All);
}

#[tokio::test]
async fn no_more_calls_are_open_than_the_window_allows_and_one_a_lane() {
    let bench = bench(&ENGINE.replace("answer_within", "window = 2\nanswer_within"));
    let mut engine = bench.engine().await;
    let port = bench.port("a").await;
    let mut tickets: Vec<_> =
        (0..3).map(|n| port.try_submit(LaneId::new(), one("events.a", &n.to_string())).unwrap()).collect();
    let (first, second) = (engine.asked().await, engine.asked().await);
    assert_eq!((first.payloads(), second.payloads()), (vec!["0"], vec!["1"]));
    assert!(engine.is_not_asked().await);
    engine.take(&second).await;
    let third = engine.asked().await;
    assert_eq!(third.payloads(), ["2"]);
    assert_eq!(soon(tickets.remove(1)).await, Taken::All, "lanes do not wait for each other");
    engine.take(&third).await;
    engine.take(&first).await;
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
}

#[tokio::test]
async fn a_refused_lane_does_not_hold_up_the_others() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let port = bench.port("a").await;
    let mut bad = port.try_submit(LaneId::new(), one("events.a", "bad")).unwrap();
    let asked = engine.asked().await;
    engine.refuse(&asked).await;
    let good = port.try_submit(LaneId::new(), one("events.a", "good")).unwrap();
    loop {
        let asked = engine.asked().await;
        if asked.payloads() == ["good"] {
            engine.take(&asked).await;
            break;
        }
        engine.refuse(&asked).await;
    }
    assert_eq!(soon(good).await, Taken::All);
    assert!(stays_open(&mut bad).await);
    assert!(!bench.held().is_empty(), "one lane is still refused");
    soon(port.close()).await;
    assert_eq!(bad.now_or_never(), Some(Taken::Withdrawn));
    bench.until_free().await;
}

#[tokio::test]
async fn what_is_behind_a_consumer_in_its_lane_does_not_overtake() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let mut other = bench.hear("other", "#").await;
    let port = bench.port("a").await;
    let mut mixed = one("control.a", "1");
    mixed.push(&Topic::parse("events.a").unwrap(), Bytes::from_static(b"2"), 0);
    let mixed = port.submit(mixed).await.unwrap();
    let mut behind = port.submit(one("control.a", "3")).await.unwrap();
    let last = port.submit(one("events.a", "4")).await.unwrap();
    let elsewhere = port.try_submit(LaneId::new(), one("control.a", "0")).unwrap();
    let asked = engine.asked().await;
    assert_eq!(asked.payloads(), ["2"], "its own topics only");
    let mut heard = Vec::new();
    assert!(soon(other.next(&mut heard, 1)).await);
    assert_eq!(&heard[0].payload[..], b"0", "another lane goes on");
    other.taken();
    assert_eq!(soon(elsewhere).await, Taken::All);
    assert!(stays_open(&mut behind).await);
    engine.take(&asked).await;
    let asked = engine.asked().await;
    assert_eq!(asked.payloads(), ["4"]);
    engine.take(&asked).await;
    while heard.len() < 5 {
        assert!(soon(other.next(&mut heard, 1)).await);
    }
    other.taken();
    for ticket in [mixed, behind, last] {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    let payloads: Vec<&[u8]> = heard.iter().map(|message| &message.payload[..]).collect();
    assert_eq!(payloads, [b"0", b"1", b"2", b"3", b"4"]);
}

#[tokio::test]
async fn a_batch_of_two_routes_is_taken_by_both_consumers() {
    let bench = bench(
        r#"
        [[route]]
        pattern = "events.#"
        confirm = "consumer"
        consumer = "engine"
        [[route]]
        pattern = "control.#"
        confirm = "consumer"
        consumer = "engine"
        "#,
    );
    let mut engine = bench.engine().await;
    let port = bench.port("a").await;
    let mut both = one("control.a", "1");
    both.push(&Topic::parse("events.a").unwrap(), Bytes::from_static(b"2"), 0);
    let mut both = port.submit(both).await.unwrap();
    let behind = port.submit(one("events.a", "3")).await.unwrap();
    let asked = engine.asked().await;
    assert_eq!((asked.from.as_str(), asked.payloads()), ("daemoneye.confirm.1", vec!["1"]));
    engine.take(&asked).await;
    assert!(stays_open(&mut both).await);
    let asked = engine.asked().await;
    assert_eq!(asked.from, "daemoneye.confirm.0");
    engine.take(&asked).await;
    if asked.payloads() == ["2"] {
        let asked = engine.asked().await;
        assert_eq!(asked.payloads(), ["3"]);
        engine.take(&asked).await;
    }
    assert_eq!((soon(both).await, soon(behind).await), (Taken::All, Taken::All));
}

#[tokio::test]
async fn batches_of_a_closed_port_are_withdrawn_and_nobody_is_called_with_them_any_more() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let port = bench.port("a").await;
    let called = port.submit(one("events.a", "1")).await.unwrap();
    let asked = engine.asked().await;
    let waits = port.submit(one("events.a", "2")).await.unwrap();
    soon(port.close()).await;
    assert_eq!(called.now_or_never(), Some(Taken::Withdrawn));
    assert_eq!(waits.now_or_never(), Some(Taken::Withdrawn));
    engine.take(&asked).await;
    assert!(engine.is_not_asked().await);
    let again = bench.port("a").await;
    let ticket = again.submit(one("events.a", "3")).await.unwrap();
    let asked = engine.asked().await;
    assert_eq!(asked.payloads(), ["3"]);
    engine.take(&asked).await;
    assert_eq!(soon(ticket).await, Taken::All);
}

#[tokio::test]
async fn a_lane_of_several_ports_is_called_in_its_order_for_one_port_at_a_time() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let mut other = bench.hear("other", "#").await;
    let (one_port, other_port) = (near(&bench, "a").await, near(&bench, "b").await);
    let lane = LaneId::new();
    let mut tickets = Vec::new();
    for (port, payload) in [(&one_port, "1"), (&other_port, "2"), (&one_port, "3"), (&one_port, "4")] {
        tickets.push(port.try_submit(lane, one("events.a", payload)).unwrap());
    }
    let mut after = other_port.try_submit(lane, one("control.a", "5")).unwrap();
    let mut calls = 0;
    let mut taken = Vec::new();
    while taken.len() < 4 {
        assert!(stays_open(&mut after).await);
        let asked = engine.asked().await;
        assert!(engine.is_not_asked().await, "of one lane one call is open");
        taken.extend(asked.payloads().into_iter().map(str::to_owned));
        calls += 1;
        engine.take(&asked).await;
    }
    assert_eq!((taken.join(" ").as_str(), calls), ("1 2 3 4", 3));
    let mut heard = Vec::new();
    while heard.len() < 5 {
        assert!(soon(other.next(&mut heard, 1)).await);
    }
    other.taken();
    let order: Vec<_> = heard.iter().map(|message| message.payload[0]).collect();
    assert_eq!(order, b"12345");
    for ticket in tickets.into_iter().chain([after]) {
        assert_eq!(soon(ticket).await, Taken::All);
    }
}

#[tokio::test]
async fn what_came_after_a_withdrawn_batch_is_not_given_to_the_consumer() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let mut other = bench.hear("other", "control.#").await;
    let ports = [near(&bench, "a").await, near(&bench, "b").await];
    let lane = LaneId::new();
    let submit = |port: usize, topic, payload| ports[port].try_submit(lane, one(topic, payload)).unwrap();
    let first = submit(1, "events.a", "0");
    let lost = [submit(0, "events.a", "1"), submit(1, "events.a", "2"), submit(1, "control.a", "3")];
    let asked = engine.asked().await;
    assert_eq!(asked.payloads(), ["0"]);
    soon(ports[0].close()).await;
    for ticket in lost {
        assert_eq!(ticket.now_or_never(), Some(Taken::Withdrawn));
    }
    engine.take(&asked).await;
    assert_eq!(soon(first).await, Taken::All);
    assert!(engine.is_not_asked().await);
    let own = ports[1].submit(one("control.a", "4")).await.unwrap();
    let mut heard = Vec::new();
    assert!(soon(other.next(&mut heard, 1)).await);
    assert_eq!(&heard[0].payload[..], b"4");
    other.taken();
    assert_eq!(soon(own).await, Taken::All);
}

#[tokio::test]
async fn a_lane_whose_refused_batch_is_withdrawn_is_no_trouble_any_more() {
    let bench = bench(ENGINE);
    let mut engine = bench.engine().await;
    let ports = [near(&bench, "a").await, near(&bench, "b").await];
    let lane = LaneId::new();
    let refused = ports[0].try_submit(lane, one("events.a", "1")).unwrap();
    let behind = ports[1].try_submit(lane, one("events.a", "2")).unwrap();
    let asked = engine.asked().await;
    engine.refuse(&asked).await;
    bench.until_held("refused").await;
    soon(ports[0].close()).await;
    assert_eq!(
        (refused.now_or_never(), behind.now_or_never()),
        (Some(Taken::Withdrawn), Some(Taken::Withdrawn))
    );
    bench.until_free().await;
    let ticket = ports[1].submit(one("events.a", "3")).await.unwrap();
    let mut asked = engine.asked().await;
    while asked.payloads() == ["1"] {
        // Called before the port was closed.
        asked = engine.asked().await;
    }
    assert_eq!(asked.payloads(), ["3"]);
    engine.take(&asked).await;
    assert_eq!(soon(ticket).await, Taken::All);
}

/// A port that shares lanes with others of its kind.
async fn near(bench: &Bench, called: &str) -> Port {
    soon(bench.bus.port_near(&name(called), 1)).await.unwrap()
}
