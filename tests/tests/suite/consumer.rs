//! Routes that a named consumer answers for: nothing acknowledged is missing from what it wrote, however it ends.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use daemoneye_tests::{
    eventually,
    process::Program,
    producer::Producer,
    subscriber::Subscriber,
    within,
    world::{World, tool},
};
use serde_json::Value;
use tokio::time;

use crate::world;

const ROUTE: &str = r#"
[[bus.route]]
pattern = "events.#"
confirm = "consumer"
consumer = "engine"
answer_within = "5s"
"#;

/// The example of the documentation, as a program.
const CONSUMER: &str = env!("CARGO_BIN_EXE_consumer-example");

/// What a consumer has written.
#[derive(Debug, Default)]
struct Written {
    /// How often each number came, by collector.
    numbers: HashMap<String, Vec<u32>>,
    lines: usize,
    duplicates: usize,
    /// Events that came, for the first time, after a later one of their stream.
    disorder: usize,
}

/// Reads what a consumer has written; a line that was cut off by its death was never answered for.
fn written(path: &Path) -> Written {
    let mut written = Written::default();
    let mut streams: HashMap<String, (u64, std::collections::HashSet<u64>)> = HashMap::new();
    let text = fs::read_to_string(path).unwrap_or_default();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        // Torn by a death, or empty.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let (stream, seq) = event["id"].as_str().unwrap().split_once('/').unwrap();
        let seq: u64 = seq.parse().unwrap();
        written.lines += 1;
        let (highest, seen) = streams.entry(stream.to_owned()).or_default();
        if !seen.insert(seq) {
            written.duplicates += 1;
            continue;
        }
        written.disorder += usize::from(seq < *highest);
        *highest = seq.max(*highest);
        let payload: Value = serde_json::from_str(event["payload"].as_str().unwrap()).unwrap();
        let n = usize::try_from(payload["n"].as_u64().unwrap()).unwrap();
        let numbers = written.numbers.entry(event["collector"].as_str().unwrap().to_owned()).or_default();
        if numbers.len() <= n {
            numbers.resize(n + 1, 0);
        }
        numbers[n] += 1;
    }
    written
}

impl Written {
    fn missing(&self, collector: &str, confirmed: usize) -> Vec<usize> {
        let heard = self.numbers.get(collector).map_or(&[][..], Vec::as_slice);
        (0..confirmed).filter(|n| heard.get(*n).is_none_or(|count| *count == 0)).collect()
    }
}

fn consumer(world: &World) -> (Program, PathBuf) {
    let (socket, file) = (world.socket(), world.path("taken.jsonl"));
    let args = [socket.to_str().unwrap(), "engine", file.to_str().unwrap()];
    (Program::start(CONSUMER, &args, world.folder.path()), file)
}

