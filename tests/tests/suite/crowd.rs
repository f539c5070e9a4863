//! One of thousands loses the right to be here: it is gone within a second, and nobody else notices.

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use daemoneye_tests::{
    blocked::Blocked,
    eventually,
    inside::Inside,
    measure::cpu,
    peer::{Credentials, Session, batch, new_stream, request},
    world::{TRUST_DOMAIN, World},
};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use uuid::Uuid;

use crate::{
    revoke::{AT_ONCE, UNHEARD, bystanders, is_let_in, is_withdrawn, open},
    world,
};

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
    assert!(!crowd.iter_mut().any(|(_, session)| has_ended(session)), "a bystander was cut");
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

/// What a collector does when it is revoked.
#[derive(Debug)]
enum Victim {
    /// Says nothing.
    Idle(Session, mpsc::Receiver<Instant>),
    /// Publishes.
    Publishing(Session, mpsc::Receiver<Instant>),
    /// Has stopped reading, and sends PINGs.
    Stuck(Blocked),
}

impl Victim {
    /// Connects the victim whose turn is `number`: each is another than the one before.
    async fn connect(world: &World, credentials: &Credentials, number: u64) -> Self {
        if number % 3 == 2 {
            return Self::Stuck(Blocked::connect(credentials, world.address).await.unwrap());
        }
        let (channel, end) = credentials.witnessed(world.address).await.unwrap();
        let stream = Uuid::new_v4();
        let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
        if number.is_multiple_of(3) {
            return Self::Idle(session, end);
        }
        let say = session.say.clone();
        // Ends with its session.
        drop(tokio::spawn(async move {
            let mut pace = time::interval(Duration::from_millis(20));
            for seq in 1.. {
                let frame = batch(stream, seq, "events.process.start", [b"{}".to_vec()]);
                if say.send(request(frame)).await.is_err() {
                    return;
                }
                pace.tick().await;
            }
        }));
        session.acked(stream, 1).await.unwrap();
        Self::Publishing(session, end)
    }

    /// Whether it has a session.
    const fn has_session(&self) -> bool {
        !matches!(self, Self::Stuck(_))
    }

    /// Waits until it is in the state in which it shall be revoked.
    async fn ready(&self) {
        if let Self::Stuck(blocked) = self {
            blocked.stuck().await;
        }
    }

    /// Waits for the end of its connection as its socket saw it; one that reads was told why.
    async fn ended(self) -> (&'static str, Instant) {
        let bound = Duration::from_secs(20);
        let (what, mut session, mut end) = match self {
            Self::Stuck(blocked) => return ("stuck", blocked.ended(bound).await),
            Self::Idle(session, end) => ("idle", session, end),
            Self::Publishing(session, end) => ("publishing", session, end),
        };
        let status = session.ended().await;
        assert!(is_withdrawn(&status), "{what}: {status:?}");
        drop(session);
        (what, time::timeout(bound, end.recv()).await.expect("the socket ends").expect("it is told"))
    }
}

/// The sum of a metric over its labels.
fn sum(world: &World, name: &str) -> u64 {
    let (_, body) = world.get("/metrics").expect("the admin API answers");
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    body.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Whether the session has ended; what it was told meanwhile is of no matter.
fn has_ended(session: &mut Session) -> bool {
    loop {
        match futures_util::FutureExt::now_or_never(session.hear.message()) {
            None => return false,
            Some(Ok(Some(_))) => {}
            Some(_) => return true,
        }
    }
}

/// A world whose collectors are of `revoker`, with room for 20,000; returns its anchors and the place of the list.
async fn roomy(authority: &Revoker, revoked: Range<u64>) -> (World, String, PathBuf) {
    let room = "[session]\nmax_sessions = 20000\nmax_sessions_per_site = 20000\n";
    let mut world = world(&format!("{room}{UNHEARD}"));
    let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
    let config = config.replace("max_connections = 2000", "max_connections = 20000");
    fs::write(world.path("gateway.toml"), config).unwrap();
    let (anchors, list) = authority.trusted_by(&world, revoked);
    world.start().await;
    (world, anchors, list)
}

/// Of `many` connected collectors and `TRIES` more one is revoked by a list of `entries` after another, under load, from the
/// return of the rename to the end at its socket. The gateway is a process of its own, so that each side has descriptors
/// enough.
async fn one_of_by_list(many: u64, entries: u64) {
    const TRIES: u64 = 20;
    let revoker = Revoker::new();
    let others = 1_000_000..1_000_000 + entries;
    let (mut world, anchors, list) = roomy(&revoker, others.clone()).await;
    let of = |serial: u64| {
        let own = Some(revoker.issue(&format!("procmond-{serial}"), serial));
        Credentials { anchors: anchors.clone(), own }
    };
    let mut crowd = Vec::new();
    for serial in TRIES + 1..=TRIES + many {
        crowd.push((serial, open(&world, &of(serial)).await));
    }
    let mut load = bystanders(&world, 8).await;
    let mut victims = Vec::new();
    for serial in 1..=TRIES {
        victims.push((serial, Victim::connect(&world, &of(serial), serial).await));
    }
    let sessions = u64::try_from(victims.iter().filter(|(_, victim)| victim.has_session()).count()).unwrap();
    let [opened, closed] = ["opened", "closed"].map(|what| format!("daemoneye_gateway_session_{what}_total"));
    assert_eq!((sum(&world, &opened), sum(&world, &closed)), (many + 8 + sessions, 0));

    let (mut slowest, mut all, mut gone) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let (begun, used) = (Instant::now(), cpu(world.gateway().id()));
    for (number, (serial, victim)) in (2..).zip(victims) {
        victim.ready().await;
        gone.push(serial);
        let next = revoker.list(number, others.clone().chain(gone.iter().copied()));
        fs::write(world.path("tls/next"), next).unwrap();
        fs::rename(world.path("tls/next"), &list).unwrap();
        let renamed = Instant::now();
        let (what, ended) = victim.ended().await;
        let took = ended.saturating_duration_since(renamed);
        println!("{what}: {took:?} from the rename to the end at its socket");
        assert!(took < AT_ONCE, "{what}: {took:?}");
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
    // Nobody else left, and nobody came back.
    assert_eq!((sum(&world, &opened), sum(&world, &closed)), (many + 8 + sessions, sessions));
    for (serial, session) in &mut crowd {
        assert!(!has_ended(session), "{serial} was cut");
    }
    load.check();
    load.finish().await;
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
