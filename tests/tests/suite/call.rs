//! The way down: plain busrt clients on the door reach collectors that speak gRPC, and are reached by them.

use std::{fs, sync::Arc, time::Duration};

use busrt::{
    Frame, QoS,
    client::AsyncClient,
    ipc::{Client, Config},
    rpc::{Rpc, RpcClient, RpcError, RpcEvent, RpcHandlers, RpcResult},
};
use daemoneye_proto::v1::{Ping, Received, RejectCode, link_request, link_response};
use daemoneye_tests::{collector::Collector, eventually, eventually::soon, process::signal, world::World};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{CLI, world};

const POLICY: &str = r#"
[[role]]
name = "collector"
match = { identity = "*-*" }
publish = ["events.#", "control.health.#"]
subscribe = ["control.collector.{name}", "control.task.#"]
call = ["engine"]
speaks_for = ["procmond-*", "netmond-*"]
events_per_second = 100000
connections = 4

[[downlink]]
client = "engine"
call = ["site-a/*"]
send = ["site-a/*"]
"#;

const PROCMOND: &str = "collector.site-a.procmond-1";

const DENIED: i16 = -32000;
const ABSENT: i16 = -32001;
const TIMED_OUT: i16 = -32002;
const TOO_MANY: i16 = -32003;
const CUT: i16 = -32004;
const CANCELLED: i16 = -32005;

async fn start(extra: &str) -> World {
    let mut world = world(extra);
    fs::write(world.path("policy.toml"), POLICY).unwrap();
    world.start().await;
    world
}

/// A peer that is attached under its own name.
async fn collector(world: &World, name: &str) -> Collector {
    let channel = world.credentials("site-a", name).channel(world.address).await.unwrap();
    let mut collector = Collector::join(channel).await.unwrap();
    assert_eq!(collector.attach(&[name]).await, []);
    collector
}

/// Answers calls by repeating method and parameters; passes on what else is sent to it.
struct Echo(mpsc::Sender<Frame>);

#[tonic::async_trait]
impl RpcHandlers for Echo {
    async fn handle_call(&self, event: RpcEvent) -> RpcResult {
        match event.payload() {
            b"fail" => Err(RpcError::new(-7, Some(b"as you wish".to_vec()))),
            b"never" => std::future::pending().await,
            params => Ok(Some([event.method(), params].concat())),
        }
    }

    async fn handle_notification(&self, event: RpcEvent) {
        drop(self.0.send(Arc::clone(event.frame())).await);
    }

    async fn handle_frame(&self, frame: Frame) {
        drop(self.0.send(frame).await);
    }
}

/// A client of the bus that calls and is called.
async fn client(world: &World, name: &str) -> (RpcClient, mpsc::Receiver<Frame>) {
    let (heard, frames) = mpsc::channel(64);
    let client = Client::connect(&Config::new(world.socket().to_str().unwrap(), name)).await.unwrap();
    (RpcClient::new(client, Echo(heard)), frames)
}

async fn call(engine: &RpcClient, target: &str, params: &'static [u8]) -> Result<Vec<u8>, i16> {
    let answer =
        soon("the call ends", engine.call(target, "HealthCheck", params.into(), QoS::Processed)).await;
    answer.map(|event| event.payload().to_vec()).map_err(|error| error.code())
}

/// Nothing is left of any call.
pub(crate) async fn nothing_is_open(world: &World) {
    for direction in ["down", "up"] {
        let gauge = format!("daemoneye_gateway_session_downlink_calls_open{{direction=\"{direction}\"}}");
        assert!(world.get("/metrics").unwrap().1.contains(&gauge), "{gauge} is shown");
        eventually("no call is open", || count(world, &[&gauge]) == 0).await;
    }
}

