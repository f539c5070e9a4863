//! Clients that know nothing of TLS: the crate's own command line and the package from PyPI, unmodified, through `stunnel4`
//! and `socat`, as one sets them up beside a program that can only speak BUS/RT. And the package through `ssl`.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use busrt::{
    QoS,
    client::AsyncClient,
    rpc::{Rpc, RpcClient},
};
use daemoneye_gateway::pki;
use daemoneye_tests::{
    eventually,
    eventually::soon,
    process::Program,
    subscriber::Subscriber,
    world::{TRUST_DOMAIN, World, free, installed, tool},
};

use crate::native::{Doubler, NAME, confirmed, local, native};

/// Settings under which who offers no protocol is let in.
const WITHOUT_ALPN: &str = "[tcp.native]\nwithout_alpn = true\n";

/// Certificate and key of the collector.
fn own(world: &World) -> pki::Files {
    let profile = pki::Leaf::collector(TRUST_DOMAIN, "site-a", "procmond-1");
    let own = world.authority.issue(&profile).unwrap();
    pki::write_certificate(&world.path("peers"), "procmond", &own).unwrap()
}

/// A tunnel, and where clients find it: a path, or host and port.
struct Tunnel {
    at: String,
    _program: Program,
}

impl Tunnel {
    /// `stunnel4` as a client of TLS, behind a UNIX socket.
    async fn stunnel(stunnel: &str, world: &World) -> Self {
        let (config, socket, own) = (world.path("stunnel.conf"), world.path("stunnel.sock"), own(world));
        let text = format!(
            "foreground = yes\npid =\n[bus]\nclient = yes\naccept = {}\nconnect = {}\ncert = {}\nkey = {}\nCAfile = {}\n\
             verifyChain = yes\ncheckHost = localhost\n",
            socket.display(),
            world.address,
            own.certificate.display(),
            own.key.display(),
            world.path("tls/anchors.pem").display(),
        );
        fs::write(&config, text).unwrap();
        let program = Program::start(stunnel, &[config.to_str().unwrap()], world.folder.path());
        Self::behind(&socket, program).await
    }

    /// `socat`, behind a UNIX socket.
    async fn socat_unix(socat: &str, world: &World) -> Self {
        let socket = world.path("socat.sock");
        let program = Self::socat(socat, &format!("UNIX-LISTEN:{},fork", socket.display()), world);
        Self::behind(&socket, program).await
    }

    /// `socat`, behind a port of this host.
    async fn socat_tcp(socat: &str, world: &World) -> Self {
        let address: SocketAddr = free();
        let listen = format!("TCP-LISTEN:{},bind={},fork,reuseaddr", address.port(), address.ip());
        let program = Self::socat(socat, &listen, world);
        eventually("socat listens", || program.log().contains("listening on")).await;
        Self { at: address.to_string(), _program: program }
    }

    fn socat(socat: &str, listen: &str, world: &World) -> Program {
        let own = own(world);
        let tls = format!(
            "OPENSSL:localhost:{},cert={},key={},cafile={},verify=1",
            world.address.port(),
            own.certificate.display(),
            own.key.display(),
            world.path("tls/anchors.pem").display(),
        );
        Program::start(socat, &["-d", "-d", listen, &tls], world.folder.path())
    }

    async fn behind(socket: &Path, program: Program) -> Self {
        // Not by connecting, which would be a client already.
        eventually("the tunnel has made its socket", || socket.exists()).await;
        Self { at: socket.display().to_string(), _program: program }
    }
}

/// What the command line prints of this, once it has ended well.
async fn printed(busrt: &str, world: &World, args: &[&str]) -> String {
    let mut asked = Program::start(busrt, args, world.folder.path());
    let status = asked.ended(Duration::from_secs(30)).await;
    assert!(status.success(), "{args:?}: {}", asked.log());
    asked.log()
}

/// The command line publishes, is denied, calls, hears and is called through a tunnel.
async fn command_line(busrt: &str, world: &World, tunnel: &Tunnel) {
    let engine = Subscriber::connect(&world.socket(), "desk.one", &["events/#"]).await;
    let answering = RpcClient::new(local(world, "engine").await, Doubler);
    let mut caller = local(world, "caller").await;
    let at = tunnel.at.as_str();

    printed(busrt, world, &[at, "publish", "events/process/start", "{}"]).await;
    eventually("it arrives", || engine.count() == 1).await;
    let heard = engine.heard().remove(0);
    assert_eq!((heard.sender.as_str(), heard.topic.as_str()), (NAME, "events/process/start"));
    let mut denied = Program::start(busrt, &[at, "publish", "secrets/x", "p"], world.folder.path());
    assert!(!denied.ended(Duration::from_secs(30)).await.success(), "{}", denied.log());
    assert!(denied.log().contains("Access"), "{}", denied.log());

    let answer = printed(busrt, world, &[at, "-s", "rpc", "call", "engine", "HealthCheck"]).await;
    assert!(answer.contains("well"), "{answer}");

    let listener = Program::start(busrt, &[at, "listen", "-t", "news/#"], world.folder.path());
    eventually("it listens", || listener.log().contains("Listening")).await;
    confirmed(caller.publish("news/today", b"sunny".as_slice().into(), QoS::Processed).await).await.unwrap();
    eventually("it hears", || {
        let log = listener.log();
        log.contains("news/today") && log.contains("sunny") && log.contains("caller")
    })
    .await;
    drop(listener);

    let answerer = Program::start(busrt, &[at, "rpc", "listen"], world.folder.path());
    eventually("it listens", || answerer.log().contains("Listening")).await;
    let answer = answering.call(NAME, "greet", b"hello".as_slice().into(), QoS::Processed);
    let answer = soon("it answers", answer).await.unwrap();
    assert!(answer.payload().is_empty(), "as it answers everybody");
    eventually("it shows the call", || answerer.log().contains("greet") && answerer.log().contains("hello"))
        .await;
}

