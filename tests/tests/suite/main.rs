//! Behaviour through the front door, one module a group. One binary, because each costs a link step.

mod admission;
mod between;
mod call;
mod chain;
mod cli;
mod conformance;
mod consumer;
mod crowd;
mod demo;
mod documents;
mod drain;
mod interop;
mod kill;
mod layering;
mod leaf;
mod limbo;
mod limits;
mod native;
mod outage;
mod publish;
mod reach;
mod refused;
mod revocation;
mod revoke;
mod rotation;
mod slow;
mod transport;
mod windows;

use std::path::Path;

use daemoneye_tests::{
    process::Program,
    world::{Programs, World},
};

/// The programs of this workspace, built with this test.
const PROGRAMS: Programs = Programs {
    gateway: env!("CARGO_BIN_EXE_gateway-under-test"),
    leaf: env!("CARGO_BIN_EXE_leaf-under-test"),
};

/// What operators ask a gateway with.
const CLI: &str = env!("CARGO_BIN_EXE_cli-under-test");

/// The `busrt` crate's own broker.
const BROKER: &str = env!("CARGO_BIN_EXE_busrt-broker");

/// Somebody else's broker at `socket`: the real `busrtd` where there is one, else the same in a program of ours.
fn broker(socket: &Path, folder: &Path) -> Program {
    let path = socket.to_str().expect("test paths are UTF-8");
    match std::env::var("DAEMONEYE_TEST_BUSRTD") {
        Ok(busrtd) => Program::start(&busrtd, &["-B", path], folder),
        Err(_) => Program::start(BROKER, &[path], folder),
    }
}

/// A federation in a temporary folder, with something added to the gateway's configuration.
fn world(extra: &str) -> World {
    World::new(PROGRAMS, extra)
}

/// The part of a configuration by which the gateway is a client of the broker at `socket`.
fn foreign(socket: &Path, extra: &str) -> String {
    format!("[bus]\nbroker = \"foreign\"\n\n[bus.foreign]\nsocket_path = \"{}\"\n{extra}", socket.display())
}
