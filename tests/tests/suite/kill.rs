//! Killed at random moments under full load, nobody loses what was acknowledged.
//!
//! `DAEMONEYE_TEST_KILL_ROUNDS` sets how often; `just kill` does it twenty times.

use std::time::Duration;

use daemoneye_tests::{
    engine::{Books, Engine},
    eventually,
    producer::Producer,
    world::{Leaf, World},
};
use tokio::time;

use crate::{PROGRAMS, world};

const ENVELOPE: &str = r#"
[[bus.route]]
pattern = "events.#"
envelope = "cloudevents"
"#;

fn rounds() -> u32 {
    std::env::var("DAEMONEYE_TEST_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

/// Any moment within the next second: not a wait for something, but the randomness that the test is about.
async fn some_moment() {
    time::sleep(Duration::from_millis(200 + fastrand::u64(..800))).await;
}

/// All that was confirmed has come, in order, and only what had to come twice did.
fn judge(what: &str, books: &Books, sender: &str, confirmed: usize, repeated: usize) {
    println!(
        "{what}: confirmed={confirmed} frames={} duplicates={} streams={} republished={repeated}",
        books.frames,
        books.duplicates,
        books.streams()
    );
    let missing = books.missing(sender, confirmed);
    assert!(
        missing.is_empty(),
        "{what}: {} confirmed events never came, the first is {}",
        missing.len(),
        missing[0]
    );
    assert_eq!(books.disorder, 0, "{what}: order within a stream");
    assert_eq!(books.holes(), 0, "{what}: holes within a stream");
    assert!(
        books.repeated() <= repeated as u64,
        "{what}: {} came twice under different ids",
        books.repeated()
    );
    assert!(confirmed > 1000, "{what}: the load was no load: {confirmed}");
}

async fn settle(engine: &Engine, leaf: &Leaf) {
    eventually("the leaf has nothing left to send", || leaf.sum("daemoneye_bridge_spool_events") == Some(0))
        .await;
    eventually("the engine has heard it all", {
        let mut before = (0, 0);
        move || {
            let frames = engine.frames();
            before = if frames == before.0 { (frames, before.1 + 1) } else { (frames, 0) };
            before.1 > 50
        }
    })
    .await;
}

async fn with_gateway(world: &mut World, socket: std::path::PathBuf, rate: Option<u32>, what: &str) {
    let engine = Engine::attach(&socket);
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", rate);
    for _ in 0..rounds() {
        eventually("the engine is there", || engine.is_connected()).await;
        some_moment().await;
        world.kill();
        world.start().await;
    }
    eventually("the engine is there", || engine.is_connected()).await;
    let (confirmed, repeated) = producer.finish().await;
    settle(&engine, &leaf).await;
    judge(what, &engine.books(), "collector.site-a.leaf-1", confirmed, repeated);
    assert_eq!(repeated, 0, "the leaf never went away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_with_its_own_bus_loses_nothing_acknowledged() {
    let mut world = world(ENVELOPE);
    world.start().await;
    let socket = world.socket();
    with_gateway(&mut world, socket, None, "gateway killed, embedded bus").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_before_a_foreign_broker_loses_nothing_acknowledged() {
    let mut world = World::new(PROGRAMS, "");
    let socket = world.path("broker.sock");
    world.configure(&crate::foreign(&socket, ENVELOPE));
    let _broker = crate::broker(&socket, world.folder.path());
    eventually("the broker answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    world.start().await;
    with_gateway(&mut world, socket, Some(4000), "gateway killed, foreign broker").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leaf_loses_nothing_it_confirmed() {
    let mut world = world(ENVELOPE);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    for _ in 0..rounds() {
        some_moment().await;
        leaf.kill();
        leaf.start().await;
    }
    let before = producer.confirmed();
    eventually("the producer is back", || producer.confirmed() > before).await;
    let (confirmed, repeated) = producer.finish().await;
    settle(&engine, &leaf).await;
    judge("leaf killed", &engine.books(), "collector.site-a.leaf-1", confirmed, repeated);
}
