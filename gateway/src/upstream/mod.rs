//! The way to a gateway above this one: what collectors publish here is relayed there, across every outage.
//!
//! ```text
//!   session ─ permit ─► bus ──┬─► local bus
//!                             └─► feed ─► spool ─► uplink ══ mutual TLS ══► gateway above
//!   local clients ─► bus ─► subscription ─┘
//! ```
//!
//! A regional gateway is a leaf of the one above: it has a certificate of its own there, a spool on disk, and a role that says
//! whose events it `relays`. An event keeps its collector, its site, its stream and its number, so that its id is the same
//! everywhere; and it carries the names of the gateways that have relayed it.
//!
//! Kept true: a collector is told that an event is safe only when it is in the spool too; no gateway relays an event that it
//! has relayed before.

use std::{fmt, sync::Arc, time::Duration};

use daemoneye_bridge::{
    bus::Bus,
    event::{Origin, Seq, StreamId},
    spool::{self, Record, Spool, SpoolError},
    topic::{Pattern, Topic},
    trust::LoadError,
    uplink::{self, Uplink},
};
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};

mod feed;

mod metrics;

/// Settings of the way up; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Name of this gateway among those that relay.
    pub name: Arc<str>,
    /// Topics of collectors that are relayed.
    pub patterns: Vec<Pattern>,
    /// Topics of local clients that are relayed.
    pub local: Vec<Pattern>,
    /// The queue on disk.
    pub spool: spool::Config,
    /// The way up.
    pub uplink: uplink::Config,
}

/// The section `[upstream]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Name of this gateway among those that relay, of `[a-z0-9_-]`, at most 63; replicas of one region share it.
    name: String,
    /// Patterns of what collectors publish here and is relayed. Default `["events.#", "control.health.#"]`.
    #[serde(default = "patterns")]
    patterns: Vec<Pattern>,
    /// Patterns of what local bus clients publish and is relayed, as this gateway's own. Default none.
    #[serde(default)]
    local: Vec<Pattern>,
    /// Table `[upstream.spool]`, as of a leaf.
    spool: spool::Config,
    /// Table `[upstream.uplink]`, as of a leaf.
    uplink: uplink::Config,
}

fn patterns() -> Vec<Pattern> {
    ["events.#", "control.health.#"].iter().filter_map(|pattern| pattern.parse().ok()).collect()
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        let File { name, patterns, local, spool, uplink } = file;
        if !daemoneye_bridge::topic::is_segment(&name) || name.len() > 63 {
            return Err(ConfigError::Name(name));
        }
        if patterns.is_empty() && local.is_empty() {
            return Err(ConfigError::Nothing);
        }
        Ok(Self { name: name.into(), patterns, local, spool, uplink })
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a name.
    #[error("name = {0:?} must be 1 to 63 of a-z, 0-9, _ and -, such as \"region-1\"")]
    Name(String),
    /// No pattern at all.
    #[error(
        "patterns and local are empty, so nothing would be relayed; name a pattern, or remove [upstream]"
    )]
    Nothing,
}

/// What others hold of the way up.
#[derive(Debug)]
pub struct Upstream {
    relay: Relay,
    link: watch::Receiver<uplink::Status>,
    queue: watch::Receiver<spool::Stats>,
}

