//! Clients that are not ours: the `busrt` package from PyPI, the crate's own command line, the real `busrtd`, `grpcio`.
//!
//! `.ci/run` installs them and sets the variables by which they are found.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use daemoneye_gateway::pki::{self, Authority, Leaf as Profile, Validity};
use daemoneye_tests::{
    eventually,
    peer::Session,
    process::Program,
    world::{TRUST_DOMAIN, World, tool},
};
use serde_json::Value;

use crate::{PROGRAMS, world};

fn script(name: &str) -> String {
    format!("{}/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Three events by a collector of `site-a`, confirmed.
async fn publish_three(world: &World) {
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let stream = uuid::Uuid::new_v4();
    let (mut session, _) =
        Session::open(channel, vec![daemoneye_tests::peer::new_stream(stream)]).await.unwrap();
    let payloads = (0..3).map(|n| format!("{{\"n\":{n}}}").into_bytes());
    session.say(daemoneye_tests::peer::batch(stream, 1, "events.process.start", payloads)).await;
    assert_eq!(session.acked(stream, 3).await.unwrap(), []);
}

/// Lets a Python client of the broker at `socket` hear three events.
async fn heard_by_python(python: &str, world: &World, socket: &Path) {
    let script = script("bus_listen.py");
    let socket = socket.to_str().expect("test paths are UTF-8");
    let args = [script.as_str(), socket, "pyclient", "3", "events/process/#"];
    let mut listener = Program::start(python, &args, world.folder.path());
    eventually("the Python client is subscribed", || listener.log().contains("\"ready\"")).await;
    publish_three(world).await;
    let status = listener.ended(std::time::Duration::from_secs(30)).await;
    assert!(status.success(), "{}", listener.log());
    let lines: Vec<Value> =
        listener.log().lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["sender"], "collector.site-a.procmond-1");
        assert_eq!(line["topic"], "events/process/start");
        assert_eq!(line["payload"], format!("{{\"n\":{n}}}"));
    }
    assert_eq!(lines.len(), 3);
}

/// Lets the crate's own command line hear three events.
async fn heard_by_command_line(busrt: &str, world: &World, socket: &Path) {
    let socket = socket.to_str().expect("test paths are UTF-8");
    let args = [socket, "-n", "busrtcli", "listen", "-t", "events/process/#"];
    let listener = Program::start(busrt, &args, world.folder.path());
    eventually("the command line listens", || listener.log().to_lowercase().contains("listening")).await;
    publish_three(world).await;
    let whole =
        |log: String| log.contains("collector.site-a.procmond-1") && log.contains("events/process/start");
    eventually("the command line shows the events", || whole(listener.log())).await;
}

#[tokio::test]
async fn the_python_client_hears_the_gateways_own_bus() {
    let Some(python) = tool("DAEMONEYE_TEST_PYTHON", "the_python_client_hears_the_gateways_own_bus") else {
        return;
    };
    let mut world = world("");
    world.start().await;
    heard_by_python(&python, &world, &world.socket()).await;
}

#[tokio::test]
async fn the_busrt_command_line_hears_the_gateways_own_bus() {
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", "the_busrt_command_line_hears_the_gateways_own_bus")
    else {
        return;
    };
    let mut world = world("");
    world.start().await;
    heard_by_command_line(&busrt, &world, &world.socket()).await;
}

#[tokio::test]
async fn the_benchmark_of_the_busrt_command_line_runs_without_an_error() {
    let test = "the_benchmark_of_the_busrt_command_line_runs_without_an_error";
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", test) else { return };
    let mut world = world("");
    world.start().await;
    let socket = world.socket();
    let socket = socket.to_str().expect("test paths are UTF-8");
    // Named as it names itself, whatever this host is called.
    let args = [socket, "-n", "cli.host.4711", "benchmark", "-w", "2", "-i", "40000"];
    let mut benchmark = Program::start(&busrt, &args, world.folder.path());
    let status = benchmark.ended(std::time::Duration::from_mins(2)).await;
    let log = benchmark.log();
    assert!(status.success() && !log.to_lowercase().contains("error"), "{log}");
    for stage in ["rpc.call", "rpc.call+handle", "rpc.call0", "send.qos.no", "send+recv.qos.processed"] {
        assert!(log.contains(stage), "{stage}: {log}");
    }
    println!("{log}");
}

