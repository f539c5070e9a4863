//! The listener through its front door: plain sockets, port 0.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemoneye_bridge::{
    lifecycle::{Lifecycle, Phase},
    transport::Kind,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::{mpsc, watch},
    time,
};

use crate::{
    admin::{
        Admin, Commands, Config, health,
        token::{Minted, Role},
    },
    deny, held,
    policy::{self, Judge, Policy, command::Desk},
    snapshot::{
        BusView, Certificate, Clients, Collectors, HeldRoute, Material, PolicyView, Refusal, Refusals,
        RevocationList, Snapshots, StateView, Timestamp, TransportHealth, Transports, Trouble, Word,
    },
    state::{self, State, audit::Audit},
    telemetry::metrics::Metrics,
};

/// The sending ends of every part; all is well to begin with.
struct Parts {
    phase: watch::Sender<Phase>,
    collectors: watch::Sender<Arc<Collectors>>,
    refusals: watch::Sender<Arc<Refusals>>,
    bus: watch::Sender<Arc<BusView>>,
    clients: watch::Sender<Arc<Clients>>,
    material: watch::Sender<Arc<Material>>,
    policy: watch::Sender<Arc<PolicyView>>,
    state: watch::Sender<Arc<StateView>>,
    audit: watch::Sender<Arc<Option<Trouble>>>,
    transports: watch::Sender<Arc<Transports>>,
}

impl Parts {
    fn well() -> Self {
        let loaded = Some(Timestamp::now());
        Self {
            phase: watch::Sender::new(Phase::Serving),
            collectors: watch::Sender::new(Arc::new(Collectors { as_of: loaded, ..Collectors::default() })),
            refusals: watch::Sender::default(),
            bus: watch::Sender::new(Arc::new(BusView { broker: "embedded", ..BusView::default() })),
            clients: watch::Sender::default(),
            material: watch::Sender::new(Arc::new(Material { loaded, ..Material::default() })),
            policy: watch::Sender::new(Arc::new(PolicyView { loaded, ..PolicyView::default() })),
            state: watch::Sender::default(),
            audit: watch::Sender::default(),
            transports: watch::Sender::default(),
        }
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots {
            upstream: None,
            phase: self.phase.subscribe(),
            collectors: self.collectors.subscribe(),
            refusals: self.refusals.subscribe(),
            bus: self.bus.subscribe(),
            clients: self.clients.subscribe(),
            material: self.material.subscribe(),
            policy: self.policy.subscribe(),
            state: self.state.subscribe(),
            audit: self.audit.subscribe(),
            transports: self.transports.subscribe(),
        }
    }

    fn word(&self, component: &str) -> (Word, bool) {
        let health = health::health(&self.snapshots());
        let found = health.components.iter().find(|each| each.name == component).unwrap();
        assert!(found.status == Word::Healthy || !found.message.is_empty());
        (found.status, found.since.is_some())
    }
}

/// An admin listener at work.
struct Running {
    parts: Parts,
    life: Lifecycle,
    address: std::net::SocketAddr,
    _folder: TempDir,
}

/// A deny-list in a temporary folder, and nobody who reloads.
fn commands() -> (Commands, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = state::Config { directory: folder.path().to_owned(), ..state::Config::default() };
    let (state, _flusher) = State::open(config, state::Metrics::default()).unwrap();
    let audit = Audit::open(folder.path()).unwrap();
    let held = held::Handle::open(state.clone(), audit.clone(), held::Metrics::default()).unwrap();
    let deny = deny::Handle::open(state, audit, watch::Sender::default()).unwrap();
    let file = folder.path().join("policy.toml");
    let text = "[[role]]\nname = \"all\"\nmatch = { identity = \"*\" }\npublish = [\"events.#\"]\n";
    fs::write(&file, text).unwrap();
    let judge = Judge::new(Policy::load(&file).unwrap(), policy::Metrics::default());
    (Commands { deny, held, policy: Desk::new(judge, file), reload: mpsc::channel(1).0 }, folder)
}

