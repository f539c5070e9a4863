//! What an uplink does with a gateway that does what no gateway should, and with one that does what it must.

#![expect(clippy::significant_drop_tightening, reason = "a collector lives as long as its test")]

pub(crate) mod gateway;
mod revocation;
mod several;

use std::time::Duration;

use bytes::Bytes;
use daemoneye_proto::v1::{self, link_request::Frame, link_response};
use gateway::{PATIENCE, Scripted, id, payloads, timed, topic, until};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    client::{self, Collector},
    spool,
    trust::revocation::Need,
};

const CRITICAL: &str = "events.process.start";
const TELEMETRY: &str = "events.process.metadata";

fn collector(gateway: &Scripted, change: impl FnOnce(&mut client::Config)) -> Collector {
    let mut config = client::Config {
        collector: Some("procmond-1".into()),
        spool: spool::Config::at(gateway.folder.path().join("spool")),
        uplink: gateway.config(),
    };
    change(&mut config);
    let (collector, tasks) = Collector::open(config).unwrap();
    for task in tasks {
        gateway.leash.spawn(task);
    }
    collector
}

async fn publish(collector: &Collector, topic_text: &str, numbers: std::ops::RangeInclusive<u32>) {
    let events =
        numbers.map(|number| (topic(topic_text), Bytes::from(number.to_string()), u64::from(number)));
    collector.publish_all(events).await.unwrap();
}

#[tokio::test]
async fn events_arrive_in_order_and_leave_the_spool_when_they_are_acknowledged() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=300).await;
    let (mut session, hello) = gateway.welcomed(1000).await;
    let classes: Vec<_> = hello.streams.iter().map(v1::StreamState::class).collect();
    assert_eq!(classes, [v1::StreamClass::Critical, v1::StreamClass::Telemetry]);
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let batch = session.batch().await;
        assert_eq!(batch.first_seq, seen.len() as u64 + 1);
        assert_eq!(
            (batch.collector.as_str(), batch.topics.as_slice()),
            ("procmond-1", [CRITICAL.to_owned()].as_slice())
        );
        seen.extend(payloads(&batch));
        session.ack(&batch.stream, seen.len() as u64, Vec::new()).await;
    }
    assert_eq!(seen, (1..=300).map(|number| number.to_string()).collect::<Vec<_>>());
    timeout(PATIENCE, collector.flush()).await.unwrap().unwrap();
    let status = collector.status().borrow().clone();
    assert_eq!((status.sent, status.acked, status.rejected, status.in_flight), (300, 300, 0, 0));
}

#[tokio::test]
async fn a_rejected_event_is_kept_as_a_dead_letter() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    let stream = session.batch().await.stream;
    let rejected = |seq| v1::Rejected { seq, code: 2, reason: "not\nallowed".into() };
    // The last is about nothing that this ack settles.
    session.ack(&stream, 3, vec![rejected(2), rejected(9)]).await;
    timeout(PATIENCE, collector.flush()).await.unwrap().unwrap();
    assert_eq!(collector.status().borrow().rejected, 1);
    until(&mut collector.spool(), |stats| stats.of(crate::event::Class::Critical).rejected == 1).await;
}

#[tokio::test]
async fn nothing_is_sent_without_credit_and_pings_go_on() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let mut session = gateway.session().await;
    session.limits.heartbeat = Duration::from_millis(100).try_into().ok();
    let hello = session.hello().await;
    session.welcome(hello.streams.iter().map(|state| (state.stream.clone(), 1)).collect(), 0).await;
    for _ in 0..2 {
        let Some(Frame::Ping(ping)) = session.raw().await else { panic!("no ping") };
        session.say(link_response::Frame::Pong(v1::Pong { nonce: ping.nonce })).await;
    }
    session.say(link_response::Frame::Credit(v1::Credit { events: 2, bytes: 1 })).await;
    assert_eq!(payloads(&session.batch().await), ["1"], "a batch of a small credit is small");
    assert!(collector.status().borrow().round_trip.is_some());
}

