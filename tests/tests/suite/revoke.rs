//! Whoever loses the right to be here is gone within a second, and nobody else notices.

use std::{fs, time::Duration};

use daemoneye_gateway::pki::{Authority, Leaf as Profile, Validity};
use daemoneye_proto::v1::link_response;
use daemoneye_tests::{
    blocked::Blocked,
    eventually,
    inside::Inside,
    load::{Load, Plan},
    peer::{Credentials, Session, batch, new_stream},
    subscriber::Subscriber,
    world::{POLICY, TRUST_DOMAIN, World},
};
use tokio::time::{self, Instant};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::world;

/// What an operator is promised.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);

/// Bus consumers are of no matter here.
pub(crate) const UNHEARD: &str = "[[bus.route]]\npattern = \"events.#\"\nunheard = \"discard\"\n";

pub(crate) async fn open(world: &World, credentials: &Credentials) -> Session {
    let channel = credentials.channel(world.address).await.unwrap();
    Session::open(channel, vec![]).await.unwrap().0
}

/// Whether a session can be had.
pub(crate) async fn is_let_in(world: &World, credentials: &Credentials) -> bool {
    match credentials.channel(world.address).await {
        Ok(channel) => Session::open(channel, vec![]).await.is_ok(),
        Err(_) => false,
    }
}

pub(crate) fn is_withdrawn(status: &Status) -> bool {
    status.code() == Code::PermissionDenied && status.message() == "the right to be connected was withdrawn"
}

