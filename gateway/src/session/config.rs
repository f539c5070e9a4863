//! Settings of the session stage.

use std::{num::NonZeroUsize, time::Duration};

use daemoneye_bridge::settings::ByteSize;
use daemoneye_proto::{MAX_BATCH_EVENTS, MAX_PAYLOAD};
use serde::Deserialize;

use crate::session::{credit::Amount, downlink, http2, registry::SameIdentity};

/// Settings of the session stage; every value is usable as it stands. Fixed for the life of the process.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Most sessions at once.
    pub max_sessions: NonZeroUsize,
    /// Most sessions of one site at once.
    pub max_sessions_per_site: NonZeroUsize,
    /// Most plain calls under way at once.
    pub max_calls: NonZeroUsize,
    /// How often each side is heard of, if only by a ping.
    pub heartbeat: Duration,
    /// How long a peer may take to say Hello.
    pub hello_timeout: Duration,
    /// How long a new session waits for an older one of the same stream to settle.
    pub takeover_timeout: Duration,
    /// What a second session of one peer does to the first.
    pub(super) same_identity: SameIdentity,
    /// How long a plain call waits for its event to be confirmed.
    pub publish_timeout: Duration,
    /// Bytes of one payload, whatever the policy says.
    pub max_payload: usize,
    /// How often the picture of who is here is renewed.
    pub snapshot_interval: Duration,
    /// How many sessions that ended are remembered.
    pub remembered: usize,
    /// Limits of HTTP/2.
    pub http2: http2::Config,
    /// Settings of the downlink.
    pub downlink: downlink::Config,
    /// In flight over all sessions.
    pub(super) all: Amount,
    /// In flight on one session, whatever the others do.
    pub(super) least: Amount,
    /// In flight on one session, even if it is alone.
    pub(super) most: Amount,
}

/// The section `[session]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Most sessions at once. Default 10,000.
    max_sessions: NonZeroUsize,
    /// Most sessions of one site at once. Default 10,000.
    max_sessions_per_site: NonZeroUsize,
    /// Most plain calls (`Publish`, `Subscribe`) under way at once. Default 1,024.
    max_calls: NonZeroUsize,
    /// How often each side is heard of, if only by a ping; one or two missed are degraded, three end the session.
    /// Default 30 s, 1 s to 10 min.
    #[serde(with = "humantime_serde")]
    heartbeat: Duration,
    /// How long a peer may take to say Hello. Default 10 s, 1 s to 1 min.
    #[serde(with = "humantime_serde")]
    hello_timeout: Duration,
    /// How long a new session waits for an older one of the same stream to settle. Default 10 s, 1 s to 1 min.
    #[serde(with = "humantime_serde")]
    takeover_timeout: Duration,
    /// What a second session of one peer does to the first: `"allow"` lets both be, `"newest-wins"` ends the first once what
    /// it handed over is settled. Default `"allow"`.
    same_identity: SameIdentity,
    /// How long a plain call waits for its event to be confirmed. Default 10 s, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    publish_timeout: Duration,
    /// Bytes of one payload; the policy may allow less. Default 1 MiB, 1 B to 1 MiB.
    max_payload: ByteSize,
    /// How often the picture of who is here is renewed. Default 1 s, 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    snapshot_interval: Duration,
    /// How many sessions that ended are remembered. Default 256, at most 65,536.
    remembered: usize,
    /// Events in flight over all busy sessions. Default 32,768.
    in_flight_events: u64,
    /// Bytes of payload in flight over all busy sessions. Default 256 MiB.
    in_flight_bytes: ByteSize,
    /// Events in flight on one session, even if it is alone. Default 4,096.
    max_credit_events: u64,
    /// Bytes of payload in flight on one session, even if it is alone. Default 8 MiB.
    max_credit_bytes: ByteSize,
    /// Events in flight on one session, however many are busy. Default 512.
    min_credit_events: u64,
    /// Bytes of payload in flight on one session, however many are busy. Default 64 KiB.
    min_credit_bytes: ByteSize,
    /// The section `[session.http2]`.
    http2: http2::Config,
    /// The section `[session.downlink]`.
    downlink: downlink::Config,
}

