//! Chains: a regional gateway relays to the one above it, across restarts of all three tiers, and never in a circle.
//!
//! `DAEMONEYE_TEST_CHAIN` sets for how many seconds programs are killed; `just chain` does it for five minutes.

use std::{
    fs,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use daemoneye_gateway::pki::{self, Leaf as Profile};
use daemoneye_tests::{
    engine::Engine,
    eventually,
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
        above.address,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tiers_lose_nothing_acknowledged_whoever_is_killed() {
    let mut primary = world(ENVELOPE);
    allow_relays(&primary);
    primary.start().await;
    let mut region = world("");
    region.configure(&upstream(&region, &primary, "region-1"));
    region.start().await;
    let engine = Engine::attach(&primary.socket());
    let sites = ["site-a", "site-b", "site-c"];
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut producers = Vec::new();
    for site in sites {
        let mut leaf = region.leaf(site, "leaf-1", "[forward]\nspeak_for = true\n");
        leaf.start().await;
        for n in 1..=5 {
            let name = format!("procmond-{n}");
            let producer = Producer::attach(&leaf.socket, &name, "events/process/start", Some(200));
            producers.push((format!("collector.{site}.{name}"), producer));
        }
        leaves.push(leaf);
    }
    let until = Instant::now() + Duration::from_secs(seconds());
    let mut killed = [0_u32; 3];
    while Instant::now() < until {
        // Any moment: not a wait for something, but the randomness that the test is about.
        time::sleep(Duration::from_millis(100 + fastrand::u64(..1500))).await;
        let tier = fastrand::usize(..3);
        killed[tier] += 1;
        match tier {
            0 => {
                primary.kill();
                primary.start().await;
            }
            1 => {
                region.kill();
                region.start().await;
            }
            _ => {
                let leaf = fastrand::choice(leaves.iter_mut()).unwrap();
                leaf.kill();
                leaf.start().await;
            }
        }
        let socket = primary.socket();
        eventually("the primary's door opens", || UnixStream::connect(&socket).is_ok()).await;
        eventually("the engine is there", || engine.is_connected()).await;
    }
    let mut all = 0;
    let mut confirmed = Vec::new();
    for (sender, producer) in producers {
        let (count, repeated) = producer.finish().await;
        all += count;
        confirmed.push((sender, count, repeated));
    }
    settle(&region, &leaves, &engine).await;
    let books = engine.leave().await;
    println!(
        "chain: confirmed={all} frames={} duplicates={} streams={} killed primary={} region={} leaf={}",
        books.frames,
        books.duplicates,
        books.streams(),
        killed[0],
        killed[1],
        killed[2]
    );
    for (sender, count, _) in &confirmed {
        let missing = books.missing(sender, *count);
        assert!(missing.is_empty(), "{sender}: {} of {count} never came, as {missing:?}", missing.len());
    }
    let republished: usize = confirmed.iter().map(|(_, _, repeated)| repeated).sum();
    assert!(books.repeated() <= republished as u64, "{} came under two ids", books.repeated());
    assert_eq!((books.disorder, books.holes()), (0, 0), "order and holes within a stream");
    assert_eq!(books.streams(), sites.len(), "each leaf has one stream, here as there");
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
