//! Ports that hear: what is sent to them, and what they subscribe to.

use super::*;
use crate::bus::{Ear, Filter, Heard, HeardAs, Room, SendError};

/// A port that hears, under the name of a remote collector.
async fn attached(bench: &Bench, called: &str) -> (Port, Ear) {
    soon(bench.bus.attach(&name(called), Room::default())).await.unwrap()
}

async fn heard(ear: &mut Ear) -> Vec<Heard> {
    let mut heard = Vec::new();
    assert!(soon(ear.next(&mut heard, 100)).await);
    heard
}

fn filters(filters: &[&str]) -> Vec<Filter> {
    filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect()
}

const COLLECTOR: &str = "collector.site-a.procmond-1";

#[tokio::test]
async fn what_is_sent_to_an_attached_name_is_heard_with_its_sender() {
    let bench = bench(Vec::new());
    let engine = bench.port("engine").await;
    assert_eq!(soon(engine.send(COLLECTOR, "x".into())).await, Err(SendError::NoClient));
    let (port, mut ear) = attached(&bench, COLLECTOR).await;
    soon(engine.send(COLLECTOR, "task".into())).await.unwrap();
    soon(engine.broadcast("collector.site-a.*", "all".into())).await.unwrap();
    let mut all = heard(&mut ear).await;
    while all.len() < 2 {
        all.extend(heard(&mut ear).await);
    }
    let kinds: Vec<_> = all.iter().map(|heard| (heard.kind, &*heard.sender, &heard.payload[..])).collect();
    assert_eq!(kinds, [(HeardAs::Message, "engine", &b"task"[..]), (HeardAs::Broadcast, "engine", b"all")]);

    port.close().await;
    assert!(!soon(ear.next(&mut Vec::new(), 1)).await, "an ear ends with its port");
    assert_eq!(soon(engine.send(COLLECTOR, "x".into())).await, Err(SendError::NoClient));
    for bad in ["", ".broker", "a\0b"] {
        assert_eq!(soon(engine.send(bad, "x".into())).await, Err(SendError::Name), "{bad:?}");
    }
}

#[tokio::test]
async fn an_attached_port_hears_what_it_asks_for_and_speaks_on() {
    let bench = bench(vec![rule("#", Confirm::Socket, Unheard::Discard)]);
    let port = bench.port(COLLECTOR).await;
    let before = port.submit(one("events.x", "nobody")).await.unwrap();
    let mut ear = soon(port.attach(Room::default())).await.unwrap();
    assert_eq!(soon(before).await, Taken::All, "what was submitted goes on");
    let engine = bench.port("engine").await;
    let say = async |topic: &str| {
        assert_eq!(soon(engine.submit(one(topic, topic)).await.unwrap()).await, Taken::All);
    };
    soon(port.hear(filters(&["control/task/#"]))).await.unwrap();
    soon(port.exclude(filters(&["control/task/noise"]))).await.unwrap();
    say("control.task.noise").await;
    say("control.task.scan").await;
    soon(port.unexclude(filters(&["control/task/noise"]))).await.unwrap();
    say("control.task.noise").await;
    soon(port.unhear(filters(&["control/task/#"]))).await.unwrap();
    say("control.task.scan").await;
    soon(engine.send(COLLECTOR, "end".into())).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 3 {
        all.extend(heard(&mut ear).await);
    }
    let topics: Vec<_> = all.iter().map(|heard| &*heard.topic).collect();
    assert_eq!(topics, ["control/task/scan", "control/task/noise", ""]);
    // It is heard under the same name as before.
    let mut listener = bench.hear("listener", "events.#").await;
    let spoken = port.submit(one("events.x", "y")).await.unwrap();
    assert_eq!(&*next(&mut listener, 1).await[0].sender, COLLECTOR);
    listener.taken();
    assert_eq!(soon(spoken).await, Taken::All);
}

#[tokio::test]
async fn nobody_waits_for_an_attached_name_and_it_is_no_audience() {
    let bench = bench(vec![rule("#", Confirm::Socket, Unheard::Hold)]);
    let room = Room { frames: NonZeroUsize::new(4).unwrap(), bytes: NonZeroUsize::new(64).unwrap() };
    let (port, mut ear) = soon(bench.bus.attach(&name(COLLECTOR), room)).await.unwrap();
    soon(port.hear(filters(&["events/#"]))).await.unwrap();
    let engine = bench.port("engine").await;
    let mut held = engine.submit(one("events.a", "0")).await.unwrap();
    assert!(stays_open(&mut held).await, "only who overhears is there");
    let mut audience = bench.hear("audience", "events.#").await;
    let batch = events("events.a", (1..1000).map(|n| n.to_string()));
    let ticket = engine.submit(batch).await.unwrap();
    let mut count = 0;
    while count < 1000 {
        count += next(&mut audience, 256).await.len();
    }
    audience.taken();
    assert_eq!((soon(held).await, soon(ticket).await), (Taken::All, Taken::All));
    // The newest are left, and the loss is told.
    let end = soon(async {
        let mut all: Vec<Heard> = Vec::new();
        while all.last().is_none_or(|last| &last.payload[..] != b"999") {
            all.extend(heard(&mut ear).await);
        }
        all.len()
    });
    assert_eq!(u64::try_from(end.await).unwrap() + ear.dropped(), 1000);

    for _ in 0..4 {
        soon(engine.send(COLLECTOR, "task".into())).await.unwrap();
    }
    let full = async {
        while soon(engine.send(COLLECTOR, "more".into())).await != Err(SendError::Busy) {
            tokio::task::yield_now().await;
        }
    };
    soon(full).await;
}

#[tokio::test]
async fn a_deaf_name_is_told_to_senders_and_its_departure_to_who_waits() {
    let bench = bench(Vec::new());
    let engine = bench.port("engine").await;
    let (port, ear) = attached(&bench, COLLECTOR).await;
    let gone = bench.bus.departure(COLLECTOR).expect("it listens");
    assert!(bench.bus.departure("engine").is_none(), "a port that only speaks is nobody to wait for");
    drop(ear);
    soon(gone).await;
    assert_eq!(soon(engine.send(COLLECTOR, "x".into())).await, Err(SendError::Undelivered));
    let mut again = soon(port.attach(Room::default())).await.unwrap();
    soon(engine.send(COLLECTOR, "y".into())).await.unwrap();
    assert_eq!(&heard(&mut again).await[0].payload[..], b"y");
    drop(port);
    assert!(!soon(again.next(&mut Vec::new(), 1)).await);
    soon(async {
        while bench.bus.attach(&name(COLLECTOR), Room::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_taken_in_this_process_is_counted_and_timed() {
    let bench = bench(Vec::new());
    let port = bench.port("collector.site-a.procmond-1").await;
    let mut engine = bench.hear("engine", "events.#").await;
    let ticket = port.submit(one("events.process.start", "x")).await.unwrap();
    assert_eq!(next(&mut engine, 16).await.len(), 1);
    assert_eq!(bench.bus.counters().in_process().latency.count, 0, "handed out, but not taken");
    engine.taken();
    assert_eq!(soon(ticket).await, Taken::All);
    let totals = bench.bus.counters().in_process();
    assert_eq!((totals.received, totals.sent, totals.latency.count), (1, 1, 1));
    assert_eq!(totals.connections(), 2, "a port and a consumer");
    drop(engine);
    assert_eq!(bench.bus.counters().in_process().connections(), 1);
}