#[tokio::test]
async fn the_busrt_command_line_asks_the_gateways_own_broker() {
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", "the_busrt_command_line_asks_the_gateways_own_broker")
    else {
        return;
    };
    let mut world = world("");
    world.start().await;
    let socket = world.socket();
    let socket = socket.to_str().expect("test paths are UTF-8");
    for (question, answer) in [
        (&["broker", "test"][..], "ok"),
        (&["broker", "info"], "0.5.6"),
        (&["broker", "stats"], "uptime"),
        (&["broker", "client.list"], ".broker"),
    ] {
        let args = [&[socket, "-n", "cli.host.4711"], question].concat();
        let mut asked = Program::start(&busrt, &args, world.folder.path());
        let status = asked.ended(std::time::Duration::from_secs(30)).await;
        assert!(status.success() && asked.log().contains(answer), "{question:?}: {}", asked.log());
    }
}

#[tokio::test]
async fn the_gateway_is_a_client_of_the_real_busrtd() {
    let test = "the_gateway_is_a_client_of_the_real_busrtd";
    let Some(busrtd) = tool("DAEMONEYE_TEST_BUSRTD", test) else { return };
    let Some(python) = tool("DAEMONEYE_TEST_PYTHON", test) else { return };
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", test) else { return };
    let mut world = World::new(PROGRAMS, "");
    let socket = world.path("busrtd.sock");
    world.configure(&crate::foreign(&socket, ""));
    let path = socket.to_str().expect("test paths are UTF-8");
    let _busrtd = Program::start(&busrtd, &["-B", path], world.folder.path());
    eventually("busrtd answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    world.start().await;
    heard_by_python(&python, &world, &socket).await;
    heard_by_command_line(&busrt, &world, &socket).await;
}

fn grpcio(python: &str, world: &World, own: Option<&pki::Files>) -> Output {
    let anchors = world.path("tls/anchors.pem");
    let address = format!("localhost:{}", world.address.port());
    let mut command = Command::new(python);
    command.arg(script("grpc_peer.py")).arg(address).arg(anchors).stdin(Stdio::null());
    // grpcio itself warns on stderr of what the gateway refuses, which is what is wanted here.
    if let Some(files) = own {
        command.arg(&files.certificate).arg(&files.key);
    }
    command.output().expect("Python can be started")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_publishes_with_nothing_but_reflection_and_strangers_are_refused() {
    let test = "grpcio_publishes_with_nothing_but_reflection_and_strangers_are_refused";
    let Some(python) = tool("DAEMONEYE_TEST_PYTHON", test) else { return };
    let mut world = world("");
    world.start().await;
    let engine =
        daemoneye_tests::subscriber::Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let folder = world.path("peers");
    fs::create_dir_all(&folder).unwrap();
    let collector = Profile::collector(TRUST_DOMAIN, "site-a", "script-1");
    let write = |name: &str, authority: &Authority, profile: &Profile| {
        pki::write_certificate(&folder, name, &authority.issue(profile).unwrap()).unwrap()
    };

    let known = write("known", &world.authority, &collector);
    let output = grpcio(&python, &world, Some(&known));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told} {}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_str(told.trim()).unwrap();
    assert_eq!(told["duplicate"], false);
    assert_eq!(told["denied"], "PERMISSION_DENIED");
    assert_eq!(told["peer"], "site-a/script-1");
    assert_eq!(told["acked"], 3);
    assert_eq!(told["code"], "OK");
    eventually("all four events arrive", || engine.count() == 4).await;

    let stranger = Authority::root("Another root").unwrap();
    let expired = collector.clone().validity(Validity::expired());
    for (what, files) in [
        ("no certificate", None),
        ("another CA", Some(write("stranger", &stranger, &collector))),
        ("an expired certificate", Some(write("expired", &world.authority, &expired))),
    ] {
        let output = grpcio(&python, &world, files.as_ref());
        assert_eq!(output.status.code(), Some(3), "{what}: {}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(engine.count(), 4);
}
