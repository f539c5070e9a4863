//! How the session of a client of BUS/RT ends though it would stay: revoked, old, or followed by another of its identity.

use std::{fs, time::Duration};

use busrt::{QoS, client::AsyncClient};
use bytes::BytesMut;
use daemoneye_bridge::native::codec::{Code, server};
use daemoneye_tests::{
    eventually,
    eventually::soon,
    native::{ALPN, Hand, client, dial, frame},
    peer::Credentials,
    subscriber::Subscriber,
    world::World,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{self, Instant},
};

use crate::{
    crowd::{Revoker, tomorrow},
    native::{NAME, POLICY, PUBLISH, confirmed, hand, local, native, procmond},
    revoke::{AT_ONCE, UNHEARD},
};

/// Waits until a session that has ended is shown with `reason`.
async fn left(world: &World, reason: &str) {
    eventually(&format!("who left is shown as {reason}"), || {
        let gone = world.json("/api/v1/collectors")["gone"].clone();
        gone.as_array().unwrap().iter().any(|gone| gone["reason"] == reason)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_by_a_list_is_cut_at_once_idle_or_publishing_and_does_not_come_back() {
    let (mut world, mut revoker) = (native(UNHEARD), Revoker::new(10));
    let (anchors, list) = revoker.trusted_by(&world);
    world.start().await;
    let mut stayer = hand(&world).await;
    for (name, serial, publishes) in [("idle-1", 1, false), ("loud-1", 2, true)] {
        let own = Some(revoker.issue(name, serial, tomorrow()));
        let credentials = Credentials { anchors: anchors.clone(), own };
        let tls = dial(world.address, &credentials, ALPN).await.unwrap();
        let (mut hand, answer) = Hand::greet(tls, name).await.unwrap();
        assert_eq!(Code(answer), Code::OK);
        revoker.revoke(serial);
        fs::write(world.path("next.crl"), revoker.next_list()).unwrap();
        fs::rename(world.path("next.crl"), &list).unwrap();
        let since = Instant::now();
        if publishes {
            let publishing = async { while hand.say(1, PUBLISH, 0, b"events/x\0p").await.is_ok() {} };
            time::timeout(AT_ONCE, publishing).await.expect("nothing more is taken of it");
        }
        let in_order = hand.ended(AT_ONCE).await;
        println!("{name}: cut after {:?}", since.elapsed());
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        assert!(!in_order, "it is reset: BUS/RT has no word for it");
        let again = dial(world.address, &credentials, ALPN).await;
        let refused = match again {
            Ok(tls) => Hand::greet(tls, name).await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "it came back");
    }
    left(&world, "revoked").await;
    assert!((world.metric("daemoneye_gateway_session_cuts_total{reason=\"revoked\"}") - 2.0).abs() < 0.5);
    eventually("the refusals say why they do not come back", || {
        let refusals = world.json("/api/v1/refusals");
        let recent = refusals["recent"].as_array().unwrap();
        let counts = recent.iter().filter(|entry| entry["reason"] == "certificate_revoked");
        counts.filter_map(|entry| entry["count"].as_u64()).sum::<u64>() == 2
    })
    .await;
    stayer.say(1, PUBLISH, 1, b"events/x\0p").await.unwrap();
    assert_eq!(Code(stayer.ack(1).await), Code::OK, "the other stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_is_closed_in_order_behind_its_last_ack() {
    let mut world = native("[tcp.native]\nmax_connection_age = \"1s\"\n");
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let (mut reads, mut writes) = tokio::io::split(hand(&world).await.stream);
    let writing = tokio::spawn(async move {
        let mut id = 0_u32;
        while writes.write_all(&frame(id, PUBLISH, 1, b"events/x\0p")).await.is_ok() {
            id += 1;
        }
        id
    });
    let (mut wire, mut acked) = (BytesMut::new(), 0_u32);
    let reading = async {
        while reads.read_buf(&mut wire).await? > 0 {
            while let Some(frame) = server::decode(&mut wire, 1 << 16).unwrap() {
                if let server::ServerFrame::Ack { id, code } = frame {
                    assert_eq!((id, code), (acked, Code::OK));
                    acked += 1;
                }
            }
        }
        Ok::<(), std::io::Error>(())
    };
    soon("it is closed", reading).await.expect("in order, as the client sees it");
    drop(reads);
    let said = soon("it can say no more", writing).await.unwrap();
    println!("{said} said, {acked} acknowledged");
    left(&world, "aged").await;
    assert!(wire.is_empty() && acked > 0);
    let acked = usize::try_from(acked).unwrap();
    eventually("what was acknowledged arrives", || engine.count() >= acked).await;
    assert_eq!(engine.count(), acked, "what has no ack is not on the bus");
    hand(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crates_own_client_sees_that_its_old_connection_is_gone_and_comes_back() {
    let mut world = native(&format!("[tcp.native]\nmax_connection_age = \"1s\"\n{UNHEARD}"));
    world.start().await;
    for round in 0..2 {
        let mut remote = client(world.address, &procmond(&world), "cli.host.1").await.unwrap();
        let events = remote.take_event_channel().unwrap();
        let sent = remote.publish("events/x", b"p".as_slice().into(), QoS::Processed).await;
        confirmed(sent).await.unwrap();
        assert!(soon("its channel ends", events.recv()).await.is_err(), "{round}: nothing was sent to it");
        eventually("it knows", || !remote.is_connected()).await;
    }
    left(&world, "aged").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_newest_wins_the_one_before_makes_way_for_it() {
    for (word, makes_way) in [("newest", true), ("allow", false)] {
        let mut world = native(UNHEARD);
        // One of each identity: who comes second is refused, unless the first makes way.
        let role = format!("connections = 1\nsame_identity = \"{word}\"\n");
        fs::write(world.path("policy.toml"), POLICY.replace("connections = 4\n", &role)).unwrap();
        world.start().await;
        let engine = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
        let mut first = hand(&world).await;
        first.say(1, PUBLISH, 1, b"events/x\0last").await.unwrap();
        // What is still on its way when a session ends is not taken, and has no ack.
        eventually("it has been taken", || engine.count() == 1).await;
        let tls = dial(world.address, &procmond(&world), ALPN).await.unwrap();
        let (mut second, answer) = Hand::greet(tls, NAME).await.unwrap();
        assert_eq!(Code(answer), if makes_way { Code::OK } else { Code::BUSY }, "{word}");
        assert_eq!(Code(first.ack(1).await), Code::OK, "{word}: its last ack");
        let mut caller = local(&world, "caller").await;
        let sent = caller.send(NAME, b"psst".as_slice().into(), QoS::Processed).await;
        confirmed(sent).await.unwrap();
        let heir = if makes_way { &mut second } else { &mut first };
        assert_eq!(&heir.heard().await.payload[..], b"psst", "{word}");
        if makes_way {
            assert!(first.ended(Duration::from_secs(5)).await, "in order");
            left(&world, "superseded").await;
        }
    }
}
