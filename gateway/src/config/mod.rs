//! The gateway's settings: one field per stage, each the stage's own `Config`.
//!
//! Kept true: a [`Config`] that exists can be used as it stands; what concerns one stage is judged by that stage, and only
//! what concerns two is judged here. Everything but certificates and policy is fixed for the life of the process.

use std::path::Path;

use daemoneye_bridge::{
    bus::{Broker, door, embedded},
    settings::{self, SettingsError},
};
use serde::Deserialize;

use crate::{admin, bus, identity, ingress, policy, session, state, telemetry::log, upstream};

mod drain;

#[cfg(test)]
mod tests;

pub use drain::Drain;

/// The prefix of environment variables that override the file.
const PREFIX: &str = "DAEMONEYE_GATEWAY";

/// Settings of the gateway; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// The way in: `[tcp]` and `[tcp.tls_config]`.
    pub tcp: ingress::Config,
    /// Who a peer is: `[identity]`.
    pub identity: identity::Config,
    /// Conversations: `[session]` and `[session.http2]`.
    pub session: session::Config,
    /// Who may do what: `[policy]`.
    pub policy: policy::Config,
    /// The local bus: `[bus]`, `[[bus.route]]` and `[bus.foreign]`.
    pub bus: bus::Config,
    /// The gateway above, if there is one: `[upstream]`, `[upstream.spool]`, `[upstream.uplink]`.
    pub upstream: Option<upstream::Config>,
    /// The embedded broker: `[in_process]`.
    pub in_process: embedded::Config,
    /// The embedded broker's door for local clients: `[unix_socket]`.
    pub unix_socket: door::Config,
    /// What outlives a restart: `[state]`.
    pub state: state::Config,
    /// The window for operators: `[admin]`.
    pub admin: admin::Config,
    /// How it goes away: `[drain]`.
    pub drain: Drain,
    /// The log: `[log]`.
    pub log: log::Config,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    tcp: ingress::Config,
    identity: identity::Config,
    session: session::Config,
    policy: policy::Config,
    bus: bus::Config,
    upstream: Option<upstream::Config>,
    in_process: embedded::Config,
    unix_socket: door::Config,
    state: state::Config,
    admin: admin::Config,
    drain: Drain,
    log: log::Config,
}

impl Config {
    /// Reads `file` and the environment.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] names the place, the key, the value and the remedy, in one line.
    pub fn load(file: &Path) -> Result<Self, SettingsError> {
        settings::load(Some(file), PREFIX)
    }
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(mut file: File) -> Result<Self, ConfigError> {
        if let Some(upstream) = &file.upstream {
            file.bus.routes = file.bus.routes.relayed(&upstream.patterns);
        }
        if file.bus.broker == Broker::Embedded && !file.in_process.enabled {
            return Err(ConfigError::NoBroker);
        }
        let collectors = file.tcp.listener.bind_address;
        for (key, address) in [
            ("admin.bind_address", Some(file.admin.bind_address)),
            ("admin.probe_address", file.admin.probe_address),
        ] {
            if address.is_some_and(|address| address == collectors && address.port() != 0) {
                return Err(ConfigError::SamePort { key, address: collectors });
            }
        }
        Ok(Self {
            tcp: file.tcp,
            identity: file.identity,
            session: file.session,
            policy: file.policy,
            bus: file.bus,
            upstream: file.upstream,
            in_process: file.in_process,
            unix_socket: file.unix_socket,
            state: file.state,
            admin: file.admin,
            drain: file.drain,
            log: file.log,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults fit together")
    }
}

/// Sections that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No broker at all.
    #[error(
        "in_process.enabled = false leaves bus.broker = \"embedded\" without a broker; \
         enable it, or set bus.broker = \"foreign\" and [bus.foreign]"
    )]
    NoBroker,
    /// Two listeners at one place.
    #[error("{key} = \"{address}\" is tcp.bind_address too; choose another port for one of them")]
    SamePort {
        /// The other key.
        key: &'static str,
        /// The address of both.
        address: std::net::SocketAddr,
    },
}