/// The package from PyPI publishes, is denied, calls, hears and is called through a tunnel.
async fn python(python: &str, world: &World, tunnel: &Tunnel) {
    let events = Subscriber::connect(&world.socket(), "desk.two", &["events/#"]).await;
    let engine = RpcClient::new(local(world, "engine").await, Doubler);
    let mut caller = local(world, "caller").await;
    let script = format!("{}/interop/bus_rpc.py", env!("CARGO_MANIFEST_DIR"));
    let mut peer = Program::start(python, &[&script, &tunnel.at], world.folder.path());
    eventually("it is subscribed", || peer.log().contains("\"ready\"")).await;
    let answer = engine.call(NAME, "again", b"ab".as_slice().into(), QoS::Processed);
    assert_eq!(soon("it answers", answer).await.unwrap().payload(), b"abab");
    confirmed(caller.publish("news/today", b"n".as_slice().into(), QoS::Processed).await).await.unwrap();
    let status = peer.ended(Duration::from_mins(1)).await;
    assert!(status.success(), "{}", peer.log());
    let told: serde_json::Value = serde_json::from_str(peer.log().lines().last().unwrap()).unwrap();
    assert_eq!(told["published"], serde_json::json!([1, 1, 1, 1]));
    assert_eq!((&told["denied"], &told["answer"]), (&0x79.into(), &"abab".into()));
    assert_eq!(told["refused"], -32000 - 0x79, "as the package says that an ack was not good");
    assert_eq!(told["called"], serde_json::json!(["again", "engine"]));
    assert_eq!(told["heard"], serde_json::json!(["caller", "news/today", "n"]));
    eventually("its events arrive", || events.count() == 4).await;
    assert!(events.heard().iter().all(|heard| heard.sender == NAME));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_stunnel_the_command_line_and_the_python_client_speak_as_at_home() {
    let test = "through_stunnel_the_command_line_and_the_python_client_speak_as_at_home";
    let Some(stunnel) = installed("stunnel4", test) else { return };
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", test) else { return };
    let Some(interpreter) = tool("DAEMONEYE_TEST_PYTHON", test) else { return };
    let mut world = native(WITHOUT_ALPN);
    world.start().await;
    let tunnel = Tunnel::stunnel(&stunnel, &world).await;
    command_line(&busrt, &world, &tunnel).await;
    python(&interpreter, &world, &tunnel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_socat_the_command_line_and_the_python_client_speak_as_at_home() {
    let test = "through_socat_the_command_line_and_the_python_client_speak_as_at_home";
    let Some(socat) = installed("socat", test) else { return };
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", test) else { return };
    let Some(interpreter) = tool("DAEMONEYE_TEST_PYTHON", test) else { return };
    let mut world = native(WITHOUT_ALPN);
    world.start().await;
    for tunnel in [Tunnel::socat_unix(&socat, &world).await, Tunnel::socat_tcp(&socat, &world).await] {
        command_line(&busrt, &world, &tunnel).await;
        python(&interpreter, &world, &tunnel).await;
    }
}

#[tokio::test]
async fn a_tunnel_is_let_in_only_where_that_is_configured() {
    let test = "a_tunnel_is_let_in_only_where_that_is_configured";
    let Some(socat) = installed("socat", test) else { return };
    let Some(busrt) = tool("DAEMONEYE_TEST_BUSRT", test) else { return };
    let mut world = native("");
    world.start().await;
    let tunnel = Tunnel::socat_unix(&socat, &world).await;
    let args = [tunnel.at.as_str(), "publish", "events/x", "p"];
    let mut refused = Program::start(&busrt, &args, world.folder.path());
    assert!(!refused.ended(Duration::from_secs(30)).await.success(), "{}", refused.log());
    assert!(refused.log().contains("Unable to connect"), "{}", refused.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_speaks_through_ssl() {
    let test = "the_python_client_speaks_through_ssl";
    let Some(python) = tool("DAEMONEYE_TEST_PYTHON", test) else { return };
    let mut world = native("");
    world.start().await;
    let engine = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let files = own(&world);
    let script = format!("{}/interop/bus_tls.py", env!("CARGO_MANIFEST_DIR"));
    let args = [
        script.clone(),
        world.address.port().to_string(),
        world.path("tls/anchors.pem").display().to_string(),
        files.certificate.display().to_string(),
        files.key.display().to_string(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut peer = Program::start(&python, &args, world.folder.path());
    eventually("it is subscribed", || peer.log().contains("\"ready\"")).await;
    let mut caller = local(&world, "caller").await;
    confirmed(caller.publish("news/today", b"n".as_slice().into(), QoS::Processed).await).await.unwrap();
    confirmed(caller.send(NAME, b"psst".as_slice().into(), QoS::Processed).await).await.unwrap();
    let status = peer.ended(Duration::from_secs(30)).await;
    assert!(status.success(), "{}", peer.log());
    let told: serde_json::Value = serde_json::from_str(peer.log().lines().last().unwrap()).unwrap();
    assert_eq!(told["published"], serde_json::json!([1, 1, 1, 1]));
    assert_eq!(told["denied"], 0x79);
    assert_eq!(told["heard"], serde_json::json!([["caller", "news/today", "n"], ["caller", null, "psst"]]));
    eventually("its events and message arrive", || engine.count() == 5).await;
}
