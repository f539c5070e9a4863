//! What a full mutual handshake of TLS 1.3 costs: the gateway with and without much on its revocation lists, and others who
//! do the same, under the same load.
//!
//! `cargo bench --bench handshake [-- NAME]` runs the servers whose name contains NAME. This process is the collectors, and
//! the service behind the servers that forward. Each collector connects, proves itself, speaks the preface of HTTP/2, waits
//! until the server has spoken, and goes. The servers take turns, so that what disturbs the machine disturbs all of them;
//! the key exchange is the one that each server chose.
//!
//! All collectors come from one address and each of them again and again, as no peer does but a load balancer or somebody who
//! flaps. So the gateway's rates and its pauses for flapping are set to their most; what they cost is still in the figures.
//!
//! What a long revocation list adds is less than what a machine does from one run to the next: the two gateways take turns in
//! pairs, the first of one pair being the second of the next, and the median of the pairs' ratios counts.

mod client;
mod others;
mod pki;
mod server;

use std::{env, fs, time::Duration};

use daemoneye_tests::{
    measure::{RUNS, WARM_UP},
    world::{Programs, World},
};
use rustls::crypto::aws_lc_rs::kx_group;

use self::{
    client::clients,
    others::{OTHERS, Site},
    pki::{Pki, list},
    server::Server,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAMS: Programs = Programs {
    gateway: env!("CARGO_BIN_EXE_gateway-under-test"),
    leaf: env!("CARGO_BIN_EXE_leaf-under-test"),
};

/// Entries of a long revocation list.
const ENTRIES: usize = 100_000;

/// How long a server that has had its turn before is warmed up.
const AGAIN: Duration = Duration::from_millis(500);

/// Pairs of runs without and with a long list.
const PAIRS: usize = 7;

#[tokio::main]
async fn main() {
    let mut args: Vec<String> = env::args().skip(1).collect();
    // Without it, this is `cargo test --all-targets`, which has no patience for measuring.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    args.retain(|arg| arg != "--bench");
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| name.contains(arg.as_str()));
    let pki = Pki::new();
    let collectors = pki.collectors();
    let [any, classic] = [None, Some(kx_group::X25519)].map(|group| clients(&pki, &collectors, group));
    let (mut servers, mut worlds, mut programs) = (Vec::new(), Vec::new(), Vec::new());
    if wanted("gateway") {
        for (entries, clients) in [(0, &any), (ENTRIES, &any), (0, &classic)] {
            let mut world = gateway(&pki, entries).await;
            let (process, address) = (world.gateway().id(), world.address);
            servers.push(Server::new("gateway", entries, process, address, clients).await);
            worlds.push(world);
        }
    }
    let site = Site::new(&pki).await;
    for other in OTHERS.iter().filter(|other| wanted(other.name)) {
        match other.start(&site).await {
            Some((program, address)) => {
                servers.push(Server::new(other.name, 0, program.id(), address, &any).await);
                programs.push(program);
            }
            None => {
                println!("SKIPPED server={}: {} is not installed", other.name, other.programs.join(" or "));
            }
        }
    }
    for round in 0..RUNS {
        for server in &mut servers {
            let _cpu = server.run(if round == 0 { WARM_UP } else { AGAIN }).await;
        }
    }
    if let [without, with, _, ..] = servers.as_mut_slice()
        && !worlds.is_empty()
    {
        compare(without, with).await;
    }
    for server in &servers {
        println!("{server}");
    }
    for mut program in programs {
        // In order: one that is killed leaves its workers behind.
        program.terminate();
        program.ended(Duration::from_secs(10)).await;
    }
}

/// Prints how much more a handshake costs with a long list than without.
async fn compare(without: &mut Server, with: &mut Server) {
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let (short, long) = if pair.is_multiple_of(2) {
            let short = without.run(AGAIN).await;
            (short, with.run(AGAIN).await)
        } else {
            let long = with.run(AGAIN).await;
            (without.run(AGAIN).await, long)
        };
        ratios.push(long / short);
    }
    ratios.sort_by(f64::total_cmp);
    let [first, median, last] = [0, PAIRS / 2, PAIRS - 1].map(|place| ratios[place]);
    println!(
        "bench=handshake_lists entries={ENTRIES} pairs={PAIRS} ratio={median:.3} least={first:.3} most={last:.3}"
    );
}

/// As many connections as may be.
const UNBOUNDED: &str = "
[tcp.rates]
per_network = 1000000
network_burst = 1000000
in_all = 1000000
all_burst = 1000000

[tcp.flapping]
per_second = 1000000
burst = 1000000
";

/// The gateway as it is delivered but for its rates, with required revocation lists of which one has so many entries.
async fn gateway(pki: &Pki, entries: usize) -> World {
    let mut world = World::new(PROGRAMS, "");
    let write = |file: &str, text: &str| {
        let path = world.path("tls").join(file);
        fs::write(&path, text).expect("files can be written");
        format!("\"{}\"", path.display())
    };
    let (chain, key) = &pki.server;
    write("gateway.crt", chain);
    write("gateway.key", key);
    write("anchors.pem", &pki.root_pem);
    let issuer = write("issuer.crt", &pki.issuer_pem);
    let lists = [write("root.crl", &list(&pki.root, 0)), write("issuer.crl", &list(&pki.issuer, entries))];
    let path = world.path("gateway.toml");
    let text = fs::read_to_string(&path).expect("the configuration can be read");
    let lists = lists.join(", ");
    let section = format!("[tcp.tls_config]\ncrl = [{lists}]\nrevocation = \"required\"\n");
    let issuer =
        format!("[[tcp.tls_config.issuer]]\nissuer_file = {issuer}\nrevocation = \"required\"\n\n[identity]");
    let text = text.replacen("[tcp.tls_config]\n", &section, 1).replacen("[identity]", &issuer, 1);
    let text = format!("{text}{UNBOUNDED}");
    fs::write(&path, text).expect("the configuration can be written");
    world.start().await;
    world
}
