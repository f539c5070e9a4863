//! Calls of and to a client of BUS/RT.

use std::time::Duration;

use busrt::{
    QoS,
    rpc::{Rpc, RpcClient},
};
use daemoneye_tests::native::client;
use tokio::time;

use crate::native::{Doubler, NAME, SUBSCRIBE, hand, local, native, procmond};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_both_ways_with_the_standard_layer_on_both_ends() {
    let mut world = native("");
    world.start().await;
    let remote = client(world.address, &procmond(&world), "cli.host.1").await.unwrap();
    let remote = RpcClient::new(remote, Doubler);
    let engine = RpcClient::new(local(&world, "engine").await, Doubler);
    let stranger = RpcClient::new(local(&world, "stranger").await, Doubler);
    let params = || b"ab".as_slice().into();

    let answer = remote.call("engine", "double", params(), QoS::Processed).await.unwrap();
    assert_eq!(answer.payload(), b"abab");
    let answer = engine.call(NAME, "double", params(), QoS::Processed).await.unwrap();
    assert_eq!(answer.payload(), b"abab");

    let missing = engine.call(NAME, "nothing", params(), QoS::Processed).await.unwrap_err();
    assert_eq!(missing.code(), busrt::rpc::RPC_ERROR_CODE_METHOD_NOT_FOUND);
    let denied = stranger.call(NAME, "double", params(), QoS::Processed).await.unwrap_err();
    assert_eq!(denied.code(), daemoneye_bridge::bus::rpc::code::DENIED);
    assert!(remote.call("stranger", "double", params(), QoS::Processed).await.is_err(), "it may not");
    assert!(remote.call("desk.nobody", "double", params(), QoS::Processed).await.is_err(), "nobody is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_collector_goes_away_is_answered_at_once() {
    let mut world = native("");
    world.start().await;
    let hand = hand(&world).await;
    let engine = RpcClient::new(local(&world, "engine").await, Doubler);
    let calling = tokio::spawn(async move {
        engine.call(NAME, "double", b"x".as_slice().into(), QoS::Processed).await.map(|_| ())
    });
    let mut hand = hand;
    // The call is here, and will not be answered.
    assert_eq!(hand.say(1, SUBSCRIBE, 1, b"news/#").await.map_err(|error| error.kind()), Ok(()));
    let mut seen = [0; 1];
    loop {
        use tokio::io::AsyncReadExt as _;
        hand.stream.read_exact(&mut seen).await.unwrap();
        if seen[0] == b'd' {
            break;
        }
    }
    drop(hand);
    let error = time::timeout(Duration::from_secs(10), calling).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code(), daemoneye_bridge::bus::rpc::code::CUT);
}
