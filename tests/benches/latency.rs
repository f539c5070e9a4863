//! From the instant at which an event should have been sent to its ack, at a rate that is no strain: open loop, batch of 1.
//!
//! `cargo bench --bench latency`

use daemoneye_tests::{
    load::{Load, Plan},
    measure::measure,
    world::{Programs, World},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LEAF: &str = env!("CARGO_BIN_EXE_leaf-under-test");

/// Events a second over all connections.
const RATE: u32 = 5_000;

#[tokio::main]
async fn main() {
    // Without it, this is `cargo test --all-targets`, which has no patience for measuring.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    for connections in [1, 8] {
        for (name, gateway) in [
            ("latency", env!("CARGO_BIN_EXE_gateway-with-consumer")),
            ("latency_null", env!("CARGO_BIN_EXE_gateway-with-null-bus")),
        ] {
            let mut world = World::new(Programs { gateway, leaf: LEAF }, "");
            world.start().await;
            let peers: Vec<_> =
                (0..connections).map(|index| world.credentials("site-a", &format!("load-{index}"))).collect();
            let plan = Plan { batch: 1, payload: 256, rate: Some(RATE) };
            let mut load = Load::begin(world.address, &peers, plan).await;
            let row = measure(name, peers.len(), 1, &mut load, world.gateway().id()).await;
            println!("{row}");
            load.finish().await;
        }
    }
}
