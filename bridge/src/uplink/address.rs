//! Where gateways are: `host:port`, and the patterns of addresses that a gateway may send us on to.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, de};

/// Where a gateway is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Without brackets.
    host: Arc<str>,
    port: u16,
}

impl Gateway {
    /// DNS name or address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Gateway {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = split(text).ok_or(AddressError)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(AddressError)?;
        rustls::pki_types::ServerName::try_from(host).map_err(|_| AddressError)?;
        Ok(Self { host: host.into(), port })
    }
}

/// Parts host and port; the host of `[::1]:8443` comes without brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    // An address with colons stands in brackets, and nothing else does.
    (host.contains(':') == bare.is_some()).then(|| (bare.unwrap_or(host), port))
}

impl<'de> Deserialize<'de> for Gateway {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Which gateways a gateway may send us on to: `gw2.example.com:8443`, `*.gw.example.com:8443`.
///
/// `*` stands for the first label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// What follows the `*`, or the whole host.
    host: Box<str>,
    wild: bool,
    port: u16,
}

impl Alternative {
    /// Whether `gateway` is one of these.
    #[must_use]
    pub fn admits(&self, gateway: &Gateway) -> bool {
        let host = gateway.host().to_ascii_lowercase();
        let fits = if self.wild {
            host.strip_suffix(&*self.host).is_some_and(|label| !label.is_empty() && !label.contains('.'))
        } else {
            host == *self.host
        };
        fits && self.port == gateway.port()
    }
}

impl FromStr for Alternative {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wild = text.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        // A wildcard is well-formed if what it stands for is.
        let gateway: Gateway = wild.map_or_else(|| text.to_owned(), |rest| format!("x{rest}")).parse()?;
        let host = gateway.host().to_ascii_lowercase();
        let host = if wild.is_some() { host.strip_prefix('x').unwrap_or_default() } else { &host };
        Ok(Self { host: host.into(), wild: wild.is_some(), port: gateway.port() })
    }
}

impl<'de> Deserialize<'de> for Alternative {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Not the address of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host and a port, such as \"gateway.example.com:8443\" or \"[::1]:8443\"")]
pub struct AddressError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_is_written() {
        for text in ["gw.example.com:8443", "127.0.0.1:1", "[::1]:8443", "localhost:65535"] {
            assert_eq!(text.parse::<Gateway>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "gw",
            "gw:",
            ":8443",
            "gw:0",
            "gw:65536",
            "::1:8443",
            "[gw]:1",
            "https://gw:1",
            "a b:1",
            "gw:1/x",
            "*.a.b:1",
        ] {
            assert!(text.parse::<Gateway>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let wild: Alternative = "*.gw.example.com:8443".parse().unwrap();
        let admits = |text: &str| wild.admits(&text.parse().unwrap());
        assert!(admits("A.gw.example.com:8443"));
        assert!(!admits("a.gw.example.com:8444"));
        assert!(!admits("gw.example.com:8443"));
        assert!(!admits("a.b.gw.example.com:8443"));
        assert!(!admits("evilgw.example.com:8443"));
        let exact: Alternative = "[::1]:8443".parse().unwrap();
        assert!(exact.admits(&"[::1]:8443".parse().unwrap()));
        assert!("*:8443".parse::<Alternative>().is_err());
    }
}
