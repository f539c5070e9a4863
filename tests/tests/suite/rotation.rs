//! The gateway's certificate changes under load and nobody notices; a pair that does not fit changes nothing but health.
//!
//! `DAEMONEYE_TEST_ROTATION` sets for how many seconds the pair changes each second; `just rotate` does it for a minute.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, symlink},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemoneye_gateway::pki::{self, Certificate, Leaf as Profile};
use daemoneye_proto::v1::{Credit, Pong, link_request, link_response};
use daemoneye_tests::{
    engine::Engine,
    eventually,
    eventually::soon,
    peer::{Credentials, Session, batch, new_stream},
    process::signal,
    producer::Producer,
    world::World,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time,
};
use tokio_rustls::TlsConnector;
use uuid::Uuid;

use crate::world;

const ENVELOPE: &str = r#"
[[bus.route]]
pattern = "events.#"
envelope = "cloudevents"
"#;

/// Bus consumers are of no matter.
const UNHEARD: &str = "[[bus.route]]\npattern = \"events.#\"\nunheard = \"discard\"\n";

/// How long the pair changes, in seconds.
fn seconds() -> usize {
    std::env::var("DAEMONEYE_TEST_ROTATION").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(8)
}

/// A new certificate of the gateway, with a new key, from the authority of the old one.
fn fresh(world: &World) -> Certificate {
    let profile = Profile::server("gateway").dns("localhost").ip(world.address.ip());
    world.authority.issue(&profile).unwrap()
}

/// Puts each file in the place of the old one, as an operator's script does, and says so.
fn replace(world: &mut World, pair: &Certificate) {
    pki::write_certificate(&world.path("tls"), "gateway", pair).unwrap();
    signal("HUP", world.gateway().id()).unwrap();
}

/// Turns `..data` to a new folder, as Kubernetes does; the files are links through it. Nobody says anything.
fn swap(world: &World, pair: &Certificate, number: usize) {
    let tls = world.path("tls");
    let name = format!("..generation-{number}");
    pki::write_certificate(&tls.join(&name), "gateway", pair).unwrap();
    symlink(&name, tls.join("..data_tmp")).unwrap();
    fs::rename(tls.join("..data_tmp"), tls.join("..data")).unwrap();
    for file in ["gateway.key", "gateway.crt"] {
        if !tls.join(file).is_symlink() {
            let link = tls.join("link");
            symlink(format!("..data/{file}"), &link).unwrap();
            fs::rename(&link, tls.join(file)).unwrap();
        }
    }
}

/// The preface of HTTP/2 with empty settings: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What a new client is shown: the gateway's leaf certificate. The gateway has let the client in by then, because it has
/// spoken: its settings come after the client's certificate was judged.
async fn served(address: SocketAddr, credentials: &Credentials) -> io::Result<Vec<u8>> {
    let connector = TlsConnector::from(Arc::new(credentials.client_config()));
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut tls = connector.connect(name, TcpStream::connect(address).await?).await?;
    tls.write_all(PREFACE).await?;
    tls.read_exact(&mut [0; 9]).await?;
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.expect("a server shows a certificate").to_vec())
}

/// New clients, one after the other, for as long as it lives. One that is refused, or is shown a certificate that was never
/// issued or had been replaced for an earlier one, fails the test.
struct Newcomers {
    issued: Arc<Mutex<Vec<Vec<u8>>>>,
    shown: Arc<AtomicUsize>,
    came: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// How often one comes.
const NEWCOMER: Duration = Duration::from_millis(50);

impl Newcomers {
    fn begin(world: &World, first: &Certificate) -> Self {
        let issued = Arc::new(Mutex::new(vec![first.der().to_vec()]));
        let (shown, came, stop) = (Arc::default(), Arc::default(), Arc::default());
        // Many, because one who comes again and again is soon told to wait.
        let peers: Vec<_> = (0..64).map(|n| world.credentials("site-b", &format!("newcomer-{n}"))).collect();
        let work = dial(
            world.address,
            peers,
            Arc::clone(&issued),
            [&shown, &came].map(Arc::clone),
            Arc::clone(&stop),
        );
        Self { issued, shown, came, stop, task: tokio::spawn(work) }
    }

