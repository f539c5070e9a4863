//! One turn of a publisher, step by step.

use bytes::Bytes;

use super::*;
use crate::{
    bus::{Broker, Bus, BusName, Routes, embedded},
    event::Events,
    lifecycle::Lifecycle,
    topic::Topic,
};

#[tokio::test]
async fn what_comes_back_within_a_turn_goes_before_what_follows_it() {
    let routes = Routes::new(Vec::new(), Broker::Embedded).unwrap();
    let (bus, tasks) = embedded::open(embedded::Config::default(), routes);
    let life = Lifecycle::new();
    for task in tasks {
        life.leash().spawn(task);
    }
    let core = Arc::clone(bus.core());
    let (_opened, opening) = mpsc::channel(1);
    let (_commands, commanded) = mpsc::channel(1);
    let (pumps, _pumps) = mpsc::channel(1);
    let mut publisher = Publisher::new(Arc::clone(&core), opening, commanded, pumps);
    let (client, id) = core.register("port", 1).await.unwrap();
    let (_port, gone) = oneshot::channel();
    publisher.open(Opened { id, client, gone });
    let hear = async |name: &str| {
        bus.subscribe(&BusName::parse(name).unwrap(), &["events.#".parse().unwrap()]).await.unwrap()
    };
    let pending = |order: u64| {
        let mut events = Events::default();
        events.push(&Topic::parse("events.a").unwrap(), Bytes::from(order.to_string()), 0);
        let (done, ticket) = oneshot::channel();
        (
            Pending {
                port: id,
                lane: 0,
                order,
                events,
                needs: Vec::new(),
                done,
                consumed: Consumed::default(),
            },
            ticket,
        )
    };

    let first = hear("first").await;
    let (mut groups, (one, _one), (two, _two)) = (Vec::new(), pending(1), pending(2));
    publisher.submit(one, &mut groups).await;
    let mut second = hear("second").await;
    drop(first);
    publisher.submit(two, &mut groups).await;
    publisher.post(groups);
    publisher.take_back().await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        assert!(second.next(&mut heard, 1).await);
    }
    assert_eq!((&heard[0].payload[..], &heard[1].payload[..]), (&b"1"[..], &b"2"[..]));
}
