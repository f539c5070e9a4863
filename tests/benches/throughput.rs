//! Acknowledged events a second through mutual TLS onto the bus, and what they cost the gateway.
//!
//! `cargo bench --bench throughput [-- NAME]` runs the rows whose name contains NAME. Gateway, subscriber and broker are
//! processes of their own; this one is the load.

use std::{path::Path, time::Duration};

use daemoneye_tests::{
    eventually::within,
    load::{Load, Plan},
    measure::{self, Row, measure},
    peer::{Credentials, Session, new_stream},
    process::Program,
    world::{Programs, World},
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A gateway as it is delivered.
const GATEWAY: &str = env!("CARGO_BIN_EXE_gateway-under-test");

/// The same with a consumer of all events inside.
const CONSUMING: &str = env!("CARGO_BIN_EXE_gateway-with-consumer");

/// The same with a bus that takes everything and publishes nothing.
const NULL: &str = env!("CARGO_BIN_EXE_gateway-with-null-bus");

const LEAF: &str = env!("CARGO_BIN_EXE_leaf-under-test");

const BROKER: &str = env!("CARGO_BIN_EXE_busrt-broker");

/// The example of docs/confirm.md: it answers when the disk has what it was called with.
const EXAMPLE: &str = env!("CARGO_BIN_EXE_consumer-example");

const COUNTER: &str = env!("CARGO_BIN_EXE_bus-counter");

const PAYLOAD: usize = 256;

#[tokio::main]
async fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // Without it, this is `cargo test --all-targets`, which has no patience for measuring.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    args.retain(|arg| arg != "--bench");
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| name.contains(arg.as_str()));
    for (connections, batch) in [(8, 128), (8, 1), (1, 128), (64, 128)] {
        if wanted("embedded") {
            let row = saturate("embedded", CONSUMING, "", connections, batch).await;
            let null = saturate("null", NULL, "", connections, batch).await;
            println!("{row} of_null={:.2}\n{null}", row.events_per_second() / null.events_per_second());
        }
    }
    if wanted("socket") {
        socket(8, 128).await;
    }
    if wanted("consumer") {
        consumer(8, 128).await;
    }
    if wanted("foreign") {
        foreign("foreign_paced", 8, Plan { rate: Some(PACE), ..plan(128) }).await;
        foreign("foreign", 8, plan(128)).await;
    }
    if wanted("idle") {
        idle(500).await;
    }
}

fn world(gateway: &'static str, extra: &str) -> World {
    World::new(Programs { gateway, leaf: LEAF }, extra)
}

fn peers(world: &World, count: usize) -> Vec<Credentials> {
    (0..count).map(|index| world.credentials("site-a", &format!("load-{index}"))).collect()
}

const fn plan(batch: usize) -> Plan {
    Plan { batch, payload: PAYLOAD, rate: None }
}

async fn saturate(
    name: &'static str,
    gateway: &'static str,
    extra: &str,
    connections: usize,
    batch: usize,
) -> Row {
    let mut world = world(gateway, extra);
    world.start().await;
    let mut load = Load::begin(world.address, &peers(&world, connections), plan(batch)).await;
    let row = measure(name, connections, batch, &mut load, world.gateway().id()).await;
    load.finish().await;
    row
}

/// A subscriber process behind the gateway's own door, which must receive all.
async fn socket(connections: usize, batch: usize) {
    let mut world = world(GATEWAY, "");
    world.start().await;
    let socket = world.socket();
    heard("socket", &mut world, &socket, connections, plan(batch)).await;
}

/// A consumer process behind the gateway's own door, which answers for all that is acknowledged.
async fn consumer(connections: usize, batch: usize) {
    let route = "[[bus.route]]\npattern = \"events.#\"\nconfirm = \"consumer\"\nconsumer = \"engine\"\n";
    let mut world = world(GATEWAY, route);
    world.start().await;
    let (socket, file) = (world.socket(), world.path("taken.jsonl"));
    let _consumer = Program::start(EXAMPLE, &[text(&socket), "engine", text(&file)], world.folder.path());
    let mut load = Load::begin(world.address, &peers(&world, connections), plan(batch)).await;
    let row = measure("consumer", connections, batch, &mut load, world.gateway().id()).await;
    load.finish().await;
    println!("{row} calls={}", world.metric("daemoneye_gateway_bus_consumer_calls_total"));
}

/// Batches a second that the subscriber of somebody else's broker keeps up with, even if it is not run for a tenth of a
/// second: the broker queues 8,192 frames for it, and then does not hold up whoever publishes but sends it away.
const PACE: u32 = 400;

/// Somebody else's broker, with a subscriber process on it. Paced, the subscriber must receive all.
async fn foreign(name: &'static str, connections: usize, plan: Plan) {
    let probe = world(GATEWAY, "");
    let socket = probe.path("broker.sock");
    let broker = Program::start(BROKER, &[text(&socket)], probe.folder.path());
    within(Duration::from_secs(10), "the broker listens", || socket.exists()).await;
    let extra =
        format!("[bus]\nbroker = \"foreign\"\n[bus.foreign]\nsocket_path = \"{}\"\n", socket.display());
    let mut world = world(GATEWAY, &extra);
    world.start().await;
    heard(name, &mut world, &socket, connections, plan).await;
    drop(broker);
}

async fn heard(name: &'static str, world: &mut World, socket: &Path, connections: usize, plan: Plan) {
    let mut counter = Program::start(COUNTER, &[text(socket)], world.folder.path());
    let received = |counter: &Program| counter.log().lines().rev().find_map(|line| line.parse::<u64>().ok());
    within(Duration::from_secs(10), "the subscriber is there", || received(&counter).is_some()).await;
    let mut load = Load::begin(world.address, &peers(world, connections), plan).await;
    let row = measure(name, connections, plan.batch, &mut load, world.gateway().id()).await;
    let acked = load.finish().await;
    // With a foreign broker the last ones may still be in its queues.
    let patience = tokio::time::timeout(Duration::from_secs(10), async {
        while !counter.has_ended() && received(&counter).is_none_or(|received| received < acked) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    // A foreign broker sends a subscriber away who does not keep up, and goes on saying that it took everything.
    let gone = patience.await.is_ok_and(|()| counter.has_ended());
    let received = received(&counter).unwrap_or_default();
    let lost = acked.saturating_sub(received);
    println!("{row} acked={acked} received={received} lost={lost} subscriber_gone={gone}");
    assert!(lost == 0 || name == "foreign", "the subscriber behind the door missed events");
}

/// Resident memory of a session that does nothing.
async fn idle(sessions: usize) {
    let mut world = world(CONSUMING, "");
    world.start().await;
    let gateway = world.gateway().id();
    let mut open = Vec::new();
    // The first ones pay for what all share.
    let mut before = 0;
    let first = 16;
    for (index, peer) in peers(&world, sessions + first).iter().enumerate() {
        if index == first {
            before = measure::settled_resident(gateway).await;
        }
        let channel = peer.channel(world.address).await.expect("the gateway is reached");
        let session = Session::open(channel, vec![new_stream(Uuid::new_v4())]).await;
        open.push(session.expect("the gateway admits a peer"));
    }
    let after = measure::settled_resident(gateway).await;
    let each = after.saturating_sub(before) / sessions as u64;
    println!("bench=idle conns={sessions} rss_mb={} rss_kb_per_session={}", after >> 20, each >> 10);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
