//! BUS/RT over mutual TLS: unmodified clients on the federation port.

mod calls;
mod ends;
mod rights;
mod tunnel;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use busrt::{
    QoS, async_trait,
    client::AsyncClient,
    rpc::{RpcError, RpcEvent, RpcHandlers, RpcResult},
};
use daemoneye_bridge::native::codec::Code;
use daemoneye_tests::{
    eventually,
    inside::Inside,
    native::{ALPN, Hand, client, dial},
    peer::Credentials,
    subscriber::Subscriber,
    world::World,
};
use tokio::time;

use crate::{revoke::AT_ONCE, world};

const POLICY: &str = r#"
[[role]]
name = "collector"
match = { identity = "*-*" }
publish = ["events.#", "control.health.#"]
json = ["events.json"]
subscribe = ["control.collector.{name}", "news.#"]
call = ["engine", "desk.*"]
events_per_second = 10000000
bytes_per_second = "2 GiB"
connections = 4

[[downlink]]
client = ["engine", "desk.*", "caller"]
call = ["site-a/*"]
send = ["site-a/*"]
"#;

const NAME: &str = "collector.site-a.procmond-1";

const PUBLISH: u8 = 0x01;
const SUBSCRIBE: u8 = 0x02;
const UNSUBSCRIBE: u8 = 0x03;
const EXCLUDE: u8 = 0x04;
const UNEXCLUDE: u8 = 0x05;
const PUBLISH_FOR: u8 = 0x06;
const MESSAGE: u8 = 0x12;
const BROADCAST: u8 = 0x13;

fn native(extra: &str) -> World {
    let world = world(extra);
    fs::write(world.path("policy.toml"), POLICY).unwrap();
    world
}

fn procmond(world: &World) -> Credentials {
    world.credentials("site-a", "procmond-1")
}

async fn hand(world: &World) -> Hand {
    let tls = dial(world.address, &procmond(world), ALPN).await.unwrap();
    let (hand, answer) = Hand::greet(tls, NAME).await.unwrap();
    assert_eq!(answer, Code::OK.0);
    hand
}

/// Doubles what it is asked, says `well` to the health check, and never answers `never`.
struct Doubler;

#[async_trait]
impl RpcHandlers for Doubler {
    async fn handle_call(&self, event: RpcEvent) -> RpcResult {
        match event.parse_method()? {
            "double" => Ok(Some(event.payload().repeat(2))),
            "HealthCheck" => Ok(Some(b"well".to_vec())),
            "never" => std::future::pending().await,
            _ => Err(RpcError::method(None)),
        }
    }
}

async fn local(world: &World, name: &str) -> busrt::ipc::Client {
    let socket = world.socket();
    let path = socket.to_str().expect("test paths are UTF-8");
    busrt::ipc::Client::connect(&busrt::ipc::Config::new(path, name)).await.unwrap()
}

