//! Whoever loses the right to be here is gone within a second, and nobody else notices.

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use daemoneye_gateway::pki::{Authority, Leaf as Profile, Validity};
use daemoneye_proto::v1::link_response;
use daemoneye_tests::{
    blocked::Blocked,
    eventually,
    inside::Inside,
    load::{Load, Plan},
    measure::cpu,
    peer::{Credentials, Session, batch, new_stream},
    subscriber::Subscriber,
    world::{POLICY, TRUST_DOMAIN, World},
};
use tokio::time::{self, Instant};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::world;

/// What an operator is promised.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Bus consumers are of no matter here.
const UNHEARD: &str = "[[bus.route]]\npattern = \"events.#\"\nunheard = \"discard\"\n";

async fn open(world: &World, credentials: &Credentials) -> Session {
    let channel = credentials.channel(world.address).await.unwrap();
    Session::open(channel, vec![]).await.unwrap().0
}

/// Whether a session can be had.
async fn is_let_in(world: &World, credentials: &Credentials) -> bool {
    match credentials.channel(world.address).await {
        Ok(channel) => Session::open(channel, vec![]).await.is_ok(),
        Err(_) => false,
    }
}

fn is_withdrawn(status: &Status) -> bool {
    status.code() == Code::PermissionDenied && status.message() == "the right to be connected was withdrawn"
}