fn bus_health(world: &World) -> (String, String) {
    let health = world.json("/api/v1/health");
    let bus = health["components"].as_array().unwrap().iter().find(|each| each["name"] == "bus").unwrap();
    (bus["status"].as_str().unwrap().to_owned(), bus["message"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_killed_ten_times_under_load_has_written_all_that_was_acknowledged() {
    let mut world = world(ROUTE);
    world.start().await;
    let (mut engine, file) = consumer(&world);
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(20_000));
    for round in 0..10 {
        let before = world.metric("daemoneye_gateway_bus_consumer_taken_total");
        eventually("the consumer takes events", || {
            world.metric("daemoneye_gateway_bus_consumer_taken_total") > before
        })
        .await;
        // Any moment: not a wait for something, but the randomness that the test is about.
        time::sleep(Duration::from_millis(fastrand::u64(..400))).await;
        engine.kill();
        if round == 5 {
            // What the gateway held goes with it, and is sent again.
            world.kill();
            world.start().await;
        }
        eventually("health names the consumer", || {
            let (status, message) = bus_health(&world);
            status == "degraded" && message.contains("consumer engine of `events.#` is not connected")
        })
        .await;
        engine = consumer(&world).0;
    }
    let (confirmed, repeated) = producer.finish().await;
    within(Duration::from_mins(1), "the leaf has nothing left to send", || {
        leaf.sum("daemoneye_bridge_spool_events") == Some(0)
    })
    .await;
    let written = written(&file);
    println!(
        "consumer killed 10 times: confirmed={confirmed} lines={} duplicates={} disorder={} republished={repeated}",
        written.lines, written.duplicates, written.disorder
    );
    let missing = written.missing("collector.site-a.leaf-1", confirmed);
    assert!(missing.is_empty(), "{} are missing, the first is {}", missing.len(), missing[0]);
    assert_eq!(written.disorder, 0, "order within the stream");
    assert!(confirmed > 1000, "the load was no load: {confirmed}");
    eventually("the bus is well again", || bus_health(&world).0 == "healthy").await;
    assert!(world.metric("daemoneye_gateway_bus_consumer_unanswered_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_consumer_refuses_is_not_acknowledged_and_health_says_why() {
    let mut world = world(ROUTE);
    world.start().await;
    let other = Subscriber::connect(&world.socket(), "other", &["events/#"]).await;
    // A full disk: every write to it fails.
    let socket = world.socket();
    let args = [socket.to_str().unwrap(), "engine", "/dev/full"];
    let mut full = Program::start(CONSUMER, &args, world.folder.path());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(1000));
    eventually("health says why", || {
        let (status, message) = bus_health(&world);
        status == "degraded"
            && message.contains("consumer engine of `events.#` refused: code -32603, No space left on device")
    })
    .await;
    eventually("it is called again", || world.metric("daemoneye_gateway_bus_consumer_refusals_total") >= 3.0)
        .await;
    let held = world.json("/api/v1/bus")["held"][0].clone();
    assert_eq!((held["consumer"].as_str(), held["route"].as_str()), (Some("engine"), Some("events.#")));
    assert!(world.metric("daemoneye_gateway_bus_consumer_taken_total") < 0.5);
    assert_eq!(other.count(), 0, "nobody hears what the consumer has not taken");
    full.kill();

    let (_engine, file) = consumer(&world);
    let (confirmed, _) = producer.finish().await;
    within(Duration::from_mins(1), "the leaf has nothing left to send", || {
        leaf.sum("daemoneye_bridge_spool_events") == Some(0)
    })
    .await;
    let written = written(&file);
    assert_eq!(written.missing("collector.site-a.leaf-1", confirmed), [] as [usize; 0]);
    eventually("the others hear it too", || other.count() >= confirmed).await;
    println!(
        "consumer refused at first: confirmed={confirmed} lines={} heard by another={}",
        written.lines,
        other.count()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_example_takes_all_that_is_acknowledged() {
    let test = "the_python_example_takes_all_that_is_acknowledged";
    let Some(python) = tool("DAEMONEYE_TEST_PYTHON", test) else { return };
    let mut world = world(ROUTE);
    world.start().await;
    let script = format!("{}/../docs/examples/consumer.py", env!("CARGO_MANIFEST_DIR"));
    let (socket, file) = (world.socket(), world.path("taken.jsonl"));
    let args = [script.as_str(), socket.to_str().unwrap(), "engine", file.to_str().unwrap()];
    let mut engine = Program::start(&python, &args, world.folder.path());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(5000));
    for _ in 0..2 {
        let before = world.metric("daemoneye_gateway_bus_consumer_taken_total");
        eventually("the consumer takes events", || {
            world.metric("daemoneye_gateway_bus_consumer_taken_total") > before
        })
        .await;
        engine.kill();
        engine = Program::start(&python, &args, world.folder.path());
    }
    let (confirmed, _) = producer.finish().await;
    within(Duration::from_mins(1), "the leaf has nothing left to send", || {
        leaf.sum("daemoneye_bridge_spool_events") == Some(0)
    })
    .await;
    let written = written(&file);
    println!(
        "Python consumer killed twice: confirmed={confirmed} lines={} duplicates={} disorder={}",
        written.lines, written.duplicates, written.disorder
    );
    assert_eq!(written.missing("collector.site-a.leaf-1", confirmed), [] as [usize; 0]);
    assert_eq!(written.disorder, 0, "order within the stream");
    assert!(engine.log().is_empty(), "{}", engine.log());
}
