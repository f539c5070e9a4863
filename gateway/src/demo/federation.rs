//! Sets up the federation of the demo: certificates, settings, processes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use daemoneye_bridge::{bus::PortError, topic::TopicError};
use futures_util::{StreamExt, future};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time;

use crate::{
    demo::{
        GATEWAY, LEAF, ask,
        child::{Child, ChildError},
        folder::{Folder, FolderError},
        report,
        screen::{TooLong, patiently},
    },
    pki::{self, Authority, FileError, PkiError},
};

/// The trust domain of the demo.
const TRUST_DOMAIN: &str = "demo.daemoneye.test";

/// Name of every leaf, within its site.
const BRIDGE: &str = "bridge-1";

/// Name of every collector, within its site.
const COLLECTOR: &str = "procmond-1";

/// A site of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) name: &'static str,
    /// For messages: which leaf.
    pub(super) leaf: &'static str,
}

/// The sites whose collectors may publish.
pub(super) const ALLOWED: [Site; 2] =
    [Site { name: "site-a", leaf: "leaf of site-a" }, Site { name: "site-b", leaf: "leaf of site-b" }];

/// The sites that must not get in: one that no rule of the policy mentions, and one whose certificate is of an authority
/// that the gateway does not know.
pub(super) const REFUSED: [Site; 2] = [STRANGER, IMPOSTOR];

const STRANGER: Site = Site { name: "site-c", leaf: "leaf of site-c" };

const IMPOSTOR: Site = Site { name: "site-d", leaf: "leaf of site-d" };

impl Site {
    /// Every one, the allowed first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        ALLOWED.into_iter().chain(REFUSED)
    }
}

impl Site {
    /// Its collector, as `<site>/<name>`.
    pub(super) fn collector(self) -> String {
        format!("{}/{COLLECTOR}", self.name)
    }
}

const POLICY: &str = r#"# The collectors of two sites may publish process events, through the leaf of their site.
[[role]]
name = "bridge"
match = { identity = "bridge-*", site = ["site-a", "site-b"] }
speaks_for = ["procmond-*"]
publish = ["events.process.#"]
events_per_second = 100000
bytes_per_second = "64 MiB"
connections = 1
"#;

/// Where the gateway listens, as it tells its parent.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Addresses {
    pub(super) collectors: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// Tells the parent where the gateway listens.
pub fn announce(collectors: SocketAddr, admin: SocketAddr) {
    // If nobody listens, the end of standard input will say so.
    drop(report::line(&Addresses { collectors, admin }));
}

/// Makes the certificates of all: a root, an authority below it, the gateway and three leaves, and one leaf's of elsewhere.
pub(super) fn make_certificates(folder: &Folder) -> Result<(), DemoError> {
    let tls = folder.tls();
    let root = Authority::root("Demo root")?;
    let authority = root.intermediate("Demo issuer")?;
    pki::write_authority(&tls, "ca", &root)?;
    let gateway = pki::Leaf::server("gateway").dns("localhost").ip(Ipv4Addr::LOCALHOST.into());
    pki::write_certificate(&tls, "gateway", &authority.issue(&gateway)?)?;
    let elsewhere = Authority::root("Another root")?;
    for site in Site::all() {
        let issuer = if site == IMPOSTOR { &elsewhere } else { &authority };
        let leaf = issuer.issue(&pki::Leaf::collector(TRUST_DOMAIN, site.name, BRIDGE))?;
        pki::write_certificate(&tls, site.name, &leaf)?;
    }
    Ok(())
}

fn tls_files(folder: &Folder, stem: &str) -> serde_json::Value {
    let tls = folder.tls();
    json!({
        "cert_file": tls.join(format!("{stem}.crt")),
        "key_file": tls.join(format!("{stem}.key")),
        "ca_file": tls.join("ca.crt"),
    })
}

/// Starts the gateway and waits until it is ready.
pub(super) async fn start_gateway(folder: &Folder) -> Result<(Child, Addresses), DemoError> {
    let policy = folder.settings("policy");
    std::fs::write(&policy, POLICY).map_err(|source| FolderError::Write { path: policy.clone(), source })?;
    // A port that is free now; the gateway tells which.
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = folder.write_settings(
        "gateway",
        &json!({
            "tcp": { "bind_address": any, "tls_config": tls_files(folder, "gateway") },
            "identity": { "trust_domain": TRUST_DOMAIN },
            "policy": { "file": policy },
            "bus": { "broker": "embedded" },
            "unix_socket": { "socket_path": folder.socket() },
            "state": { "directory": folder.path().join("state") },
            "admin": { "bind_address": any, "socket_path": "" },
            // Its leaves are gone by then.
            "drain": { "announce": "0s", "spread": "1s", "deadline": "10s" },
        }),
    )?;
    let args = [GATEWAY.as_ref(), settings.as_os_str()];
    let mut gateway = Child::start("gateway", args, &folder.log("gateway"))?;
    let mut told = gateway.reports::<Addresses>();
    let ready = async {
        let Some(addresses) = told.next().await else { return future::pending().await };
        while !ask::is_ready(addresses.admin).await {
            time::sleep(Duration::from_millis(20)).await;
        }
        addresses
    };
    let ready = patiently("the gateway", Duration::from_secs(30), ready);
    tokio::select! {
        biased;
        error = gateway.ended() => Err(error.into()),
        ready = ready => ready.map(|addresses| (gateway, addresses)).map_err(Into::into),
    }
}

/// Starts a leaf with its collector.
pub(super) fn start_leaf(folder: &Folder, site: Site, addresses: Addresses) -> Result<Child, DemoError> {
    let settings = folder.write_settings(
        site.name,
        &json!({
            "uplink": {
                "gateways": [addresses.collectors.to_string()],
                "server_names": ["localhost"],
                "tls_config": tls_files(folder, site.name),
            },
            "unix_socket": { "enabled": false },
            "health": { "enabled": false },
            // Each event keeps the name of the collector that published it.
            "forward": { "patterns": ["events.process.#"], "speak_for": true },
            // What a refused one holds will never be sent.
            "drain": { "deadline": if REFUSED.contains(&site) { "1s" } else { "10s" } },
            "spool": { "directory": folder.path().join(format!("spool-{}", site.name)) },
        }),
    )?;
    let args = [LEAF.as_ref(), settings.as_os_str(), site.name.as_ref(), COLLECTOR.as_ref()];
    Ok(Child::start(site.leaf, args, &folder.log(site.name))?)
}

/// Why a demo did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The bus ended under its subscriber.
    #[error("the gateway's bus went away")]
    BusGone,
    /// The settings of the bus client.
    #[error("could not make the settings of the bus client")]
    BusSettings(#[source] serde_json::Error),
    /// A process.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A certificate could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Ctrl-C, before there was something to count.
    #[error("interrupted")]
    Interrupted,
    /// A name on the bus.
    #[error("could not name the bus client")]
    Name(#[source] TopicError),
    /// The short-lived processes.
    #[error("could not prepare short-lived processes")]
    Naps(#[source] io::Error),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Signals cannot be obeyed.
    #[error("could not listen for signals")]
    Signals(#[source] io::Error),
    /// The bus did not take the subscription.
    #[error("could not subscribe on the gateway's bus")]
    Subscribe(#[from] PortError),
    /// Something did not happen in time.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}
