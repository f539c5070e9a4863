//! The leaf seen by its operator: its page and the command line.

use std::{
    io::Read,
    net::TcpStream,
    process::{Command, Output},
};

use daemoneye_tests::{engine::Engine, eventually, producer::Producer, world::Leaf};
use serde_json::Value;

use crate::{CLI, world};

/// Without it an engine does not see which event is which.
const ENVELOPE: &str = r#"
[[bus.route]]
pattern = "events.#"
envelope = "cloudevents"
"#;

fn cli(args: &[&str]) -> Output {
    Command::new(CLI).args(["leaf", "status"]).args(args).output().expect("the command line can be run")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(leaf: &Leaf) -> Value {
    let (_, body) = leaf.get("/status").expect("the leaf answers");
    serde_json::from_str(&body).expect("a status is JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_shows_its_spool_its_lag_and_its_way_up() {
    let mut world = world(ENVELOPE);
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("events wait", || leaf.sum("daemoneye_bridge_spool_events") > Some(100)).await;
    eventually("the lag is seen", || leaf.sum("daemoneye_bridge_spool_oldest_age_seconds") > Some(0)).await;
    assert_eq!(leaf.get("/readyz").unwrap(), (200, "ok".to_owned()), "a gateway that is away is no trouble");
    assert!(leaf.get("/readyz?verbose").unwrap().1.contains("[+]spool ok"));
    let config = leaf.config.to_str().unwrap();
    let output = cli(&["--config", config]);
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.starts_with("degraded") && text.contains("no gateway"), "{text}");
    assert!(text.contains("1 now"), "{text}");

    world.start().await;
    let engine = Engine::attach(&world.socket());
    let (confirmed, _) = producer.finish().await;
    eventually("all has come", || engine.books().missing("collector.site-a.leaf-1", confirmed).is_empty())
        .await;
    eventually("the leaf is well", || status(&leaf)["status"] == "healthy").await;
    let output = cli(&["--url", &format!("http://{}", leaf.health), "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let shown: Value = serde_json::from_str(&printed(&output)).unwrap();
    assert_eq!(shown["uplink"]["state"], "up");
    assert_eq!(shown["uplink"]["peer"], "site-a/leaf-1");
    assert!(shown["uplink"]["acked"].as_u64().unwrap() >= confirmed as u64, "{shown}");
    assert_eq!(shown["spool"]["classes"][0]["lag_seconds"], 0);
    assert!(leaf.sum("daemoneye_bridge_certificate_expiry_timestamp_seconds") > Some(0));
}

#[test]
fn a_leaf_that_is_not_there_is_named_with_a_remedy() {
    let output = cli(&["--url", "http://127.0.0.1:1"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("is daemoneye-bridge running") && told.contains("127.0.0.1:1"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_visitors_of_the_page_are_few_and_keep_nobody_out() {
    let world = world(ENVELOPE);
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let silent: Vec<_> =
        (0..40).map(|_| TcpStream::connect(leaf.health).expect("the page is there")).collect();
    assert_eq!(leaf.get("/livez").unwrap(), (200, "ok".to_owned()));
    let gone = |mut tcp: &TcpStream| {
        tcp.set_nonblocking(true).expect("a socket has a mode");
        // The end, a reset, or nothing yet.
        !matches!(tcp.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    eventually("the first ones have made way", || silent.iter().take(9).all(gone)).await;
}
