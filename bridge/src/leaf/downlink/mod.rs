//! What comes down: local collectors are reached from the datacentre, and reach it.
//!
//! ```text
//!   gateway ══ session ══► Conversation ─► relay ─┬─ Call ───► RPC to a local client, its answer back ─► Reply
//!                                                 ├─ Deliver ─► message, or publication for one subscriber
//!                                                 └◄─ stand-ins of `reach`: RPC of a local client ─► Call
//! ```
//!
//! Clients of the door whose names can stand in the federation are the leaf's collectors: the relay attaches them at the
//! gateway as they come and go, and asks there for what they subscribe to here. Who may do what is judged by the gateway.
//! For whom the datacentre reaches into the leaf the relay speaks under its own name, or under that of the stand-in, if
//! there is one: so a collector sees `engine` where it is told to.
//!
//! Kept true: each call ends once, answered or with a reason; nothing that came down is published to the intake, so nothing
//! goes back up; the relay waits for no local client.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    bus::{Bus, BusName, Ear, Port, PortError, Room, embedded::Embedded, rpc::Gauge},
    lifecycle::Leash,
    uplink::Conversations,
};

mod collectors;
mod config;
mod down;
mod relay;
mod roster;
mod up;

#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError};

use relay::Relay;

/// The name under which the relay speaks to local clients for whom it has no stand-in.
pub const NAME: &str = "daemoneye-downlink";

/// One of the relay's names on the local bus. The first is its own.
#[derive(Debug)]
struct Mouth {
    name: BusName,
    port: Port,
}

/// The relay, with its names taken; it does not move yet.
pub struct Downlink {
    config: Config,
    bus: Arc<Embedded>,
    mouths: Vec<Mouth>,
    ears: Vec<Ear>,
    conversations: Conversations,
    counts: Arc<Counts>,
    shown: watch::Sender<Shown>,
}

impl Downlink {
    /// Takes the relay's names on the local bus.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says which name somebody else has.
    ///
    /// # Panics
    ///
    /// Never: the relay's own name is well-formed.
    pub async fn open(
        config: Config,
        bus: Arc<Embedded>,
        conversations: Conversations,
    ) -> Result<Self, OpenError> {
        let own = BusName::parse(NAME).expect("the relay's own name is well-formed");
        let (mut mouths, mut ears) = (Vec::new(), Vec::new());
        for name in std::iter::once(own).chain(config.reach.iter().cloned()) {
            let attached = bus.attach(&name, Room::default()).await;
            let (port, ear) = attached.map_err(|source| OpenError { name: name.clone(), source })?;
            mouths.push(Mouth { name, port });
            ears.push(ear);
        }
        let (counts, shown) = (Arc::default(), watch::Sender::default());
        Ok(Self { config, bus, mouths, ears, conversations, counts, shown })
    }

    /// What it shows of itself.
    #[must_use]
    pub fn views(&self) -> Views {
        Views { counts: Arc::clone(&self.counts), shown: self.shown.subscribe() }
    }

    /// Relays until the process drains.
    pub async fn run(self, leash: Leash) {
        Relay::new(self).run(leash).await;
    }
}

impl fmt::Debug for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downlink").field("mouths", &self.mouths).finish_non_exhaustive()
    }
}

/// A name of the relay that could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "downlink could not take the name `{name}` on the local bus; is it named twice in downlink.reach, or is a local client \
     called so?"
)]
pub struct OpenError {
    /// Which.
    pub name: BusName,
    /// Why.
    #[source]
    pub source: PortError,
}

/// What the downlink shows of itself.
#[derive(Clone, Debug)]
pub struct Views {
    /// What it has counted.
    pub counts: Arc<Counts>,
    /// Whom it has attached.
    pub shown: watch::Receiver<Shown>,
}

/// Whom the downlink has attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// Local collectors that were named to the gateway; those that it refused are among them.
    pub collectors: Vec<String>,
    /// What the gateway refused, and why.
    pub refused: Vec<Refusal>,
}

/// A name or pattern that the gateway refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Refusal {
    /// The collector.
    pub collector: String,
    /// The pattern that it may not hear; none: it may not be reached at all.
    pub pattern: Option<String>,
    /// In the gateway's words.
    pub reason: String,
}

/// Declares the counts with their names once.
macro_rules! counts {
    ($($(#[doc = $doc:expr])+ $name:ident,)+) => {
        /// What the downlink has counted. Each only grows, but for `open`.
        #[derive(Debug, Default)]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
            /// Calls that are open now, both ways.
            pub open: Gauge,
        }

        impl Counts {
            /// Every count's name, meaning and value, for exporters.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counts! {
    /// Calls of the datacentre to local collectors.
    calls_down,
    /// Calls of local collectors to the datacentre.
    calls_up,
    /// Calls, both ways, that ended with an error of the federation's own.
    calls_failed,
    /// Messages and publications handed to local collectors.
    delivered,
    /// Messages and publications that were not: their collector is gone or has too much to read.
    undelivered,
    /// Messages of local collectors sent up.
    sent,
    /// Messages of local collectors that could not be sent up.
    unsent,
    /// Messages that the gateway dropped, because this leaf took them too slowly.
    dropped,
    /// Held commands that are safe with their collector.
    commands,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
