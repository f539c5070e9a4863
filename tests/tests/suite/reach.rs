//! Through a leaf: bus clients of the datacentre call collectors behind it, and are called by them.

use std::{path::Path, time::Duration};

use busrt::{
    QoS,
    borrow::Cow,
    ipc,
    rpc::{Rpc, RpcClient, RpcError, RpcEvent, RpcHandlers, RpcResult},
};
use daemoneye_tests::{
    eventually,
    world::{Leaf, POLICY, World},
};
use tokio::time::{Instant, timeout};

use crate::world;

const DOWNLINK: &str = r#"
[downlink]
enabled = true
reach = ["engine"]
"#;

/// Longer than any call here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers `HealthCheck` with who asks, and nothing else.
struct Hands;

#[tonic::async_trait]
impl RpcHandlers for Hands {
    async fn handle_call(&self, event: RpcEvent) -> RpcResult {
        match event.parse_method()? {
            "HealthCheck" => Ok(Some(event.sender().as_bytes().to_vec())),
            "Never" => std::future::pending().await,
            _ => Err(RpcError::method(None)),
        }
    }
}

async fn client(socket: &Path, name: &str) -> RpcClient {
    let config = ipc::Config::new(socket.to_str().expect("test paths are UTF-8"), name);
    RpcClient::new(ipc::Client::connect(&config).await.expect("the door is open"), Hands)
}

async fn call(client: &RpcClient, target: &str, method: &str) -> Result<String, i16> {
    let called = client.call(target, method, Cow::Borrowed(b""), QoS::Processed);
    let answer = timeout(PATIENCE, called).await.unwrap_or_else(|_| panic!("{target} {method} never ends"));
    answer.map(|event| String::from_utf8_lossy(event.payload()).into_owned()).map_err(|error| error.code())
}

async fn site() -> (World, Leaf, RpcClient, RpcClient) {
    let mut world = world("");
    let policy = POLICY.replace("speaks_for", "call = [\"engine\"]\nspeaks_for");
    let downlink = "[[downlink]]\nclient = \"engine\"\ncall = [\"*/*\"]\nsend = [\"*/*\"]\n";
    std::fs::write(world.path("policy.toml"), format!("{policy}\n{downlink}")).unwrap();
    world.start().await;
    let engine = client(&world.socket(), "engine").await;
    let mut leaf = world.leaf("site-a", "leaf-1", DOWNLINK);
    leaf.start().await;
    let collector = client(&leaf.socket, "procmond-1").await;
    let deadline = Instant::now() + PATIENCE;
    while call(&engine, "collector.site-a.procmond-1", "HealthCheck").await.is_err() {
        assert!(Instant::now() < deadline, "the collector is never reached");
        tokio::task::yield_now().await;
    }
    (world, leaf, engine, collector)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_behind_a_leaf_is_called_and_calls() {
    let (_world, leaf, engine, collector) = site().await;
    assert_eq!(
        call(&engine, "collector.site-a.procmond-1", "HealthCheck").await.as_deref(),
        Ok("engine"),
        "it sees who asks"
    );
    assert_eq!(call(&engine, "collector.site-a.procmond-1", "Nonsense").await, Err(-32601));
    assert!(
        call(&engine, "collector.site-a.procmond-9", "HealthCheck").await.is_err(),
        "nobody of that name"
    );
    assert_eq!(
        call(&collector, "engine", "HealthCheck").await.as_deref(),
        Ok("collector.site-a.procmond-1"),
        "the stand-in is the engine to it"
    );
    eventually("no call is left open", || leaf.sum("daemoneye_bridge_downlink_open_calls") == Some(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_in_the_middle_of_a_call_fails_it_at_once() {
    let (mut world, mut leaf, engine, collector) = site().await;
    let cut = async {
        eventually("the call is out", || leaf.sum("daemoneye_bridge_downlink_open_calls") == Some(1)).await;
        leaf.kill();
    };
    let began = Instant::now();
    let (outcome, ()) = tokio::join!(call(&engine, "collector.site-a.procmond-1", "Never"), cut);
    assert_eq!(outcome, Err(-32004));
    assert!(began.elapsed() < Duration::from_secs(10), "not by its budget");
    drop(collector);
    leaf.start().await;
    let collector = client(&leaf.socket, "procmond-1").await;
    eventually("the leaf is up", || leaf.sum("daemoneye_bridge_uplink_up") == Some(1)).await;
    world.kill();
    eventually("the leaf sees it", || leaf.sum("daemoneye_bridge_uplink_up") == Some(0)).await;
    assert_eq!(call(&collector, "engine", "HealthCheck").await, Err(-32001), "told at once");
}

/// What the federation adds to a call; the bound holds in release builds, so it is asserted there alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_through_the_federation_costs_less_than_a_millisecond() {
    let (world, leaf, engine, _collector) = site().await;
    let near = client(&world.socket(), "near").await;
    let local = client(&leaf.socket, "asker").await;
    let (direct, through) = (
        median(&local, "procmond-1").await.max(median(&engine, "near").await),
        median(&engine, "collector.site-a.procmond-1").await,
    );
    let added = through.saturating_sub(direct);
    println!("rpc p50: local {direct:?}, through the federation {through:?}, added {added:?}");
    drop(near);
    if !cfg!(debug_assertions) {
        assert!(added < Duration::from_millis(1), "{added:?}");
    }
}

async fn median(client: &RpcClient, target: &str) -> Duration {
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        call(client, target, "HealthCheck").await.expect("it answers");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
