//! What the gateway may show of itself: plain values, no logic.
//!
//! Each stage publishes its part on its own clock through a `watch` channel; whoever shows it ([`crate::admin`]) holds the
//! receiving ends and nothing else, so that a slow or hostile reader never holds up the data path.
//!
//! Kept true: nothing here is secret, and every text that came from a stranger was bounded by the stage that put it here.
//! Nothing is escaped: that is the duty of who renders it.

mod clients;
mod material;
mod transport;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemoneye_bridge::lifecycle::Phase;
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

pub use self::{
    clients::{Client, Clients},
    material::{Certificate, Material, RevocationList},
    transport::{TransportHealth, TransportTotals, Transports},
};

/// The newest value of one part.
pub type Part<T> = watch::Receiver<Arc<T>>;

/// All that may be shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshots {
    /// Where the process is in its life.
    pub phase: watch::Receiver<Phase>,
    /// Who is connected, and who was.
    pub collectors: Part<Collectors>,
    /// Who was turned away, and why.
    pub refusals: Part<Refusals>,
    /// The local bus.
    pub bus: Part<BusView>,
    /// Local clients of the bus.
    pub clients: Part<Clients>,
    /// The gateway's own certificates and what became of the last reload.
    pub material: Part<Material>,
    /// The policy in force.
    pub policy: Part<PolicyView>,
    /// What outlives a restart.
    pub state: Part<StateView>,
    /// Why no change can be recorded, if none can be.
    pub audit: Part<Option<Trouble>>,
    /// The way to a gateway above, if there is one.
    pub upstream: Option<Part<UpstreamView>>,
    /// How each transport does.
    pub transports: Part<Transports>,
}

/// A moment, written as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

impl Timestamp {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// How long ago it was; zero if it lies ahead.
    #[must_use]
    pub fn age(self) -> Duration {
        self.0.elapsed().unwrap_or_default()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let nanos = i128::try_from(millis).unwrap_or_default().saturating_mul(1_000_000);
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| fmt::Error)?;
        f.write_str(&time.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a component is. Ordered: the worst of several is the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// As it should be.
    #[default]
    Healthy,
    /// Not known yet.
    Unknown,
    /// At work, with something amiss.
    Degraded,
    /// Not doing its work.
    Unhealthy,
    /// Silent for longer than it may be.
    Unresponsive,
}

impl Word {
    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Unresponsive => "unresponsive",
        }
    }
}

/// The health of the gateway, rolled up: the worst word wins.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// The worst word of all components.
    pub status: Word,
    /// Phase of the process.
    pub phase: Phase,
    /// Version of the software.
    pub version: &'static str,
    /// Each component.
    pub components: Vec<Component>,
}

/// The health of one component.
#[derive(Clone, Debug, Serialize)]
pub struct Component {
    /// Which.
    pub name: &'static str,
    /// How it is.
    pub status: Word,
    /// Why, for people; for a healthy one a fact or two.
    pub message: String,
    /// Since when it has not been healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it was last looked at.
    pub last_check: Timestamp,
    /// How often its part is renewed.
    pub check_interval_seconds: u64,
}

/// Who is connected, and who was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collectors {
    /// When this was put together; `None` before the first time.
    pub as_of: Option<Timestamp>,
    /// How often it is.
    pub interval_ms: u64,
    /// Every live session, by identity.
    pub live: Vec<Collector>,
    /// Sessions that ended, newest first; bounded.
    pub gone: Vec<Gone>,
}

/// One live session.
#[derive(Clone, Debug, Serialize)]
pub struct Collector {
    /// Identity, as `<site>/<name>`.
    pub peer: String,
    /// Site of the identity.
    pub site: String,
    /// Name within the site.
    pub name: String,
    /// Roles that the policy gives it.
    pub roles: Vec<String>,
    /// Name of the session, as in logs at both ends.
    pub session: String,
    /// Address it came from.
    pub address: String,
    /// How it talks: `grpc`, or `native` for BUS/RT.
    pub transport: &'static str,
    /// What it says of its software.
    pub software: String,
    /// When the session began.
    pub since: Timestamp,
    /// When something was last heard from it.
    pub last_heard: Timestamp,
    /// The last round trip of a ping.
    pub round_trip_ms: Option<f64>,
    /// By its heartbeats.
    pub status: Word,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Names it speaks for on the bus; the verified one first, the others are asserted by it.
    pub speaks_as: Vec<String>,
    /// Its streams.
    pub streams: Vec<Stream>,
    /// Events settled on this session.
    pub events: u64,
    /// Bytes of payload received on this session.
    pub bytes: u64,
    /// Events rejected on this session.
    pub rejected: u64,
    /// Events received and not yet settled.
    pub in_flight: u64,
    /// Events that may be in flight.
    pub credit: u64,
    /// The certificate it presented; shown with all certificates, so that this list stays cheap to poll.
    #[serde(skip)]
    pub certificate: Arc<Certificate>,
    /// When the first certificate of its path expires.
    pub expires: Timestamp,
}

