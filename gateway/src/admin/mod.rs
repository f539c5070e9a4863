//! The window for operators: probes, metrics, a JSON API and a page that shows it.
//!
//! Turns [`snapshot`](crate::snapshot)s into HTTP answers on a listener of its own, never on the federation port. It holds
//! receiving ends, and [`Commands`] by which the owners of state are asked for a change: no request reaches a lock, a queue
//! or a task of the data path.
//!
//! Kept true: a stranger gets nothing (loopback only, `Host` is checked against DNS rebinding, and `Origin` too); changes
//! come over the UNIX socket, whose other end the kernel names, or with a token; nobody can hold it up (connections, requests, bodies
//! and times are bounded); liveness depends on nobody else.

use std::{collections::BTreeSet, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use daemoneye_bridge::bus::door::PATH_BYTES;
use serde::Deserialize;

mod api;

mod caller;

mod certificates;

mod command;

mod commands;

mod guard;

mod health;

mod pages;

mod policy;

mod probes;

mod problem;

mod server;

mod socket;

pub mod token;

mod ui;

#[cfg(test)]
mod tests;

pub use command::{Commands, Outcome, Reload, Reloaded, What};
pub use server::{Admin, BindError};

/// Settings of the admin listener; every value is usable as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where it listens; a loopback address.
    pub bind_address: SocketAddr,
    /// Names besides loopback addresses and `localhost` that a request may be sent to.
    pub allowed_hosts: BTreeSet<String>,
    /// Connections at once.
    pub max_connections: NonZeroUsize,
    /// Longest a request may take, from its first byte to the end of its answer.
    pub request_timeout: Duration,
    /// Where `/livez`, `/readyz` and `/startupz` are served as well, and nothing else; nowhere if `None`.
    pub probe_address: Option<SocketAddr>,
    /// The UNIX socket over which changes come; none if `None`.
    pub socket_path: Option<PathBuf>,
    /// Tokens with which changes may come over the network; none if `None`.
    pub token_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let file = File::default();
        Self {
            bind_address: file.bind_address,
            allowed_hosts: file.allowed_hosts,
            max_connections: file.max_connections,
            request_timeout: file.request_timeout,
            probe_address: file.probe_address,
            socket_path: Some(file.socket_path),
            token_file: None,
        }
    }
}

/// What a configuration file may say.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys that operators know")]
struct File {
    /// Loopback address and port. Default: `127.0.0.1:9090`.
    bind_address: SocketAddr,
    /// Host names, without port. Default: none.
    allowed_hosts: BTreeSet<String>,
    /// 1 to 4,096. Default: 64.
    max_connections: NonZeroUsize,
    /// 100 ms to 1 min. Default: 10 s.
    #[serde(with = "humantime_serde")]
    request_timeout: Duration,
    /// Any address and port. Default: none.
    probe_address: Option<SocketAddr>,
    /// File of tokens, readable by its owner alone, as `daemoneye-cli token new` makes it. Empty: none, and no changes over the
    /// network. Default: empty.
    token_file: PathBuf,
    /// At most 107 bytes; empty: no socket. Default: `/var/run/daemoneye/admin.sock`.
    socket_path: PathBuf,
}

impl Default for File {
    fn default() -> Self {
        Self {
            bind_address: SocketAddr::from(([127, 0, 0, 1], 9090)),
            allowed_hosts: BTreeSet::new(),
            max_connections: NonZeroUsize::new(64).expect("64 is not zero"),
            request_timeout: Duration::from_secs(10),
            probe_address: None,
            token_file: PathBuf::new(),
            socket_path: PathBuf::from("/var/run/daemoneye/admin.sock"),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, Self::Error> {
        if !file.bind_address.ip().to_canonical().is_loopback() {
            return Err(ConfigError::OffLoopback(file.bind_address));
        }
        if file.max_connections.get() > 4096 {
            return Err(ConfigError::Connections(file.max_connections.get()));
        }
        if !(Duration::from_millis(100)..=Duration::from_mins(1)).contains(&file.request_timeout) {
            return Err(ConfigError::Timeout(file.request_timeout));
        }
        if let Some(host) = file.allowed_hosts.iter().find(|host| !guard::is_host_name(host)) {
            return Err(ConfigError::Host(host.clone()));
        }
        let length = file.socket_path.as_os_str().len();
        if length > PATH_BYTES {
            return Err(ConfigError::Socket { path: file.socket_path, length });
        }
        Ok(Self {
            bind_address: file.bind_address,
            allowed_hosts: file.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            max_connections: file.max_connections,
            request_timeout: file.request_timeout,
            probe_address: file.probe_address,
            socket_path: Some(file.socket_path).filter(|path| !path.as_os_str().is_empty()),
            token_file: Some(file.token_file).filter(|path| !path.as_os_str().is_empty()),
        })
    }
}

/// Settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too many connections.
    #[error("max_connections = {0} is over the limit; use 1 to 4096")]
    Connections(usize),
    /// Not a host name.
    #[error("allowed_hosts holds `{0}`, which is no host name; write names without scheme, port or path")]
    Host(String),
    /// Not a loopback address.
    #[error(
        "bind_address = \"{0}\" needs TLS and authentication, which the admin listener does not have; \
         use 127.0.0.1 or [::1] and a tunnel, and probe_address for probes from elsewhere"
    )]
    OffLoopback(SocketAddr),
    /// A path that the operating system does not take.
    #[error("socket_path = \"{}\" has {length} bytes; at most 107 are possible", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// How long.
        length: usize,
    },
    /// Too short or too long.
    #[error("request_timeout = \"{0:?}\" is out of bounds; use 100ms to 1m")]
    Timeout(Duration),
}

#[cfg(test)]
mod config_tests {
    use super::*;

    fn parse(toml: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(toml)
    }

    #[test]
    fn only_loopback_may_be_bound() {
        for fine in ["127.0.0.1:1", "[::1]:0", "127.8.9.1:9090", "[::ffff:127.0.0.1]:9090"] {
            assert!(parse(&format!("bind_address = \"{fine}\"")).is_ok(), "{fine}");
        }
        for open in ["0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090"] {
            let refused = parse(&format!("bind_address = \"{open}\"")).unwrap_err().to_string();
            assert!(refused.contains("needs TLS and authentication"), "{refused}");
        }
    }

    #[test]
    fn bounds_hold_and_hosts_are_names() {
        assert!(parse("max_connections = 0").is_err());
        assert!(parse("max_connections = 5000").is_err());
        assert!(parse("request_timeout = \"2m\"").is_err());
        assert!(parse(&format!("socket_path = \"/{}\"", "x".repeat(107))).is_err());
        assert_eq!(parse("socket_path = \"\"").unwrap().socket_path, None);
        assert!(parse("allowed_hosts = [\"http://gateway\"]").is_err());
        assert!(
            parse("allowed_hosts = [\"Gateway.example\"]").unwrap().allowed_hosts.contains("gateway.example")
        );
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
    }
}
