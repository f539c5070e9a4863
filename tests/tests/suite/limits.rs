//! Limits: what a peer is told at a cap, how it moves when its connection is old, and what a flood of strangers costs.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use daemoneye_gateway::pki::{self, Authority, Leaf as Profile};
use daemoneye_tests::{
    engine::Engine,
    eventually,
    load::{Load, Plan},
    peer::{Credentials, Session, new_stream},
    process::signal,
    producer::Producer,
    world::{Leaf, TRUST_DOMAIN, World},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Code;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::world;

/// Changes a key of the gateway's configuration.
fn set(world: &World, from: &str, to: &str) {
    let path = world.path("gateway.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn over_the_cap_a_peer_is_told_when_to_come_back_and_admin_still_answers() {
    let mut world = world("");
    set(&world, "max_connections = 2000", "max_connections = 1");
    world.start().await;
    let open = async |name: &str| {
        let channel = world.credentials("site-a", name).channel(world.address).await.unwrap();
        Session::open(channel, vec![new_stream(Uuid::new_v4())]).await
    };
    let _held = open("procmond-1").await.unwrap();
    let refused = open("procmond-2").await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let retry = refused.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(5)), "{refused:?}");
    eventually("the refusal is shown", || {
        let refusals = world.json("/api/v1/refusals").to_string();
        refusals.contains(r#""reason":"full""#) && refusals.contains("site-a/procmond-2")
    })
    .await;
}

/// Hears events in an envelope that names stream and number.
const ENVELOPE: &str = "[[bus.route]]\npattern = \"events.#\"\nenvelope = \"cloudevents\"\n";

/// How often a leaf has moved.
fn moves(leaf: &mut Leaf) -> usize {
    leaf.program().log().matches("moved to a new connection").count()
}

/// Ends the load and checks that every event came, once and in order.
async fn settle(engine: Engine, producer: Producer) {
    let (confirmed, repeated) = producer.finish().await;
    eventually("everything confirmed has come", || {
        engine.books().missing("collector.site-a.leaf-1", confirmed).is_empty()
    })
    .await;
    let books = engine.leave().await;
    assert_eq!((repeated, books.disorder, books.holes(), books.repeated(), books.streams()), (0, 0, 0, 0, 1));
    assert!(books.frames > 1000, "{}", books.frames);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_whose_connection_is_old_moves_under_load_and_loses_nothing() {
    let mut world = world(&format!("[session.http2]\nmax_connection_age = \"2s\"\n\n{ENVELOPE}"));
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("it has moved three times", || moves(&mut leaf) >= 3).await;
    settle(engine, producer).await;
    assert!(!leaf.program().log().contains("uplink lost"), "{}", leaf.program().log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_whose_certificate_is_renewed_under_load_moves_and_loses_nothing() {
    let mut world = world(ENVELOPE);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("events flow", || engine.frames() > 500).await;
    let mut stall = Duration::ZERO;
    for round in 1..=3 {
        let own = world.authority.issue(&Profile::collector(TRUST_DOMAIN, "site-a", "leaf-1")).unwrap();
        pki::write_certificate(&leaf.folder, "leaf", &own).unwrap();
        signal("HUP", leaf.program().id()).unwrap();
        let (mut frames, mut since) = (engine.frames(), Instant::now());
        eventually("it has moved", || {
            let now = engine.frames();
            if now != frames {
                (frames, since) = (now, Instant::now());
            }
            stall = stall.max(since.elapsed());
            moves(&mut leaf) == round
        })
        .await;
        let moved = engine.frames();
        eventually("events flow on", || engine.frames() > moved + 500).await;
    }
    println!("the longest time without an event while certificates were renewed: {stall:?}");
    settle(engine, producer).await;
    assert!(!leaf.program().log().contains("uplink lost"), "{}", leaf.program().log());
}

/// How large the flood is.
struct Size {
    half_open: u32,
    junk: u32,
    silent: usize,
}

impl Size {
    /// The full one if `DAEMONEYE_TEST_FLOOD` is `full`, as far as this process may have descriptors.
    fn choose() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX);
        let room = u32::try_from(limit).unwrap_or(u32::MAX).saturating_sub(3000);
        let full = std::env::var("DAEMONEYE_TEST_FLOOD").is_ok_and(|size| size == "full");
        let wanted = if full {
            Self { half_open: 15_000, junk: 1000, silent: 1000 }
        } else {
            Self { half_open: 2000, junk: 200, silent: 100 }
        };
        if room < wanted.half_open {
            println!("scaled down to {room} half-open connections by the limit of descriptors ({limit})");
        }
        Self { half_open: wanted.half_open.min(room), ..wanted }
    }
}

/// Connects from another address of this host.
async fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::from(source), 0)))?;
    socket.connect(to).await
}

async fn shake(
    credentials: &Credentials,
    source: [u8; 4],
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = connect_from(source, to).await?;
    let connector = TlsConnector::from(Arc::new(credentials.client_config()));
    let mut tls = connector.connect(ServerName::try_from("localhost").expect("it is a name"), tcp).await?;
    // The verdict.
    tls.read_u8().await?;
    Ok(tls)
}