impl Default for File {
    fn default() -> Self {
        Self {
            max_sessions: nonzero(10_000),
            max_sessions_per_site: nonzero(10_000),
            max_calls: nonzero(1024),
            heartbeat: Duration::from_secs(30),
            hello_timeout: Duration::from_secs(10),
            takeover_timeout: Duration::from_secs(10),
            same_identity: SameIdentity::Allow,
            publish_timeout: Duration::from_secs(10),
            max_payload: ByteSize::mib(1),
            snapshot_interval: Duration::from_secs(1),
            remembered: 256,
            in_flight_events: 32_768,
            in_flight_bytes: ByteSize::mib(256),
            max_credit_events: 4096,
            max_credit_bytes: ByteSize::mib(8),
            min_credit_events: 512,
            min_credit_bytes: ByteSize::kib(64),
            http2: http2::Config::default(),
            downlink: downlink::Config::default(),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let second = Duration::from_secs(1);
        let minute = Duration::from_mins(1);
        for (key, span, least, most) in [
            ("heartbeat", file.heartbeat, second, Duration::from_mins(10)),
            ("hello_timeout", file.hello_timeout, second, minute),
            ("takeover_timeout", file.takeover_timeout, second, minute),
            ("publish_timeout", file.publish_timeout, second, Duration::from_mins(5)),
            ("snapshot_interval", file.snapshot_interval, Duration::from_millis(100), minute),
        ] {
            if !(least..=most).contains(&span) {
                return Err(format!("{key} must be {least:?} to {most:?}"));
            }
        }
        let max_payload = file.max_payload.as_usize();
        if !(1..=MAX_PAYLOAD).contains(&max_payload) {
            return Err("max_payload must be 1 B to 1 MiB".to_owned());
        }
        if file.remembered > 65_536 {
            return Err("remembered must be at most 65536".to_owned());
        }
        let (all, least, most) = amounts(&file)?;
        Ok(Self {
            max_sessions: file.max_sessions,
            max_sessions_per_site: file.max_sessions_per_site,
            max_calls: file.max_calls,
            heartbeat: file.heartbeat,
            hello_timeout: file.hello_timeout,
            takeover_timeout: file.takeover_timeout,
            same_identity: file.same_identity,
            publish_timeout: file.publish_timeout,
            max_payload,
            snapshot_interval: file.snapshot_interval,
            remembered: file.remembered,
            http2: file.http2,
            downlink: file.downlink,
            all,
            least,
            most,
        })
    }
}

/// The budgets of credit: over all sessions, the least and the most of one.
fn amounts(file: &File) -> Result<(Amount, Amount, Amount), String> {
    let all = Amount { events: file.in_flight_events, bytes: file.in_flight_bytes.as_u64() };
    let least = Amount { events: file.min_credit_events, bytes: file.min_credit_bytes.as_u64() };
    let most = Amount { events: file.max_credit_events, bytes: file.max_credit_bytes.as_u64() };
    let batch = u64::try_from(MAX_BATCH_EVENTS).unwrap_or(u64::MAX);
    if !(1..=most.events).contains(&least.events)
        || most.events > all.events
        || all.events > u64::from(u32::MAX)
    {
        return Err("1 ≤ min_credit_events ≤ max_credit_events ≤ in_flight_events must hold".to_owned());
    }
    if !(1..=most.bytes).contains(&least.bytes) || most.bytes > all.bytes {
        return Err("1 B ≤ min_credit_bytes ≤ max_credit_bytes ≤ in_flight_bytes must hold".to_owned());
    }
    if most.events < batch {
        return Err(format!("max_credit_events must be at least {batch}, the events of a batch"));
    }
    Ok((all, least, most))
}

fn nonzero(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
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
    fn the_policy_knows_what_the_protocol_carries() {
        let most = crate::policy::Limits::MOST_MESSAGE.get();
        assert_eq!(usize::try_from(most).unwrap(), MAX_PAYLOAD);
    }

    #[test]
    fn a_wrong_value_is_named() {
        let complaint = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(toml::from_str::<Config>("").is_ok());
        assert!(complaint("heartbeat = '0s'").contains("heartbeat"));
        assert!(complaint("max_payload = '2 MiB'").contains("max_payload"));
        assert!(complaint("min_credit_events = 5000").contains("min_credit_events"));
        assert!(complaint("max_credit_events = 600").contains("4096"));
        assert!(complaint("in_flight_bytes = '1 MiB'").contains("in_flight_bytes"));
        assert!(complaint("max_session = 3").contains("max_session"));
    }
}
