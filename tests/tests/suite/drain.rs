//! Going away: asked to stop under load, nobody loses anything and nobody is kept waiting.

use std::time::Duration;

use daemoneye_proto::v1::link_response;
use daemoneye_tests::{
    engine::Engine,
    eventually,
    eventually::soon,
    peer::{Session, batch, new_stream},
    process::Program,
    producer::Producer,
    subscriber::Subscriber,
};
use tokio::{net::UnixDatagram, time::Instant};
use uuid::Uuid;

use crate::world;

const QUICK: &str = r#"
[drain]
announce = "200ms"
spread = "1s"
deadline = "8s"

[[bus.route]]
pattern = "events.#"
envelope = "cloudevents"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_told_to_stop_under_load_loses_nothing_and_its_leaf_comes_back() {
    let mut world = world(QUICK);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    eventually("events flow", || engine.frames() > 2000).await;

    world.gateway().terminate();
    let begun = Instant::now();
    let status = world.gateway().ended(Duration::from_secs(9)).await;
    println!("drained in {:?}", begun.elapsed());
    assert!(status.success(), "{status}: {}", world.gateway().log());
    assert!(world.gateway().log().contains("drain"), "{}", world.gateway().log());

    world.start().await;
    let before = engine.frames();
    eventually("the leaf came back", || engine.frames() > before + 1000).await;
    let (confirmed, repeated) = producer.finish().await;
    eventually("everything confirmed has come", || {
        engine.books().missing("collector.site-a.leaf-1", confirmed).is_empty()
    })
    .await;
    let books = engine.books();
    assert_eq!((repeated, books.disorder, books.holes(), books.repeated()), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_session_is_told_when_to_come_back_and_gets_its_last_acks() {
    let mut world = world(QUICK);
    world.start().await;
    let _engine = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    session.say(batch(stream, 1, "events.process.start", vec![b"{}".to_vec(); 100])).await;
    world.gateway().terminate();
    let (mut acked, mut told) = (0, None);
    let end = loop {
        match session.next().await {
            Ok(link_response::Frame::Ack(ack)) => acked = ack.acked,
            Ok(link_response::Frame::Drain(drain)) => told = drain.reconnect_after,
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(acked, 100, "{end:?}");
    let after = told.expect("a session is told to drain");
    assert!((0..=10).contains(&after.seconds), "{after:?}");
    let status = world.gateway().ended(Duration::from_secs(9)).await;
    assert!(status.success(), "{}", world.gateway().log());
}

#[tokio::test]
async fn who_supervises_the_gateway_is_told_how_long_its_end_may_take() {
    let world = world(QUICK);
    let (place, config) = (world.path("notify"), world.path("gateway.toml"));
    let supervisor = UnixDatagram::bind(&place).unwrap();
    let setting = format!("NOTIFY_SOCKET={}", place.display());
    let args = [&setting, crate::PROGRAMS.gateway, "run", "--config", config.to_str().unwrap()];
    let mut gateway = Program::start("env", &args, world.folder.path());
    let mut told = [0; 1024];
    let mut hears = async |word: &str| loop {
        let length = soon(word, supervisor.recv(&mut told)).await.unwrap();
        let text = String::from_utf8_lossy(&told[..length]).into_owned();
        if text.contains(word) {
            return text;
        }
    };
    hears("READY=1").await;
    gateway.terminate();
    let text = hears("STOPPING=1").await;
    assert!(text.contains("EXTEND_TIMEOUT_USEC=13000000"), "the deadline and a grace: {text}");
    assert!(gateway.ended(Duration::from_secs(9)).await.success());
}

#[tokio::test]
async fn a_peer_that_has_stopped_reading_does_not_delay_the_end() {
    let mut world = world(QUICK);
    world.start().await;
    let _engine = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let (session, _) = Session::open(channel, vec![new_stream(Uuid::new_v4())]).await.unwrap();
    // It holds its session and reads nothing more.
    world.gateway().terminate();
    let begun = Instant::now();
    world.gateway().ended(Duration::from_secs(9)).await;
    assert!(begun.elapsed() <= Duration::from_millis(8500), "took {:?}", begun.elapsed());
    drop(session);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_is_told_to_stop_ends_well_whether_or_not_its_gateway_is_there() {
    let mut world = world(QUICK);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "[drain]\ndeadline = \"5s\"\n");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    eventually("events flow", || engine.frames() > 2000).await;
    leaf.program().terminate();
    let begun = Instant::now();
    let status = leaf.program().ended(Duration::from_secs(6)).await;
    println!("leaf ended in {:?}", begun.elapsed());
    assert!(status.success(), "{status}: {}", leaf.program().log());

    world.kill();
    leaf.start().await;
    let before = producer.confirmed();
    eventually("the leaf takes events", || producer.confirmed() > before + 100).await;
    leaf.program().terminate();
    let status = leaf.program().ended(Duration::from_secs(6)).await;
    assert!(status.success(), "{status}: {}", leaf.program().log());
}
