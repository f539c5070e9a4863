//! A local client that reads one frame a second, under load, and each rule for it: the others lose nothing.

use std::time::Duration;

use daemoneye_tests::{
    eventually,
    producer::Producer,
    snail::Snail,
    subscriber::Subscriber,
    within,
    world::{Leaf, World},
};
use serde_json::Value;

use crate::world;

/// A federation under load, with one who keeps up and one who does not.
struct Scene {
    world: World,
    leaf: Leaf,
    engine: Subscriber,
    snail: Snail,
    producer: Option<Producer>,
}

async fn scene(rule: &str) -> Scene {
    let mut world = world(&format!("[unix_socket]\noutbox_bytes = \"512 KiB\"\n{rule}"));
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let snail = Snail::connect(&world.socket(), "dashboard-1", "events/#").unwrap();
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(20_000));
    Scene { world, leaf, engine, snail, producer: Some(producer) }
}

impl Scene {
    /// Ends the load; returns how many events were confirmed to their producer.
    async fn stop(&mut self) -> usize {
        self.producer.take().expect("it is stopped once").finish().await.0
    }

    /// The slow client, as the API shows it.
    fn shown(&self) -> Option<Value> {
        let clients = self.world.json("/api/v1/clients")["clients"].take();
        clients.as_array().unwrap().iter().find(|client| client["name"] == "dashboard-1").cloned()
    }

    fn metric(&self, name: &str) -> f64 {
        self.world.metric(&format!("daemoneye_gateway_bus_{name}"))
    }

    fn said(&mut self, words: &str) -> usize {
        self.world.gateway().log().lines().filter(|line| line.contains(words)).count()
    }
}

/// The numbers that a subscriber heard, each once and in order.
fn numbers(heard: &[daemoneye_tests::subscriber::Heard]) -> Vec<u64> {
    let number = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap()["n"].as_u64().unwrap();
    heard
        .iter()
        .filter(|heard| heard.topic.starts_with("events/"))
        .map(|heard| number(&heard.payload))
        .collect()
}

async fn all_heard(scene: &Scene, confirmed: usize) {
    within(Duration::from_mins(1), "the leaf has nothing left to send", || {
        scene.leaf.sum("daemoneye_bridge_spool_events") == Some(0)
    })
    .await;
    eventually("the one who keeps up has heard it all", || scene.engine.count() >= confirmed).await;
    let numbers = numbers(&scene.engine.heard());
    assert!(numbers.iter().copied().eq(0..confirmed as u64), "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_drop_oldest_the_slow_one_is_told_what_it_missed_and_nobody_waits() {
    let mut scene =
        scene("[[unix_socket.client]]\nname = \"dashboard-*\"\nslow_reader = \"drop_oldest\"").await;
    // The page is a moment older than the metrics: what it shows is waited for on the page.
    eventually("messages are dropped, and it is shown", || {
        scene.metric("door_dropped_total") > 10_000.0
            && scene.shown().is_some_and(|shown| shown["is_slow"] == true && shown["dropped"] != 0)
    })
    .await;
    let shown = scene.shown().unwrap();
    assert_eq!(shown["slow_reader"], "drop_oldest");
    assert!(shown["uid"].is_u64() && shown["pid"] == std::process::id() && shown["since"].is_string());
    let confirmed = scene.stop().await;
    all_heard(&scene, confirmed).await;
    assert_eq!(scene.said("the oldest messages are dropped"), 1, "once an episode");

    scene.snail.hurry();
    let told = |scene: &Scene| {
        let heard = scene.snail.heard();
        let gaps = heard.iter().filter(|heard| heard.topic == "daemoneye/gap");
        let gaps = gaps.map(|gap| serde_json::from_slice::<Value>(&gap.payload).unwrap());
        (numbers(&heard).len() as u64, gaps.map(|gap| gap["dropped"].as_u64().unwrap()).sum::<u64>())
    };
    eventually("it has read what was left", || {
        let (heard, dropped) = told(&scene);
        heard + dropped == confirmed as u64
    })
    .await;
    let (heard, dropped) = told(&scene);
    eventually("it has caught up", || scene.shown().unwrap()["is_slow"] == false).await;
    let shown = scene.shown().unwrap();
    assert_eq!((shown["dropped"].as_u64(), shown["slow_episodes"].as_u64()), (Some(dropped), Some(1)));
    println!(
        "drop_oldest: confirmed={confirmed} engine={confirmed} slow heard={heard} told dropped={dropped}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_disconnect_the_slow_one_is_sent_away_and_nobody_loses_anything() {
    let mut scene = scene("slow_reader_timeout = \"2s\"").await;
    eventually("it is there", || scene.shown().is_some()).await;
    eventually("it is sent away", || scene.metric("door_slow_readers_total") > 0.5).await;
    assert!(scene.shown().is_none());
    let confirmed = scene.stop().await;
    all_heard(&scene, confirmed).await;
    assert_eq!(scene.said("sent away: it stopped reading"), 1);
    scene.snail.hurry();
    eventually("it notices", || scene.snail.has_ended()).await;
    println!(
        "disconnect: confirmed={confirmed} engine={confirmed} undelivered to the slow one={}",
        scene.metric("door_undelivered_total")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_block_everybody_waits_for_the_slow_one_and_nobody_loses_anything() {
    let mut scene = scene("slow_reader = \"block\"\nslow_reader_timeout = \"0s\"").await;
    eventually("others wait for it", || scene.shown().is_some_and(|shown| shown["is_slow"] == true)).await;
    eventually("what they say piles up at its source", || {
        scene.leaf.sum("daemoneye_bridge_spool_events").is_some_and(|events| events > 20_000)
    })
    .await;
    let shown = scene.shown().unwrap();
    assert_eq!((shown["slow_reader"].as_str(), shown["slow_episodes"].as_u64()), (Some("block"), Some(1)));
    let waiting = shown["waiting_bytes"].as_u64().unwrap();
    assert!(waiting <= 1 << 20, "{waiting} bytes wait for it");
    assert_eq!(scene.said("publishers wait for it"), 1, "once an episode");
    scene.snail.hurry();
    let confirmed = scene.stop().await;
    all_heard(&scene, confirmed).await;
    eventually("the slow one has heard it all too", || scene.snail.heard().len() >= confirmed).await;
    assert!(numbers(&scene.snail.heard()).into_iter().eq(0..confirmed as u64));
    assert_eq!((scene.metric("door_dropped_total"), scene.metric("door_slow_readers_total")), (0.0, 0.0));
    println!("block: confirmed={confirmed} engine={confirmed} slow={confirmed}");
}
