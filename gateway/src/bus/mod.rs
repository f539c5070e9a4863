//! Act: the only way from a permit onto the local bus.
//!
//! Turns permits of [`crate::policy`] into batches on the bus and subscriptions of it. The bus itself is named nowhere else
//! in this crate, so nothing reaches it that was not permitted. Every collector is a client of its own on the bus, of the
//! name `collector.<site>.<name>`; so the sender that a subscriber sees is the verified identity.
//!
//! Kept true: one name on the bus belongs to one peer at a time.

mod claim;
mod downlink;
mod envelope;
mod hearing;
mod mouth;
mod ticket;
mod voice;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use daemoneye_bridge::{
    bus::{Broker, Bus, BusName, PortError, Routes, Rule, remote},
    event,
};
use serde::Deserialize;
use tokio::time::{self, Instant};

use self::claim::Claims;
pub use self::{
    downlink::{Answer, Arrived, Call, Letter, Listening, Opened, Return},
    envelope::Origin,
    hearing::{Heard, Hearing},
    mouth::{Narrow, Undelivered},
    ticket::Ticket,
    voice::{Outgoing, Unsent, Voice},
};
use crate::{
    policy::{Collector, SubscribePermit},
    upstream::Relay,
};

/// Settings of the bus; every value is usable as it stands. Fixed for the life of the process.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Which broker the bus stands on.
    pub broker: Broker,
    /// What an acknowledgement means, topic by topic.
    pub routes: Routes,
    /// How a foreign broker is reached; not used with the embedded one.
    pub foreign: remote::Config,
}

/// The section `[bus]`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// `embedded`: a broker in this process, with a UNIX socket for local clients (`[unix_socket]`). `foreign`: somebody
    /// else's, reached through his UNIX socket. Default: `embedded`.
    broker: Kind,
    /// Tables `[[bus.route]]`: `pattern`, and any of `confirm` (with `consumer`, `window` and `answer_within`), `unheard`,
    /// `envelope`. The first that matches a topic is
    /// its route. Default: none, so that every topic goes by the broker's defaults.
    route: Vec<Rule>,
    /// Table `[bus.foreign]`: how a foreign broker is reached. Not allowed with the embedded one.
    foreign: Option<remote::Config>,
}

/// How a file names a broker.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Embedded,
    Foreign,
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let broker = match file.broker {
            Kind::Embedded => Broker::Embedded,
            Kind::Foreign => Broker::Foreign,
        };
        if broker == Broker::Embedded && file.foreign.is_some() {
            // It would be believed to do something.
            return Err(
                "[bus.foreign] needs broker = \"foreign\"; set that, or remove the section".to_owned()
            );
        }
        let routes = Routes::new(file.route, broker).map_err(|error| error.to_string())?;
        Ok(Self { broker, routes, foreign: file.foreign.unwrap_or_default() })
    }
}

impl Config {
    /// How long a bus that answers at once may take to let go of a name.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// How long to wait for a name: longer than a foreign broker is asked for it, or its answer would never be heard.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        match self.broker {
            Broker::Embedded => Self::PATIENCE,
            Broker::Foreign => self.foreign.name_timeout.saturating_add(Self::PATIENCE),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("no rule can be wrong where there is none")
    }
}

/// The local bus, for whoever holds a permit. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuthorizedBus(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    bus: Arc<dyn Bus>,
    routes: Routes,
    /// Whether a route wraps events; if none does, no event is looked at for it.
    wraps: bool,
    /// Whether somebody is shown the sequence numbers of events.
    numbers: bool,
    claims: Claims,
    /// How long to wait for a name that its last owner has just let go, or for a broker to register one.
    patience: Duration,
    /// Numbers the names of subscribers.
    hearings: AtomicU64,
    /// Where events go besides, on their way to a gateway above.
    relay: Option<Relay>,
}

impl AuthorizedBus {
    /// How long to wait between two attempts at a name that the bus has not let go of.
    const PAUSE: Duration = Duration::from_millis(20);

