//! Calls of and to a client of BUS/RT: both ways, their limits, their time, and how they end when it goes.

use std::time::Duration;

use busrt::{
    QoS,
    rpc::{Rpc as _, RpcClient, RpcError},
};
use daemoneye_bridge::{
    bus::rpc::{Rpc, code},
    native::codec::Code,
};
use daemoneye_tests::{
    eventually,
    inside::Inside,
    native::{Hand, client},
    world::World,
};
use futures_util::future::join_all;

use crate::{
    call::{count, ended, nothing_is_open},
    native::{Doubler, MESSAGE, NAME, hand, local, native, procmond},
};

/// How many calls are open in that direction.
fn open(world: &World, direction: &str) -> u64 {
    count(world, &["session_downlink_calls_open", &format!("direction=\"{direction}\"")])
}

/// Calls the engine, whose answer is heard later; the code of the ack.
async fn call(hand: &mut Hand, id: u32, method: &str) -> Code {
    let request = Rpc::Request { id, method: method.into(), params: "x".into() }.encode();
    hand.say(id, MESSAGE, 1, &[b"engine\0", &request[..]].concat()).await.unwrap();
    Code(hand.ack(id).await)
}

/// The next thing said to the client, as a call or its answer, and who said it.
async fn told(hand: &mut Hand) -> (String, Rpc) {
    let delivery = hand.heard().await;
    (delivery.sender.as_str().to_owned(), Rpc::decode(&delivery.payload).unwrap())
}

async fn engine(world: &World) -> RpcClient {
    RpcClient::new(local(world, "engine").await, Doubler)
}

/// The engine calls the client, and is told at last.
async fn asked(engine: &RpcClient) -> Result<(), i16> {
    let asked = engine.call(NAME, "double", b"x".as_slice().into(), QoS::Processed).await;
    asked.map(drop).map_err(|error: RpcError| error.code())
}

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
    assert_eq!(denied.code(), code::DENIED);
    assert!(remote.call("stranger", "double", params(), QoS::Processed).await.is_err(), "it may not");
    assert!(remote.call("desk.nobody", "double", params(), QoS::Processed).await.is_err(), "nobody is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eleven_calls_each_way_ten_are_open_and_end_in_time_and_the_last_is_refused() {
    let mut world = native("[tcp.native]\ncall_budget = \"2s\"\n");
    world.start().await;
    let (engine, mut hand) = (engine(&world).await, hand(&world).await);

    for id in 1..=10 {
        assert_eq!(call(&mut hand, id, "never").await, Code::OK);
    }
    assert_eq!(call(&mut hand, 11, "HealthCheck").await, Code::BUSY);
    assert_eq!((open(&world, "up"), ended(&world, "up", "too_many")), (10, 1));
    for _ in 1..=10 {
        let (sender, answer) = told(&mut hand).await;
        let Rpc::Error { id, code, .. } = answer else { panic!("{answer:?}") };
        assert!(
            sender == "engine" && (1..=10).contains(&id) && code == code::TIMED_OUT,
            "{sender} {id} {code}"
        );
    }
    assert_eq!((open(&world, "up"), ended(&world, "up", "timed_out")), (0, 10));
    assert_eq!(call(&mut hand, 1, "HealthCheck").await, Code::OK, "there is room again");
    assert_eq!(told(&mut hand).await.1, Rpc::Reply { id: 1, result: "well".into() });

    let calls = join_all((1..=11).map(|_| asked(&engine)));
    let client = async {
        let mut open = Vec::new();
        while open.len() < 10 {
            let (sender, asked) = told(&mut hand).await;
            let Rpc::Request { id, .. } = asked else { panic!("{asked:?}") };
            assert_eq!(sender, "engine");
            open.push(id);
        }
        open
    };
    let (outcomes, asked) = tokio::join!(calls, client);
    let told = |code| outcomes.iter().filter(|outcome| **outcome == Err(code)).count();
    assert_eq!((told(code::TIMED_OUT), told(code::TOO_MANY)), (10, 1), "{outcomes:?}");
    assert_eq!((ended(&world, "down", "timed_out"), ended(&world, "down", "too_many")), (10, 1));
    let late = Rpc::Reply { id: asked[0], result: "late".into() }.encode();
    hand.say(99, MESSAGE, 1, &[b"engine\0", &late[..]].concat()).await.unwrap();
    assert_eq!(Code(hand.ack(99).await), Code::ACCESS, "nothing is owed any longer");
    nothing_is_open(&world).await;
}

#[tokio::test]
async fn the_time_of_a_call_is_one_second_to_five_minutes() {
    for (budget, serves) in [("999ms", false), ("1s", true), ("300s", true), ("301s", false)] {
        let mut world = native(&format!("[tcp.native]\ncall_budget = \"{budget}\"\n"));
        if serves {
            world.start().await;
            continue;
        }
        world.launch();
        let status = world.gateway().ended(Duration::from_secs(10)).await;
        let log = world.gateway().log();
        assert!(!status.success() && log.contains("call_budget must be 1s to 300s"), "{budget}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_client_that_goes_or_is_cut_end_with_it_and_none_is_counted_any_longer() {
    let world = native("");
    let gateway = Inside::start(&world, 0).await;
    let engine = engine(&world).await;
    for is_cut in [false, true] {
        let mut hand = hand(&world).await;
        assert_eq!(call(&mut hand, 1, "never").await, Code::OK);
        let before = ended(&world, "up", "cut");
        let ends = async {
            assert!(matches!(told(&mut hand).await.1, Rpc::Request { .. }));
            assert_eq!((open(&world, "up"), open(&world, "down")), (1, 1));
            if is_cut {
                gateway.deny("identity:site-a/procmond-1").await;
            }
            // The one hangs up; the other would stay.
            is_cut.then_some(hand)
        };
        let (outcome, hand) = tokio::join!(asked(&engine), ends);
        assert_eq!(outcome, Err(code::CUT), "cut: {is_cut}");
        nothing_is_open(&world).await;
        assert_eq!((ended(&world, "up", "cut"), open(&world, "up")), (before + 1, 0));
        drop(hand);
    }
    gateway.tracked(&world).await;
    assert!(gateway.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_once_when_its_other_end_goes_away() {
    let mut world = native("");
    world.start().await;
    let mut hand = hand(&world).await;
    // Without the layer of calls, whose handlers would keep the connection.
    let silent = local(&world, "engine").await;
    assert_eq!(call(&mut hand, 1, "never").await, Code::OK);
    drop(silent);
    let (sender, answer) = told(&mut hand).await;
    assert!(
        matches!(answer, Rpc::Error { id: 1, code: code::ABSENT, .. }) && sender == "engine",
        "{answer:?}"
    );

    let caller = engine(&world).await;
    let asking = tokio::spawn(async move { asked(&caller).await });
    let (_, asked) = told(&mut hand).await;
    let Rpc::Request { id, .. } = asked else { panic!("{asked:?}") };
    asking.abort();
    eventually("nobody waits any longer", || ended(&world, "down", "cancelled") == 1).await;
    let late = Rpc::Reply { id, result: "late".into() }.encode();
    hand.say(2, MESSAGE, 1, &[b"engine\0", &late[..]].concat()).await.unwrap();
    assert_eq!(Code(hand.ack(2).await), Code::ACCESS);
    nothing_is_open(&world).await;
}
