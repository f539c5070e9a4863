//! A gateway for one trial: the real one, in this process, with certificates, policy and state in a temporary folder.

use std::{
    fs, future,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use daemoneye_bridge::{
    bus::Bus,
    lifecycle::Lifecycle,
    settings,
    topic::Topic,
    trust,
    uplink::{self, Gateway as Remote},
};
use daemoneye_gateway::{
    app::Gateway,
    config::Config,
    pki::{self, Authority, Leaf},
    trial::Dial,
};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A running gateway of which nothing stays.
pub(super) struct Throwaway {
    folder: TempDir,
    life: Lifecycle,
    stop: CancellationToken,
    bus: Arc<dyn Bus>,
    at: Remote,
    connections: usize,
}

const TRUST_DOMAIN: &str = "transport-test.invalid";

/// What every collector of the trial publishes to.
const TOPIC: &str = "events.transport.test";

/// Starts a gateway for so many connections, each with a certificate of its own.
///
/// # Errors
///
/// No folder, no port.
pub(super) async fn start(connections: usize) -> anyhow::Result<Throwaway> {
    let folder = TempDir::with_prefix("daemoneye-").context("could not make a temporary folder")?;
    make_certificates(folder.path(), connections)?;
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, POLICY).context("could not write a policy into the temporary folder")?;
    let settings =
        toml::to_string(&settings(folder.path(), connections)).context("could not write settings")?;
    // Not from a file: what the environment says is meant for another gateway.
    let config: Config = settings::parse(&settings, "the throw-away gateway's settings")?;
    let gateway = Gateway::bind(config).await.context("could not start a throw-away gateway")?;
    let at = gateway.addresses().collectors.to_string().parse()?;
    let (bus, life, stop) = (gateway.bus(), Lifecycle::new(), CancellationToken::new());
    let stopped = stop.clone();
    life.leash().spawn(async move {
        let _outcome = gateway.run(stopped.cancelled(), future::pending()).await;
    });
    Ok(Throwaway { folder, life, stop, bus, at, connections })
}

impl Throwaway {
    /// The way to it.
    pub(super) fn dial(&self) -> Dial {
        let tls = self.folder.path().join("tls");
        let uplink = |number: usize| {
            let file = |kind: &str| tls.join(format!("{}.{kind}", name(number)));
            let files =
                trust::Files { cert_file: file("crt"), key_file: file("key"), ca_file: tls.join("ca.crt") };
            uplink::Config::new(vec![self.at.clone()], files)
        };
        Dial {
            uplinks: (0..self.connections).map(uplink).collect(),
            topic: Topic::parse(TOPIC).ok(),
            bus: Some(Arc::clone(&self.bus)),
            place: format!("a throw-away gateway at {}", self.at),
        }
    }

    /// Ends it.
    pub(super) async fn end(self) {
        self.stop.cancel();
        drop(self.bus);
        let _cut = self.life.drain(GOODBYE, future::pending()).await;
    }
}

const GOODBYE: Duration = Duration::from_secs(10);

fn name(number: usize) -> String {
    format!("probe-{number}")
}

fn make_certificates(folder: &Path, connections: usize) -> anyhow::Result<()> {
    let tls = folder.join("tls");
    let root = Authority::root("Throw-away root")?;
    let issuer = root.intermediate("Throw-away issuer")?;
    pki::write_authority(&tls, "ca", &root)?;
    let server = Leaf::server("gateway").dns("localhost").ip(Ipv4Addr::LOCALHOST.into());
    pki::write_certificate(&tls, "gateway", &issuer.issue(&server)?)?;
    for number in 0..connections {
        let name = name(number);
        let collector = issuer.issue(&Leaf::collector(TRUST_DOMAIN, "trial", &name))?;
        pki::write_certificate(&tls, &name, &collector)?;
    }
    Ok(())
}

const POLICY: &str = r#"
[[role]]
name = "probe"
match = { identity = "probe-*" }
publish = ["events.transport.test"]
events_per_second = 10000000
bytes_per_second = "4095 MiB"
max_message = "1 MiB"
"#;

fn settings(folder: &Path, connections: usize) -> serde_json::Value {
    // A port that is free now.
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tls = folder.join("tls");
    json!({
        "tcp": {
            "bind_address": any,
            "max_connections": connections.saturating_add(1),
            "tls_config": {
                "cert_file": tls.join("gateway.crt"),
                "key_file": tls.join("gateway.key"),
                "ca_file": tls.join("ca.crt"),
            },
        },
        "identity": { "trust_domain": TRUST_DOMAIN },
        "policy": { "file": folder.join("policy.toml") },
        "unix_socket": { "enabled": false },
        "state": { "directory": folder.join("state") },
        "admin": { "bind_address": any, "socket_path": "" },
        "drain": { "announce": "0s", "spread": "1s", "deadline": "5s" },
    })
}