    /// Says that `pair` is in order from now on; returns its number.
    fn expect(&self, pair: &Certificate) -> usize {
        let mut issued = self.issued.lock().unwrap();
        issued.push(pair.der().to_vec());
        issued.len() - 1
    }

    /// The number of the certificate that the last one was shown.
    fn shown(&self) -> usize {
        assert!(!self.task.is_finished(), "a new client was turned away");
        self.shown.load(Ordering::Acquire)
    }

    /// How many came, all in all.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Release);
        soon("the last one ends", self.task).await.expect("every new client is let in");
        self.came.load(Ordering::Acquire)
    }
}

async fn dial(
    address: SocketAddr,
    peers: Vec<Credentials>,
    issued: Arc<Mutex<Vec<Vec<u8>>>>,
    [shown, came]: [Arc<AtomicUsize>; 2],
    stop: Arc<AtomicBool>,
) {
    let mut pace = time::interval(NEWCOMER);
    for peer in peers.iter().cycle() {
        pace.tick().await;
        if stop.load(Ordering::Acquire) {
            return;
        }
        let leaf =
            soon("a new client is let in", served(address, peer)).await.expect("a new client is let in");
        let number = issued.lock().unwrap().iter().position(|der| *der == leaf);
        let number = number.expect("a certificate that was issued is shown");
        let before = shown.swap(number, Ordering::AcqRel);
        assert!(number >= before, "certificate {number} was shown after {before}");
        came.fetch_add(1, Ordering::AcqRel);
    }
}

