//! The bus as its users see it.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time;

use super::*;
use crate::{
    bus::{Broker, Confirm, Message, Rule, Taken, Ticket, Unheard},
    event::Events,
    lifecycle::{Leash, Lifecycle},
    topic::Topic,
};

mod ears;
mod lanes;

struct Bench {
    bus: Arc<Embedded>,
    life: Lifecycle,
}

fn bench_with(config: Config, rules: Vec<Rule>) -> Bench {
    let routes = Routes::new(rules, Broker::Embedded).unwrap();
    let (bus, tasks) = open_over(ENGINE, config, routes);
    let life = Lifecycle::new();
    let leash: Leash = life.leash();
    for task in tasks {
        leash.spawn(task);
    }
    Bench { bus, life }
}

fn bench(rules: Vec<Rule>) -> Bench {
    bench_with(Config::default(), rules)
}

fn rule(pattern: &str, confirm: Confirm, unheard: Unheard) -> Rule {
    let pattern = pattern.parse().unwrap();
    Rule { pattern, confirm: Some(confirm), unheard: Some(unheard), ..anything() }
}

fn anything() -> Rule {
    Rule {
        pattern: Pattern::all(),
        confirm: None,
        unheard: None,
        envelope: crate::bus::Envelope::None,
        consumer: None,
        window: None,
        answer_within: None,
    }
}

fn name(name: &str) -> BusName {
    BusName::parse(name).unwrap()
}

fn events(topic: &str, payloads: impl IntoIterator<Item = String>) -> Events {
    let topic = Topic::parse(topic).unwrap();
    let mut events = Events::default();
    for payload in payloads {
        events.push(&topic, Bytes::from(payload), 0);
    }
    events
}

fn one(topic: &str, payload: &str) -> Events {
    events(topic, [payload.to_owned()])
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(10), what).await.expect("in time")
}

/// Lets everything run that can, and returns whether the ticket is still open.
async fn stays_open(ticket: &mut Ticket) -> bool {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    ticket.now_or_never().is_none()
}

impl Bench {
    async fn port(&self, called: &str) -> Port {
        soon(self.bus.port(&name(called))).await.unwrap()
    }

    async fn hear(&self, called: &str, pattern: &str) -> Subscription {
        soon(self.bus.subscribe(&name(called), &[pattern.parse().unwrap()])).await.unwrap()
    }

    fn held(&self) -> Vec<String> {
        self.bus.state().borrow().held.iter().map(|held| held.route.clone()).collect()
    }
}

async fn next(subscription: &mut Subscription, most: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    assert!(soon(subscription.next(&mut messages, most)).await);
    messages
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_batch_is_confirmed_once_its_consumer_comes_back() {
    let bench = bench(Vec::new());
    let port = bench.port("collector.site-a.procmond-1").await;
    let mut engine = bench.hear("engine", "events.#").await;
    let mut ticket = port.submit(one("events.process.start", "x")).await.unwrap();

    let heard = next(&mut engine, 16).await;
    assert_eq!(&*heard[0].sender, "collector.site-a.procmond-1");
    assert_eq!(&*heard[0].topic, "events/process/start");
    assert_eq!(&heard[0].payload[..], b"x");
    assert!(stays_open(&mut ticket).await, "handed out, but not taken");

    engine.taken();
    assert_eq!(soon(ticket).await, Taken::All);
}

#[tokio::test]
async fn a_consumer_that_asks_again_has_taken_what_it_was_handed() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let mut engine = bench.hear("engine", "events.#").await;
    let first = port.submit(one("events.a", "1")).await.unwrap();
    let mut second = port.submit(one("events.a", "2")).await.unwrap();
    assert_eq!(payloads(&next(&mut engine, 1).await), ["1"]);
    assert_eq!(payloads(&next(&mut engine, 1).await), ["2"]);
    // One barrier may stand behind both, so the first is not promised to be confirmed before the second.
    assert!(stays_open(&mut second).await);
    assert!(engine.next(&mut Vec::new(), 1).now_or_never().is_none());
    assert_eq!((soon(first).await, soon(second).await), (Taken::All, Taken::All));
}

