//! BUS/RT on the federation port: one connection is one client of the bus, under the name that its certificate proves.
//!
//! Whoever speaks BUS/RT gets in as he is; what he may is judged as everybody's is, by the same policy, and what he publishes
//! goes the same way onto the bus and is acknowledged on the same terms. One task owns the connection.
//!
//! ```text
//!  wire ── greet ──► admit (rights, voice, seat) ──► session ─┬─ uplink: what it publishes ──► bus ──► acks
//!                                                             ├─ asks: subscriptions, messages, calls
//!                                                             └─ hears: inbox ──► judged ──► wire
//! ```
//!
//! Kept true: nothing of a client reaches the bus without a permit, nor anything of the bus the client; what its frames can
//! ask of memory is bounded before it is taken; when [`Server::serve`] has returned, nothing of it is left.

mod admit;
mod asks;
mod calls;
mod clocks;
mod config;
mod greet;
mod hears;
mod talk;
mod uplink;
mod wire;

use std::{sync::Arc, time::Duration};

use daemoneye_bridge::native::codec::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_util::sync::CancellationToken;

pub use self::config::Config;
use self::{
    greet::{answer, greet},
    wire::Wire,
};
use crate::session::{
    Hall,
    http2::{Caller, CutReason},
    leash::Enrolled,
};

/// Serves connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    hall: Arc<Hall>,
    config: Arc<Config>,
    /// Cancelled when connections shall end now.
    last_call: CancellationToken,
}

impl Server {
    pub(in crate::session) fn new(hall: Arc<Hall>, config: Config, last_call: CancellationToken) -> Self {
        Self { hall, config: Arc::new(config), last_call }
    }

    /// Serves one connection, which is on the roll meanwhile, to its end.
    ///
    /// Not cancel safe, but dropping it cuts the connection.
    pub async fn serve<I>(&self, io: I, enrolled: Enrolled)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        self.converse(io, enrolled.caller()).await;
    }

    /// The same for a connection that nobody but the caller can cut.
    pub(in crate::session) async fn converse<I>(&self, io: I, caller: &Caller)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut wire = Wire::new(io);
        // On the heap, so that a connection does not carry for all its life the room that its admission took.
        let admission = Box::pin(self.admit(&mut wire, caller));
        let session = tokio::select! {
            biased;
            reason = caller.cut().wait() => return self.cut(caller, reason),
            () = self.last_call.cancelled() => return self.cut(caller, CutReason::Draining),
            admitted = time::timeout(self.hall.config.hello_timeout, admission) => match admitted {
                Ok(Ok(session)) => session,
                Ok(Err(fault)) => {
                    tracing::debug!(peer = %caller.peer().id(), reason = fault.reason(), %fault, "client was not admitted");
                    self.hall.metrics.call("native", fault.reason());
                    return;
                }
                Err(_elapsed) => {
                    self.hall.metrics.call("native", "silent");
                    return;
                }
            },
        };
        let last_call = self.last_call.clone();
        Box::pin(session.run(wire, caller, last_call)).await;
    }

    fn cut(&self, caller: &Caller, reason: CutReason) {
        let _first = caller.cut().cut(reason);
        // BUS/RT has no word for it: the connection is reset.
        caller.cut().abandon();
        tracing::info!(peer = %caller.peer().id(), %reason, "peer cut");
        self.hall.metrics.call("native", reason.as_str());
    }

    /// Tells a client of BUS/RT that there is no room for it, and hangs up. Ends soon, even if the client says nothing.
    ///
    /// Not cancel safe, but dropping it cuts the connection.
    pub async fn decline<I>(&self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut wire = Wire::new(io);
        let told = async {
            if greet(&mut wire).await.is_ok() && answer(&mut wire, Code::BUSY).await.is_ok() {
                // A client that is gone need not be told goodbye.
                let _ended = wire.finish().await;
            }
        };
        let _told = time::timeout(PATIENCE, told).await;
    }
}

/// How long a client that is not served may take to hear so.
const PATIENCE: Duration = Duration::from_secs(2);