/// The whole number of a metric whose line has all of `parts`; 0 if there is none.
pub(crate) fn count(world: &World, parts: &[&str]) -> u64 {
    let body = world.get("/metrics").unwrap().1;
    let mut lines =
        body.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

pub(crate) fn ended(world: &World, direction: &str, outcome: &str) -> u64 {
    let labels = [format!("direction=\"{direction}\""), format!("outcome=\"{outcome}\"")];
    count(world, &["session_downlink_calls_total", &labels[0], &labels[1]])
}

fn attached(world: &World) -> u64 {
    count(world, &["session_downlink_attached "])
}

#[tokio::test]
async fn a_bus_client_calls_a_collector_and_its_answer_comes_back() {
    let world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    let answers = async {
        let asked = procmond.called().await;
        assert_eq!((asked.method.as_str(), asked.caller.as_str()), ("HealthCheck", "engine"));
        assert_eq!((asked.target.as_str(), &asked.params[..]), ("", &b"deep"[..]));
        assert_eq!(asked.budget.map(|budget| budget.seconds), Some(30));
        procmond.answer(asked.id, "well").await;
        let asked = procmond.called().await;
        procmond.fail(asked.id, -32601, "no such method").await;
    };
    let calls = async {
        assert_eq!(call(&engine, PROCMOND, b"deep").await, Ok(b"well".to_vec()));
        assert_eq!(call(&engine, PROCMOND, b"").await, Err(-32601));
    };
    tokio::join!(answers, calls);
    nothing_is_open(&world).await;
    assert_eq!(ended(&world, "down", "answered"), 1);
}

#[tokio::test]
async fn a_collector_calls_and_sends_to_the_clients_that_its_role_allows() {
    let world = start("").await;
    let (_engine, mut heard) = client(&world, "engine").await;
    let (_other, _) = client(&world, "other").await;
    // Not attached: the peer itself is, with the first word that needs it.
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let mut procmond = Collector::join(channel).await.unwrap();
    procmond.call(1, "engine", "hello", None).await;
    assert_eq!(procmond.answered(1).await.unwrap(), "Echohello");
    procmond.call(2, "engine", "fail", None).await;
    assert_eq!(procmond.answered(2).await, Err(-7), "the callee's own code");
    procmond.call(3, "other", "hello", None).await;
    assert_eq!(procmond.answered(3).await, Err(DENIED.into()));
    procmond.call(4, "collector.site-a.netmond-1", "hello", None).await;
    assert_eq!(procmond.answered(4).await, Err(DENIED.into()), "no remote peer through the gateway");
    procmond.call(5, "engine", "never", Some(Duration::from_secs(1))).await;
    assert_eq!(procmond.answered(5).await, Err(TIMED_OUT.into()));
    procmond.call(6, "engine", "never", None).await;
    procmond.cancel(6).await;
    assert_eq!(procmond.answered(6).await, Err(CANCELLED.into()));

    // A notification of the RPC layer: the client's takes no message that is none of its own.
    procmond.send(7, "engine", "\0a message").await;
    assert_eq!(procmond.answered(7).await.unwrap(), "");
    let frame = soon("the message arrives", heard.recv()).await.unwrap();
    assert_eq!((frame.sender(), frame.payload()), (PROCMOND, &b"\0a message"[..]));
    procmond.send(8, "other", "x").await;
    assert_eq!(procmond.answered(8).await, Err(DENIED.into()));
    // A client of the RPC layer takes an answer by its number, whoever gives it: none by Send. Nor a call that nobody counts.
    for forged in ["\x11\x01\0\0\0forged", "\x12\x01\0\0\0\0\0forged", "\x01\x01\0\0\0Echo\0x", "\x01"] {
        procmond.send(9, "engine", forged).await;
        assert_eq!(procmond.answered(9).await, Err(DENIED.into()), "{}", forged.escape_debug());
    }
    nothing_is_open(&world).await;
}

#[tokio::test]
async fn who_may_not_call_a_collector_is_told_and_it_hears_nothing() {
    let world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (stranger, _) = client(&world, "stranger").await;
    let (engine, _) = client(&world, "engine").await;
    assert_eq!(call(&stranger, PROCMOND, b"x").await, Err(DENIED));
    stranger.notify(PROCMOND, b"unwanted".as_slice().into(), QoS::Processed).await.unwrap();
    engine.notify(PROCMOND, b"wanted".as_slice().into(), QoS::Processed).await.unwrap();
    let delivered = procmond.delivered().await;
    assert_eq!((delivered.sender.as_str(), &delivered.payload[..]), ("engine", &b"\0wanted"[..]));
    assert_eq!((delivered.topic.as_str(), delivered.collector.as_str()), ("", ""));
    assert_eq!(ended(&world, "down", "denied"), 1);
    assert_eq!(count(&world, &["session_downlink_dropped_total", "denied"]), 1);
    nothing_is_open(&world).await;
}

#[tokio::test]
async fn a_call_to_somebody_who_is_not_there_fails_at_once() {
    let world = start("").await;
    let (engine, _) = client(&world, "engine").await;
    let begun = Instant::now();
    assert!(call(&engine, PROCMOND, b"x").await.is_err(), "never there");
    let procmond = collector(&world, "procmond-1").await;
    drop(procmond);
    let gone = || attached(&world) == 0;
    eventually("it has left", gone).await;
    assert!(call(&engine, PROCMOND, b"x").await.is_err(), "no longer there");
    assert!(begun.elapsed() < Duration::from_secs(10));

    let mut netmond = collector(&world, "netmond-1").await;
    drop(engine);
    eventually("the engine has left", || count(&world, &["bus_door_closed_total "]) >= 1).await;
    netmond.call(1, "engine", "hello", None).await;
    assert_eq!(netmond.answered(1).await, Err(ABSENT.into()));
    nothing_is_open(&world).await;
}

#[tokio::test]
async fn a_call_that_nobody_answers_ends_with_its_budget_and_the_collector_is_told() {
    let world = start("[session.downlink]\nbudget = \"1s\"\n").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    let (asked, answer) = tokio::join!(procmond.called(), call(&engine, PROCMOND, b"x"));
    assert_eq!(answer, Err(TIMED_OUT));
    assert_eq!(procmond.cancelled().await, asked.id);
    // What comes too late is nobody's.
    procmond.answer(asked.id, "late").await;
    nothing_is_open(&world).await;
    assert_eq!(ended(&world, "down", "timed_out"), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_gives_up_its_calls() {
    let world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    let mut calls = JoinSet::new();
    calls.spawn(async move { call(&engine, PROCMOND, b"x").await });
    let asked = procmond.called().await;
    calls.shutdown().await;
    assert_eq!(procmond.cancelled().await, asked.id);
    nothing_is_open(&world).await;
    assert_eq!(ended(&world, "down", "cancelled"), 1);
}

#[tokio::test]
async fn a_link_that_is_cut_ends_its_calls_on_both_sides() {
    let world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    procmond.call(1, "engine", "never", None).await;
    let cut = async {
        procmond.called().await;
        drop(procmond);
    };
    let (answer, ()) = tokio::join!(call(&engine, PROCMOND, b"x"), cut);
    assert_eq!(answer, Err(CUT));
    nothing_is_open(&world).await;
    assert_eq!((ended(&world, "down", "cut"), ended(&world, "up", "cut")), (1, 1));
    assert_eq!(attached(&world), 0);
}

#[tokio::test]
async fn an_eleventh_call_at_once_is_refused_in_each_direction() {
    let world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    let engine = Arc::new(engine);
    let mut calls = JoinSet::new();
    let mut asked = Vec::new();
    for _ in 0..10 {
        let engine = Arc::clone(&engine);
        calls.spawn(async move { call(&engine, PROCMOND, b"x").await });
        asked.push(procmond.called().await);
    }
    assert_eq!(call(&engine, PROCMOND, b"x").await, Err(TOO_MANY));
    for call in asked {
        procmond.answer(call.id, "done").await;
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), Ok(b"done".to_vec()));
    }
    for id in 1..=10 {
        procmond.call(id, "engine", "never", Some(Duration::from_secs(2))).await;
    }
    procmond.call(11, "engine", "hello", None).await;
    assert_eq!(procmond.answered(11).await, Err(TOO_MANY.into()));
    for _ in 1..=10 {
        let timed_out = |frame| match frame {
            link_response::Frame::Reply(reply) => Some(reply.id),
            _ => None,
        };
        procmond.until(timed_out).await;
    }
    nothing_is_open(&world).await;
    assert_eq!(ended(&world, "up", "timed_out"), 10);
}

#[tokio::test]
async fn a_collector_hears_what_its_role_allows_and_no_longer_than_that() {
    let mut world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let refused = procmond
        .subscribe(
            "",
            &["control.task.#", "control.collector.procmond-1", "control.collector.netmond-1", "A"],
        )
        .await;
    let codes: Vec<_> = refused.iter().map(|refused| (refused.name.as_str(), refused.code())).collect();
    let expected =
        [("A", RejectCode::TopicMalformed), ("control.collector.netmond-1", RejectCode::TopicDenied)];
    assert_eq!(codes, expected);
    let path = world.socket().to_str().unwrap().to_owned();
    let mut engine = Client::connect(&Config::new(&path, "engine")).await.unwrap();
    let mut publish = async |topic: &'static str, payload: &'static [u8]| {
        let sent = engine.publish(topic, payload.into(), QoS::Processed).await.unwrap().unwrap();
        soon("it is taken", sent).await.unwrap().unwrap();
    };
    publish("control/collector/netmond-1", b"not for it").await;
    publish("control/task", b"zero segments more").await;
    publish("control/task/scan/now", b"scan").await;
    let first = procmond.delivered().await;
    assert_eq!((first.topic.as_str(), first.sender.as_str()), ("control.task", "engine"));
    assert_eq!(procmond.delivered().await.topic, "control.task.scan.now");

    // A right that is lost is lost at once, and said; the other stays.
    fs::write(world.path("policy.toml"), POLICY.replace(", \"control.task.#\"", "")).unwrap();
    signal("HUP", world.gateway().id()).unwrap();
    let refused = procmond.subscribed().await;
    assert!(refused.iter().any(|refused| refused.name == "control.task.#"), "{refused:?}");
    publish("control/task/scan/now", b"no longer").await;
    publish("control/collector/procmond-1", b"still").await;
    assert_eq!(&procmond.delivered().await.payload[..], b"still");

    assert_eq!(procmond.subscribe("", &[]).await, []);
    publish("control/collector/procmond-1", b"nobody asked").await;
    procmond.session.say(link_request::Frame::Ping(Ping { nonce: 7 })).await;
    let next = procmond.session.next().await.unwrap();
    assert!(matches!(next, link_response::Frame::Pong(_)), "{next:?}");
}

#[tokio::test]
async fn a_downlink_right_that_is_lost_ends_the_calls_it_allowed() {
    let mut world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    procmond.call(1, "engine", "never", None).await;
    let lose = async {
        let asked = procmond.called().await;
        let policy =
            POLICY.replace("client = \"engine\"", "client = \"other\"").replace("call = [\"engine\"]", "");
        fs::write(world.path("policy.toml"), policy).unwrap();
        signal("HUP", world.gateway().id()).unwrap();
        (asked, procmond.cancelled().await)
    };
    let (answer, (asked, cancelled)) = tokio::join!(call(&engine, PROCMOND, b"x"), lose);
    assert_eq!((answer, cancelled), (Err(DENIED), asked.id));
    assert_eq!(ended(&world, "up", "denied"), 1);
    nothing_is_open(&world).await;
}

#[tokio::test]
async fn a_leaf_attaches_many_and_a_name_that_another_peer_has_is_refused() {
    let world = start("").await;
    let join = async |name: &str| {
        let channel = world.credentials("site-a", name).channel(world.address).await.unwrap();
        Collector::join(channel).await.unwrap()
    };
    let (mut one, mut two) = (join("leaf-1").await, join("leaf-2").await);
    let refused = one.attach(&["procmond-1", "netmond-1", "fsmond-1"]).await;
    let codes: Vec<_> = refused.iter().map(|refused| (refused.name.as_str(), refused.code())).collect();
    assert_eq!(codes, [("fsmond-1", RejectCode::CollectorDenied)]);
    let (engine, _) = client(&world, "engine").await;
    for name in ["procmond-1", "netmond-1"] {
        let target = format!("collector.site-a.{name}");
        let answers = async {
            let asked = one.called().await;
            assert_eq!(asked.target, name);
            one.answer(asked.id, asked.target).await;
        };
        let (answer, ()) = tokio::join!(call(&engine, &target, b"x"), answers);
        assert_eq!(answer, Ok(name.as_bytes().to_vec()));
    }

    let refused = two.attach(&["procmond-1", "procmond-2"]).await;
    let codes: Vec<_> = refused.iter().map(|refused| (refused.name.as_str(), refused.code())).collect();
    assert_eq!(codes, [("procmond-1", RejectCode::AlreadyConnected)]);
    // Let go by the one, it is the other's.
    assert_eq!(one.attach(&["netmond-1"]).await, []);
    eventually("it is let go", || attached(&world) == 2).await;
    assert_eq!(two.attach(&["procmond-1", "procmond-2"]).await, []);
    // Of the sessions of one peer the last one hears, and the one before is told.
    let mut again = join("leaf-1").await;
    assert_eq!(again.attach(&["netmond-1"]).await, []);
    let lost = one.attached().await;
    assert_eq!((lost[0].name.as_str(), lost[0].code()), ("netmond-1", RejectCode::AlreadyConnected));
    let answers = async {
        let asked = again.called().await;
        again.answer(asked.id, "again").await;
    };
    let (answer, ()) = tokio::join!(call(&engine, "collector.site-a.netmond-1", b"x"), answers);
    assert_eq!(answer, Ok(b"again".to_vec()));
}

#[tokio::test]
async fn a_collector_that_does_not_read_loses_its_own_messages_and_nobody_elses() {
    let world = start("[session.downlink]\noutbox_frames = 64\n").await;
    let (mut slow, mut fast) = (collector(&world, "procmond-1").await, collector(&world, "netmond-1").await);
    assert_eq!(slow.subscribe("", &["control.task.#"]).await, []);
    assert_eq!(fast.subscribe("", &["control.task.#"]).await, []);
    let total: usize = 3_000;
    let reads = tokio::spawn(async move {
        // At most once is not at least once: what it is told to have missed counts, and must be little.
        let (mut heard, mut missed) = (0, 0);
        while heard + missed < total {
            fast.until(|frame| match frame {
                link_response::Frame::Deliver(_) => {
                    heard += 1;
                    Some(())
                }
                link_response::Frame::Dropped(dropped) => {
                    missed += usize::try_from(dropped.count).unwrap();
                    Some(())
                }
                _ => None,
            })
            .await;
        }
        (heard, missed)
    });
    let path = world.socket().to_str().unwrap().to_owned();
    let mut engine = Client::connect(&Config::new(&path, "engine")).await.unwrap();
    for _ in 0..total {
        let sent = engine.publish("control/task/scan", vec![0; 4096].into(), QoS::Processed).await.unwrap();
        soon("it is taken, whoever reads or not", sent.unwrap()).await.unwrap().unwrap();
    }
    let (heard, missed) = soon("the other one hears", reads).await.unwrap();
    println!("who reads: {heard} heard, {missed} missed of {total}");
    assert!(heard > total * 9 / 10, "{heard} heard, {missed} missed");

    let (mut delivered, mut dropped) = (0, 0);
    while delivered + dropped < total {
        slow.until(|frame| match frame {
            link_response::Frame::Deliver(_) => {
                delivered += 1;
                Some(())
            }
            link_response::Frame::Dropped(gone) => {
                dropped += usize::try_from(gone.count).unwrap();
                Some(())
            }
            _ => None,
        })
        .await;
    }
    println!("who does not read: {delivered} delivered, {dropped} dropped of {total}");
    assert!(dropped > 0 && delivered >= 64);
    assert_eq!(delivered + dropped, total);
    let counted = count(&world, &["session_downlink_dropped_total", "slow"]);
    assert_eq!(counted, u64::try_from(dropped + missed).unwrap());
}

#[tokio::test]
async fn the_federation_adds_little_to_a_call() {
    let world = start("").await;
    let mut procmond = collector(&world, "procmond-1").await;
    let (engine, _) = client(&world, "engine").await;
    let (_local, _) = client(&world, "local").await;
    let answers = tokio::spawn(async move {
        loop {
            let asked = procmond.called().await;
            procmond.answer(asked.id, asked.params).await;
        }
    });
    let rounds = if cfg!(debug_assertions) { 300 } else { 3_000 };
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (target, took) in ["local", PROCMOND].into_iter().zip(&mut took) {
            let begun = Instant::now();
            call(&engine, target, b"ping").await.unwrap();
            took.push(begun.elapsed());
        }
    }
    answers.abort();
    let [local, remote] = took.map(|mut took| {
        took.sort_unstable();
        (took[took.len() / 2], took[took.len() * 99 / 100])
    });
    println!(
        "RPC, {rounds} in turn: local p50 {:?} p99 {:?}, behind the gateway p50 {:?} p99 {:?}, added p50 {:?}",
        local.0,
        local.1,
        remote.0,
        remote.1,
        remote.0.saturating_sub(local.0)
    );
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 20 } else { 1 });
    assert!(remote.0.saturating_sub(local.0) < bound, "{remote:?} against {local:?}");
    nothing_is_open(&world).await;
}

