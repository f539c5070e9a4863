//! What an uplink does with several gateways.

use std::time::Duration;

use tokio::net::TcpListener;

use super::{CRITICAL, collector, publish};
use crate::uplink::{
    Link, Spread,
    tests::gateway::{Conversation, Scripted, payloads, until},
};

async fn take(session: &mut Conversation, wanted: std::ops::RangeInclusive<u32>) {
    let mut seen = Vec::new();
    let wanted: Vec<String> = wanted.map(|number| number.to_string()).collect();
    while seen.len() < wanted.len() {
        let batch = session.batch().await;
        seen.extend(payloads(&batch));
        let last = batch.first_seq + batch.events.len() as u64 - 1;
        session.ack(&batch.stream, last, Vec::new()).await;
    }
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn a_leaf_goes_back_to_its_preferred_gateway_when_that_is_there_again() {
    let mut second = Scripted::open().await;
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let collector = collector(&second, |config| {
        config.uplink.gateways.insert(0, place.to_string().parse().unwrap());
        config.uplink.spread = Spread::Priority;
        config.uplink.return_after = Duration::from_millis(200);
    });
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = second.welcomed(1000).await;
    take(&mut session, 1..=3).await;

    let mut first = second.another(TcpListener::bind(place).await.unwrap());
    let (batches, (mut session, _)) = tokio::join!(session.closed(), first.welcomed(1000));
    assert_eq!(batches, 0, "the old session was settled, then closed");
    publish(&collector, CRITICAL, 4..=6).await;
    take(&mut session, 4..=6).await;
    let mut status = collector.status();
    let here = place.to_string();
    until(&mut status, |status| matches!(&status.link, Link::Up { gateway, .. } if *gateway == here)).await;
    assert_eq!(collector.status().borrow().sent, 6, "nothing was sent twice");
}

#[tokio::test]
async fn an_old_connection_is_exchanged_while_events_flow() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |config| {
        config.uplink.connection_age = Duration::from_millis(100);
    });
    publish(&collector, CRITICAL, 1..=3).await;
    for _ in 0..3 {
        let (mut session, _) = gateway.welcomed(1000).await;
        if collector.status().borrow().acked == 0 {
            take(&mut session, 1..=3).await;
        }
        assert_eq!(session.closed().await, 0);
    }
    let status = collector.status().borrow().clone();
    assert_eq!((status.sent, status.failures), (3, 0));
}

#[tokio::test]
async fn a_gateway_that_keeps_failing_is_left_out_while_another_is_there() {
    let mut gateway = Scripted::open().await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let collector = collector(&gateway, |config| {
        config.uplink.gateways.insert(0, dead.parse().unwrap());
        config.uplink.spread = Spread::Priority;
    });
    let mut status = collector.status();
    for round in 1..=5 {
        publish(&collector, CRITICAL, round..=round).await;
        let (mut session, _) = gateway.welcomed(1000).await;
        take(&mut session, round..=round).await;
        until(&mut status, |status| status.acked == u64::from(round)).await;
        // One that serves and is lost is no failing one.
        session.end(tonic::Status::unavailable("gone")).await;
    }
    until(&mut status, |status| status.left_out == [dead.clone()]).await;
}