/// What moves the way up.
pub struct Tasks {
    /// Ends when nobody relays any more.
    pub feed: BoxFuture<'static, ()>,
    /// Ends when the spool is closed.
    pub owner: BoxFuture<'static, ()>,
    /// End with the way up.
    pub uplink: Vec<BoxFuture<'static, ()>>,
    /// Hears local clients; ends with the bus.
    pub hear: Option<BoxFuture<'static, ()>>,
    /// Sends what the spool holds as far as a patience goes, and closes it.
    pub end: Box<dyn FnOnce(Duration) -> BoxFuture<'static, ()> + Send>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("uplink", &self.uplink.len()).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Opens the spool and loads the certificates; local clients are heard on `bus` once the tasks move.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the file and a remedy.
    pub fn open(config: Config, bus: Arc<dyn Bus>) -> Result<(Self, Tasks), OpenError> {
        let (spool, owner) = Spool::open(config.spool)?;
        let (uplink, climbing) = Uplink::open(config.uplink, spool.clone())?;
        let (queue, bundles) = mpsc::channel(QUEUE);
        let relay = Relay { name: config.name, patterns: config.patterns.into(), queue };
        let local = config.local;
        let hear = (!local.is_empty()).then(|| feed::hear(bus, local, relay.clone()).boxed());
        let upstream = Self { relay, link: uplink.status(), queue: spool.stats() };
        let feed = feed::run(bundles, spool.clone()).boxed();
        let end = Box::new(move |patience| feed::end(spool, uplink, patience).boxed());
        Ok((upstream, Tasks { feed, owner, uplink: climbing, hear, end }))
    }

    /// Where permitted batches go.
    #[must_use]
    pub fn relay(&self) -> Relay {
        self.relay.clone()
    }

    /// Name of this gateway among those that relay.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.relay.name
    }

    /// What the queue on disk shows of itself.
    #[must_use]
    pub fn queue(&self) -> watch::Receiver<spool::Stats> {
        self.queue.clone()
    }

    /// What the link shows of itself.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<uplink::Status> {
        self.link.clone()
    }

    /// Registers what it tells of itself.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(metrics::Climb { link: self.link(), queue: self.queue() }));
    }
}

/// Bundles that wait for the spool before a batch does.
const QUEUE: usize = 256;

/// Where permitted batches go on their way up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Relay {
    name: Arc<str>,
    patterns: Arc<[Pattern]>,
    queue: mpsc::Sender<Bundle>,
}

/// Records that are stored together.
#[derive(Debug)]
struct Bundle {
    records: Vec<Record>,
    /// Told when they are in the spool.
    done: oneshot::Sender<()>,
}

/// Room for one bundle.
#[derive(Debug)]
pub struct Slot<'a>(mpsc::Permit<'a, Bundle>);

impl Slot<'_> {
    /// Hands over records; the receiver ends with a word when they are in the spool, and without one if they never will be.
    #[must_use]
    pub fn send(self, records: Vec<Record>) -> oneshot::Receiver<()> {
        let (done, stored) = oneshot::channel();
        self.0.send(Bundle { records, done });
        stored
    }
}

impl Relay {
    /// Whether events on `topic` are relayed.
    #[must_use]
    pub fn takes(&self, topic: &Topic) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether events that have come by `hops` may not be relayed: they have been here, or could not go any further.
    #[must_use]
    pub fn has_passed(&self, hops: &[Arc<str>]) -> bool {
        hops.len() >= Origin::MOST_HOPS || hops.contains(&self.name)
    }

    /// The origin of events of one collector, as the gateway above is told.
    #[must_use]
    pub fn origin(&self, site: &str, stream: Option<StreamId>, hops: &[Arc<str>]) -> Arc<Origin> {
        let hops = hops.iter().chain([&self.name]).map(Arc::clone).collect();
        Arc::new(Origin { site: site.into(), stream, hops })
    }

    /// Room for one bundle, if there is any now.
    #[must_use]
    pub fn try_reserve(&self) -> Option<Slot<'_>> {
        self.queue.try_reserve().ok().map(Slot)
    }

    /// Waits until there may be room.
    ///
    /// Cancel safe.
    pub async fn ready(&self) {
        drop(self.queue.reserve().await);
    }
}

/// The number of an event that was never numbered.
pub const UNNUMBERED: Seq = 0;

/// Why there is no way up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The queue on disk.
    #[error("[upstream.spool]: {0}")]
    Spool(#[from] SpoolError),
    /// The certificates.
    #[error("[upstream.uplink]: {0}")]
    Uplink(#[from] LoadError),
}