/// Asks the gateway of `world` by the command line, as an operator does.
fn command(world: &World, args: &[&str]) -> serde_json::Value {
    let socket = world.path("run/admin.sock");
    let address = world.admin.to_string();
    let place = ["--socket", socket.to_str().unwrap(), "--address", &address, "--json"];
    let output = std::process::Command::new(CLI).arg("command").args(args).args(place).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_command_is_held_over_a_restart_and_comes_until_it_is_received() {
    let mut world = start("").await;
    let held = command(&world, &["send", "site-a/procmond-1", "--text", "rescan", "--hold-for", "1h"]);
    let number = held["number"].as_u64().unwrap();
    let other = command(&world, &["send", "site-a/netmond-1", "--text", "x", "--hold-for", "1h"]);
    let brief = command(&world, &["send", "site-a/procmond-1", "--text", "too late", "--hold-for", "1s"]);
    eventually("what is over is given up", || {
        command(&world, &["list"])["entries"]
            .as_array()
            .unwrap()
            .iter()
            .all(|entry| entry["number"] != brief["number"])
    })
    .await;
    assert_eq!(command(&world, &["list"])["expired"], 1);
    world.kill();
    world.start().await;

    let mut procmond = collector(&world, "procmond-1").await;
    let delivered = procmond.delivered().await;
    assert_eq!((delivered.command, &delivered.payload[..]), (number, &b"rescan"[..]));
    assert_eq!(delivered.topic, "");
    // Not received: it comes again, under the same number.
    drop(procmond);
    let mut procmond = collector(&world, "procmond-1").await;
    assert_eq!(procmond.delivered().await.command, number);
    let received = |commands: Vec<u64>| link_request::Frame::Received(Received { commands });
    procmond.session.say(received(vec![number, other["number"].as_u64().unwrap()])).await;
    eventually("it is received", || command(&world, &["list"])["received"] == 1).await;

    // To who is there it goes at once; another's is not taken by saying so.
    let now = command(&world, &["send", "site-a/procmond-1", "--text", "now", "--hold-for", "1m"]);
    assert_eq!(procmond.delivered().await.command, now["number"].as_u64().unwrap());
    command(&world, &["cancel", &other["number"].to_string()]);
    let left = command(&world, &["list"]);
    assert_eq!(left["entries"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!((&left["received"], &left["cancelled"]), (&1.into(), &1.into()));
    let audit = fs::read_to_string(world.path("state/audit.jsonl")).unwrap();
    assert_eq!(audit.matches("\"command_held\"").count(), 4);
    assert!(!audit.contains("rescan") && !audit.contains("cmVzY2Fu"), "a payload may be a secret");
}