/// A load of `many` collectors whom nobody means.
async fn bystanders(world: &World, many: usize) -> Load {
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

/// One of `many` connected collectors is denied, `TRIES` times, under load.
async fn one_of(many: usize) {
    const TRIES: usize = 20;
    let room = "[session]\nmax_sessions = 20000\nmax_sessions_per_site = 20000\n";
    let world = world(&format!("{room}{UNHEARD}"));
    let gateway = Inside::start(&world, many + 100).await;
    let mut crowd = Vec::new();
    for n in 0..many {
        let name = format!("procmond-{n}");
        let session = open(&world, &world.credentials("site-a", &name)).await;
        crowd.push((name, session));
    }
    let mut load = bystanders(&world, 8).await;
    let (mut slowest, mut all, used) = (Duration::ZERO, Duration::ZERO, cpu(std::process::id()));
    let begun = Instant::now();
    for n in 0..TRIES {
        let (name, mut victim) = crowd.swap_remove(n * 7 % crowd.len());
        let asked = gateway.deny(&format!("identity:site-a/{name}")).await;
        let status = victim.ended().await;
        let took = asked.elapsed();
        assert!(is_withdrawn(&status) && took < AT_ONCE, "{status:?} after {took:?}");
        (slowest, all) = (slowest.max(took), all + took);
    }
    let used = cpu(std::process::id()).saturating_sub(used);
    println!(
        "one of {many}, {TRIES} tries: slowest {slowest:?}, mean {:?}; CPU of load and gateway meanwhile {used:?} in {:?}",
        all / u32::try_from(TRIES).unwrap(),
        begun.elapsed(),
    );
    let (_, metrics) = world.get("/metrics").unwrap();
    for line in metrics.lines().filter(|line| line.contains("sweep_duration_seconds_")) {
        println!("{line}");
    }
    load.check();
    load.finish().await;
    for (_, session) in &mut crowd {
        let frame = futures_util::FutureExt::now_or_never(session.hear.message());
        assert!(frame.is_none_or(|frame| frame.is_ok_and(|frame| frame.is_some())), "a bystander was cut");
    }
    gateway.tracked(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_thousand_is_gone_within_a_second_each_time() {
    one_of(2000).await;
}

/// An authority that revokes.
struct Revoker {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Revoker {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "Revoker");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A collector's chain and key.
    fn issue(&self, name: &str, serial: u64) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let uri = format!("spiffe://{TRUST_DOMAIN}/site/site-a/collector/{name}");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.serial_number = Some(serial.into());
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.use_authority_key_identifier_extension = true;
        let now = ::time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) =
            (now - ::time::Duration::hours(1), now + ::time::Duration::days(1));
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Makes `world` trust it, with a list of `revoked`; returns the anchors of before and the place of the list.
    fn trusted_by(&self, world: &World, revoked: Range<u64>) -> (String, PathBuf) {
        let list = world.path("tls/revoker.crl");
        let anchors = fs::read_to_string(world.path("tls/anchors.pem")).unwrap();
        fs::write(world.path("tls/anchors.pem"), [anchors.as_str(), &self.pem].concat()).unwrap();
        fs::write(&list, self.list(1, revoked)).unwrap();
        let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
        let lists = format!("[tcp.tls_config]\ncrl = [\"{}\"]\n", list.display());
        fs::write(world.path("gateway.toml"), config.replace("[tcp.tls_config]\n", &lists)).unwrap();
        (anchors, list)
    }

    /// Its list of that number.
    fn list(&self, number: u64, revoked: impl Iterator<Item = u64>) -> String {
        let now = ::time::OffsetDateTime::now_utc();
        let entry = |serial: u64| rcgen::RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: now - ::time::Duration::minutes(1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: now - ::time::Duration::minutes(1),
            next_update: now + ::time::Duration::days(1),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.map(entry).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_by_a_list_is_gone_within_a_second_and_stays_away() {
    let mut world = world(UNHEARD);
    let revoker = Revoker::new();
    let (anchors, list) = revoker.trusted_by(&world, 1000..2000);
    world.start().await;
    let of =
        |name: &str, serial| Credentials { anchors: anchors.clone(), own: Some(revoker.issue(name, serial)) };
    let victim = of("procmond-1", 7);
    let mut load = bystanders(&world, 4).await;
    let (mut leaver, mut stayer) = (open(&world, &victim).await, open(&world, &of("procmond-2", 8)).await);
    fs::write(world.path("tls/next"), revoker.list(2, (1000..2000).chain([7]))).unwrap();
    fs::rename(world.path("tls/next"), &list).unwrap();
    let renamed = Instant::now();
    let status = leaver.ended().await;
    let took = renamed.elapsed();
    println!("from rename to the end: {took:?}");
    assert!(is_withdrawn(&status) && took < AT_ONCE, "{status:?} after {took:?}");
    assert!(!is_let_in(&world, &victim).await);
    let frame = time::timeout(Duration::from_millis(200), stayer.hear.message()).await;
    assert!(frame.is_err(), "{frame:?}");
    load.check();
    load.finish().await;
}

/// One of `many` connected collectors is revoked by a list of `entries`, `TRIES` times, under load. The gateway is a process
/// of its own, so that each side has descriptors enough.
async fn one_of_by_list(many: u64, entries: u64) {
    const TRIES: u64 = 20;
    let room = "[session]\nmax_sessions = 20000\nmax_sessions_per_site = 20000\n";
    let mut world = world(&format!("{room}{UNHEARD}"));
    let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
    let config = config.replace("max_connections = 2000", "max_connections = 20000");
    fs::write(world.path("gateway.toml"), config).unwrap();
    let revoker = Revoker::new();
    let others = 1_000_000..1_000_000 + entries;
    let (anchors, list) = revoker.trusted_by(&world, others.clone());
    world.start().await;
    let mut crowd = Vec::new();
    for serial in 1..=many {
        let own = Some(revoker.issue(&format!("procmond-{serial}"), serial));
        crowd.push((serial, open(&world, &Credentials { anchors: anchors.clone(), own }).await));
    }
    let mut load = bystanders(&world, 8).await;
    let (mut slowest, mut all, mut gone) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let (begun, used) = (Instant::now(), cpu(world.gateway().id()));
    for number in 0..TRIES {
        let (serial, mut victim) = crowd.swap_remove(crowd.len() / 2);
        gone.push(serial);
        let next = revoker.list(number + 2, others.clone().chain(gone.iter().copied()));
        fs::write(world.path("tls/next"), next).unwrap();
        fs::rename(world.path("tls/next"), &list).unwrap();
        let renamed = Instant::now();
        let status = victim.ended().await;
        let took = renamed.elapsed();
        assert!(is_withdrawn(&status) && took < AT_ONCE, "{status:?} after {took:?}");
        (slowest, all) = (slowest.max(took), all + took);
    }
    let used = cpu(world.gateway().id()).saturating_sub(used);
    println!(
        "one of {many} by a list of {entries}, {TRIES} tries: slowest {slowest:?}, mean {:?}; CPU of the gateway, load \
         and reading the lists included: {used:?} in {:?}",
        all / u32::try_from(TRIES).unwrap(),
        begun.elapsed(),
    );
    let (_, metrics) = world.get("/metrics").unwrap();
    for line in metrics.lines().filter(|line| line.contains("sweep_duration_seconds_sum")) {
        println!("{line}");
    }
    load.check();
    load.finish().await;
    for (serial, session) in &mut crowd {
        let frame = futures_util::FutureExt::now_or_never(session.hear.message());
        assert!(frame.is_none_or(|frame| frame.is_ok_and(|frame| frame.is_some())), "{serial} was cut");
    }
    let untracked = || world.metric("daemoneye_gateway_session_untracked").abs() < 0.5;
    eventually("every connection is on the leash", untracked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_thousand_is_revoked_within_a_second_each_time() {
    one_of_by_list(2000, 1000).await;
}

/// Takes minutes: `just revoke-10000`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: just revoke-10000"]
async fn one_of_ten_thousand_is_revoked_within_a_second_each_time() {
    one_of_by_list(10_000, 100_000).await;
}
