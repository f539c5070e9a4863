//! How the gateway goes away.

use std::time::Duration;

use serde::Deserialize;

/// Settings of a drain; every value is usable as it stands.
///
/// ```text
///  signal ── announce ──► listener closed, sessions told ── spread ──► last acks ──► deadline: cut
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "File")]
pub struct Drain {
    /// How long the gateway says that it is not ready, and still accepts, so that balancers look elsewhere.
    pub announce: Duration,
    /// Over how long sessions are told to leave, so that their peers do not all come back at once.
    pub spread: Duration,
    /// When everything must be over, counted from the signal; contains the other two.
    pub deadline: Duration,
    /// Other gateways that peers are told of, as `host:port`; they use those that their own settings allow.
    pub alternatives: Vec<String>,
}

impl Drain {
    /// How long a peer may take to leave once it was told.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.deadline.saturating_sub(self.announce).saturating_sub(self.spread)
    }
}

/// The section `[drain]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Default 3 s.
    #[serde(with = "humantime_serde")]
    announce: Duration,
    /// Default 12 s.
    #[serde(with = "humantime_serde")]
    spread: Duration,
    /// Longer than announce and spread together. Default 25 s, at most 1 h.
    #[serde(with = "humantime_serde")]
    deadline: Duration,
    /// Default: none. At most 16.
    alternatives: Vec<String>,
}

impl Default for File {
    fn default() -> Self {
        let Drain { announce, spread, deadline, alternatives } = Drain::default();
        Self { announce, spread, deadline, alternatives }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            announce: Duration::from_secs(3),
            spread: Duration::from_secs(12),
            deadline: Duration::from_secs(25),
            alternatives: Vec::new(),
        }
    }
}

impl TryFrom<File> for Drain {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let File { announce, spread, deadline, alternatives } = file;
        if alternatives.len() > MAX_ALTERNATIVES {
            return Err(format!(
                "alternatives has {} entries; use at most {MAX_ALTERNATIVES}",
                alternatives.len()
            ));
        }
        if let Some(wrong) = alternatives.iter().find(|address| !is_host_and_port(address)) {
            return Err(format!("alternatives holds `{}`; write host:port", wrong.escape_debug()));
        }
        if deadline > Duration::from_hours(1) {
            return Err(format!("deadline = \"{deadline:?}\" is over the limit; use at most 1h"));
        }
        if announce.saturating_add(spread) >= deadline {
            return Err(format!(
                "deadline = \"{deadline:?}\" leaves no time after announce = \"{announce:?}\" and \
                 spread = \"{spread:?}\"; use a longer deadline"
            ));
        }
        Ok(Self { announce, spread, deadline, alternatives })
    }
}

/// Most gateways that a peer is told of.
const MAX_ALTERNATIVES: usize = 16;

fn is_host_and_port(address: &str) -> bool {
    let is_host = |host: &str| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
    };
    let parts = address.rsplit_once(':');
    address.len() <= 260
        && parts.is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|p| p > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_contains_announce_and_spread() {
        assert_eq!(toml::from_str::<Drain>("").unwrap(), Drain::default());
        let short = toml::from_str::<Drain>("deadline = '15s'").unwrap_err().to_string();
        assert!(short.contains("leaves no time"), "{short}");
        assert!(toml::from_str::<Drain>("deadline = '2h'").is_err());
        let none = toml::from_str::<Drain>("announce = '0s'\nspread = '0s'\ndeadline = '1s'").unwrap();
        assert_eq!((none.announce, none.grace()), (Duration::ZERO, Duration::from_secs(1)));
    }

    #[test]
    fn an_alternative_is_a_host_and_a_port() {
        let read = |address: &str| toml::from_str::<Drain>(&format!("alternatives = ['{address}']"));
        for fine in ["gateway-2.example:8443", "10.0.0.2:8443", "[2001:db8::1]:8443"] {
            assert!(read(fine).is_ok(), "{fine}");
        }
        for wrong in ["gateway-2", "gateway-2:0", ":8443", "https://g:1", "a b:1", "g:99999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
