//! Talk: the conversations with remote peers.
//!
//! Turns frames of the wire into permitted batches on the bus, and what became of them into acks. The stage that conducts:
//! it asks the policy, spends permits on the bus, and moves the marks of the state. Each session is one task, an actor that
//! owns all of its parts; the registry knows them all and passes orders on.
//!
//! ```text
//!  Link ─► link ── Hello, streams, seat ──► actor ── read ──► carrier ── judge ──► bus
//!                                             ▲                  │ tickets
//!                                             └── acks ◄─ stream ┘──► marks
//! ```
//!
//! Kept true: what was acknowledged has been taken by the bus as its route demands, was rejected and said to be, or was a
//! gap; a peer that sends more than its credit is not read; no session outlives the right to it.

pub mod downlink;

pub mod http2;

pub mod native;

pub mod leash;

mod actor;
mod bell;
mod call;
mod carrier;
mod config;
mod credit;
mod cursor;
mod hello;
mod intake;
mod link;
mod listen;
mod live;
mod metrics;
mod mouths;
mod outbox;
mod registry;
mod relayed;
mod service;
mod status;
mod stream;
mod waiting;

use std::{sync::Arc, time::Duration};

use daemoneye_bridge::lifecycle::Leash;
use daemoneye_proto::{MAX_MESSAGE, v1::federation_server::FederationServer};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use self::{config::Config, metrics::Metrics};
use self::{
    credit::Budget,
    registry::{Caps, Registry},
    service::Service,
    status::Fault,
};
use crate::{bus::AuthorizedBus, held, policy::Judge, snapshot::Collectors, state::State};

/// What the session stage needs of others.
#[derive(Debug)]
pub struct Stages {
    /// Judges peers and their topics.
    pub judge: Judge,
    /// Where permitted events go.
    pub bus: AuthorizedBus,
    /// Where the marks of streams are kept.
    pub state: State,
    /// Commands for collectors that were not here.
    pub held: held::Handle,
    /// What sessions hang on.
    pub leash: Leash,
    /// How sessions are sent away.
    pub drain: Drain,
    /// What sessions count.
    pub metrics: Metrics,
}

/// How sessions are sent away when the gateway goes.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Over how long peers are told to come back, so that they do not all do so at once.
    pub spread: Duration,
    /// How long a peer may take to half-close once it was told.
    pub grace: Duration,
    /// Other gateways, as `host:port`.
    pub alternatives: Vec<String>,
}

impl Drain {
    fn reconnect_after(&self) -> Duration {
        self.spread.mul_f64(fastrand::f64())
    }
}

/// The conversations of a gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Hall>);

/// What all sessions share.
#[derive(Debug)]
struct Hall {
    config: Config,
    judge: Judge,
    bus: AuthorizedBus,
    state: State,
    held: held::Handle,
    leash: Leash,
    drain: Drain,
    metrics: Metrics,
    registry: Registry,
    budget: Arc<Budget>,
    /// Bytes of plain calls that are under way.
    call_room: Arc<Semaphore>,
}

impl Hall {
    fn draining(&self) -> Fault {
        Fault::Draining { reconnect_after: self.drain.reconnect_after() }
    }
}

impl Sessions {
    /// Builds the stage, and the future that keeps its registry: orders to sessions and the picture of who is here. It
    /// ends after a drain, when the last session has.
    #[must_use]
    pub fn new(config: Config, stages: Stages) -> (Self, BoxFuture<'static, ()>) {
        let caps = Caps {
            sessions: config.max_sessions.get(),
            sessions_per_site: config.max_sessions_per_site.get(),
            calls: config.max_calls.get(),
            remembered: config.remembered,
            same_identity: config.same_identity,
        };
        let registry = Registry::new(caps, stages.metrics.clone());
        let run = registry.clone().run(stages.judge.watch(), stages.leash.clone(), config.snapshot_interval);
        let budget = Arc::new(Budget::new(config.all, config.least, config.most));
        let Stages { judge, bus, state, held, leash, drain, metrics } = stages;
        let call_room = Arc::new(Semaphore::new(call::MOST_BYTES));
        let hall =
            Hall { config, judge, bus, state, held, leash, drain, metrics, registry, budget, call_room };
        (Self(Arc::new(hall)), run.boxed())
    }

    /// The federation service, to be served by [`http2`].
    #[must_use]
    pub fn routes(&self) -> Routes {
        let service = FederationServer::new(Service(Arc::clone(&self.0)))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Routes::new(service)
    }

    /// What serves BUS/RT. Once `last_call` is cancelled, connections are cut that are there still.
    #[must_use]
    pub fn native(&self, config: native::Config, last_call: CancellationToken) -> native::Server {
        native::Server::new(Arc::clone(&self.0), config, last_call)
    }

    /// Who is here, and who was.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<Collectors>> {
        self.0.registry.view()
    }
}

#[cfg(test)]
mod tests;