impl Running {
    async fn new(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config =
            Config { bind_address: "127.0.0.1:0".parse().unwrap(), socket_path: None, ..Config::default() };
        adjust(&mut config);
        let parts = Parts::well();
        let life = Lifecycle::new();
        let admin = Admin::bind(config).await.unwrap();
        let address = admin.address();
        let exporter = Metrics::default().exporter();
        let (commands, folder) = commands();
        life.leash().spawn(admin.run(life.leash(), parts.snapshots(), exporter, commands));
        Self { parts, life, address, _folder: folder }
    }

    async fn ask(&self, text: &str) -> String {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tcp.read_to_string(&mut answer);
        time::timeout(Duration::from_secs(10), read).await.expect("an answer in time").unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }
}

#[tokio::test]
async fn the_api_answers_and_says_so_when_nothing_changed() {
    let admin = Running::new(|_| {}).await;
    for path in ["/", "/ui.js", "/ui.css", "/livez", "/readyz", "/startupz", "/metrics", "/api/v1/policy"] {
        let answer = admin.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{path}: {answer}");
    }
    let first = admin.get("/api/v1/health").await;
    assert!(first.contains("\"status\":\"healthy\""), "{first}");
    let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = format!(
        "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIf-None-Match: \"x\", {tag}\r\n\r\n"
    );
    assert!(admin.ask(&again).await.starts_with("HTTP/1.1 304 "));
    admin.parts.phase.send_replace(Phase::Draining);
    assert!(admin.ask(&again).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn transports_are_news_when_a_figure_changes_and_not_when_they_were_looked_at() {
    let admin = Running::new(|_| {}).await;
    let show = |rate| {
        let health = TransportHealth { message_rate: rate, ..TransportHealth::of(Kind::UnixSocket) };
        let (as_of, transports) = (Some(Timestamp::now()), vec![health]);
        let shown = Transports { as_of, transports, ..Transports::default() };
        admin.parts.transports.send_replace(Arc::new(shown));
    };
    show(1.5);
    let first = admin.get("/api/v1/transports").await;
    assert!(
        first.contains("\"transport\":\"unix-socket\"") && first.contains("\"message_rate\":1.5"),
        "{first}"
    );
    let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = format!(
        "GET /api/v1/transports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIf-None-Match: {tag}\r\n\r\n"
    );
    show(1.5);
    assert!(admin.ask(&again).await.starts_with("HTTP/1.1 304 "));
    show(2.5);
    assert!(admin.ask(&again).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn wrong_hosts_paths_and_methods_get_a_problem() {
    let admin = Running::new(|_| {}).await;
    let rebound =
        admin.ask("GET /api/v1/health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    assert!(!rebound.contains("components"), "{rebound}");
    let unknown = admin.get("/api/v1/nothing").await;
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    assert!(unknown.contains("application/problem+json") && unknown.contains("\"status\":404"), "{unknown}");
    let post =
        admin.ask("POST /livez HTTP/1.1\r\nHost: [::1]:1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert!(post.await.starts_with("HTTP/1.1 403 "), "a change is refused before anybody asks what it is");
}

#[tokio::test]
async fn a_change_passes_over_the_socket_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/admin.sock");
    let admin = Running::new(|config| config.socket_path = Some(path.clone())).await;
    let post =
        "POST /api/v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n";
    let refused = admin.ask(&format!("{post}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("admin.socket_path"), "{refused}");
    let over_socket = async |text: &str| over_socket(&path, text).await;
    assert!(over_socket(&format!("{post}\r\n")).await.starts_with("HTTP/1.1 404 "), "it reached the routes");
    let post_to_page = post.replace("/api/v1/nothing", "/livez");
    assert!(over_socket(&format!("{post_to_page}\r\n")).await.starts_with("HTTP/1.1 405 "));
    let led = over_socket(&format!("{post}Origin: http://evil.example\r\n\r\n")).await;
    assert!(led.starts_with("HTTP/1.1 403 ") && led.contains("origin"), "{led}");
    let get = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(over_socket(get).await.starts_with("HTTP/1.1 200 "));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_token_lets_its_role_change_something_over_the_network_and_no_more() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let tokens = [("reader", Role::Viewer), ("ops", Role::Operator), ("root", Role::Admin)]
        .map(|(name, role)| Minted::mint(name, role).unwrap());
    let lines = |tokens: &[Minted]| tokens.iter().flat_map(|token| [&*token.line, "\n"]).collect::<String>();
    fs::write(&file, lines(&tokens)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let admin = Running::new(|config| config.token_file = Some(file.clone())).await;
    let post = async |authorization: &str, resource: &str, body: &str| {
        let head = format!(
            "POST /api/v1/{resource} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}"
        );
        let media = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
        admin.ask(&format!("{head}{media}\r\n\r\n{body}")).await
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let [reader, ops, root] = tokens.each_ref().map(|minted| bearer(&minted.token));
    let deny = r#"{"target":"site:site-a","reason":"lost"}"#;
    for (authorization, status) in [
        ("", 403),
        (reader.as_str(), 403),
        (&bearer("daemoneye_0"), 401),
        ("Authorization: Basic cm9vdDp4\r\n", 401),
        (&format!("{ops}{root}"), 401),
        (&ops, 201),
    ] {
        let answer = post(authorization, "deny-list", deny).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{authorization}: {answer}");
        assert_eq!(answer.contains("\"actor\":\"token ops\""), status == 201, "{answer}");
        assert_eq!(answer.contains("www-authenticate: Bearer"), status == 401, "{answer}");
    }
    let forced = post(&ops, "reload", r#"{"force":true}"#).await;
    assert!(forced.starts_with("HTTP/1.1 403 ") && forced.contains("role admin"), "{forced}");
    // Nobody reloads here: it was let through.
    assert!(post(&root, "reload", r#"{"force":true}"#).await.starts_with("HTTP/1.1 503 "));
    let command = r#"{"site":"site-a","name":"procmond-1","payload":"eA==","hold_for":"1h"}"#;
    let refused = post(&ops, "commands", command).await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("role admin"), "{refused}");
    let held = post(&root, "commands", command).await;
    assert!(held.starts_with("HTTP/1.1 201 "), "{held}");
    let number: String =
        held.split("\"number\":").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    let cancelled = post(&ops, "commands/cancel", &format!("{{\"number\":{number}}}")).await;
    assert!(cancelled.starts_with("HTTP/1.1 200 "), "what is taken back does nothing: {cancelled}");
    let led = post(&format!("{root}Origin: http://evil.example\r\n"), "reload", "{}").await;
    assert!(led.starts_with("HTTP/1.1 403 "), "{led}");
    // Reading is open to this host, but not to who shows a wrong token.
    assert!(admin.get("/api/v1/health").await.starts_with("HTTP/1.1 200 "));
    let wrong = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n", bearer("x"));
    assert!(admin.ask(&wrong).await.starts_with("HTTP/1.1 401 "));

    fs::write(&file, lines(&tokens[2..])).unwrap();
    assert!(post(&ops, "deny-list", deny).await.starts_with("HTTP/1.1 401 "), "it was taken out");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(post(&root, "reload", "{}").await.starts_with("HTTP/1.1 503 "), "others can read the file");
    let config = Config { token_file: Some(file), socket_path: None, ..Config::default() };
    assert!(Admin::bind(config).await.unwrap_err().to_string().contains("chmod 600"));
}

#[tokio::test]
async fn a_flood_of_the_listener_does_not_lock_the_socket() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("run/admin.sock"), folder.path().join("tokens"));
    let ops = Minted::mint("ops", Role::Operator).unwrap();
    fs::write(&file, &ops.line).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let admin = Running::new(|config| {
        config.max_connections = 2.try_into().unwrap();
        (config.socket_path, config.token_file) = (Some(path.clone()), Some(file));
    })
    .await;
    // Requests whose bodies never come: as many as may be under way at once.
    let head = "POST /api/v1/deny-list HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n";
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut tcp = TcpStream::connect(admin.address).await.unwrap();
        tcp.write_all(format!("{head}Authorization: Bearer {}\r\n\r\n", ops.token).as_bytes()).await.unwrap();
        // It is asked for the body once somebody waits for that.
        let mut answer = [0; 12];
        tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        busy.push(tcp);
    }
    let get = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = over_socket(&path, get).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(busy.len(), 2, "they are there still");
}

/// Sends a request over the socket at `path`.
async fn over_socket(path: &Path, text: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_policy_says_why_it_decides_as_it_does() {
    let admin = Running::new(|_| {}).await;
    let ask = async |query: &str| admin.get(&format!("/api/v1/policy/explain?{query}")).await;
    let yes = ask("identity=site-a/x&verb=publish&topic=events.process.start").await;
    assert!(yes.starts_with("HTTP/1.1 200 ") && yes.contains("\"allowed\":true"), "{yes}");
    let no = ask("identity=site-a/x&verb=subscribe&topic=control.%23").await;
    assert!(no.contains("\"allowed\":false"), "{no}");
    for (wrong, status) in
        [("identity=x&verb=publish&topic=a", 422), ("identity=a/b&verb=eat&topic=a", 422), ("", 400)]
    {
        let told = ask(wrong).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")) && told.contains("problem+json"), "{told}");
    }
}

#[tokio::test]
async fn the_deny_list_is_changed_in_the_name_of_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/admin.sock");
    let admin = Running::new(|config| config.socket_path = Some(path.clone())).await;
    let post = async |resource: &str, body: &str| {
        let length = body.len();
        let head = format!("POST /api/v1/{resource} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        let media = "Content-Type: application/json";
        over_socket(&path, &format!("{head}\r\n{media}\r\nContent-Length: {length}\r\n\r\n{body}")).await
    };
    let added = post("deny-list", r#"{"target":"site:site-a","reason":"lost","for":"2h"}"#).await;
    assert!(added.starts_with("HTTP/1.1 201 ") && added.contains("\"actor\":\"uid "), "{added}");
    let listed = admin.get("/api/v1/deny-list").await;
    assert!(listed.contains("\"target\":\"site:site-a\"") && listed.contains("\"holds\":true"), "{listed}");
    assert!(listed.contains("etag: "), "{listed}");
    for (body, status, why) in [
        (r#"{"target":"host:x","reason":"y"}"#, 422, "identity:<site>/<name>"),
        (r#"{"target":"site:a","reason":""}"#, 422, "reason"),
        (r#"{"target":"site:a"}"#, 422, "reason"),
        (r#"{"target":"site:a","reason":"x","until":1}"#, 422, "until"),
        ("no json", 400, "JSON"),
    ] {
        let refused = post("deny-list", body).await;
        let (head, problem) = refused.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && problem.contains(why),
            "{body}: {refused}"
        );
        assert!(head.contains("application/problem+json"), "{refused}");
    }
    let removed = post("deny-list/remove", r#"{"target":"site:site-a"}"#).await;
    assert!(removed.starts_with("HTTP/1.1 200 ") && removed.contains("lost"), "{removed}");
    assert!(post("deny-list/remove", r#"{"target":"site:site-a"}"#).await.starts_with("HTTP/1.1 404 "));
    let nobody = post("reload", "{}").await;
    assert!(nobody.starts_with("HTTP/1.1 503 "), "{nobody}");
}

#[tokio::test]
async fn who_is_silent_is_sent_away_and_does_not_keep_others_out() {
    let admin = Running::new(|config| {
        config.max_connections = 1.try_into().unwrap();
        config.request_timeout = Duration::from_millis(100);
    })
    .await;
    let mut silent = TcpStream::connect(admin.address).await.unwrap();
    silent.write_all(b"GET /livez HT").await.unwrap();
    let served = admin.get("/livez").await;
    assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
}

#[tokio::test]
async fn the_probe_listener_serves_probes_to_any_host_and_nothing_else() {
    let config = Config {
        bind_address: "127.0.0.1:0".parse().unwrap(),
        probe_address: Some("127.0.0.1:0".parse().unwrap()),
        socket_path: None,
        ..Config::default()
    };
    let admin = Admin::bind(config).await.unwrap();
    let address = admin.probe_address().unwrap();
    let (parts, life) = (Parts::well(), Lifecycle::new());
    let (commands, folder) = commands();
    life.leash().spawn(admin.run(life.leash(), parts.snapshots(), Metrics::default().exporter(), commands));
    let probes = Running { parts, life, address, _folder: folder };
    let ready = "GET /readyz HTTP/1.1\r\nHost: 10.0.0.7:8081\r\nConnection: close\r\n\r\n";
    assert!(probes.ask(ready).await.starts_with("HTTP/1.1 200 "));
    for path in ["/metrics", "/api/v1/health", "/"] {
        assert!(probes.get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let mut silent = Vec::new();
    for _ in 0..Config::default().max_connections.get() {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = time::timeout(Duration::from_secs(1), probes.ask(ready)).await;
    assert!(answer.expect("a probe waits for no stranger").starts_with("HTTP/1.1 200 "));
    drop(silent);
}

#[tokio::test]
async fn a_drain_ends_idle_connections_at_once() {
    let admin = Running::new(|_| {}).await;
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 512];
    assert!(idle.read(&mut answer).await.unwrap() > 0);
    let cut = admin.life.drain(Duration::from_secs(5), std::future::pending()).await;
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn readiness_follows_phase_and_bus_but_not_listeners() {
    let admin = Running::new(|_| {}).await;
    let held = HeldRoute {
        route: "events.#".to_owned(),
        since: Timestamp::now(),
        consumer: None,
        cause: "nobody subscribes to it".to_owned(),
    };
    admin.parts.bus.send_replace(Arc::new(BusView { held: vec![held], ..BusView::default() }));
    assert!(admin.get("/readyz").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(admin.parts.word("bus"), (Word::Degraded, true));
    let refused = HeldRoute {
        route: "events.#".to_owned(),
        since: Timestamp::now(),
        consumer: Some("engine".to_owned()),
        cause: "refused: code -32603, disk full".to_owned(),
    };
    admin.parts.bus.send_replace(Arc::new(BusView { held: vec![refused], ..BusView::default() }));
    let health = admin.get("/api/v1/health").await;
    let told = "consumer engine of `events.#` refused: code -32603, disk full";
    assert!(health.contains(told), "{health}");
    let down = Trouble { cause: "no such file".to_owned(), since: Timestamp::now() };
    admin.parts.bus.send_replace(Arc::new(BusView { down: Some(down), ..BusView::default() }));
    let unready = admin.get("/readyz").await;
    assert!(
        unready.starts_with("HTTP/1.1 503 ") && unready.contains("[-]bus failed: no such file"),
        "{unready}"
    );
    assert!(admin.get("/readyz?exclude=bus").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(admin.parts.word("bus"), (Word::Unhealthy, true));
    admin.parts.phase.send_replace(Phase::Draining);
    assert!(admin.get("/readyz?exclude=bus").await.starts_with("HTTP/1.1 503 "));
    assert!(admin.get("/livez").await.starts_with("HTTP/1.1 200 "));
    admin.parts.phase.send_replace(Phase::Starting);
    assert!(admin.get("/startupz").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn strangers_texts_are_json_strings_and_nothing_more() {
    let admin = Running::new(|_| {}).await;
    let nasty = "</script><img src=x onerror=alert(1)>\"\u{0}";
    let refusal = Refusal {
        first: Timestamp::now(),
        last: Timestamp::now(),
        count: 1,
        network: "192.0.2.0/24".to_owned(),
        address: "192.0.2.1".to_owned(),
        stage: "tls",
        reason: "unknown_issuer".to_owned(),
        detail: nasty.to_owned(),
        hint: String::new(),
        possession_proven: false,
        chain: Vec::new(),
    };
    admin.parts.refusals.send_replace(Arc::new(Refusals { total: 1, recent: vec![refusal] }));
    let answer = admin.get("/api/v1/refusals").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json") && head.contains("nosniff"), "{head}");
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(value.pointer("/recent/0/detail").unwrap(), nasty);
}

#[test]
fn a_certificate_is_told_of_before_it_expires_and_when_it_has() {
    let parts = Parts::well();
    let day = Duration::from_hours(24);
    let certificate = |role, before: u32, after: u32| Certificate {
        role,
        subject: "CN=gateway".to_owned(),
        issuer: String::new(),
        serial: String::new(),
        names: Vec::new(),
        not_before: Timestamp(SystemTime::now() - day * before),
        not_after: Timestamp(SystemTime::now() + day * after),
        spki_sha256: String::new(),
    };
    let of = |certificates| {
        let loaded = Some(Timestamp::now());
        parts.material.send_replace(Arc::new(Material { loaded, certificates, ..Material::default() }));
        parts.word("tls")
    };
    let at = |before, after| of(vec![certificate("server", before, after)]);
    assert_eq!(at(10, 300), (Word::Healthy, false));
    assert_eq!(at(300, 13), (Word::Degraded, true));
    assert_eq!(at(1, 7), (Word::Healthy, false));
    assert_eq!(at(9, 1), (Word::Degraded, true));
    let ready = || {
        health::readiness(&parts.snapshots())
            .iter()
            .all(|check| check.name != "tls" || check.failure.is_none())
    };
    assert!(ready(), "it still serves");
    assert_eq!(at(9, 0), (Word::Unhealthy, true));
    assert!(!ready(), "no collector would accept it");

    // A leaf that ends sooner hides no anchor that ends soon, and an old anchor beside others is no end.
    let [leaf, root] = [certificate("server", 0, 1), certificate("ca", 1000, 2)];
    assert_eq!(of(vec![leaf.clone(), root.clone()]), (Word::Degraded, true));
    let (old, other) = (certificate("ca", 1000, 0), certificate("ca", 10, 1000));
    assert_eq!(of(vec![leaf.clone(), old.clone(), other]), (Word::Degraded, true));
    assert_eq!(of(vec![leaf, root, old.clone()]), (Word::Degraded, true));
    assert_eq!(of(vec![old]), (Word::Unhealthy, true));
}

#[test]
fn a_revocation_list_that_is_stale_or_cannot_be_fetched_is_told_of() {
    let parts = Parts::well();
    let told = |status, unfetched| {
        let list = RevocationList {
            issuer: "CN=root".to_owned(),
            number: "01".to_owned(),
            this_update: Timestamp::now(),
            next_update: Timestamp::now(),
            entries: 0,
            source: "/root.crl".to_owned(),
            status,
        };
        let loaded = Some(Timestamp::now());
        parts.material.send_replace(Arc::new(Material {
            loaded,
            lists: vec![list],
            unfetched,
            ..Material::default()
        }));
        parts.word("tls")
    };
    assert_eq!(told("fresh", None), (Word::Healthy, false));
    assert_eq!(told("waiting", None), (Word::Healthy, false));
    assert_eq!(told("grace", None), (Word::Degraded, true));
    assert_eq!(told("stale", None), (Word::Degraded, true));
    let trouble = Trouble { cause: "the server answered 404".to_owned(), since: Timestamp::now() };
    assert_eq!(told("fresh", Some(trouble)), (Word::Degraded, true));
}

#[test]
fn a_list_of_sessions_that_is_no_longer_renewed_is_unresponsive() {
    let parts = Parts::well();
    assert_eq!(parts.word("session"), (Word::Healthy, false));
    let old = Timestamp(SystemTime::now() - Duration::from_mins(1));
    parts.collectors.send_replace(Arc::new(Collectors { as_of: Some(old), ..Collectors::default() }));
    assert_eq!(parts.word("session"), (Word::Unresponsive, true));
}