#[tokio::test]
async fn order_and_count_hold_over_many_batches_and_ports() {
    let bench =
        bench_with(Config { publishers: NonZeroUsize::new(3).unwrap(), ..Config::default() }, Vec::new());
    let mut engine = bench.hear("engine", "events.#").await;
    let (ports, batches, size) = (8, 50, 37);
    let mut tickets = Vec::new();
    for port in 0..ports {
        let port = bench.port(&format!("port-{port}")).await;
        for batch in 0..batches {
            let numbers = (0..size).map(|n| (batch * size + n).to_string());
            tickets.push(port.submit(events("events.a.b", numbers)).await.unwrap());
        }
        // Kept until the end, because dropping a port withdraws.
        std::mem::forget(port);
    }
    let mut seen = HashMap::<Arc<str>, usize>::new();
    let mut messages = Vec::new();
    let mut total = 0;
    while total < ports * batches * size {
        messages.clear();
        soon(engine.next(&mut messages, 100)).await;
        total += messages.len();
        for message in &messages {
            let count = seen.entry(Arc::clone(&message.sender)).or_default();
            assert_eq!(&message.payload[..], count.to_string().as_bytes());
            *count += 1;
        }
    }
    engine.taken();
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    let counters = bench.bus.counters();
    assert_eq!(counters.published.get(), (ports * batches * size) as u64);
    assert_eq!(counters.confirmed.get(), (ports * batches) as u64);
}

#[tokio::test]
async fn a_route_that_nobody_hears_is_held_and_resumes() {
    let bench = bench(vec![rule("events.#", Confirm::Socket, Unheard::Hold)]);
    let port = bench.port("a").await;
    let mut first = port.submit(one("events.a", "1")).await.unwrap();
    let second = port.submit(one("events.a", "2")).await.unwrap();
    assert!(stays_open(&mut first).await);
    assert_eq!(bench.held(), ["events.#"]);

    let mut other = bench.hear("other", "control.#").await;
    assert!(stays_open(&mut first).await, "a subscription elsewhere does not free it");

    let mut engine = bench.hear("engine", "events.+").await;
    let mut heard = next(&mut engine, 1).await;
    heard.extend(next(&mut engine, 1).await);
    assert_eq!(payloads(&heard), ["1", "2"]);
    engine.taken();
    assert_eq!((soon(first).await, soon(second).await), (Taken::All, Taken::All));
    assert!(bench.held().is_empty());
    assert!(other.next(&mut Vec::new(), 1).now_or_never().is_none());
}

#[tokio::test]
async fn a_topic_that_nobody_hears_on_a_heard_route_is_passed_over() {
    let bench = bench(vec![
        rule("events.#", Confirm::Socket, Unheard::Hold),
        rule("debug.#", Confirm::Bus, Unheard::Discard),
    ]);
    let _engine = bench.hear("engine", "events.network.#").await;
    let port = bench.port("a").await;
    let ticket = port.submit(one("events.process.start", "x")).await.unwrap();
    assert_eq!(soon(ticket).await, Taken::All);
    let ticket = port.submit(one("debug.x", "x")).await.unwrap();
    assert_eq!(soon(ticket).await, Taken::All);
    let counters = bench.bus.counters();
    assert_eq!((counters.passed_over.get(), counters.discarded.get()), (1, 1));
    assert_eq!(counters.published.get(), 0);
}

#[tokio::test]
async fn a_batch_whose_only_consumer_goes_away_is_held_for_the_next_one() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let mut engine = bench.hear("engine", "events.#").await;
    let mut tickets = Vec::new();
    for n in 0..5 {
        tickets.push(port.submit(one("events.a", &n.to_string())).await.unwrap());
    }
    assert!(!next(&mut engine, 2).await.is_empty());
    drop(engine);
    assert!(stays_open(&mut tickets[0]).await);
    assert_eq!(bench.held(), ["#"]);

    let mut later = bench.hear("later", "events.#").await;
    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.extend(payloads(&next(&mut later, 10).await));
    }
    assert_eq!(heard, ["0", "1", "2", "3", "4"]);
    later.taken();
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    assert!(bench.bus.counters().resubmitted.get() >= 1);
}

#[tokio::test]
async fn a_consumer_that_goes_away_does_not_hold_up_the_others() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let mut engine = bench.hear("engine", "events.#").await;
    let stuck = bench.hear("stuck", "events.#").await;
    let mut ticket = port.submit(one("events.a", "x")).await.unwrap();
    next(&mut engine, 1).await;
    engine.taken();
    assert!(stays_open(&mut ticket).await);
    drop(stuck);
    assert_eq!(soon(ticket).await, Taken::All);
}

