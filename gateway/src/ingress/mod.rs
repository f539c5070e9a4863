//! The way in: a socket, a handshake and a name, in this order.
//!
//! `Gate::admit` is the first half of the data path in one function. [`Ingress::run`] does it for every connection, each in a
//! task of its own, so that a slow stranger holds up nobody.
//!
//! A peer that comes over a cap, or too often, is admitted all the same if there is room to tell it so.
//!
//! Kept true: a [`PeerStream`] has a [`VerifiedPeer`](identity::VerifiedPeer); a refusal is taken down before the socket is closed.

mod caps;
mod config;
mod flaps;
mod porter;
mod stream;

#[cfg(test)]
mod tests;

use std::{future::Future, net::SocketAddr, sync::Arc};

use daemoneye_bridge::{
    lifecycle::Leash,
    trust::{LoadError, RefusalReason},
};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    caps::{Caps, Entry},
    porter::Porter,
};
pub use self::{
    caps::{Declined, Limits, Over},
    config::Config,
    stream::PeerStream,
};
use crate::{
    deny::Denials,
    identity::{self, Directory},
    listener::{self, Accepted, Away, BindError, Listener, Turned},
    tls::{self, Acceptor, Offer, Refusal, Refusals, Stage},
};

impl Gate {
    /// Makes a named peer of a connection, and counts it in.
    ///
    /// # Errors
    ///
    /// [`Refusal`] says which stage turned it away and why.
    async fn admit(&self, accepted: Accepted) -> Result<PeerStream, Refusal> {
        let accepted = accepted.introduced().await.map_err(|away| turned(&away))?;
        let mut secured = self.tls.handshake(accepted).await?;
        let peer = match self.directory.identify(secured.chain()) {
            Ok(peer) => peer,
            Err(reason) => return Err(secured.refuse(Stage::Identity, reason, reason.to_string())),
        };
        let entry = self.caps.enter(peer.id());
        if !entry.is_flapping() {
            secured.repay();
        }
        let refuse = |why: Declined| {
            let reason = match why.over {
                Over::Flapping => RefusalReason::CoolingDown,
                Over::All => RefusalReason::Full,
                Over::Peer => RefusalReason::PeerFull,
                Over::Site => RefusalReason::SiteFull,
            };
            let detail = format!("{}: {}; it may come back in {:?}", peer.id(), why.over, why.wait);
            secured.refuse(Stage::Listener, reason, detail)
        };
        match entry {
            Entry::Served(slot) => Ok(PeerStream::new(secured, peer, (slot, None))),
            Entry::Declined(slot, why) => {
                self.refusals.offer(refuse(why));
                Ok(PeerStream::new(secured, peer, (slot, Some(why))))
            }
            Entry::Dropped(why) => Err(refuse(why)),
        }
    }
}

/// Accounts for whoever was turned away before its handshake.
fn turned(turned: &Turned) -> Refusal {
    let reason = match &turned.why {
        Away::Crowded => RefusalReason::Crowded,
        Away::Proxy(_) => RefusalReason::BadProxyHeader,
        Away::NetworkRate | Away::Rate => RefusalReason::RateExceeded,
    };
    refusal(reason, turned.why.to_string(), turned.remote)
}

const fn refusal(reason: RefusalReason, detail: String, remote: SocketAddr) -> Refusal {
    Refusal { stage: Stage::Listener, reason, detail, remote, recorder: None, proven: None }
}

/// The three stages, bound to a port.
#[derive(Debug)]
pub struct Ingress {
    listener: Listener,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    tls: Acceptor,
    directory: Arc<Directory>,
    refusals: Refusals,
    caps: Caps,
}

impl Ingress {
    /// Loads the certificates and binds the port; whoever is on `denials` is refused. Needs a runtime; blocking: it reads
    /// files.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the file or the address, and a remedy.
    pub fn open(
        config: Config,
        identity: identity::Config,
        denials: watch::Receiver<Arc<Denials>>,
        refusals: Refusals,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let directory = Arc::new(Directory::new(identity, metrics.identity.clone()));
        let judge = Arc::new(Porter::new(Arc::clone(&directory), denials));
        let offer = Offer { native: config.native.enabled, without_alpn: config.native.without_alpn };
        let tls = Acceptor::load((config.tls, offer), config.deadlines, judge, metrics.tls.clone())?;
        let listener = Listener::bind(&config.listener, metrics.listener.clone())?;
        let caps = Caps::new(config.limits, config.flapping);
        Ok(Self { listener, gate: Arc::new(Gate { tls, directory, refusals, caps }) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.listener.local()
    }

    /// The stage that holds the certificates.
    #[must_use]
    pub fn tls(&self) -> &Acceptor {
        &self.gate.tls
    }

    /// Admits connections until `closing` is cancelled, and gives each peer to `serve`.
    ///
    /// Connections that were admitted live on: they hang on `leash`. One that is not admitted yet is dropped, so that a
    /// stranger who says nothing does not hold up the end.
    pub async fn run<S, F>(mut self, leash: Leash, closing: CancellationToken, serve: S)
    where
        S: Fn(PeerStream) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some(accepted) = closing.run_until_cancelled(self.listener.accept()).await {
            let accepted = match accepted.map_err(|away| turned(&away)) {
                Ok(accepted) if self.gate.caps.is_beyond() => {
                    let detail = "as many peers are connected as may be, and as many are told so".to_owned();
                    Err(refusal(RefusalReason::Full, detail, accepted.remote))
                }
                accepted => accepted,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(refusal) => {
                    self.gate.refusals.offer(refusal);
                    continue;
                }
            };
            let (gate, serve, closing) = (Arc::clone(&self.gate), serve.clone(), closing.clone());
            leash.spawn(async move {
                // On the heap, so that a connection does not carry for all its life the room that its handshake took.
                match closing.run_until_cancelled(Box::pin(gate.admit(accepted))).await {
                    Some(Ok(stream)) => Box::pin(serve(stream)).await,
                    Some(Err(refusal)) => gate.refusals.offer(refusal),
                    None => {}
                }
            });
        }
    }
}

/// What the three stages count.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    listener: listener::Metrics,
    tls: tls::Metrics,
    identity: identity::Metrics,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            listener: listener::Metrics::register(registry),
            tls: tls::Metrics::register(registry),
            identity: identity::Metrics::register(registry),
        }
    }

    /// What the TLS stage counts.
    #[must_use]
    pub const fn tls(&self) -> &tls::Metrics {
        &self.tls
    }
}

/// Why the way in could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The port could not be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificates are of no use.
    #[error(transparent)]
    Load(#[from] LoadError),
}
