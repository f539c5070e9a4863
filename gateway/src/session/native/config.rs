//! The section `[tcp.native]`: BUS/RT on the federation port.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    ops::RangeInclusive,
    time::Duration,
};

use daemoneye_bridge::{bus::Room, settings::ByteSize};
use serde::Deserialize;

/// Settings of BUS/RT on the federation port; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Whether it is spoken.
    pub enabled: bool,
    /// Whether it is spoken with who offers no protocol.
    pub without_alpn: bool,
    pub(super) claimed_name: ClaimedName,
    pub(super) timeout: Duration,
    pub(super) slow_reader_timeout: Duration,
    pub(super) outbox_bytes: usize,
    pub(super) inbox: Room,
    pub(super) max_subscriptions: usize,
    pub(super) max_calls: usize,
    pub(super) call_budget: Duration,
    pub(super) max_connection_age: Duration,
}

/// What becomes of a name that a client claims and that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ClaimedName {
    /// The client is refused.
    Refuse,
    /// The verified name stands in its place.
    Replace,
}

/// The section `[tcp.native]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Whether BUS/RT is spoken with who offers it in ALPN as `busrt/1`. Default true.
    enabled: bool,
    /// Whether it is spoken with who offers no protocol in ALPN, as plain TLS tunnels do. Default false.
    without_alpn: bool,
    /// What becomes of a name that a client claims and that is not `collector.<site>.<name>` of its certificate: `"replace"` puts
    /// that in its place, `"refuse"` sends the client away. Default `"replace"`.
    claimed_name: ClaimedName,
    /// How long a client may be silent, a quarter more; it is sent a sign of life twice as often. Default 5 s, 1 s to 10 min.
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    /// How long it may take nothing of what is to be written to it before it is cut. Default 10 s, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    slow_reader_timeout: Duration,
    /// Bytes that may wait to be written to it; while they do nothing more is read of it, and what it hears waits in its inbox.
    /// Default 1 MiB, 64 KiB to 64 MiB.
    outbox_bytes: ByteSize,
    /// Messages that may wait for it, of those published as many as of those sent by name; of the first the oldest are
    /// dropped and counted, the second are refused. Default 1,024.
    inbox_messages: NonZeroUsize,
    /// Bytes that may wait likewise. Default 1 MiB.
    inbox_bytes: ByteSize,
    /// Subscriptions of it, and as many exclusions. Default 256.
    max_subscriptions: NonZeroUsize,
    /// Calls that it has open at once, and as many to it. Default 10.
    max_calls: NonZeroU32,
    /// How long a call may take. Default 30 s, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    call_budget: Duration,
    /// How old a connection may become, a tenth more or less; it is closed after its last ack. Default 24 h, 1 s to 365 d.
    #[serde(with = "humantime_serde")]
    max_connection_age: Duration,
}

impl Default for File {
    fn default() -> Self {
        let nonzero = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        Self {
            enabled: true,
            without_alpn: false,
            claimed_name: ClaimedName::Replace,
            timeout: Duration::from_secs(5),
            slow_reader_timeout: Duration::from_secs(10),
            outbox_bytes: ByteSize::mib(1),
            inbox_messages: nonzero(1024),
            inbox_bytes: ByteSize::mib(1),
            max_subscriptions: nonzero(256),
            max_calls: NonZeroU32::MIN.saturating_add(9),
            call_budget: Duration::from_secs(30),
            max_connection_age: Duration::from_hours(24),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        if file.without_alpn && !file.enabled {
            return Err("without_alpn needs enabled = true".to_owned());
        }
        let (second, minutes) = (Duration::from_secs(1), Duration::from_mins(5));
        let year = Duration::from_hours(365 * 24);
        let outbox_bytes = file.outbox_bytes.as_usize();
        if !(64 << 10..=64 << 20).contains(&outbox_bytes) {
            return Err("outbox_bytes must be 64 KiB to 64 MiB".to_owned());
        }
        let bytes =
            NonZeroUsize::new(file.inbox_bytes.as_usize()).ok_or("inbox_bytes must be 1 B or more")?;
        Ok(Self {
            enabled: file.enabled,
            without_alpn: file.without_alpn,
            claimed_name: file.claimed_name,
            timeout: span("timeout", file.timeout, second..=Duration::from_mins(10))?,
            slow_reader_timeout: span("slow_reader_timeout", file.slow_reader_timeout, second..=minutes)?,
            outbox_bytes,
            inbox: Room { frames: file.inbox_messages, bytes },
            max_subscriptions: file.max_subscriptions.get(),
            max_calls: usize::try_from(file.max_calls.get()).unwrap_or(usize::MAX),
            call_budget: span("call_budget", file.call_budget, second..=minutes)?,
            max_connection_age: span("max_connection_age", file.max_connection_age, second..=year)?,
        })
    }
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
    fn a_wrong_value_is_named() {
        let complaint = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(toml::from_str::<Config>("claimed_name = 'refuse'\ntimeout = '2s'").is_ok());
        assert!(complaint("timeout = '0s'").contains("timeout must be 1s to 600s"));
        assert!(complaint("outbox_bytes = '1 KiB'").contains("outbox_bytes"));
        assert!(complaint("enabled = false\nwithout_alpn = true").contains("without_alpn needs"));
        assert!(complaint("claimed_name = 'keep'").contains("refuse"));
    }
}