async fn confirmed(asked: Result<busrt::OpConfirm, busrt::Error>) -> Result<(), busrt::Error> {
    let confirm = asked?.expect("it is to be confirmed");
    time::timeout(Duration::from_secs(20), confirm).await.expect("in time").expect("the client lives")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_client_publishes_hears_and_sends_at_every_quality_of_service() {
    let mut world = native("");
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let other = Subscriber::connect(&world.socket(), "desk.one", &["events/other"]).await;
    let mut remote = client(world.address, &procmond(&world), "cli.host.1").await.unwrap();
    let events = remote.take_event_channel().unwrap();

    for qos in [QoS::No, QoS::Processed, QoS::Realtime, QoS::RealtimeProcessed] {
        let asked = remote.publish("events/process/start", b"{}".as_slice().into(), qos).await.unwrap();
        assert_eq!(asked.is_some(), qos.needs_ack());
        if let Some(asked) = asked {
            asked.await.unwrap().unwrap();
        }
    }
    eventually("all four arrive", || engine.count() == 4).await;
    assert!(engine.heard().iter().all(|heard| heard.sender == NAME && heard.topic == "events/process/start"));

    confirmed(remote.subscribe("news/#", QoS::Processed).await).await.unwrap();
    confirmed(remote.exclude("news/dull", QoS::Processed).await).await.unwrap();
    let mut caller = local(&world, "caller").await;
    for topic in ["news/dull", "news/today"] {
        confirmed(caller.publish(topic, b"n".as_slice().into(), QoS::Processed).await).await.unwrap();
    }
    let frame = time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
    assert_eq!((frame.topic(), frame.sender(), frame.payload()), (Some("news/today"), "caller", &b"n"[..]));
    confirmed(remote.unexclude("news/dull", QoS::Processed).await).await.unwrap();
    confirmed(caller.publish("news/dull", b"n".as_slice().into(), QoS::Processed).await).await.unwrap();
    let frame = time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
    assert_eq!(frame.topic(), Some("news/dull"));
    confirmed(remote.unsubscribe("news/#", QoS::Processed).await).await.unwrap();

    confirmed(caller.send(NAME, b"psst".as_slice().into(), QoS::Processed).await).await.unwrap();
    let frame = time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
    assert_eq!((frame.kind(), frame.payload()), (busrt::FrameKind::Message, &b"psst"[..]));
    confirmed(caller.send_broadcast("collector.*", b"all".as_slice().into(), QoS::Processed).await)
        .await
        .unwrap();
    let frame = time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
    assert_eq!((frame.kind(), frame.payload()), (busrt::FrameKind::Broadcast, &b"all"[..]));

    confirmed(remote.send("engine", b"m".as_slice().into(), QoS::Processed).await).await.unwrap();
    confirmed(remote.send_broadcast("desk.*", b"b".as_slice().into(), QoS::Processed).await).await.unwrap();
    confirmed(remote.publish_for("events/other", "desk.one", b"f".as_slice().into(), QoS::Processed).await)
        .await
        .unwrap();
    eventually("the message arrives", || engine.count() >= 5).await;
    eventually("broadcast and event arrive", || other.count() == 2).await;
    assert!(other.heard().iter().all(|heard| heard.sender == NAME));

    let collectors = || world.json("/api/v1/collectors").to_string();
    eventually("it is shown as native", || collectors().contains("\"native\"")).await;
    drop((remote, events));
    eventually("it is gone", || !collectors().contains("\"native\"")).await;
}

#[tokio::test]
async fn what_the_policy_denies_is_answered_as_access_denied() {
    let mut world = native("");
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let mut hand = hand(&world).await;
    for (operation, body, code) in [
        (PUBLISH, &b"secrets/x\0p"[..], Code::ACCESS),
        (PUBLISH, b"events/Shout\0p", Code::DATA),
        (PUBLISH, b".broker/info\0p", Code::DATA),
        (SUBSCRIBE, b"events/#", Code::ACCESS),
        (SUBSCRIBE, b"news/#\0#", Code::ACCESS),
        (SUBSCRIBE, b"control/collector/netmond-1", Code::ACCESS),
        (SUBSCRIBE, b"control/collector/procmond-1", Code::OK),
        (MESSAGE, b"stranger\0m", Code::ACCESS),
        (MESSAGE, b".broker\0\x01\x01\0\0\0test\0", Code::ACCESS),
        (MESSAGE, b"desk.nobody\0m", Code::NOT_REGISTERED),
        (MESSAGE, b"engine\0\x11\x01\0\0\0unasked", Code::ACCESS),
        (BROADCAST, b"*\0m", Code::ACCESS),
        (PUBLISH_FOR, b"events/x\0stranger\0p", Code::ACCESS),
        (PUBLISH_FOR, b"secrets/x\0engine\0p", Code::ACCESS),
        (PUBLISH_FOR, b"events/json\0engine\0no json", Code::DATA),
    ] {
        hand.say(7, operation, 1, body).await.unwrap();
        assert_eq!(Code(hand.ack(7).await), code, "{operation:#x} {}", body.escape_ascii());
    }
    // As many topics in one frame as nobody may have subscriptions: each would cost all publishers.
    let many = vec!["a"; 5000].join("\0");
    for operation in [SUBSCRIBE, UNSUBSCRIBE, EXCLUDE, UNEXCLUDE] {
        hand.say(7, operation, 1, many.as_bytes()).await.unwrap();
        assert_eq!(Code(hand.ack(7).await), Code::BUSY, "{operation:#x}");
    }
    hand.say(8, PUBLISH, 0, b"secrets/x\0p").await.unwrap();
    hand.say(9, PUBLISH, 1, b"events/x\0last").await.unwrap();
    assert_eq!(Code(hand.ack(9).await), Code::OK);
    eventually("the last arrives", || engine.heard().iter().any(|heard| heard.payload == b"last")).await;
    assert_eq!(engine.count(), 1, "{:?}", engine.heard());
    assert!(world.metric("daemoneye_gateway_session_events_total{outcome=\"rejected\"}") >= 8.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_client_is_gone_within_a_second_publishing_or_stuck() {
    let world = native("[[bus.route]]\npattern = \"events.#\"\nunheard = \"discard\"\n");
    let gateway = Inside::start(&world, 0).await;
    let mut publishing = hand(&world).await;
    publishing.say(1, PUBLISH, 1, b"events/x\0p").await.unwrap();
    assert_eq!(Code(publishing.ack(1).await), Code::OK);
    // It never reads again, and what it is owed fills all buffers.
    let (_reads, mut writes) = tokio::io::split(publishing.stream);
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    let stuck = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let frame = [&7_u32.to_le_bytes()[..], &[PUBLISH | 1 << 6, 11, 0, 0, 0], b"events/x\0pp"].concat();
        while writes.write_all(&frame.repeat(100)).await.is_ok() {
            counted.fetch_add(1, Relaxed);
        }
    });
    let mut before = u64::MAX;
    while before != written.load(Relaxed) {
        before = written.load(Relaxed);
        // Long enough for a gateway that still reads to have read more.
        time::sleep(Duration::from_millis(500)).await;
    }
    assert!(!stuck.is_finished(), "it is still connected");
    let asked = gateway.deny("identity:site-a/procmond-1").await;
    time::timeout(AT_ONCE, stuck).await.expect("it is gone").unwrap();
    println!("stuck: {:?}", asked.elapsed());
    let again = dial(world.address, &procmond(&world), ALPN).await;
    let refused = match again {
        Ok(tls) => Hand::greet(tls, NAME).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "it came back");
    gateway.tracked(&world).await;
    assert!(gateway.stop().await.is_clean());
}

#[tokio::test]
async fn a_name_that_is_not_its_own_is_replaced_or_refused_as_configured() {
    let mut world = native("[tcp.native]\nclaimed_name = \"refuse\"\n");
    world.start().await;
    let greet = async |name: &str| {
        let tls = dial(world.address, &procmond(&world), ALPN).await.unwrap();
        Hand::greet(tls, name).await.unwrap().1
    };
    assert_eq!(Code(greet("collector.site-a.netmond-1").await), Code::ACCESS);
    assert_eq!(Code(greet("engine").await), Code::ACCESS);
    assert_eq!(Code(greet(NAME).await), Code::OK);
}

#[tokio::test]
async fn a_frame_over_the_bound_ends_the_connection() {
    let mut world = native("");
    world.start().await;
    let mut hand = hand(&world).await;
    let head = [&1_u32.to_le_bytes()[..], &[PUBLISH | 1 << 6], &0xFFFF_FFFF_u32.to_le_bytes()].concat();
    tokio::io::AsyncWriteExt::write_all(&mut hand.stream, &head).await.unwrap();
    hand.ended(Duration::from_secs(5)).await;
    eventually("the log says why", || world.gateway().log().contains("over the bound")).await;
}

#[tokio::test]
async fn a_client_that_is_silent_or_does_not_read_is_cut() {
    let mut world =
        native("[tcp.native]\ntimeout = \"1s\"\nslow_reader_timeout = \"1s\"\noutbox_bytes = \"64 KiB\"\n");
    world.start().await;
    let mut silent = hand(&world).await;
    silent.ended(Duration::from_secs(5)).await;

    let mut slow = hand(&world).await;
    slow.say(1, SUBSCRIBE, 1, b"news/#").await.unwrap();
    assert_eq!(Code(slow.ack(1).await), Code::OK);
    let mut caller = local(&world, "caller").await;
    let payload = vec![0; 100_000];
    let mut gone = false;
    for _ in 0..2000 {
        confirmed(caller.publish("news/x", payload.as_slice().into(), QoS::Processed).await).await.unwrap();
        // Signs of life, so that it is not silence that ends it.
        gone = slow.say(2, 0, 0, b"").await.is_err();
        if gone || world.metric("daemoneye_gateway_session_closed_total") > 1.0 {
            break;
        }
    }
    eventually("it is told apart", || {
        let (_, metrics) = world.get("/metrics").unwrap();
        metrics.contains("reason=\"slow_reader\"") && metrics.contains("reason=\"silent\"")
    })
    .await;
    eventually("what it missed is counted", || {
        world.metric("daemoneye_gateway_session_outbox_dropped_frames_total") > 0.0
    })
    .await;
    drop((slow, gone));
}

#[tokio::test]
async fn no_protocol_is_spoken_with_who_offers_none_unless_configured() {
    let mut world = native("");
    world.start().await;
    let tls = dial(world.address, &procmond(&world), &[]).await;
    if let Ok(tls) = tls {
        assert!(Hand::greet(tls, NAME).await.is_err());
    }
    world.kill();
    world.configure("[tcp.native]\nwithout_alpn = true\n");
    world.start().await;
    let tls = dial(world.address, &procmond(&world), &[]).await.unwrap();
    assert_eq!(Hand::greet(tls, "cli.host.1").await.unwrap().1, Code::OK.0);
    world.kill();
    world.configure("[tcp.native]\nenabled = false\n");
    world.start().await;
    assert!(dial(world.address, &procmond(&world), ALPN).await.is_err());
}

#[tokio::test]
async fn a_drained_client_has_its_last_ack_and_is_closed() {
    let mut world = native("[drain]\nannounce = \"0s\"\nspread = \"1s\"\n");
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let mut hand = hand(&world).await;
    hand.say(1, PUBLISH, 1, b"events/x\0last").await.unwrap();
    world.gateway().terminate();
    assert_eq!(Code(hand.ack(1).await), Code::OK);
    hand.ended(Duration::from_secs(10)).await;
    let status = world.gateway().ended(Duration::from_secs(30)).await;
    assert!(status.success(), "{}", world.gateway().log());
    assert_eq!(engine.count(), 1);
}