#[tokio::test]
async fn a_gateway_that_acknowledges_what_was_not_sent_is_left_and_nothing_is_lost() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    let stream = session.batch().await.stream;
    session.ack(&stream, 4, Vec::new()).await;
    session.closed().await;
    let (mut session, hello) = gateway.welcomed(1000).await;
    assert_eq!(hello.streams.first().unwrap().acked, 0);
    assert_eq!(payloads(&session.batch().await), ["1", "2", "3"]);
    let trouble = collector.status().borrow().last_error.clone().unwrap();
    assert!(trouble.lasting && trouble.what.contains("what was not sent"), "{}", trouble.what);
}

#[tokio::test]
async fn a_gateway_that_knows_more_than_the_spool_is_given_a_new_stream() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let mut session = gateway.session().await;
    let hello = session.hello().await;
    let old = hello.streams.first().unwrap().stream.clone();
    session.welcome(hello.streams.iter().map(|state| (state.stream.clone(), 8)).collect(), 1000).await;
    assert_eq!(session.closed().await, 0);
    let (mut session, hello) = gateway.welcomed(1000).await;
    let new = hello.streams.first().unwrap();
    assert_ne!(id(&new.stream), id(&old));
    assert_eq!((new.acked, new.next), (0, 4));
    let batch = session.batch().await;
    assert_eq!((payloads(&batch), batch.first_seq), (vec!["1".into(), "2".into(), "3".into()], 1));
}

#[tokio::test]
async fn what_a_lost_ack_would_have_settled_is_settled_by_the_next_welcome() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    session.batch().await;
    session.end(Status::unavailable("killed")).await;
    let mut session = gateway.session().await;
    let hello = session.hello().await;
    let resume = hello.streams.iter().map(|state| (state.stream.clone(), state.next)).collect();
    session.welcome(resume, 1000).await;
    timeout(PATIENCE, collector.flush()).await.unwrap().unwrap();
    publish(&collector, CRITICAL, 4..=4).await;
    assert_eq!(session.batch().await.first_seq, 4);
}

#[tokio::test]
async fn a_drained_leaf_sends_nothing_more_and_comes_back_when_it_is_told() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    let stream = session.batch().await.stream;
    let after = Duration::from_millis(400);
    let drain =
        v1::Drain { reconnect_after: after.try_into().ok(), alternatives: vec!["evil.test:1".into()] };
    session.say(link_response::Frame::Drain(drain)).await;
    session.say(link_response::Frame::Ping(v1::Ping { nonce: 7 })).await;
    // The answer comes behind everything that was sent before the drain was heard.
    assert!(matches!(session.raw().await, Some(Frame::Pong(v1::Pong { nonce: 7 }))));
    publish(&collector, CRITICAL, 4..=6).await;
    session.ack(&stream, 3, Vec::new()).await;
    assert_eq!(session.closed().await, 0, "batches after the drain");
    drop(session);
    let ((mut session, hello), took) = timed(gateway.welcomed(1000)).await;
    assert!(took >= after * 9 / 10, "back after {took:?}");
    assert_eq!(hello.streams.first().unwrap().acked, 3);
    assert_eq!(payloads(&session.batch().await), ["4", "5", "6"]);
}

#[tokio::test]
async fn an_event_that_no_message_can_hold_is_set_aside_and_wedges_nothing() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    let large = Bytes::from(vec![b'x'; 100_000]);
    collector.publish(&topic(CRITICAL), "before").await.unwrap();
    collector.publish(&topic(CRITICAL), large).await.unwrap();
    collector.publish(&topic(CRITICAL), "after").await.unwrap();
    let mut session = gateway.session().await;
    session.limits.max_message = 64 * 1024;
    let hello = session.hello().await;
    session.welcome(hello.streams.iter().map(|state| (state.stream.clone(), 1)).collect(), 1000).await;
    let before = session.batch().await;
    assert_eq!(payloads(&before), ["before"]);
    let Some(Frame::Gap(gap)) = session.next().await else { panic!("no gap") };
    assert_eq!((gap.first_seq, gap.last_seq), (2, 2));
    assert_eq!(payloads(&session.batch().await), ["after"]);
    session.ack(&before.stream, 3, Vec::new()).await;
    timeout(PATIENCE, collector.flush()).await.unwrap().unwrap();
    until(&mut collector.spool(), |stats| stats.of(crate::event::Class::Critical).rejected == 1).await;
}

