//! Chains: a regional gateway relays to the one above it, across restarts of all three tiers and cuts of the links between
//! them, and never in a circle.
//!
//! `DAEMONEYE_TEST_CHAIN` sets for how many seconds programs are killed and links cut; `just chain` does it for five minutes.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use daemoneye_gateway::pki::{self, Leaf as Profile};
use daemoneye_tests::{
    engine::Engine,
    eventually,
    link::{Link, MOMENT},
    process::Program,
    producer::Producer,
    world::{Leaf, TRUST_DOMAIN, World},
};
use tokio::time;

use crate::world;

const ENVELOPE: &str = "[[bus.route]]\npattern = \"events.#\"\nenvelope = \"cloudevents\"\n\n";

/// What gateways below may do.
const RELAY: &str = r#"
[[role]]
name = "relay"
match = { identity = "region-*", site = "regions" }
publish = ["events.#"]
relays = ["*/*"]
events_per_second = 10000000
bytes_per_second = "2 GiB"
"#;

/// Lets gateways below relay to this one.
fn allow_relays(world: &World) {
    let policy = world.path("policy.toml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text + RELAY).unwrap();
}

/// The part of a configuration by which the gateway of `below` relays to that of `above`, as `regions/<name>`.
fn upstream(below: &World, above: &World, name: &str) -> String {
    upstream_by(above.address, below, above, name)
}

/// The same over a link.
fn upstream_by(address: SocketAddr, below: &World, above: &World, name: &str) -> String {
    let own = above.authority.issue(&Profile::collector(TRUST_DOMAIN, "regions", name)).unwrap();
    let files = pki::write_certificate(&below.path("up"), "leaf", &own).unwrap();
    format!(
        r#"
[upstream]
name = "{name}"
patterns = ["events.#"]
local = ["events.alert.#"]

[upstream.spool]
directory = "{}"

[upstream.uplink]
gateways = ["{}"]
first_retry = "50ms"
longest_retry = "1s"

[upstream.uplink.tls_config]
cert_file = "{}"
key_file = "{}"
ca_file = "{}"

"#,
        below.path("up/spool").display(),
        address,
        files.certificate.display(),
        files.key.display(),
        above.path("tls/anchors.pem").display(),
    )
}

/// Nothing waits on its way up.
async fn settle(region: &World, leaves: &[Leaf], engine: &Engine) {
    for leaf in leaves {
        eventually("the leaf has nothing left to send", || {
            leaf.sum("daemoneye_bridge_spool_events") == Some(0)
        })
        .await;
    }
    eventually("the region has nothing left to send", || {
        region.get("/metrics").is_some_and(|(_, text)| {
            text.lines().any(|line| line == "daemoneye_gateway_upstream_waiting_events 0")
        })
    })
    .await;
    let mut before = (0, 0);
    eventually("the engine has heard it all", || {
        let frames = engine.frames();
        before = if frames == before.0 { (frames, before.1 + 1) } else { (frames, 0) };
        before.1 > 50
    })
    .await;
}

fn seconds() -> u64 {
    std::env::var("DAEMONEYE_TEST_CHAIN").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(12)
}

/// Three tiers, fifteen collectors, and what is between them.
struct Tiers {
    primary: World,
    region: World,
    leaves: Vec<Leaf>,
    /// From the region to the primary.
    up: Link,
    /// From each leaf to the region.
    down: Vec<Link>,
    /// With the sender under which the engine hears it.
    producers: Vec<(String, Producer)>,
}

impl Tiers {
    async fn begin() -> Self {
        let mut primary = world(ENVELOPE);
        allow_relays(&primary);
        primary.start().await;
        let mut region = world("");
        let up = Link::to(primary.address).await;
        region.configure(&upstream_by(up.address, &region, &primary, "region-1"));
        region.start().await;
        let mut tiers = Self { primary, region, leaves: vec![], up, down: vec![], producers: vec![] };
        for site in SITES {
            let mut leaf = tiers.region.leaf(site, "leaf-1", "[forward]\nspeak_for = true\n");
            let link = Link::to(tiers.region.address).await;
            let config = fs::read_to_string(&leaf.config).unwrap();
            let (direct, linked) = (tiers.region.address.to_string(), link.address.to_string());
            assert!(config.contains(&direct), "{config}");
            fs::write(&leaf.config, config.replace(&direct, &linked)).unwrap();
            leaf.start().await;
            for n in 1..=5 {
                let name = format!("procmond-{n}");
                let producer = Producer::attach(&leaf.socket, &name, "events/process/start", Some(200));
                tiers.producers.push((format!("collector.{site}.{name}"), producer));
            }
            tiers.leaves.push(leaf);
            tiers.down.push(link);
        }
        tiers
    }

    /// One accident.
    async fn befall(&mut self, accident: Accident) {
        let links: Vec<&Link> = self.down.iter().chain([&self.up]).collect();
        let link = links[fastrand::usize(..links.len())];
        match accident {
            Accident::Primary => {
                self.primary.kill();
                self.primary.start().await;
            }
            Accident::Region => {
                self.region.kill();
                self.region.start().await;
            }
            Accident::Leaf => {
                let leaf = fastrand::choice(self.leaves.iter_mut()).unwrap();
                leaf.kill();
                leaf.start().await;
            }
            Accident::Cut => link.cut(),
            Accident::Hold => {
                link.hold(true);
                time::sleep(MOMENT).await;
                link.hold(false);
            }
        }
    }
}

const SITES: [&str; 3] = ["site-a", "site-b", "site-c"];

/// What happens to a tier or to a link.
#[derive(Clone, Copy, Debug)]
enum Accident {
    Primary,
    Region,
    Leaf,
    Cut,
    Hold,
}

impl Accident {
    const ALL: [Self; 5] = [Self::Primary, Self::Region, Self::Leaf, Self::Cut, Self::Hold];
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tiers_lose_nothing_acknowledged_whoever_is_killed_and_whichever_link_is_cut() {
    let mut tiers = Tiers::begin().await;
    let engine = Engine::attach(&tiers.primary.socket());
    let until = Instant::now() + Duration::from_secs(seconds());
    let mut befell = [0_u32; Accident::ALL.len()];
    // In turns at first, so that a short run has one of each; then at random.
    for turn in 0.. {
        if Instant::now() >= until && turn >= Accident::ALL.len() {
            break;
        }
        // Any moment: not a wait for something, but the randomness that the test is about.
        time::sleep(Duration::from_millis(100 + fastrand::u64(..1500))).await;
        let which = if turn < Accident::ALL.len() { turn } else { fastrand::usize(..Accident::ALL.len()) };
        befell[which] += 1;
        tiers.befall(Accident::ALL[which]).await;
        let socket = tiers.primary.socket();
        eventually("the primary's door opens", || UnixStream::connect(&socket).is_ok()).await;
        eventually("the engine is there", || engine.is_connected()).await;
    }
    let mut all = 0;
    let mut confirmed = Vec::new();
    for (sender, producer) in tiers.producers.drain(..) {
        let (count, repeated) = producer.finish().await;
        all += count;
        confirmed.push((sender, count, repeated));
    }
    settle(&tiers.region, &tiers.leaves, &engine).await;
    let books = engine.leave().await;
    println!(
        "chain: confirmed={all} frames={} duplicates={} streams={} killed primary={} region={} leaf={}; links cut={} held={}",
        books.frames,
        books.duplicates,
        books.streams(),
        befell[0],
        befell[1],
        befell[2],
        befell[3],
        befell[4],
    );
    for (sender, count, _) in &confirmed {
        let missing = books.missing(sender, *count);
        assert!(missing.is_empty(), "{sender}: {} of {count} never came, as {missing:?}", missing.len());
    }
    let republished: usize = confirmed.iter().map(|(_, _, repeated)| repeated).sum();
    assert!(books.repeated() <= republished as u64, "{} came under two ids", books.repeated());
    assert_eq!((books.disorder, books.holes()), (0, 0), "order and holes within a stream");
    assert_eq!(books.streams(), SITES.len(), "each leaf has one stream, here as there");
    assert!(all > 1000, "the load was no load: {all}");
}

#[tokio::test]
async fn gateways_that_relay_to_each_other_do_not_relay_in_a_circle() {
    let mut one = world("");
    let mut other = world("");
    allow_relays(&one);
    allow_relays(&other);
    one.configure(&format!("{ENVELOPE}{}", upstream(&one, &other, "region-1")));
    other.configure(&format!("{ENVELOPE}{}", upstream(&other, &one, "region-2")));
    one.start().await;
    other.start().await;
    let engines = [Engine::attach(&one.socket()), Engine::attach(&other.socket())];
    for engine in &engines {
        eventually("the engine is there", || engine.is_connected()).await;
    }
    let mut leaf = one.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(500));
    eventually("events flow", || producer.confirmed() > 500).await;
    let (confirmed, _) = producer.finish().await;
    settle(&one, std::slice::from_ref(&leaf), &engines[1]).await;
    eventually("what came back is refused", || {
        other.metric("daemoneye_gateway_upstream_rejected_total")
            >= f64::from(u32::try_from(confirmed).unwrap())
    })
    .await;
    for engine in engines {
        let books = engine.leave().await;
        assert!(books.missing("collector.site-a.leaf-1", confirmed).is_empty());
        assert_eq!((books.duplicates, books.repeated(), books.frames), (0, 0, confirmed));
    }
}

#[tokio::test]
async fn a_gateway_without_the_right_to_relay_is_told_so_and_its_health_says_who_waits() {
    let mut primary = world("");
    primary.start().await;
    let mut region = world("");
    region.configure(&upstream(&region, &primary, "region-1"));
    region.start().await;
    let mut leaf = region.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(500));
    eventually("all is confirmed to the collector, for the region has it", || producer.confirmed() > 100)
        .await;
    let (confirmed, _) = producer.finish().await;
    eventually("the primary has rejected what it may not take", || {
        region.metric("daemoneye_gateway_upstream_rejected_total")
            >= f64::from(u32::try_from(confirmed).unwrap())
    })
    .await;
    primary.kill();
    eventually("health says that no gateway is above", || {
        let health = region.json("/api/v1/health");
        let mut components = health["components"].as_array().unwrap().iter();
        components.any(|part| part["name"] == "upstream" && part["status"] == "degraded")
    })
    .await;
    let view = region.json("/api/v1/upstream");
    assert_eq!(view["name"], "region-1");
    assert!(view["gateway"].is_null() && view["trouble"]["cause"].is_string(), "{view}");
}

#[tokio::test]
async fn a_key_for_the_way_up_that_is_not_there_is_named_before_and_at_the_start() {
    let (primary, region) = (world(""), world(""));
    region.configure(&upstream(&region, &primary, "region-1"));
    let config = region.path("gateway.toml");
    let key = region.path("up/leaf.key");
    fs::remove_file(&key).unwrap();
    for check in [&["--check"][..], &[]] {
        let args = [&["run", "--config", config.to_str().unwrap()], check].concat();
        let mut gateway = Program::start(crate::PROGRAMS.gateway, &args, region.folder.path());
        let status = gateway.ended(Duration::from_secs(30)).await;
        assert_eq!(status.code(), Some(2), "{check:?}: starting again is of no use: {}", gateway.log());
        assert!(gateway.log().contains(key.to_str().unwrap()), "{check:?}: {}", gateway.log());
    }
}
