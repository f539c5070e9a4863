//! What goes away and comes back, what stops reading, what fills up, what is damaged: nothing acknowledged is lost, and what
//! is lost is said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use daemoneye_tests::{
    engine::{Books, Engine},
    eventually,
    producer::Producer,
    stubborn::Stubborn,
    world::{Leaf, World, skipped},
};

use crate::{PROGRAMS, world};

const ENVELOPE: &str = r#"
[[bus.route]]
pattern = "events.#"
envelope = "cloudevents"
"#;

/// Where the events of the leaf come from, as the engine sees it.
const SENDER: &str = "collector.site-a.leaf-1";

/// The leaf's count of events that wait in its spool.
fn waiting(leaf: &Leaf) -> Option<usize> {
    leaf.sum("daemoneye_bridge_spool_events")
}

async fn drained(leaf: &Leaf) {
    eventually("the leaf has nothing left to send", || waiting(leaf) == Some(0)).await;
}

async fn received(engine: &Engine, confirmed: usize) {
    eventually("all that was confirmed has come", || engine.books().missing(SENDER, confirmed).is_empty())
        .await;
}

fn in_order(books: &Books) {
    assert_eq!((books.disorder, books.holes()), (0, 0), "order and completeness of each stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_held_while_its_only_subscriber_is_away() {
    let mut world = world(ENVELOPE);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("events flow", || engine.frames() > 500).await;
    // In order, and in the middle of the stream: what it has not taken when it has gone must come to its successor. (What
    // is in the socket of an engine that dies, dies with it.)
    let earlier = engine.leave().await;
    let before = producer.confirmed();
    eventually("health names the route that waits", || {
        world
            .get("/api/v1/health")
            .is_some_and(|(_, body)| body.contains("events.#") && body.contains("degraded"))
    })
    .await;
    assert_eq!(world.get("/readyz").unwrap().0, 200, "a held route does not make the gateway unready");
    eventually("the leaf goes on taking events", || producer.confirmed() > before + 4000).await;

    let engine = Engine::attach(&world.socket());
    let (confirmed, _) = producer.finish().await;
    drained(&leaf).await;
    eventually("each event has come to the one or the other", || {
        let later = engine.books().missing(SENDER, confirmed);
        let earlier = earlier.missing(SENDER, confirmed);
        later.iter().all(|n| earlier.binary_search(n).is_err())
    })
    .await;
    eventually("health is well again", || {
        world.get("/api/v1/health").is_some_and(|(_, body)| !body.contains("degraded"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_broker_may_go_and_come_back() {
    let mut world = World::new(PROGRAMS, "");
    let socket = world.path("broker.sock");
    world.configure(&crate::foreign(&socket, ENVELOPE));
    let folder = world.folder.path().to_owned();
    let broker = || crate::broker(&socket, &folder);
    let mut running = broker();
    world.start().await;
    let engine = Engine::attach(&socket);
    eventually("the engine is there", || engine.is_connected()).await;
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(2000));
    eventually("events flow", || engine.frames() > 500).await;

    running.kill();
    eventually("the gateway says that it is not ready", || {
        world.get("/readyz").is_some_and(|(code, _)| code == 503)
    })
    .await;
    let before = producer.confirmed();
    eventually("the leaf goes on taking events", || producer.confirmed() > before + 2000).await;
    fs::remove_file(&socket).unwrap_or_default();
    running = broker();
    eventually("the engine is back", || engine.is_connected()).await;
    world.ready().await;

    let (confirmed, _) = producer.finish().await;
    drained(&leaf).await;
    // What sat in the broker's queues died with it, and what went to nobody before the engine was back: no broker keeps
    // more than its queue of 8,192, and the engine kept up, so far less is gone.
    let mut last = 0;
    eventually("the engine has heard what there is", || {
        let frames = engine.frames();
        let still = frames == last;
        last = frames;
        still && engine.books().missing(SENDER, confirmed).len() <= 8192
    })
    .await;
    let missing = engine.books().missing(SENDER, confirmed).len();
    println!("broker killed: confirmed={confirmed} lost with the broker={missing}");
    drop(running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_stops_reading_is_sent_away_and_the_others_lose_nothing() {
    let mut world = World::new(PROGRAMS, "");
    world.configure(&format!("{ENVELOPE}\n[unix_socket]\nslow_reader_timeout = \"2s\"\n"));
    world.start().await;
    let engine = Engine::attach(&world.socket());
    eventually("the engine is there", || engine.is_connected()).await;
    let stubborn = Stubborn::connect(&world.socket(), "stubborn", "events/#").unwrap();
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);

    eventually("it is sent away", || world.metric("daemoneye_gateway_bus_door_slow_readers_total") >= 1.0)
        .await;
    assert!(stubborn.was_sent_away());
    let before = engine.frames();
    eventually("events flow again", || engine.frames() > before + 1000).await;
    let (confirmed, _) = producer.finish().await;
    drained(&leaf).await;
    received(&engine, confirmed).await;
    in_order(&engine.books());
    let resident = world.gateway().resident();
    println!("a subscriber stopped reading: gateway resident={} MB", resident >> 20);
    assert!(resident < 256 << 20, "{resident} bytes");
    let warnings = world.gateway().log().matches("stopped reading").count();
    assert_eq!(warnings, 1, "said once: {}", world.gateway().log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_the_oldest_telemetry_first_and_says_how_much() {
    let mut world = world(ENVELOPE);
    let classes = r#"
[spool]
max_bytes = "8 MiB"

[[spool.classes]]
pattern = "events.process.#"
class = "critical"
"#;
    let mut leaf = world.leaf("site-a", "leaf-1", classes);
    leaf.start().await;
    // The gateway is away. Critical events first, then more telemetry than there is room for.
    let critical = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    eventually("critical events are in the spool", || critical.confirmed() > 5000).await;
    let (critical, _) = critical.finish().await;
    let telemetry = Producer::resume(&leaf.socket, "perfmond-1", "events/performance/system", None, critical);
    eventually("telemetry is evicted", || {
        leaf.sum("daemoneye_bridge_spool_evicted_total").is_some_and(|n| n > 0)
    })
    .await;
    let (confirmed, _) = telemetry.finish().await;
    let evicted = leaf.sum("daemoneye_bridge_spool_evicted_total").unwrap();

    world.launch();
    let engine = Engine::attach(&world.socket());
    drained(&leaf).await;
    let expected = confirmed - evicted;
    eventually("the rest arrives", || engine.books().frames >= expected).await;
    let books = engine.books();
    assert!(books.missing(SENDER, critical).is_empty(), "no critical event was evicted");
    assert_eq!(books.missing(SENDER, confirmed).len(), evicted);
    let told = || world.json("/api/v1/collectors").to_string();
    eventually("the gateway's API tells the loss", || told().contains(&format!("\"lost\":{evicted}"))).await;
    println!("spool full: confirmed={confirmed} evicted={evicted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_producers_wait_and_loses_nothing() {
    let test = "a_full_disk_makes_producers_wait_and_loses_nothing";
    let mut world = world(ENVELOPE);
    let mut leaf =
        world.leaf("site-a", "leaf-1", "[spool]\nmax_bytes = \"1 GiB\"\nsegment_bytes = \"2 MiB\"\n");
    let Some(_disk) = Tmpfs::mount(&leaf.spool, "9m") else {
        return skipped(test, "a tmpfs cannot be mounted (needs root)");
    };
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    eventually("the disk is full", || leaf.program().log().contains("spool could not be written")).await;
    assert!(leaf.get("/readyz").is_some_and(|(_, body)| !body.is_empty()));

    world.launch();
    let engine = Engine::attach(&world.socket());
    let before = producer.confirmed();
    eventually("there is room again", || producer.confirmed() > before + 1000).await;
    let (confirmed, _) = producer.finish().await;
    drained(&leaf).await;
    received(&engine, confirmed).await;
    in_order(&engine.books());
    // Ended before its disk goes.
    leaf.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_costs_what_it_held_and_nothing_else() {
    let mut world = world(ENVELOPE);
    let mut leaf = world.leaf("site-a", "leaf-1", "[spool]\nsegment_bytes = \"2 MiB\"\n");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    eventually("there are several segments", || segments(&leaf.spool).len() > 3).await;
    let (confirmed, _) = producer.finish().await;
    leaf.kill();
    let segments = segments(&leaf.spool);
    let middle = &segments[segments.len() / 2];
    let mut bytes = fs::read(middle).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 64].fill(0xAA);
    fs::write(middle, bytes).unwrap();

    leaf.start().await;
    world.launch();
    let engine = Engine::attach(&world.socket());
    drained(&leaf).await;
    let corrupt = leaf.sum("daemoneye_bridge_spool_corrupt_total").unwrap();
    assert!(corrupt > 0);
    let expected = confirmed - corrupt;
    eventually("the rest arrives", || engine.books().frames >= expected).await;
    let books = engine.books();
    assert_eq!(books.missing(SENDER, confirmed).len(), corrupt);
    assert_eq!(books.disorder, 0);
    println!("segment damaged: confirmed={confirmed} lost and said={corrupt}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_costs_only_itself() {
    let mut world = world(ENVELOPE);
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", None);
    eventually("there are events", || producer.confirmed() > 2000).await;
    let (confirmed, _) = producer.finish().await;
    leaf.kill();
    let last = segments(&leaf.spool).pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&last).unwrap();
    file.set_len(file.metadata().unwrap().len() - 7).unwrap();

    leaf.start().await;
    world.launch();
    let engine = Engine::attach(&world.socket());
    let producer = Producer::resume(&leaf.socket, "procmond-1", "events/process/start", None, confirmed);
    eventually("more events are taken", || producer.confirmed() > confirmed + 1000).await;
    let (more, _) = producer.finish().await;
    drained(&leaf).await;
    eventually("the new ones arrive", || {
        let missing = engine.books().missing(SENDER, more);
        missing.iter().all(|n| *n < confirmed)
    })
    .await;
    let gone = engine.books().missing(SENDER, more).len();
    println!("tail torn: confirmed={confirmed} lost={gone}");
    assert!(gone < 600, "no more than the last block: {gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_restored_from_an_older_copy_gets_a_new_stream() {
    let mut world = world(ENVELOPE);
    world.start().await;
    let engine = Engine::attach(&world.socket());
    let mut leaf = world.leaf("site-a", "leaf-1", "");
    leaf.start().await;
    let producer = Producer::attach(&leaf.socket, "procmond-1", "events/process/start", Some(5000));
    eventually("events flow", || engine.frames() > 500).await;
    leaf.kill();
    let copy = world.path("copy");
    copy_folder(&leaf.spool, &copy);
    leaf.start().await;
    let before = engine.frames();
    eventually("events flow again", || engine.frames() > before + 5000).await;
    let (confirmed, _) = producer.finish().await;
    drained(&leaf).await;
    leaf.kill();

    fs::remove_dir_all(&leaf.spool).unwrap();
    copy_folder(&copy, &leaf.spool);
    leaf.start().await;
    let producer =
        Producer::resume(&leaf.socket, "procmond-1", "events/process/start", Some(5000), confirmed);
    eventually("new events are taken", || producer.confirmed() > confirmed + 2000).await;
    let (more, _) = producer.finish().await;
    drained(&leaf).await;
    received(&engine, more).await;
    assert!(engine.books().streams() >= 2, "fresh events came under a new stream");
}

/// A small disk, taken away when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).ok()?;
        let options = format!("size={size},mode=0700");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output().ok()?;
        mount.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn segments(spool: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
    found.sort();
    found
}

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
