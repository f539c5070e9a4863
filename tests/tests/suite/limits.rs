//! Limits: what a peer is told at a cap, and how it moves when its connection is old or its certificate new.

use std::{fs, time::Duration};

use daemoneye_gateway::pki::{self, Leaf as Profile};
use daemoneye_tests::{
    engine::Engine,
    eventually,
    peer::{Session, new_stream},
    process::signal,
    producer::Producer,
    world::{Leaf, TRUST_DOMAIN, World},
};
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::world;

/// Changes a key of the gateway's configuration.
fn set(world: &World, from: &str, to: &str) {
    let path = world.path("gateway.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn over_the_cap_a_peer_is_told_when_to_come_back_and_admin_still_answers() {
    let mut world = world("");
    set(&world, "max_connections = 2000", "max_connections = 1");
    world.start().await;
    let open = async |name: &str| {
        let channel = world.credentials("site-a", name).channel(world.address).await.unwrap();
        Session::open(channel, vec![new_stream(Uuid::new_v4())]).await
    };
    let _held = open("procmond-1").await.unwrap();
    let refused = open("procmond-2").await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let retry = refused.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(5)), "{refused:?}");
    eventually("the refusal is shown", || {
        let refusals = world.json("/api/v1/refusals").to_string();
        refusals.contains(r#""reason":"full""#) && refusals.contains("site-a/procmond-2")
    })
    .await;
}

/// Hears events in an envelope that names stream and number.
const ENVELOPE: &str = "[[bus.route]]\npattern = \"events.#\"\nenvelope = \"cloudevents\"\n";

/// How often a leaf has moved.
fn moves(leaf: &mut Leaf) -> usize {
    leaf.program().log().matches("moved to a new connection").count()
}

/// Ends the load and checks that every event came, once and in order.
async fn settle(engine: Engine, producer: Producer) {
    let (confirmed, repeated) = producer.finish().await;
    eventually("everything confirmed has come", || {
        engine.books().missing("collector.site-a.leaf-1", confirmed).is_empty()
    })
    .await;
    let books = engine.leave().await;
    assert_eq!((repeated, books.disorder, books.holes(), books.repeated(), books.streams()), (0, 0, 0, 0, 1));
    assert!(books.frames > 1000, "{}", books.frames);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_whose_connection_is_old_moves_under_load_and_loses_nothing() {
    let mut world = world(&format!("[session.http2]\nmax_connection_age = \"2s\"\n\n{ENVELOPE}"));
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("it has moved three times", || moves(&mut leaf) >= 3).await;
    settle(engine, producer).await;
    assert!(!leaf.program().log().contains("uplink lost"), "{}", leaf.program().log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_whose_certificate_is_renewed_under_load_moves_and_loses_nothing() {
    let mut world = world(ENVELOPE);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("events flow", || engine.frames() > 500).await;
    let mut stall = Duration::ZERO;
    for round in 1..=3 {
        let own = world.authority.issue(&Profile::collector(TRUST_DOMAIN, "site-a", "leaf-1")).unwrap();
        pki::write_certificate(&leaf.folder, "leaf", &own).unwrap();
        signal("HUP", leaf.program().id()).unwrap();
        let (mut frames, mut since) = (engine.frames(), Instant::now());
        eventually("it has moved", || {
            let now = engine.frames();
            if now != frames {
                (frames, since) = (now, Instant::now());
            }
            stall = stall.max(since.elapsed());
            moves(&mut leaf) == round
        })
        .await;
        let moved = engine.frames();
        eventually("events flow on", || engine.frames() > moved + 500).await;
    }
    println!("the longest time without an event while certificates were renewed: {stall:?}");
    settle(engine, producer).await;
    assert!(!leaf.program().log().contains("uplink lost"), "{}", leaf.program().log());
}