/// Puts a good collector through the door while the flood is on; says how long that took, and the p99 of the acks.
async fn probe(world: &World, load: &mut Load, phase: &str, number: usize) -> Duration {
    let credentials = world.credentials("site-a", &format!("probe-{number}"));
    let begun = Instant::now();
    let channel = credentials.channel(world.address).await.unwrap();
    let _session = Session::open(channel, vec![new_stream(Uuid::new_v4())]).await.unwrap();
    let took = begun.elapsed();
    load.check();
    let p99 = load.take_latencies().quantile(990).expect("acks came");
    println!("{phase}: a good collector was welcomed after {took:?}, p99 of acks {p99:?}");
    assert!(took < Duration::from_secs(2), "{phase}: a good collector waited {took:?}");
    p99
}

/// Opens connections that say nothing, 64 from each of many networks, a thousand a second.
async fn half_open(world: &World, count: u32) -> Vec<TcpStream> {
    let mut held = Vec::new();
    let mut clock = time::interval(Duration::from_millis(10));
    for number in 0..count {
        if number % 10 == 0 {
            clock.tick().await;
        }
        let [_, high, low, host] = number.to_be_bytes();
        let network = (u16::from(high) << 8 | u16::from(low)) << 2 | u16::from(host >> 6);
        let [second, third] = network.to_be_bytes();
        held.extend(connect_from([127, 64 + second, third, 1 + (host & 63)], world.address).await.ok());
    }
    held
}

/// A hundred handshakes a second with a chain of somebody else, each from a network of its own.
async fn junk(world: &World, count: u32) {
    let stranger = Authority::root("Stranger").unwrap().intermediate("Strange issuer").unwrap();
    let profile = Profile::collector(TRUST_DOMAIN, "site-a", "procmond-1");
    let credentials = Arc::new(world.credentials_of(&stranger, &profile));
    let mut clock = time::interval(Duration::from_millis(10));
    let mut shaking = JoinSet::new();
    for number in 0..count {
        clock.tick().await;
        let [.., third, host] = number.to_be_bytes();
        let (credentials, address) = (Arc::clone(&credentials), world.address);
        shaking.spawn(async move { shake(&credentials, [127, 128 + third, host, 1], address).await.is_ok() });
    }
    assert!(shaking.join_all().await.into_iter().all(|got_in| !got_in), "a stranger got in");
}

/// Peers with good certificates that say nothing after the handshake.
async fn silent(world: &World, count: usize) -> Vec<TlsStream<TcpStream>> {
    let mut held = Vec::new();
    for number in 0..count {
        let credentials = world.credentials("site-z", &format!("silent-{number}"));
        held.push(shake(&credentials, [127, 200, 0, 1], world.address).await.unwrap());
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_costs_good_collectors_nothing_and_is_not_logged() {
    let size = Size::choose();
    let mut world = world("[session.http2]\nfirst_request_timeout = \"5s\"\n");
    world.start().await;
    let _engine = daemoneye_tests::subscriber::Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let peers: Vec<_> = (0..4).map(|number| world.credentials("site-a", &format!("good-{number}"))).collect();
    let mut load = Load::begin(world.address, &peers, Plan { batch: 1, payload: 256, rate: Some(400) }).await;
    time::sleep(Duration::from_secs(3)).await;
    let baseline = probe(&world, &mut load, "nobody else", 0).await;
    let (resident, lines) = (world.gateway().resident(), world.gateway().log().lines().count());
    let mut p99 = Vec::new();

    let held = half_open(&world, size.half_open).await;
    p99.push(probe(&world, &mut load, &format!("{} half-open connections", held.len()), 1).await);
    junk(&world, size.junk).await;
    p99.push(probe(&world, &mut load, &format!("{} handshakes with junk", size.junk), 2).await);
    let mut mute = silent(&world, size.silent).await;
    p99.push(probe(&world, &mut load, &format!("{} peers silent after the handshake", mute.len()), 3).await);

    let grown = world.gateway().resident().saturating_sub(resident);
    println!("resident memory grew by {} KiB to {} MiB", grown >> 10, world.gateway().resident() >> 20);
    assert!(grown < 96 << 20, "{grown}");
    // What a busy machine does to threads of one process that floods and measures is not the gateway's.
    let bound = 2 * baseline.max(Duration::from_millis(10));
    assert!(p99.iter().all(|p99| *p99 <= bound), "{p99:?}, and {baseline:?} before");

    let counted = |name: &str| world.metric(&format!("daemoneye_gateway_{name}"));
    let turned = counted("listener_turned_away_total{reason=\"rate\"}")
        + counted("listener_turned_away_total{reason=\"network_rate\"}");
    let (crowded, accepted) = (counted("listener_crowded_out_total"), counted("listener_connections_total"));
    println!("of {accepted} accepted, {turned} were turned away by rate, {crowded} pushed out");
    assert!(accepted >= f64::from(size.half_open + size.junk));
    // Those that were neither turned away nor pushed out wait still: no more than may.
    assert!(turned + crowded + 512.0 + f64::from(size.junk) >= f64::from(size.half_open));
    let unknown = counted("tls_refusals_total{reason=\"unknown_issuer\"}");
    assert!(unknown > 0.0 && unknown <= f64::from(size.junk));

    // Silent ones go at the deadline of their first request.
    for tls in &mut mute {
        let rest = time::timeout(Duration::from_secs(20), tls.read_to_end(&mut Vec::new())).await;
        drop(rest.expect("a silent peer is dropped"));
    }
    load.finish().await;
    let log = world.gateway().log();
    let told: Vec<&str> = log.lines().skip(lines).filter(|line| !line.contains("peer=site-a/")).collect();
    assert!(told.is_empty(), "{told:#?}");
    drop(held);
}