#[tokio::test]
async fn telemetry_that_is_held_back_leaves_room_for_critical_events() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, TELEMETRY, 1..=1000).await;
    let (mut session, _) = gateway.welcomed(80).await;
    let mut telemetry = 0;
    while telemetry < 70 {
        telemetry += session.batch().await.events.len();
    }
    publish(&collector, CRITICAL, 1..=1).await;
    let batch = session.batch().await;
    assert_eq!(batch.topics, [CRITICAL]);
}

#[tokio::test]
async fn a_silent_gateway_is_left_after_three_heartbeats() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    let mut session = gateway.session().await;
    session.limits.heartbeat = Duration::from_millis(100).try_into().ok();
    let hello = session.hello().await;
    session.welcome(hello.streams.iter().map(|state| (state.stream.clone(), 1)).collect(), 1).await;
    let (_, took) = timed(gateway.session()).await;
    assert!(took >= Duration::from_millis(250), "left after {took:?}");
    let trouble = collector.status().borrow().last_error.clone().unwrap();
    assert!(trouble.what.contains("was silent"), "{}", trouble.what);
}

#[tokio::test]
async fn a_gateway_that_asks_for_patience_is_given_it() {
    let mut gateway = Scripted::open().await;
    let _collector = collector(&gateway, |_| {});
    let session = gateway.session().await;
    let delay = Duration::from_millis(500);
    let details = ErrorDetails::with_retry_info(Some(delay));
    session.end(Status::with_error_details(Code::ResourceExhausted, "full", details)).await;
    let (_, took) = timed(gateway.session()).await;
    assert!(took >= delay, "back after {took:?}");
}

#[tokio::test]
async fn closing_delivers_what_is_left_and_half_closes() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    let (mut session, _) = gateway.welcomed(1000).await;
    publish(&collector, CRITICAL, 1..=3).await;
    let script = async {
        let mut left = 3;
        while left > 0 {
            let batch = session.batch().await;
            left -= batch.events.len();
            session.ack(&batch.stream, 3 - left as u64, Vec::new()).await;
        }
        assert_eq!(session.closed().await, 0);
        drop(session);
    };
    let (closed, ()) = tokio::join!(timeout(PATIENCE, collector.close(PATIENCE)), script);
    closed.unwrap();
}

#[tokio::test]
async fn closing_without_a_gateway_ends_when_patience_does() {
    let gateway = Scripted::open().await;
    let collector = collector(&gateway, |config| {
        // Nobody listens there.
        config.uplink.gateways = vec!["127.0.0.1:1".parse().unwrap()];
    });
    publish(&collector, CRITICAL, 1..=3).await;
    let status = collector.status();
    let patience = Duration::from_millis(300);
    let (closed, took) = timed(timeout(PATIENCE, collector.close(patience))).await;
    closed.unwrap();
    assert!(took >= patience, "{took:?}");
    let trouble = status.borrow().last_error.clone().unwrap();
    assert!(trouble.what.starts_with("could not connect to 127.0.0.1:1: "), "{}", trouble.what);
    assert!(!trouble.lasting);
}