/// A load of `many` collectors whom nobody means.
pub(crate) async fn bystanders(world: &World, many: usize) -> Load {
    let peers: Vec<_> = (0..many).map(|n| world.credentials("site-b", &format!("netmond-{n}"))).collect();
    Load::begin(world.address, &peers, Plan { batch: 16, payload: 128, rate: Some(200) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_peer_is_gone_within_a_second_idle_publishing_or_stuck() {
    let world = world(UNHEARD);
    let gateway = Inside::start(&world, 0).await;
    let mut load = bystanders(&world, 4).await;

    let idle = world.credentials("site-a", "procmond-1");
    let mut session = open(&world, &idle).await;
    let asked = gateway.deny("identity:site-a/procmond-1").await;
    let status = session.ended().await;
    let took = asked.elapsed();
    println!("idle: {took:?}");
    assert!(is_withdrawn(&status) && took < AT_ONCE, "{status:?} after {took:?}");
    assert!(!is_let_in(&world, &idle).await, "it came back");

    let publishing = world.credentials("site-a", "procmond-2");
    let channel = publishing.channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    let say = session.say.clone();
    let speaking = tokio::spawn(async move {
        for seq in 1.. {
            let frame = batch(stream, seq, "events.process.start", [b"{}".to_vec()]);
            if say.send(daemoneye_tests::peer::request(frame)).await.is_err() {
                return;
            }
        }
    });
    session.acked(stream, 10).await.unwrap();
    let asked = gateway.deny("identity:site-a/procmond-2").await;
    let status = session.ended().await;
    let took = asked.elapsed();
    println!("publishing: {took:?}");
    assert!(is_withdrawn(&status) && took < AT_ONCE, "{status:?} after {took:?}");
    drop(session);
    time::timeout(AT_ONCE, speaking).await.expect("nobody takes what it says").unwrap();

    let blocked = Blocked::connect(&world.credentials("site-a", "procmond-3"), world.address).await.unwrap();
    blocked.stuck().await;
    let asked = gateway.deny("identity:site-a/procmond-3").await;
    let took = blocked.ended(Duration::from_secs(20)).await - asked;
    println!("stuck: {took:?}");
    assert!(took < AT_ONCE, "{took:?}");

    load.check();
    assert!(load.finish().await > 0);
    gateway.tracked(&world).await;
    assert!(gateway.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_survives_a_restart_and_is_lifted_as_easily() {
    let world = world("");
    let victim = world.credentials("site-a", "procmond-1");
    let gateway = Inside::start(&world, 0).await;
    assert!(is_let_in(&world, &victim).await);
    gateway.deny("site:site-a").await;
    assert!(!is_let_in(&world, &victim).await);
    assert!(is_let_in(&world, &world.credentials("site-b", "procmond-1")).await);
    let refusals = world.json("/api/v1/refusals").to_string();
    assert!(refusals.contains("\"denied\""), "{refusals}");
    assert!(gateway.stop().await.is_clean());

    let gateway = Inside::start(&world, 0).await;
    assert!(!is_let_in(&world, &victim).await, "forgotten over a restart");
    gateway.allow("site:site-a").await;
    assert!(is_let_in(&world, &victim).await);
    let audit = daemoneye_gateway::state::audit::verify(&world.path("state/audit.jsonl")).unwrap();
    assert!(audit.head.sequence >= 2, "{audit:?}");
    assert!(gateway.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expires_ends_its_session_on_time() {
    let world = world("");
    let gateway = Inside::start(&world, 0).await;
    let mut lasting = open(&world, &world.credentials("site-a", "procmond-1")).await;
    let ends = Instant::now() + Duration::from_secs(3);
    let short = Profile::collector(TRUST_DOMAIN, "site-a", "procmond-2");
    let short = short.validity(Validity::lasting(::time::Duration::seconds(3)));
    let mut short = open(&world, &world.credentials_of(&world.authority, &short)).await;
    let status = short.ended().await;
    let now = Instant::now();
    // Certificates know whole seconds: it may have been cut off up to a second of what was asked for.
    assert!(now + AT_ONCE >= ends && now < ends + AT_ONCE, "{:?} off", now.duration_since(ends));
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the certificate has expired"));
    assert!(time::timeout(Duration::from_millis(200), lasting.hear.message()).await.is_err(), "it stays");
    gateway.tracked(&world).await;
}

#[tokio::test]
async fn a_policy_that_drops_a_role_cuts_whom_it_concerns() {
    let mut world = world("");
    fs::write(world.path("policy.toml"), POLICY.replace("\"*-*\"", "[\"procmond-*\", \"netmond-*\"]"))
        .unwrap();
    world.start().await;
    let mut leaver = open(&world, &world.credentials("site-a", "netmond-1")).await;
    let mut stayer = open(&world, &world.credentials("site-a", "procmond-1")).await;
    // One of five: a policy that would cut more waits for an operator's word.
    let mut others = Vec::new();
    for n in 2..5 {
        others.push(open(&world, &world.credentials("site-a", &format!("procmond-{n}"))).await);
    }
    fs::write(world.path("policy.toml"), POLICY.replace("\"*-*\"", "\"procmond-*\"")).unwrap();
    daemoneye_tests::process::signal("HUP", world.gateway().id()).unwrap();
    let asked = Instant::now();
    assert_eq!(leaver.ended().await.code(), Code::PermissionDenied);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    let frame = time::timeout(Duration::from_millis(200), stayer.hear.message()).await;
    assert!(frame.is_err(), "{frame:?}");
    recorded(&world, "policy_applied").await;
}

/// Waits until the audit, whose chain holds, has `action`.
async fn recorded(world: &World, action: &str) {
    let audit = world.path("state/audit.jsonl");
    eventually("the change is in the audit", || {
        fs::read_to_string(&audit).is_ok_and(|text| text.contains(action) && text.ends_with('\n'))
    })
    .await;
    daemoneye_gateway::state::audit::verify(&audit).unwrap();
}

#[tokio::test]
async fn an_anchor_that_is_taken_away_takes_its_peers_along() {
    let mut world = world("");
    let other = Authority::root("Another root").unwrap();
    let anchors = fs::read_to_string(world.path("tls/anchors.pem")).unwrap();
    fs::write(world.path("tls/anchors.pem"), [anchors.as_str(), other.root_pem()].concat()).unwrap();
    world.start().await;
    let of_other = Profile::collector(TRUST_DOMAIN, "site-a", "procmond-2");
    let of_other = world.credentials_of(&other, &of_other);
    let mut leaver = open(&world, &of_other).await;
    let mut stayer = open(&world, &world.credentials("site-a", "procmond-1")).await;
    // One of five: anchors that would take more along wait for an operator's word.
    let mut others = Vec::new();
    for n in 3..6 {
        others.push(open(&world, &world.credentials("site-a", &format!("procmond-{n}"))).await);
    }
    fs::write(world.path("tls/anchors.pem"), anchors).unwrap();
    daemoneye_tests::process::signal("HUP", world.gateway().id()).unwrap();
    let asked = Instant::now();
    let status = leaver.ended().await;
    assert!(is_withdrawn(&status) && asked.elapsed() < AT_ONCE, "{status:?} after {:?}", asked.elapsed());
    assert!(!is_let_in(&world, &of_other).await);
    let frame = time::timeout(Duration::from_millis(200), stayer.hear.message()).await;
    assert!(frame.is_err(), "{frame:?}");
    recorded(&world, "material_reloaded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_the_cut_is_dropped_and_counted() {
    // Nobody listens on a route that holds: what is read waits.
    let world = world("");
    let gateway = Inside::start(&world, 0).await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    session.say(batch(stream, 1, "events.process.start", vec![b"{}".to_vec(); 100])).await;
    session.say(daemoneye_proto::v1::link_request::Frame::Ping(daemoneye_proto::v1::Ping { nonce: 7 })).await;
    while !matches!(session.next().await, Ok(link_response::Frame::Pong(_))) {}
    gateway.deny("identity:site-a/procmond-1").await;
    assert!(is_withdrawn(&session.ended().await));
    let withheld = || world.metric("daemoneye_gateway_session_events_total{outcome=\"withheld\"}");
    eventually("it is counted", || (withheld() - 100.0).abs() < 0.5).await;
    // An engine that comes then hears nothing of it.
    let engine = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let other = world.credentials("site-b", "procmond-1").channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, _) = Session::open(other, vec![new_stream(stream)]).await.unwrap();
    session.say(batch(stream, 1, "events.process.start", [b"{\"last\":1}".to_vec()])).await;
    session.acked(stream, 1).await.unwrap();
    eventually("the engine hears", || engine.count() > 0).await;
    let heard = engine.heard();
    assert_eq!((heard.len(), heard[0].payload.as_slice()), (1, b"{\"last\":1}".as_slice()), "{heard:?}");
    assert!((withheld() - 100.0).abs() < 0.5);
    assert!(gateway.stop().await.is_clean());
}
