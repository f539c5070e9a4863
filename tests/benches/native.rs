//! BUS/RT over mutual TLS beside gRPC and beside `stunnel4` in front of `busrtd`, in one run: 256 bytes, 8 connections,
//! `Processed` on each frame, pipelined.
//!
//! `cargo bench --bench native`. Gateway, broker and tunnel are processes of their own; this one is the load. The last row
//! needs `stunnel4` and `DAEMONEYE_TEST_BUSRTD`, and says SKIPPED without them.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use daemoneye_gateway::pki;
use daemoneye_tests::{
    eventually::within,
    load::{Load, Plan},
    measure::{cpu, measure},
    native::{ALPN, Hand, dial},
    peer::Credentials,
    process::Program,
    world::{Programs, TRUST_DOMAIN, World, free, skipped, tool},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
    time::{self, Instant},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONSUMING: &str = env!("CARGO_BIN_EXE_gateway-with-consumer");

const LEAF: &str = env!("CARGO_BIN_EXE_leaf-under-test");

const CONNECTIONS: usize = 8;

/// Frames that a client has unacknowledged.
const WINDOW: usize = 4096;

/// Frames written at once.
const STEP: usize = 128;

const PAYLOAD: usize = 256;

const RUN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    // Without it, this is `cargo test --all-targets`, which has no patience for measuring.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    for batch in [1, 128] {
        let mut world = world();
        world.start().await;
        let plan = Plan { batch, payload: PAYLOAD, rate: None };
        let mut load = Load::begin(world.address, &peers(&world), plan).await;
        println!("{}", measure("grpc", CONNECTIONS, batch, &mut load, world.gateway().id()).await);
        load.finish().await;
    }
    let mut world = world();
    world.start().await;
    let gateway = world.gateway().id();
    saturate("native", world.address, &peers(&world), &[gateway]).await;
    drop(world);
    stunnel().await;
}

fn world() -> World {
    World::new(Programs { gateway: CONSUMING, leaf: LEAF }, "")
}

fn peers(world: &World) -> Vec<Credentials> {
    (0..CONNECTIONS).map(|index| world.credentials("site-a", &format!("load-{index}"))).collect()
}

/// Saturates whatever speaks BUS/RT over TLS at `address`, and says what that cost `processes`.
async fn saturate(name: &str, address: SocketAddr, peers: &[Credentials], processes: &[u32]) {
    let acked = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for (index, peer) in peers.iter().enumerate() {
        let tls = dial(address, peer, ALPN).await.expect("it answers");
        let (hand, answer) = Hand::greet(tls, &format!("load.{index}")).await.expect("it greets");
        assert_eq!(answer, 1, "it admits a client");
        clients.spawn(publish(hand, Arc::clone(&acked)));
    }
    time::sleep(Duration::from_secs(2)).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        let used = || processes.iter().map(|process| cpu(*process)).sum::<Duration>();
        let (begun, before, cpu_before) = (Instant::now(), acked.load(Relaxed), used());
        time::sleep(RUN).await;
        let (events, took) = (acked.load(Relaxed) - before, begun.elapsed());
        assert!(clients.try_join_next().is_none(), "a client ended");
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let events = events as f64;
        let spent = used().saturating_sub(cpu_before).as_secs_f64();
        runs.push((events / took.as_secs_f64(), spent * 1e6 / events));
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (rate, cost) = runs[1];
    println!("bench={name} conns={CONNECTIONS} batch=1 events_per_s={rate:.0} cpu_s_per_m={cost:.2}");
}

async fn publish(hand: Hand, acked: Arc<AtomicU64>) {
    let topic = b"events/process/start\0";
    let body = [&topic[..], &[b'x'; PAYLOAD]].concat();
    let length = u32::try_from(body.len()).expect("short").to_le_bytes();
    let frame = [&1_u32.to_le_bytes()[..], &[0x01 | 1 << 6], &length, &body].concat();
    let step = frame.repeat(STEP);
    let room = Arc::new(Semaphore::new(WINDOW));
    let (mut reads, mut writes) = tokio::io::split(hand.stream);
    let freed = Arc::clone(&room);
    let hearing = async move {
        let mut buffer = vec![0; 1 << 16];
        let mut have = 0;
        loop {
            let read = reads.read(&mut buffer[have..]).await.expect("it is there");
            assert_ne!(read, 0, "it hung up");
            have += read;
            let whole = have - have % 6;
            let oks = buffer[..whole].chunks_exact(6).filter(|head| head[0] == 0xFE);
            let count = oks.inspect(|head| assert_eq!(head[5], 1, "it takes everything")).count();
            buffer.copy_within(whole..have, 0);
            have -= whole;
            acked.fetch_add(u64::try_from(count).expect("64 bits"), Relaxed);
            freed.add_permits(count);
        }
    };
    let speaking = async move {
        loop {
            let many = u32::try_from(STEP).expect("small");
            room.acquire_many(many).await.expect("it is not closed").forget();
            writes.write_all(&step).await.expect("it is there");
            writes.flush().await.expect("it is there");
        }
    };
    tokio::join!(hearing, speaking);
}

/// What one would do without a gateway: no name, no policy, no route, any name for anybody.
async fn stunnel() {
    let row = "stunnel in front of busrtd";
    let Some(busrtd) = tool("DAEMONEYE_TEST_BUSRTD", row) else { return };
    let found = ["/usr/bin/stunnel4", "/usr/bin/stunnel"].into_iter().find(|path| Path::new(path).exists());
    let Some(stunnel) = found else { return skipped(row, "stunnel4 is not installed") };
    let world = world();
    let socket = world.path("busrtd.sock");
    let socket = socket.to_str().expect("test paths are UTF-8");
    let broker = Program::start(&busrtd, &["-B", socket], world.folder.path());
    within(Duration::from_secs(10), "busrtd answers", || Path::new(socket).exists()).await;
    let address = free();
    let server = pki::Leaf::server("gateway").dns("localhost");
    let files = pki::write_certificate(
        &world.path("tunnel"),
        "server",
        &world.authority.issue(&server).expect("keys can be made"),
    )
    .expect("files can be written");
    let config = world.path("stunnel.conf");
    let text = format!(
        "foreground = yes\ndebug = 0\npid =\n[door]\naccept = {address}\nconnect = {socket}\ncert = {}\nkey = {}\n\
         CAfile = {}\nverifyChain = yes\nrequireCert = yes\nsslVersion = TLSv1.3\n",
        files.certificate.display(),
        files.key.display(),
        world.path("tls/anchors.pem").display(),
    );
    fs::write(&config, text).expect("files can be written");
    let tunnel = Program::start(stunnel, &[config.to_str().expect("UTF-8")], world.folder.path());
    let answers = || std::net::TcpStream::connect(address).is_ok();
    within(Duration::from_secs(10), "stunnel answers", answers).await;
    let peers: Vec<Credentials> = (0..CONNECTIONS)
        .map(|index| {
            let profile = pki::Leaf::collector(TRUST_DOMAIN, "site-a", &format!("load-{index}"));
            world.credentials_of(&world.authority, &profile)
        })
        .collect();
    saturate("stunnel+busrtd", address, &peers, &[tunnel.id(), broker.id()]).await;
}