/// The next session of a leaf that moves, which goes on where the old one ended; both are read to event 6.
async fn moved(
    gateway: &mut Scripted,
    mut old: gateway::Conversation,
    stream: &Bytes,
) -> gateway::Conversation {
    let mut acked = 3;
    while let Some(frame) = old.next().await {
        if let Frame::Batch(batch) = frame {
            acked += batch.events.len() as u64;
            old.ack(stream, acked, Vec::new()).await;
        }
    }
    drop(old);
    let (mut session, hello) = gateway.welcomed(1000).await;
    assert_eq!(hello.streams.first().unwrap().acked, acked, "everything that the old one carried is settled");
    let mut next = acked + 1;
    while next <= 6 {
        let batch = session.batch().await;
        assert_eq!(batch.first_seq, next);
        next += batch.events.len() as u64;
    }
    session
}

#[tokio::test]
async fn a_leaf_whose_certificate_is_renewed_moves_over_and_settles_what_is_in_flight_first() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    let stream = session.batch().await.stream;
    gateway.renew();
    publish(&collector, CRITICAL, 4..=6).await;
    session.ack(&stream, 3, Vec::new()).await;
    let _session = moved(&mut gateway, session, &stream).await;
    until(&mut collector.status(), |status| status.sessions == 2 && status.last_error.is_none()).await;
}

#[tokio::test]
async fn a_leaf_that_is_told_that_its_connection_is_old_makes_the_next_one_first() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    let stream = session.batch().await.stream;
    session.say(link_response::Frame::Drain(v1::Drain::default())).await;
    publish(&collector, CRITICAL, 4..=6).await;
    session.ack(&stream, 3, Vec::new()).await;
    let _session = moved(&mut gateway, session, &stream).await;
    until(&mut collector.status(), |status| status.sessions == 2 && status.last_error.is_none()).await;
}

#[tokio::test]
async fn a_new_connection_that_is_not_welcomed_leaves_the_old_one_in_service() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    let stream = session.batch().await.stream;
    session.ack(&stream, 3, Vec::new()).await;
    gateway.renew();
    assert_eq!(session.closed().await, 0);
    drop(session);
    // The policy does not know who the new certificate names.
    gateway.session().await.end(Status::permission_denied("no role")).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    publish(&collector, CRITICAL, 4..=6).await;
    assert_eq!(payloads(&session.batch().await), ["4", "5", "6"]);
}

#[tokio::test]
async fn a_gateway_whose_authority_is_taken_away_is_left_at_once() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    let (mut session, _) = gateway.welcomed(1000).await;
    gateway.distrust();
    assert_eq!(session.closed().await, 0);
    let untrusted = |status: &crate::uplink::Status| {
        status
            .last_error
            .as_ref()
            .is_some_and(|trouble| trouble.what.contains("is not trusted") && trouble.lasting)
    };
    until(&mut collector.status(), untrusted).await;
}

#[tokio::test]
async fn a_gateway_that_goes_away_while_a_leaf_moves_over_is_obeyed() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |_| {});
    let (mut session, _) = gateway.welcomed(1000).await;
    gateway.renew();
    // Nothing is in flight: it half-closes as soon as the next connection stands.
    assert_eq!(session.closed().await, 0);
    let reconnect_after = Duration::from_mins(2).try_into().ok();
    session.say(link_response::Frame::Drain(v1::Drain { reconnect_after, alternatives: Vec::new() })).await;
    drop(session);
    let waits = |status: &crate::uplink::Status| {
        let soon = std::time::SystemTime::now() + Duration::from_mins(1);
        matches!(&status.link, crate::uplink::Link::Waiting { until, .. } if *until > soon)
    };
    until(&mut collector.status(), waits).await;
}

#[tokio::test]
async fn a_gateway_whose_authority_is_taken_away_is_left_even_while_a_leaf_moves_over() {
    let mut gateway = Scripted::open().await;
    let collector = collector(&gateway, |config| config.uplink.drain_timeout = PATIENCE * 6);
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    drop(session.batch().await);
    session.say(link_response::Frame::Drain(v1::Drain::default())).await;
    // The batch is never acknowledged: the leaf stays, though its next connection stands.
    until(&mut gateway.connections, |count| *count == 2).await;
    gateway.distrust();
    assert_eq!(session.closed().await, 0);
}