#[tokio::test]
async fn a_full_consumer_holds_up_its_own_publishers_only() {
    let bench = bench_with(Config { inbox_bytes: 4096, ..Config::default() }, Vec::new());
    let (loud, quiet) = (bench.port("loud").await, bench.port("quiet").await);
    let mut stuck = bench.hear("stuck", "events.#").await;
    let mut brisk = bench.hear("brisk", "control.#").await;
    let mut tickets = Vec::new();
    for n in 0..200 {
        tickets.push(loud.submit(one("events.a", &n.to_string())).await.unwrap());
    }
    let ticket = quiet.submit(one("control.a", "x")).await.unwrap();
    assert_eq!(payloads(&next(&mut brisk, 1).await), ["x"]);
    brisk.taken();
    assert_eq!(soon(ticket).await, Taken::All);
    assert!(bench.bus.counters().published.get() < 100, "the rest waits at its port");

    let mut heard = Vec::new();
    while heard.len() < 200 {
        heard.extend(payloads(&next(&mut stuck, 7).await));
    }
    assert_eq!(heard, (0..200).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    stuck.taken();
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
}

#[tokio::test]
async fn closing_a_port_tells_every_ticket_and_frees_the_name() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    assert_eq!(bench.bus.port(&name("a")).await.unwrap_err(), PortError::Taken);
    let _engine = bench.hear("engine", "control.#").await;
    let engine = bench.hear("engine-2", "events.process.#").await;
    let published = port.submit(one("events.process.x", "1")).await.unwrap();
    drop(bench.bus.port(&name("b")).await.unwrap());
    soon(port.close()).await;
    assert_eq!(published.now_or_never(), Some(Taken::Withdrawn));
    let late = port.submit(one("events.process.x", "2")).await.unwrap();
    assert_eq!(soon(late).await, Taken::Withdrawn);

    let again = bench.port("a").await;
    drop(engine);
    let held = again.submit(one("control.x", "1")).await.unwrap();
    drop(again);
    let outcome = soon(held).await;
    assert!(matches!(outcome, Taken::Withdrawn | Taken::All));
    // The name is free again soon after a drop too.
    soon(async { while bench.bus.port(&name("a")).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_held_batch_of_a_closed_port_is_not_published() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let mut ticket = port.submit(one("events.a", "1")).await.unwrap();
    assert!(stays_open(&mut ticket).await);
    soon(port.close()).await;
    assert_eq!(ticket.now_or_never(), Some(Taken::Withdrawn));
    assert!(bench.held().is_empty());
    let mut engine = bench.hear("engine", "events.#").await;
    assert!(time::timeout(Duration::from_millis(20), engine.next(&mut Vec::new(), 1)).await.is_err());
}

#[tokio::test]
async fn a_closed_bus_ends_with_its_last_port() {
    let Bench { bus, life } = bench(Vec::new());
    let mut engine = bus.subscribe(&name("engine"), &["events.#".parse().unwrap()]).await.unwrap();
    let port = bus.port(&name("a")).await.unwrap();
    bus.close();
    assert_eq!(bus.port(&name("b")).await.unwrap_err(), PortError::Closed);
    let ticket = port.submit(one("events.a", "last")).await.unwrap();
    assert_eq!(payloads(&next(&mut engine, 1).await), ["last"]);
    engine.taken();
    assert_eq!(soon(ticket).await, Taken::All);
    soon(port.close()).await;
    assert!(!soon(engine.next(&mut Vec::new(), 1)).await, "no more will come");
    assert_eq!(life.drain(Duration::from_secs(5), std::future::pending()).await, 0);
}

#[tokio::test]
async fn a_task_that_dies_takes_its_consumers_with_it_and_frees_the_publishers() {
    let routes = Routes::new(Vec::new(), Broker::Embedded).unwrap();
    let (bus, tasks) = open_over(ENGINE, Config::default(), routes);
    let life = Lifecycle::new();
    let mut pumps = None;
    for (index, task) in tasks.into_iter().enumerate() {
        // The second one drives the pumps.
        if index == 1 { pumps = Some(task) } else { life.leash().spawn(task) }
    }
    let mut pumps = pumps.unwrap();
    let mut engine = bus.subscribe(&name("engine"), &["events.#".parse().unwrap()]).await.unwrap();
    assert!((&mut pumps).now_or_never().is_none());
    let port = bus.port(&name("a")).await.unwrap();
    // More than the broker's queue takes while nobody drains it.
    let flood = port.submit(events("events.a", (0..3000).map(|n| n.to_string()))).await.unwrap();
    while bus.core().table.named("engine").is_some_and(|member| !member.is_pressed()) {
        tokio::task::yield_now().await;
    }
    drop(pumps);
    assert!(!soon(engine.next(&mut Vec::new(), 1)).await);
    soon(port.close()).await;
    assert_eq!(soon(flood).await, Taken::Withdrawn);
}

#[tokio::test]
async fn who_overhears_is_no_audience_and_holds_nobody_up() {
    let config = Config { inbox_bytes: 4096, ..Config::default() };
    let bench = bench_with(config, vec![rule("debug.#", Confirm::Socket, Unheard::Discard)]);
    let port = bench.port("a").await;
    let mut peer = soon(bench.bus.overhear(&name("peer"), &[Pattern::all()])).await.unwrap();
    let mut held = port.submit(one("events.a", "1")).await.unwrap();
    assert!(stays_open(&mut held).await, "nobody hears it who must");
    assert_eq!(bench.held(), ["#"]);
    assert!(peer.next(&mut Vec::new(), 1).now_or_never().is_none());

    let mut engine = bench.hear("engine", "events.#").await;
    assert_eq!(payloads(&next(&mut engine, 1).await), ["1"]);
    engine.taken();
    assert_eq!(soon(held).await, Taken::All, "though the peer has not taken it");
    assert_eq!(payloads(&next(&mut peer, 1).await), ["1"]);

    let other = bench.port("b").await;
    assert_eq!(soon(other.submit(one("debug.a", "2")).await.unwrap()).await, Taken::All);
    assert_eq!(payloads(&next(&mut peer, 1).await), ["2"]);
    let counters = bench.bus.counters();
    assert_eq!((counters.published.get(), counters.discarded.get()), (1, 1));

    // More than the peer's inbox takes.
    let flood = port.submit(events("events.a", (0..500).map(|n| n.to_string()))).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 500 {
        heard.extend(payloads(&next(&mut engine, 100).await));
    }
    engine.taken();
    assert_eq!(soon(flood).await, Taken::All);
    assert!(counters.inbox_dropped.get() > 0);
    drop(engine);
    let mut held = other.submit(one("events.a", "3")).await.unwrap();
    assert!(stays_open(&mut held).await);
}

#[tokio::test]
async fn each_topic_of_a_batch_is_taken_by_someone_who_hears_it() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let first = bench.hear("first", "events.x.#").await;
    let mut other = bench.hear("other", "events.y.#").await;
    let mut batch = one("events.x.a", "x");
    batch.push(&Topic::parse("events.y.a").unwrap(), Bytes::from_static(b"y"), 0);
    let mut ticket = port.submit(batch).await.unwrap();
    assert_eq!(payloads(&next(&mut other, 1).await), ["y"]);
    other.taken();
    let mut second = bench.hear("second", "events.x.#").await;
    assert!(stays_open(&mut ticket).await);
    drop(first);
    assert_eq!(payloads(&next(&mut second, 1).await), ["x"], "nobody had taken it");
    second.taken();
    assert_eq!(payloads(&next(&mut other, 1).await), ["y"], "the batch is one");
    other.taken();
    assert_eq!(soon(ticket).await, Taken::All);
}

#[tokio::test]
async fn a_batch_that_is_lost_to_one_audience_does_not_wait_for_another() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let first = bench.hear("first", "events.x.#").await;
    let mut slow = bench.hear("slow", "events.y.#").await;
    let mut batch = one("events.x.a", "1");
    batch.push(&Topic::parse("events.y.a").unwrap(), Bytes::from_static(b"y"), 0);
    let ticket = port.submit(batch).await.unwrap();
    assert_eq!(payloads(&next(&mut slow, 1).await), ["y"]);
    let mut second = bench.hear("second", "events.x.#").await;
    drop(first);
    let newer = port.submit(one("events.x.a", "2")).await.unwrap();
    assert_eq!(payloads(&next(&mut second, 1).await), ["1"]);
    assert_eq!(payloads(&next(&mut second, 1).await), ["2"]);
    second.taken();
    assert_eq!(soon(newer).await, Taken::All);
    assert_eq!(payloads(&next(&mut slow, 1).await), ["y"], "the batch is one");
    slow.taken();
    assert_eq!(soon(ticket).await, Taken::All);
}

#[tokio::test]
async fn a_client_that_subscribes_in_several_frames_misses_nothing_that_was_held() {
    let bench = bench(Vec::new());
    let port = bench.port("a").await;
    let mut held = port.submit(one("events.network.a", "1")).await.unwrap();
    assert!(stays_open(&mut held).await);
    let mut engine = bench.hear("engine", "events.process.#").await;
    assert!(stays_open(&mut held).await, "it may be about to subscribe to more");
    let mut more = bench.hear("engine-2", "events.network.#").await;
    assert_eq!(payloads(&next(&mut more, 1).await), ["1"]);
    more.taken();
    assert_eq!(soon(held).await, Taken::All);

    drop((engine, more));
    let mut held = port.submit(one("events.file.a", "2")).await.unwrap();
    while bench.held().is_empty() {
        assert!(stays_open(&mut held).await);
    }
    engine = bench.hear("engine-3", "events.process.#").await;
    assert_eq!(soon(held).await, Taken::All, "nobody came");
    assert_eq!(bench.bus.counters().passed_over.get(), 1);
    assert!(engine.next(&mut Vec::new(), 1).now_or_never().is_none());
}
