//! The section `[tcp]`: what the seed put under one head belongs to two stages.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use serde::Deserialize;

use crate::{listener, tls};

/// Settings of the way in; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// The socket.
    pub listener: listener::Config,
    /// The handshake.
    pub tls: tls::Config,
    /// How long a connection may take to prove who it is.
    pub connection_timeout: Duration,
}

/// The section `[tcp]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Address and port to listen on. Default `127.0.0.1:8443`.
    bind_address: String,
    /// Most peers connected at once. Default 50, 1 to 1,000,000.
    max_connections: usize,
    /// How long a connection may take from its acceptance to the end of its handshake. Default 30 s, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    connection_timeout: Duration,
    /// Most connections at once that have not proven who they are; over it the longest silent one goes. Default 256, 1 to
    /// 65,536.
    max_handshakes: usize,
    /// Most connections that the kernel holds until they are accepted; it has a limit of its own. Default 1,024, 1 to
    /// 65,535.
    backlog: u32,
    /// How long a connection may be silent before the kernel asks whether the other host is there. Default 60 s, 5 s to
    /// 2 h.
    #[serde(with = "humantime_serde")]
    keepalive: Duration,
    /// Certificates and versions.
    tls_config: tls::Config,
}

impl Default for File {
    fn default() -> Self {
        Self {
            bind_address: "127.0.0.1:8443".to_owned(),
            max_connections: 50,
            connection_timeout: Duration::from_secs(30),
            max_handshakes: 256,
            backlog: 1024,
            keepalive: Duration::from_mins(1),
            tls_config: tls::Config::default(),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = &'static str;

    fn try_from(file: File) -> Result<Self, &'static str> {
        let bind_address: SocketAddr = file.bind_address.parse().map_err(
            |_| "bind_address must be an IP address and a port, such as \"127.0.0.1:8443\" or \"[::]:8443\"",
        )?;
        let within = |given: usize, most: usize| NonZeroUsize::new(given).filter(|given| given.get() <= most);
        let max_connections =
            within(file.max_connections, 1_000_000).ok_or("max_connections must be 1 to 1000000")?;
        let max_handshakes =
            within(file.max_handshakes, 65_536).ok_or("max_handshakes must be 1 to 65536")?;
        let backlog = NonZeroU32::new(file.backlog)
            .filter(|backlog| backlog.get() <= 65_535)
            .ok_or("backlog must be 1 to 65535")?;
        if !(Duration::from_secs(1)..=Duration::from_mins(5)).contains(&file.connection_timeout) {
            return Err("connection_timeout must be 1 s to 5 min");
        }
        if !(Duration::from_secs(5)..=Duration::from_hours(2)).contains(&file.keepalive) {
            return Err("keepalive must be 5 s to 2 h");
        }
        let keepalive = file.keepalive;
        Ok(Self {
            listener: listener::Config { bind_address, max_connections, max_handshakes, backlog, keepalive },
            tls: file.tls_config,
            connection_timeout: file.connection_timeout,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_keeps_the_keys_and_defaults_of_the_seed() {
        let config = Config::default();
        assert_eq!(config.listener.bind_address.to_string(), "127.0.0.1:8443");
        assert_eq!(config.listener.max_connections.get(), 50);
        assert_eq!(config.connection_timeout, Duration::from_secs(30));
    }

    #[test]
    fn a_host_name_or_a_zero_is_refused_with_the_remedy() {
        let read = |json: &str| serde_json::from_str::<Config>(json).map_err(|error| error.to_string());
        assert!(read(r#"{"bind_address": "localhost"}"#).unwrap_err().contains("such as \"127.0.0.1:8443\""));
        assert!(read(r#"{"max_connections": 0}"#).unwrap_err().contains("1 to 1000000"));
        assert!(read(r#"{"tls_config": {"verify_client": false}}"#).unwrap_err().contains("mandatory"));
    }
}
