//! The section `[tcp]`: what the seed put under one head belongs to two stages.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    ops::RangeInclusive,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    ingress::{caps::Limits, flaps},
    listener::{self, RatesConfig, proxy},
    session::native,
    tls::{self, Deadlines},
};

/// Settings of the way in; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// The socket.
    pub listener: listener::Config,
    /// The handshake.
    pub tls: tls::Config,
    /// How long each step to its end may take.
    pub deadlines: Deadlines,
    /// How many may be connected.
    pub limits: Limits,
    /// How often one may come.
    pub flapping: flaps::Config,
    /// BUS/RT beside gRPC.
    pub native: native::Config,
}

/// The section `[tcp]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Address and port to listen on. Default `127.0.0.1:8443`.
    bind_address: String,
    /// Most peers connected at once. Default 50, 1 to 1,000,000.
    max_connections: usize,
    /// Most peers of one site connected at once. Default 1,000,000, which is `max_connections`, 1 to 1,000,000.
    max_connections_per_site: usize,
    /// Most connections under one name at once. Default 16, 1 to 1,000,000.
    max_connections_per_peer: usize,
    /// How long a connection may take from its acceptance to the end of its handshake. Default 30 s, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    connection_timeout: Duration,
    /// How long it may take for its whole greeting (`ClientHello`). Default 10 s, 100 ms to 5 min.
    #[serde(with = "humantime_serde")]
    greeting_timeout: Duration,
    /// How long its handshake may take once it has a slot for it. Default 10 s, 100 ms to 5 min.
    #[serde(with = "humantime_serde")]
    handshake_timeout: Duration,
    /// Most connections at once that have not greeted or wait for a slot; over it the longest silent one goes. Default 512,
    /// 1 to 65,536.
    max_waiting: usize,
    /// Most handshakes at once. Default 64, 1 to 65,536.
    max_handshakes: usize,
    /// Most connections that the kernel holds until they are accepted; it has a limit of its own. Default 1,024, 1 to
    /// 65,535.
    backlog: u32,
    /// How long a connection may be silent before the kernel asks whether the other host is there. Default 60 s, 5 s to
    /// 2 h.
    #[serde(with = "humantime_serde")]
    keepalive: Duration,
    /// How fast strangers may come.
    rates: RatesConfig,
    /// How often one peer may come.
    flapping: flaps::Config,
    /// BUS/RT beside gRPC.
    native: native::Config,
    /// Load balancers that say for whom they connect.
    proxy: proxy::Config,
    /// Certificates and versions.
    tls_config: tls::Config,
}

impl Default for File {
    fn default() -> Self {
        Self {
            bind_address: "127.0.0.1:8443".to_owned(),
            max_connections: 50,
            max_connections_per_site: MOST,
            max_connections_per_peer: 16,
            connection_timeout: Duration::from_secs(30),
            greeting_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            max_waiting: 512,
            max_handshakes: 64,
            backlog: 1024,
            keepalive: Duration::from_mins(1),
            rates: RatesConfig::default(),
            flapping: flaps::Config::default(),
            native: native::Config::default(),
            proxy: proxy::Config::default(),
            tls_config: tls::Config::default(),
        }
    }
}

/// Nobody needs more connections.
const MOST: usize = 1_000_000;

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let bind_address: SocketAddr = file.bind_address.parse().map_err(
            |_| "bind_address must be an IP address and a port, such as \"127.0.0.1:8443\" or \"[::]:8443\"",
        )?;
        let backlog = NonZeroU32::new(file.backlog)
            .filter(|backlog| backlog.get() <= 65_535)
            .ok_or("backlog must be 1 to 65535")?;
        if !(Duration::from_secs(5)..=Duration::from_hours(2)).contains(&file.keepalive) {
            return Err("keepalive must be 5 s to 2 h".to_owned());
        }
        let limits = Limits {
            connections: count("max_connections", file.max_connections, MOST)?,
            per_site: count("max_connections_per_site", file.max_connections_per_site, MOST)?,
            per_peer: count("max_connections_per_peer", file.max_connections_per_peer, MOST)?,
        };
        let (most, least) = (Duration::from_mins(5), Duration::from_millis(100));
        let deadlines = Deadlines {
            greeting: span("greeting_timeout", file.greeting_timeout, least..=most)?,
            handshake: span("handshake_timeout", file.handshake_timeout, least..=most)?,
            whole: span("connection_timeout", file.connection_timeout, Duration::from_secs(1)..=most)?,
        };
        let listener = listener::Config {
            bind_address,
            max_waiting: count("max_waiting", file.max_waiting, 65_536)?,
            max_handshakes: count("max_handshakes", file.max_handshakes, 65_536)?,
            backlog,
            keepalive: file.keepalive,
            rates: file.rates,
            proxy: file.proxy,
        };
        Ok(Self {
            listener,
            tls: file.tls_config,
            deadlines,
            limits,
            flapping: file.flapping,
            native: file.native,
        })
    }
}

fn count(key: &str, given: usize, most: usize) -> Result<NonZeroUsize, String> {
    let count = NonZeroUsize::new(given).filter(|given| given.get() <= most);
    count.ok_or_else(|| format!("{key} must be 1 to {most}"))
}

fn span(key: &str, given: Duration, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    if allowed.contains(&given) {
        return Ok(given);
    }
    Err(format!("{key} must be {:?} to {:?}", allowed.start(), allowed.end()))
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
        assert_eq!(config.limits.connections.get(), 50);
        assert_eq!(config.deadlines.whole, Duration::from_secs(30));
    }

    #[test]
    fn a_host_name_or_a_zero_is_refused_with_the_remedy() {
        let read = |json: &str| serde_json::from_str::<Config>(json).map_err(|error| error.to_string());
        assert!(read(r#"{"bind_address": "localhost"}"#).unwrap_err().contains("such as \"127.0.0.1:8443\""));
        assert!(read(r#"{"max_connections": 0}"#).unwrap_err().contains("1 to 1000000"));
        assert!(
            read(r#"{"greeting_timeout": "0s"}"#).unwrap_err().contains("greeting_timeout must be 100ms")
        );
        assert!(read(r#"{"tls_config": {"verify_client": false}}"#).unwrap_err().contains("mandatory"));
    }
}
