//! What hyper calls: one value a connection that knows who calls, and hands each request on with it.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use daemoneye_bridge::lifecycle::Leash;
use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, service::Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Service as _;

use crate::{
    identity::VerifiedPeer,
    session::http2::{body::Answer, cut::Cut},
};

/// Who makes a request; stands in its extensions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    peer: VerifiedPeer,
    remote: SocketAddr,
    cut: Cut,
    /// Cancelled when the connection is old, and its peer should come back on another.
    retiring: CancellationToken,
}

impl Caller {
    /// The far end of one connection.
    #[must_use]
    pub fn new(peer: VerifiedPeer, remote: SocketAddr) -> Self {
        Self { peer, remote, cut: Cut::default(), retiring: CancellationToken::new() }
    }

    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// The address it comes from.
    #[must_use]
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// What ends its connection, and tells when it is ended.
    #[must_use]
    pub const fn cut(&self) -> &Cut {
        &self.cut
    }

    /// Cancelled when its connection is old: whoever has a conversation on it sends the peer away to come back.
    #[must_use]
    pub const fn retiring(&self) -> &CancellationToken {
        &self.retiring
    }
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    routes: Routes,
    caller: Caller,
    open: Arc<watch::Sender<Count>>,
}

impl Requests {
    pub(super) fn new(routes: Routes, caller: Caller) -> Self {
        Self { routes, caller, open: Arc::new(watch::Sender::new(0)) }
    }

    pub(super) fn watch(&self) -> Watch {
        Watch(self.open.subscribe())
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = Open::new(Arc::clone(&self.open));
        let cut = self.caller.cut.clone();
        request.extensions_mut().insert(self.caller.clone());
        let answer = self.routes.clone().call(request);
        Box::pin(async move {
            let answer = tokio::select! {
                biased;
                // A handler that waits for the bus must not keep a revoked peer.
                reason = cut.wait() => reason.status().into_http(),
                answer = answer => match answer {
                    Ok(answer) => answer,
                    Err(never) => match never {},
                },
            };
            Ok(answer.map(|body| Answer::new(body, cut, open)))
        })
    }
}

/// How many requests are open on a connection.
type Count = usize;

/// Counts for as long as it lives.
#[derive(Debug)]
pub(super) struct Open(Arc<watch::Sender<Count>>);

impl Open {
    fn new(count: Arc<watch::Sender<Count>>) -> Self {
        count.send_modify(|count| *count = count.saturating_add(1));
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Watches the count of a connection.
#[derive(Clone, Debug)]
pub(super) struct Watch(watch::Receiver<Count>);

impl Watch {
    /// Waits until no request is open.
    pub(super) async fn none(&mut self) {
        // An error means that the connection is gone, and its requests with it.
        drop(self.0.wait_for(|count| *count == 0).await);
    }

    /// Waits until a request comes, after [`Self::none`].
    pub(super) async fn some(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Spawns what hyper wants spawned: it ends with the connection and hangs on the leash.
#[derive(Clone, Debug)]
pub(super) struct OnLeash {
    leash: Leash,
    gone: CancellationToken,
}

impl OnLeash {
    pub(super) const fn new(leash: Leash, gone: CancellationToken) -> Self {
        Self { leash, gone }
    }
}

impl<F> Executor<F> for OnLeash
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        let gone = self.gone.clone();
        self.leash.spawn(async move {
            let _ended = gone.run_until_cancelled_owned(future).await;
        });
    }
}
