//! What a new policy does to the session of a client of BUS/RT: it takes away what it takes away, and nothing else.

use std::{fs, time::Duration};

use busrt::{
    QoS,
    client::AsyncClient,
    rpc::{Rpc as _, RpcClient},
};
use daemoneye_bridge::{
    bus::rpc::{Rpc, code},
    native::codec::Code,
};
use daemoneye_tests::{
    eventually, eventually::soon, native::Hand, process::signal, subscriber::Subscriber, world::World,
};
use tokio::time::Instant;

use crate::{
    call::{ended, nothing_is_open},
    native::{Doubler, MESSAGE, NAME, POLICY, PUBLISH, SUBSCRIBE, confirmed, hand, local, native},
    revoke::AT_ONCE,
};

/// Puts another policy in force, and returns when the gateway was told.
fn apply(world: &mut World, policy: &str) -> Instant {
    assert_ne!(policy, POLICY, "it says something else");
    fs::write(world.path("policy.toml"), policy).unwrap();
    signal("HUP", world.gateway().id()).unwrap();
    Instant::now()
}

/// Publishes `events/x` until it is no longer allowed; how many were.
async fn until_denied(hand: &mut Hand, since: Instant) -> usize {
    for id in 1000.. {
        hand.say(id, PUBLISH, 1, b"events/x\0p").await.unwrap();
        match Code(hand.ack(id).await) {
            Code::OK => assert!(since.elapsed() < AT_ONCE + Duration::from_secs(1), "it may do so for ever"),
            code => {
                assert_eq!(code, Code::ACCESS);
                println!("denied after {:?}", since.elapsed());
                return usize::try_from(id - 1000).unwrap();
            }
        }
    }
    unreachable!("numbers are many")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_taken_away_is_neither_said_nor_heard_and_the_rest_goes_on() {
    let mut world = native("");
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["events/#", "control/health/#"]).await;
    let mut caller = local(&world, "caller").await;
    let mut publish = async |topic: &'static str| {
        confirmed(caller.publish(topic, b"n".as_slice().into(), QoS::Processed).await).await.unwrap();
    };
    let mut hand = hand(&world).await;
    hand.say(1, SUBSCRIBE, 1, b"news/#\0control/collector/procmond-1").await.unwrap();
    assert_eq!(Code(hand.ack(1).await), Code::OK);
    publish("news/today").await;
    assert_eq!(hand.heard().await.topic.as_str(), "news/today");

    let policy = POLICY.replace("\"events.#\", ", "").replace(", \"news.#\"", "");
    let since = apply(&mut world, &policy);
    let allowed = until_denied(&mut hand, since).await;
    hand.say(2, PUBLISH, 1, b"control/health/procmond-1\0p").await.unwrap();
    assert_eq!(Code(hand.ack(2).await), Code::OK, "what it may still say");
    // In order, so that whatever was let through before the last is there when the last is.
    eventually("what is confirmed is heard", || engine.count() > allowed).await;
    assert_eq!(engine.count(), allowed + 1, "what was denied is on the bus");
    publish("news/tomorrow").await;
    publish("control/collector/procmond-1").await;
    assert_eq!(hand.heard().await.topic.as_str(), "control/collector/procmond-1", "what it may still hear");
    hand.say(3, SUBSCRIBE, 1, b"news/#").await.unwrap();
    assert_eq!(Code(hand.ack(3).await), Code::ACCESS);

    // What comes back is had again by asking.
    let since = apply(&mut world, &format!("{POLICY}\n"));
    for id in 10.. {
        hand.say(id, SUBSCRIBE, 1, b"news/#").await.unwrap();
        if Code(hand.ack(id).await) == Code::OK {
            break;
        }
        assert!(since.elapsed() < AT_ONCE + Duration::from_secs(1), "it never comes back");
    }
    publish("news/later").await;
    assert_eq!(hand.heard().await.topic.as_str(), "news/later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_to_call_that_is_taken_away_ends_the_calls_it_allowed() {
    let mut world = native("");
    world.start().await;
    let engine = RpcClient::new(local(&world, "engine").await, Doubler);
    let mut hand = hand(&world).await;
    let request = Rpc::Request { id: 7, method: "never".into(), params: "".into() }.encode();
    hand.say(1, MESSAGE, 1, &[b"engine\0", &request[..]].concat()).await.unwrap();
    assert_eq!(Code(hand.ack(1).await), Code::OK);
    let calling = engine.call(NAME, "double", b"x".as_slice().into(), QoS::Processed);
    let losing = async {
        assert!(matches!(Rpc::decode(&hand.heard().await.payload), Ok(Rpc::Request { .. })));
        let policy = POLICY.replace("\"engine\", ", "");
        let since = apply(&mut world, &policy);
        let answer = hand.heard().await;
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        (answer.sender.as_str().to_owned(), Rpc::decode(&answer.payload).unwrap())
    };
    let (down, (sender, up)) = soon("both are told", async { tokio::join!(calling, losing) }).await;
    assert_eq!(down.map(drop).map_err(|error| error.code()), Err(code::DENIED));
    assert!(
        matches!(up, Rpc::Error { id: 7, code: code::DENIED, .. }) && sender == "engine",
        "{sender} {up:?}"
    );
    assert_eq!((ended(&world, "up", "denied"), ended(&world, "down", "denied")), (1, 1));
    nothing_is_open(&world).await;
}