/// One stream of a session.
#[derive(Clone, Debug, Serialize)]
pub struct Stream {
    /// UUID of the stream.
    pub stream: String,
    /// `critical` or `telemetry`.
    pub class: &'static str,
    /// Highest settled sequence number.
    pub acked: u64,
    /// Highest sequence number received.
    pub received: u64,
    /// What the peer said that it holds and was not settled, when the session began; shrinks as it is.
    pub backlog: u64,
    /// Events that came again after they were settled.
    pub duplicates: u64,
    /// Gaps told by the peer.
    pub gaps: u64,
    /// Events lost in those gaps.
    pub lost: u64,
    /// Events rejected.
    pub rejected: u64,
}

/// A session that ended.
#[derive(Clone, Debug, Serialize)]
pub struct Gone {
    /// Identity, as `<site>/<name>`.
    pub peer: String,
    /// Name of the session.
    pub session: String,
    /// Address it came from.
    pub address: String,
    /// When the session began.
    pub since: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    /// Why, for machines.
    pub reason: String,
    /// Why, for people.
    pub detail: String,
    /// Events settled on it.
    pub events: u64,
}

/// Who was turned away, newest first; bounded.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Refusals {
    /// All that were ever counted, the forgotten included.
    pub total: u64,
    /// The remembered ones.
    pub recent: Vec<Refusal>,
}

/// Connections turned away for one reason from one place.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// When it happened first.
    pub first: Timestamp,
    /// When it happened last.
    pub last: Timestamp,
    /// How often.
    pub count: u64,
    /// Address of the last.
    pub address: String,
    /// The prefix that all of them share, such as `192.0.2.0/24`.
    pub network: String,
    /// Which stage refused: `tls`, `identity`, `policy`.
    pub stage: &'static str,
    /// Stable reason code.
    pub reason: String,
    /// What happened, for people.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
    /// Whether the stranger proved to hold the key of the certificate.
    pub possession_proven: bool,
    /// The chain as presented; texts are the stranger's.
    pub chain: Vec<Certificate>,
}

/// The policy in force.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyView {
    /// Counts up with each change.
    pub generation: u64,
    /// When it was loaded.
    pub loaded: Option<Timestamp>,
    /// Names of its roles.
    pub roles: Vec<String>,
    /// Why the last reload was refused, and since when.
    pub refused: Option<Trouble>,
    /// The last changes, newest first.
    pub history: Vec<PolicyChange>,
}

/// A policy that was put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyChange {
    /// Its number.
    pub generation: u64,
    /// When.
    pub at: Timestamp,
    /// By whom, or by what.
    pub by: String,
    /// How many identities were cut by it.
    pub cut: usize,
}

/// What outlives a restart.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StateView {
    /// Why it cannot be written, and since when.
    pub trouble: Option<Trouble>,
}

/// The way to a gateway above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamView {
    /// Name of this gateway among those that relay.
    pub name: String,
    /// The gateway above, as host and port; `None` while none is there.
    pub gateway: Option<String>,
    /// Who we are there.
    pub peer: Option<String>,
    /// Since when it is, or is not, there.
    pub since: Option<Timestamp>,
    /// What last went wrong with the link.
    pub trouble: Option<Trouble>,
    /// Why the spool cannot be written.
    pub disk_error: Option<String>,
    /// Events that wait for their acknowledgement.
    pub waiting: u64,
    /// About when the oldest of them happened.
    pub oldest: Option<Timestamp>,
    /// Bytes of the spool on disk, and their bound.
    pub bytes: u64,
    /// See `bytes`.
    pub max_bytes: u64,
    /// Events acknowledged above since the start; rejected ones are among them.
    pub acked: u64,
    /// Events that the gateway above will never publish.
    pub rejected: u64,
    /// Events evicted from a full spool, or damaged on disk.
    pub lost: u64,
}

/// The local bus.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BusView {
    /// `embedded` or `foreign`.
    pub broker: &'static str,
    /// Why there is no link to the broker, and since when.
    pub down: Option<Trouble>,
    /// Routes that wait for a subscriber, or for their consumer.
    pub held: Vec<HeldRoute>,
}

/// A route that waits for a subscriber, or for its consumer.
#[derive(Clone, Debug, Serialize)]
pub struct HeldRoute {
    /// The route's pattern.
    pub route: String,
    /// Since when something waits.
    pub since: Timestamp,
    /// The consumer that must answer for it; absent: nobody subscribes to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Why, for people.
    pub cause: String,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Why, for people.
    pub cause: String,
    /// Since when.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_rfc_3339_with_millis() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        assert_eq!(serde_json::to_string(&Timestamp(time)).unwrap(), "\"2023-11-14T22:13:20.25Z\"");
    }

    #[test]
    fn the_worst_word_is_the_greatest() {
        let words = [Word::Degraded, Word::Healthy, Word::Unhealthy, Word::Unknown];
        assert_eq!(words.into_iter().max(), Some(Word::Unhealthy));
        assert!(Word::Unknown > Word::Healthy);
    }
}