    /// Guards `bus`, whose routes are `routes`.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, routes: Routes) -> Self {
        Self::patient(bus, routes, Config::PATIENCE)
    }

    /// As [`Self::new`], for a bus that may take as long as `patience` to register a name or to refuse it.
    #[must_use]
    pub fn patient(bus: Arc<dyn Bus>, routes: Routes, patience: Duration) -> Self {
        Self::relaying(bus, routes, patience, None)
    }

    /// As [`Self::patient`]; what `relay` takes goes there too, and is taken only when it is there.
    #[must_use]
    pub fn relaying(bus: Arc<dyn Bus>, routes: Routes, patience: Duration, relay: Option<Relay>) -> Self {
        let (wraps, numbers) = (routes.wraps(), routes.numbers());
        let claims = Claims::default();
        Self(Arc::new(Parts {
            bus,
            routes,
            wraps,
            numbers,
            claims,
            patience,
            hearings: AtomicU64::new(1),
            relay,
        }))
    }

    /// Whether events of this origin may not be taken: this gateway would relay them in a circle.
    #[must_use]
    pub fn has_passed(&self, origin: &event::Origin) -> bool {
        self.0.relay.as_ref().is_some_and(|relay| relay.has_passed(&origin.hops))
    }

    /// Opens the voice of a collector. The sessions and calls of one peer share it.
    ///
    /// A name that the bus has not let go of, though no peer claims it, is asked for again until the patience is over.
    ///
    /// Cancel safe: a dropped call claims nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says who has the name, or that the bus is not there.
    pub async fn open(&self, collector: &Collector) -> Result<Voice, OpenError> {
        let name = BusName::collector(collector.site(), collector.name())
            .map_err(|_| OpenError::AlreadyConnected)?;
        let claim = self.0.claims.claim(&name, collector)?;
        let deadline = Instant::now() + self.0.patience;
        let mut was_taken = false;
        loop {
            match time::timeout_at(deadline, claim.open(&*self.0.bus)).await {
                Ok(Ok(())) => return Ok(Voice::new(claim, self.clone())),
                Ok(Err(PortError::Taken)) => was_taken = true,
                Ok(Err(_)) => return Err(OpenError::Closed),
                Err(_) if was_taken => return Err(OpenError::AlreadyConnected),
                Err(_) => return Err(OpenError::TimedOut),
            }
            if Instant::now() + Self::PAUSE >= deadline {
                return Err(OpenError::AlreadyConnected);
            }
            time::sleep(Self::PAUSE).await;
        }
    }

    /// Begins to hear what `permit` allows, at most once, under a name of its own. No event waits for a remote peer, and none
    /// counts as heard because of one.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says that the bus is not there.
    pub async fn subscribe(&self, permit: SubscribePermit) -> Result<Hearing, OpenError> {
        let (peer, patterns) = permit.spend();
        let number = self.0.hearings.fetch_add(1, Ordering::Relaxed);
        let name = format!("subscriber.{}.{}.{number}", peer.site(), peer.name());
        let name = BusName::parse(&name).map_err(|_| OpenError::AlreadyConnected)?;
        let subscribed = time::timeout(self.0.patience, self.0.bus.overhear(&name, &patterns)).await;
        match subscribed {
            Ok(Ok(subscription)) => Ok(Hearing::new(subscription)),
            Ok(Err(PortError::Taken)) => Err(OpenError::AlreadyConnected),
            Ok(Err(_)) => Err(OpenError::Closed),
            Err(_) => Err(OpenError::TimedOut),
        }
    }
}

/// Why a name on the bus cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another peer speaks under it, or a client of the bus that is none of ours.
    #[error("another session holds this collector's name")]
    AlreadyConnected,
    /// The bus is going away.
    #[error("the bus is closed")]
    Closed,
    /// The bus speaks under one name for all.
    #[error("the gateway's bus has one name for all collectors, so that none can be addressed")]
    Nameless,
    /// The broker did not answer in time.
    #[error("the bus did not answer in time")]
    TimedOut,
}

#[cfg(test)]
pub(crate) mod tests;
