//! The way in: a socket, a handshake and a name, in this order.
//!
//! [`admit`] is the first half of the data path in one function. [`Ingress::run`] does it for every connection, each in a
//! task of its own, so that a slow stranger holds up nobody.
//!
//! Kept true: a [`PeerStream`] has a [`VerifiedPeer`](identity::VerifiedPeer); a refusal is taken down before the socket is closed.

mod config;
mod porter;
mod stream;

#[cfg(test)]
mod tests;

use std::{future::Future, net::SocketAddr, sync::Arc};

use daemoneye_bridge::{lifecycle::Leash, trust::LoadError};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::porter::Porter;
pub use self::{config::Config, stream::PeerStream};
use crate::{
    deny::Denials,
    identity::{self, Directory},
    listener::{self, Accepted, BindError, Listener},
    tls::{self, Acceptor, Refusal, Refusals, Stage},
};

/// Makes a named peer of a connection.
///
/// # Errors
///
/// [`Refusal`] says which stage turned it away and why.
pub async fn admit(accepted: Accepted, tls: &Acceptor, directory: &Directory) -> Result<PeerStream, Refusal> {
    let secured = tls.handshake(accepted).await?;
    let peer = match directory.identify(secured.chain()) {
        Ok(peer) => peer,
        Err(reason) => return Err(secured.refuse(Stage::Identity, reason)),
    };
    PeerStream::new(secured, peer)
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
        let tls = Acceptor::load(config.tls, config.connection_timeout, judge, metrics.tls.clone())?;
        let listener = Listener::bind(&config.listener, metrics.listener.clone())?;
        Ok(Self { listener, gate: Arc::new(Gate { tls, directory, refusals }) })
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
            let (gate, serve, closing) = (Arc::clone(&self.gate), serve.clone(), closing.clone());
            leash.spawn(async move {
                let admitted = admit(accepted, &gate.tls, &gate.directory);
                match closing.run_until_cancelled(admitted).await {
                    Some(Ok(stream)) => serve(stream).await,
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