/// A collector that sends numbered events on one connection, as fast as credit lets it; fails the test if it is cut.
struct Pump {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

/// Events of a batch.
const BATCH: u64 = 32;

impl Pump {
    async fn begin(world: &World, name: &str) -> Self {
        let channel = world.credentials("site-b", name).channel(world.address).await.unwrap();
        let stream = Uuid::new_v4();
        let (session, welcome) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(pump(session, stream, welcome.credit.unwrap(), Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Waits for the acks of what was sent, and returns how much that was.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Release);
        let acked = soon("everything is acknowledged", self.task).await.expect("no connection is cut");
        usize::try_from(acked).unwrap()
    }
}

async fn pump(mut session: Session, stream: Uuid, mut credit: Credit, stop: Arc<AtomicBool>) -> u64 {
    let (mut next, mut acked) = (1, 0);
    loop {
        let stopped = stop.load(Ordering::Acquire);
        let flying = next - 1 - acked;
        if stopped && flying == 0 {
            return acked;
        }
        if !stopped && (flying == 0 || flying + BATCH <= credit.events.into()) {
            // The first number of a stream is 1, that of a producer 0.
            let payloads = (next - 1..next - 1 + BATCH).map(|n| format!("{{\"n\":{n}}}").into_bytes());
            session.say(batch(stream, next, "events.process.start", payloads)).await;
            next += BATCH;
            continue;
        }
        match session.next().await.expect("no connection is cut") {
            link_response::Frame::Ack(ack) => {
                assert!(ack.rejected.is_empty(), "{:?}", ack.rejected.first());
                acked = ack.acked;
            }
            link_response::Frame::Credit(new) => credit = new,
            link_response::Frame::Ping(ping) => {
                session.say(link_request::Frame::Pong(Pong { nonce: ping.nonce })).await;
            }
            link_response::Frame::Drain(drain) => panic!("nobody is sent away: {drain:?}"),
            _ => {}
        }
    }
}

/// The sum of a counter over those of its labels that `line` is the beginning of.
fn total(world: &World, line: &str) -> usize {
    let (_, body) = world.get("/metrics").expect("the admin API answers");
    let lines = body.lines().filter(|found| found.starts_with(line));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_changes_every_second_is_served_and_cuts_nobody() {
    let mut world = world(ENVELOPE);
    let first = fresh(&world);
    pki::write_certificate(&world.path("tls"), "gateway", &first).unwrap();
    world.start().await;
    let engine = Engine::attach(&world.socket());
    eventually("the engine is there", || engine.is_connected()).await;
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    let pumps = [Pump::begin(&world, "pump-1").await, Pump::begin(&world, "pump-2").await];
    let newcomers = Newcomers::begin(&world, &first);
    eventually("events flow", || engine.frames() > 2000).await;

    // The change of every second is what the test is about; nothing is waited for by it.
    let mut second = time::interval(Duration::from_secs(1));
    let rounds = seconds();
    for round in 1..=rounds {
        second.tick().await;
        let pair = fresh(&world);
        let number = newcomers.expect(&pair);
        if round <= rounds / 2 {
            replace(&mut world, &pair);
        } else {
            swap(&world, &pair, round);
        }
        let (what, frames) = (format!("certificate {number} is shown to new clients"), engine.frames());
        eventually(&what, || newcomers.shown() == number).await;
        eventually("events still flow", || engine.frames() > frames).await;
    }

    let came = newcomers.finish().await;
    let mut sent = vec![("collector.site-a.leaf-1", producer.finish().await.0)];
    for (sender, pump) in ["collector.site-b.pump-1", "collector.site-b.pump-2"].into_iter().zip(pumps) {
        sent.push((sender, pump.finish().await));
    }
    eventually("the leaf has nothing left to send", || leaf.sum("daemoneye_bridge_spool_events") == Some(0))
        .await;
    for (sender, confirmed) in &sent {
        eventually("all that was confirmed has come", || {
            engine.books().missing(sender, *confirmed).is_empty()
        })
        .await;
    }
    let books = engine.leave().await;
    println!("certificate changed {rounds} times: newcomers={came} frames={} {sent:?}", books.frames);
    let counts = (books.duplicates, books.disorder, books.holes(), books.repeated(), books.streams());
    assert_eq!(counts, (0, 0, 0, 0, sent.len()), "duplicates, disorder, holes, repeated, streams");
    assert!(sent.iter().all(|(_, confirmed)| *confirmed > 1000), "the load was no load: {sent:?}");

    let handshakes = "daemoneye_gateway_tls_handshakes_total";
    eventually("every handshake is counted as accepted", || {
        total(&world, &format!("{handshakes}{{outcome=\"accepted\"}}")) == came + sent.len()
    })
    .await;
    assert_eq!(total(&world, handshakes), came + sent.len(), "refused or timed out");
    assert_eq!(
        total(&world, "daemoneye_gateway_session_opened_total"),
        sent.len(),
        "nobody had to come again"
    );
    assert_eq!(total(&world, "daemoneye_gateway_tls_reloads_total{outcome=\"changed\"}"), rounds);
}

/// How a pair is spoilt, and what is said of it.
struct Spoilt {
    what: &'static str,
    spoil: fn(&World, &Certificate),
    file: &'static str,
    why: &'static str,
}

/// Writes a file of the gateway's in place, as an editor does.
fn put(world: &World, file: &str, text: &str) {
    fs::write(world.path("tls").join(file), text).unwrap();
}

/// What can go wrong while a pair is replaced; each is handed a pair that would be good.
const SPOILT: [Spoilt; 9] = [
    Spoilt {
        what: "half-written: the certificate is new, the key old",
        spoil: |world, pair| put(world, "gateway.crt", &pair.chain_pem()),
        file: "gateway.key",
        why: "does not belong to the first certificate in",
    },
    Spoilt {
        what: "the key of another certificate",
        spoil: |world, pair| put(world, "gateway.key", pair.key_pem()),
        file: "gateway.key",
        why: "does not belong to the first certificate in",
    },
    Spoilt {
        what: "an empty certificate",
        spoil: |world, _| put(world, "gateway.crt", ""),
        file: "gateway.crt",
        why: "holds no certificate",
    },
    Spoilt {
        what: "an empty key",
        spoil: |world, _| put(world, "gateway.key", ""),
        file: "gateway.key",
        why: "holds no private key",
    },
    Spoilt {
        what: "a certificate that breaks off",
        spoil: |world, pair| put(world, "gateway.crt", half(&pair.chain_pem())),
        file: "gateway.crt",
        why: "is not well-formed PEM",
    },
    Spoilt {
        what: "a key that breaks off",
        spoil: |world, pair| put(world, "gateway.key", half(pair.key_pem())),
        file: "gateway.key",
        why: "is not well-formed PEM",
    },
    Spoilt {
        what: "a key that others can read",
        spoil: |world, _| {
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(world.path("tls/gateway.key"), open).unwrap();
        },
        file: "gateway.key",
        why: "can be read by others",
    },
    Spoilt {
        what: "no certificate at all",
        spoil: |world, _| fs::remove_file(world.path("tls/gateway.crt")).unwrap(),
        file: "gateway.crt",
        why: "could not read",
    },
    Spoilt {
        what: "empty anchors",
        spoil: |world, _| put(world, "anchors.pem", ""),
        file: "anchors.pem",
        why: "holds no certificate",
    },
];

/// The first half of PEM, which ends within a line.
fn half(pem: &str) -> &str {
    &pem[..pem.len() / 2]
}

/// The word and the message of health about TLS.
fn health(world: &World) -> (String, String) {
    let (_, body) = world.get("/api/v1/health").expect("the admin API answers");
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    let components = health["components"].as_array().unwrap();
    let tls = components.iter().find(|component| component["name"] == "tls").unwrap();
    let text = |field: &str| tls[field].as_str().unwrap().to_owned();
    (text("status"), text("message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_does_not_fit_leaves_the_old_one_in_force_until_a_good_one_comes() {
    let mut world = world(UNHEARD);
    let mut current = fresh(&world);
    pki::write_certificate(&world.path("tls"), "gateway", &current).unwrap();
    world.start().await;
    let anchors = world.authority.root_pem().to_owned();
    let newcomer = world.credentials("site-b", "newcomer");
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();

    for (seq, Spoilt { what, spoil, file, why }) in (1..).zip(SPOILT) {
        spoil(&world, &fresh(&world));
        signal("HUP", world.gateway().id()).unwrap();
        let path = world.path("tls").join(file).display().to_string();
        eventually(&format!("health tells of {what}"), || {
            let (status, message) = health(&world);
            status == "degraded" && message.contains(&path) && message.contains(why)
        })
        .await;
        assert_eq!(world.get("/readyz").unwrap().0, 200, "{what}: what is in force is good");
        let shown = served(world.address, &newcomer).await.expect(what);
        assert!(shown == current.der(), "{what}: the old certificate is shown");
        session.say(batch(stream, seq, "events.process.start", [b"{}".to_vec()])).await;
        session.acked(stream, seq).await.expect(what);

        current = fresh(&world);
        put(&world, "anchors.pem", &anchors);
        replace(&mut world, &current);
        eventually(&format!("health is well again after {what}"), || health(&world).0 == "healthy").await;
        let shown = served(world.address, &newcomer).await.expect(what);
        assert!(shown == current.der(), "{what}: the good certificate is shown");
    }
    let changed = total(&world, "daemoneye_gateway_tls_reloads_total{outcome=\"changed\"}");
    assert_eq!(changed, SPOILT.len(), "only the good ones came into force");
    assert_eq!(total(&world, "daemoneye_gateway_session_opened_total"), 1, "the session was never cut");
}
