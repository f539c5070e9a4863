//! Whole gateways in this process, on ports of their own, with real certificates.

use std::{fs, future::pending, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use daemoneye_bridge::{
    settings::{self, Chain},
    trust::{Files, Floor, Material, Role, ServerNames},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

use crate::{
    app::{Addresses, Gateway, Outcome},
    config::Config,
    pki::{self, Authority, Leaf, Validity},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Certificates, a policy and settings in a folder.
struct Site {
    folder: TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::root("Root").unwrap();
        let site = Self { folder, authority };
        site.issue(&Leaf::server("gateway").dns("localhost"));
        pki::write_authority(&site.path("tls"), "ca", &site.authority).unwrap();
        let policy = "[[role]]\nname = \"all\"\nmatch = { identity = \"*\" }\npublish = [\"events.#\"]\n";
        fs::write(site.path("policy.toml"), policy).unwrap();
        site
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn issue(&self, server: &Leaf) {
        pki::write_certificate(&self.path("tls"), "tls", &self.authority.issue(server).unwrap()).unwrap();
    }

    fn config(&self) -> Config {
        let text = r#"
            [tcp]
            bind_address = "127.0.0.1:0"
            [tcp.tls_config]
            cert_file = "@/tls/tls.crt"
            key_file = "@/tls/tls.key"
            ca_file = "@/tls/ca.crt"
            [identity]
            trust_domain = "test.internal"
            [policy]
            file = "@/policy.toml"
            [unix_socket]
            socket_path = "@/run/bus.sock"
            [state]
            directory = "@/state"
            [admin]
            bind_address = "127.0.0.1:0"
            socket_path = "@/run/admin.sock"
            [drain]
            announce = "0s"
            spread = "0s"
            deadline = "3s"
        "#;
        settings::parse(&text.replace('@', self.folder.path().to_str().unwrap()), "test").unwrap()
    }

    async fn run(&self) -> Running {
        Running::begin(Gateway::bind(self.config()).await.unwrap())
    }

    /// What cannot be had, in one line.
    async fn refused(&self, adjust: impl FnOnce(&mut Config)) -> (String, bool) {
        let mut config = self.config();
        adjust(&mut config);
        let error = Gateway::bind(config).await.unwrap_err();
        (Chain(&error).to_string(), error.is_of_configuration())
    }

    async fn dial(&self, to: SocketAddr) -> HealthClient<Channel> {
        let own = self.authority.issue(&Leaf::collector("test.internal", "site-a", "procmond-1")).unwrap();
        let own = pki::write_certificate(&self.path("peer"), "peer", &own).unwrap();
        let files = Files { cert_file: own.certificate, key_file: own.key, ca_file: self.path("tls/ca.crt") };
        let material = Arc::new(Material::load(&files, Role::Client).unwrap());
        let config = material.client_config(&[b"h2"], Floor::Tls12, &ServerNames::default());
        let connector = TlsConnector::from(Arc::new(config));
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let tcp = TcpStream::connect(to).await?;
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                connector.connect(name, tcp).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        HealthClient::new(endpoint.connect_with_connector(connect).await.unwrap())
    }
}

/// A gateway at work.
struct Running {
    addresses: Addresses,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Outcome>,
}

impl Running {
    fn begin(gateway: Gateway) -> Self {
        let addresses = gateway.addresses().clone();
        let (stop, stopped) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "the test owns it and waits for its end")]
        let task =
            tokio::spawn(async move { gateway.run(async { stopped.await.unwrap() }, pending()).await });
        Self { addresses, stop, task }
    }

    /// Waits until what is at `path` says `told`.
    async fn eventually(&self, path: &str, told: &str) {
        let shown = async {
            while !self.get(path).await.contains(told) {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        time::timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("{path} does not say {told}"));
    }

    async fn get(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.addresses.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        time::timeout(PATIENCE, tcp.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    /// Tells it to stop, and waits for its end.
    async fn stop(self) -> (Outcome, Duration) {
        let begun = Instant::now();
        self.stop.send(()).unwrap();
        let outcome = time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        (outcome, begun.elapsed())
    }
}

#[tokio::test]
async fn a_running_gateway_is_ready_and_leaves_its_places_free() {
    let site = Site::new();
    let gateway = site.run().await;
    assert!(gateway.get("/readyz").await.starts_with("HTTP/1.1 200 "));
    let health = gateway.get("/api/v1/health").await;
    assert!(health.contains("\"phase\":\"serving\""), "{health}");
    let metrics = gateway.get("/metrics").await;
    for name in [
        "daemoneye_gateway_build_info",
        "daemoneye_gateway_lifecycle_phase{phase=\"serving\"} 1",
        "daemoneye_gateway_bus_link_up 1",
        "daemoneye_gateway_listener_connections_total 0",
        "daemoneye_gateway_tls_handshakes_total{outcome=\"refused\"} 0",
        "daemoneye_gateway_state_flushes_total{outcome=\"done\"}",
        "daemoneye_gateway_identity_refusals_total",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(name), "no {name} in\n{metrics}");
    }
    // A check takes nothing that a running gateway has.
    assert_eq!(Gateway::check(&site.config()).unwrap().roles, ["all"]);
    let socket = gateway.addresses.bus.clone().unwrap();
    assert!(socket.exists());
    let (outcome, took) = gateway.stop().await;
    assert!(outcome.is_clean() && took < Duration::from_secs(2), "{outcome:?} after {took:?}");
    assert!(!socket.exists());
    let again = site.run().await;
    assert!(again.stop().await.0.is_clean());
}

#[tokio::test]
async fn a_peer_is_told_over_grpc_and_cannot_hold_up_the_end() {
    let site = Site::new();
    let gateway = site.run().await;
    let mut client = site.dial(gateway.addresses.collectors).await;
    let service = daemoneye_proto::v1::federation_server::SERVICE_NAME.to_owned();
    let checked = client.check(HealthCheckRequest { service: service.clone() }).await.unwrap().into_inner();
    assert_eq!(checked.status, ServingStatus::Serving as i32);
    let mut watch = client.watch(HealthCheckRequest { service }).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let (outcome, took) = gateway.stop().await;
    // Told that the gateway goes, or let go of; never left to hang.
    while let Ok(Some(told)) = watch.message().await {
        assert_ne!(told.status, ServingStatus::Serving as i32);
    }
    assert!(outcome.is_clean() && took < Duration::from_secs(3), "{outcome:?} after {took:?}");
}

#[tokio::test]
async fn a_stranger_who_says_nothing_does_not_hold_up_the_end() {
    let site = Site::new();
    let gateway = site.run().await;
    let silent = TcpStream::connect(gateway.addresses.collectors).await.unwrap();
    let (outcome, took) = gateway.stop().await;
    assert!(outcome.is_clean() && took < Duration::from_secs(2), "{outcome:?} after {took:?}");
    drop(silent);
}

#[tokio::test]
async fn a_second_word_ends_it_at_once() {
    let site = Site::new();
    let mut config = site.config();
    config.drain.announce = Duration::from_mins(1);
    config.drain.deadline = Duration::from_mins(2);
    let gateway = Gateway::bind(config).await.unwrap();
    let begun = Instant::now();
    let outcome = gateway.run(async {}, async {}).await;
    assert!(begun.elapsed() < Duration::from_secs(5) && outcome.saved, "{outcome:?}");
}

#[tokio::test]
async fn what_cannot_be_had_is_named_with_a_remedy() {
    let site = Site::new();
    let running = site.run().await;
    let (busy, of_configuration) =
        site.refused(|config| config.tcp.listener.bind_address = running.addresses.collectors).await;
    assert!(busy.contains("the port is in use") && !of_configuration, "{busy}");
    let (busy, _) = site.refused(|config| config.admin.bind_address = running.addresses.admin).await;
    assert!(busy.contains(&running.addresses.admin.to_string()), "{busy}");
    let (busy, _) = site.refused(|_| {}).await;
    assert!(busy.contains("admin.socket_path") && busy.contains("admin.sock is in use"), "{busy}");
    let (state, _) = site.refused(|config| config.admin.socket_path = None).await;
    assert!(state.contains(site.path("state").to_str().unwrap()), "{state}");
    assert!(running.stop().await.0.is_clean());

    let (policy, of_configuration) = site.refused(|config| config.policy.file = site.path("none.toml")).await;
    assert!(policy.contains("none.toml") && of_configuration, "{policy}");
    fs::write(site.path("policy.toml"), "").unwrap();
    let (nobody, _) = site.refused(|_| {}).await;
    assert!(nobody.contains("policy.toml"), "{nobody}");
}

#[tokio::test]
async fn certificates_of_no_use_are_named_before_anything_is_taken() {
    let site = Site::new();
    let key = site.path("tls/tls.key");
    let other = site.authority.issue(&Leaf::server("other")).unwrap();
    fs::write(&key, other.key_pem()).unwrap();
    let (mismatch, of_configuration) = site.refused(|_| {}).await;
    assert!(mismatch.contains("tls.key") && of_configuration, "{mismatch}");
    fs::remove_file(&key).unwrap();
    let (missing, _) = site.refused(|_| {}).await;
    assert!(missing.contains("tls.key"), "{missing}");
    site.issue(&Leaf::server("gateway").validity(Validity::expired()));
    let (expired, _) = site.refused(|_| {}).await;
    assert!(expired.contains("expired"), "{expired}");
    assert!(Gateway::check(&site.config()).is_err());
    assert!(!site.path("state").exists() && !site.path("run").exists());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_and_shown() {
    let site = Site::new();
    let gateway = site.run().await;
    let mut tcp = TcpStream::connect(gateway.addresses.collectors).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // The connection ends, with an alert or without.
    drop(time::timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await.unwrap());
    gateway.eventually("/api/v1/refusals", "\"total\":1").await;
    assert!(gateway.stop().await.0.is_clean());
}

#[tokio::test]
async fn a_peer_without_a_role_is_shown_with_what_it_proved() {
    let site = Site::new();
    let policy =
        "[[role]]\nname = \"b\"\nmatch = { identity = \"*\", site = \"site-b\" }\npublish = [\"events.#\"]\n";
    fs::write(site.path("policy.toml"), policy).unwrap();
    let gateway = site.run().await;
    // Health is for everybody with a name.
    let mut client = site.dial(gateway.addresses.collectors).await;
    client.check(HealthCheckRequest::default()).await.unwrap();
    let shown = async {
        loop {
            let answer = gateway.get("/api/v1/refusals").await;
            if answer.contains("\"total\":1") {
                break answer;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let shown = time::timeout(PATIENCE, shown).await.unwrap();
    for told in ["\"no_role\"", "site-a/procmond-1", "\"possession_proven\":true", "\"spki_sha256\":\""] {
        assert!(shown.contains(told), "{shown}");
    }
    assert!(gateway.stop().await.0.is_clean());
}

#[tokio::test]
async fn a_policy_that_changes_while_the_gateway_starts_is_put_in_force() {
    let site = Site::new();
    let gateway = Gateway::bind(site.config()).await.unwrap();
    let policy = "[[role]]\nname = \"later\"\nmatch = { identity = \"*\" }\npublish = [\"events.#\"]\n";
    fs::write(site.path("policy.toml"), policy).unwrap();
    let gateway = Running::begin(gateway);
    gateway.eventually("/api/v1/policy", "\"later\"").await;
    assert!(gateway.stop().await.0.is_clean());
}

#[tokio::test]
async fn an_audit_that_is_gone_is_told_in_health_until_it_is_back() {
    let site = Site::new();
    let gateway = site.run().await;
    let (audit, aside) = (site.path("state/audit.jsonl"), site.path("aside"));
    fs::rename(&audit, &aside).unwrap();
    let told = format!("changes cannot be recorded: audit {} was deleted or replaced", audit.display());
    gateway.eventually("/api/v1/health", &told).await;
    assert!(gateway.get("/api/v1/health").await.contains("\"status\":\"degraded\""));
    assert!(gateway.get("/readyz").await.starts_with("HTTP/1.1 200 "), "collectors need no audit");
    fs::rename(&aside, &audit).unwrap();
    gateway.eventually("/api/v1/health", "changes are recorded").await;
    assert!(gateway.stop().await.0.is_clean());
}
