//! HTTP/2 of one connection: our own loop around hyper, because tonic's keeps no hold of what it spawned.
//!
//! Turns a stream of a verified peer into requests of [`tonic::service::Routes`] that carry their [`Caller`]. One task owns
//! the connection, its deadlines and its end; what hyper spawns for a stream hangs on the leash and on the connection.
//!
//! Kept true: when [`Server::serve`] has returned, nothing of the connection is left, not even for a peer that stopped
//! reading; GOAWAY is sent only when no request is open, because a gRPC stream is not told of it.

mod body;
mod config;
mod cut;
mod decline;
mod service;

#[cfg(test)]
mod tests;

use std::{pin::pin, time::Duration};

use daemoneye_bridge::lifecycle::Leash;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::service::{OnLeash, Requests, Watch};
pub use self::{
    config::Config,
    cut::{Cut, CutReason},
    service::Caller,
};
use crate::session::leash::Enrolled;

/// Serves connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    routes: Routes,
    config: Config,
    leash: Leash,
    /// Cancelled when connections shall end as soon as nothing is open on them.
    ending: CancellationToken,
    /// Cancelled when connections shall end now.
    last_call: CancellationToken,
}

impl Server {
    /// Serves `routes`; what they spawn hangs on `leash`. Once `ending` is cancelled, a connection ends as soon as no
    /// request is open on it.
    #[must_use]
    pub fn new(config: Config, routes: Routes, leash: Leash, ending: CancellationToken) -> Self {
        Self { routes: routes.prepare(), config, leash, ending, last_call: CancellationToken::new() }
    }

    /// Once the token is cancelled, connections are cut that are there still: a peer may hold a request open for as long as
    /// it likes, or not read that it has ended.
    #[must_use]
    pub fn last_call(self, last_call: CancellationToken) -> Self {
        Self { last_call, ..self }
    }

    /// Serves one connection, which is on the roll meanwhile, to its end.
    ///
    /// Not cancel safe, but dropping it cuts the connection and everything on it.
    pub async fn serve<I>(&self, io: I, enrolled: Enrolled)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.converse(io, enrolled.caller()).await;
    }

    /// The same for a connection that nobody but the caller can cut.
    pub(in crate::session) async fn converse<I>(&self, io: I, caller: &Caller)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let gone = CancellationToken::new();
        let _ends_streams = gone.clone().drop_guard();
        let requests = Requests::new(self.routes.clone(), caller.clone());
        let requests_open = requests.watch();
        let builder = self.builder(OnLeash::new(self.leash.clone(), gone));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), requests));
        let mut quiet = pin!(self.quiet(requests_open.clone()));
        let mut age = pin!(self.age(caller.retiring(), requests_open));
        let end = tokio::select! {
            biased;
            // Whoever must go goes before anything else of his is looked at.
            reason = caller.cut().wait() => End::Cut(reason),
            () = self.last_call.cancelled() => End::Cut(CutReason::Draining),
            () = &mut quiet => End::Quiet,
            end = &mut age => end,
            done = &mut connection => End::Done(done),
        };
        let patience = match &end {
            // Each stream says why as soon as the connection is driven on.
            End::Cut(reason) => {
                let _first = caller.cut().cut(*reason);
                LAST_WORDS
            }
            End::Quiet => GOODBYE,
            End::Done(_) => return log(caller, &end),
        };
        connection.as_mut().graceful_shutdown();
        // A peer that does not read never lets the connection end: it is dropped with what it was not told.
        let told = time::timeout(patience, connection).await.is_ok();
        if !told {
            caller.cut().abandon();
        }
        tracing::trace!(peer = %caller.peer().id(), told, "said goodbye");
        log(caller, &end);
    }

    /// Waits until nothing is open although it could be: nothing was asked for long, or the end of all is near.
    async fn quiet(&self, mut open: Watch) {
        let mut idle = open.clone();
        let patience = async {
            let mut patience = self.config.first_request_timeout;
            loop {
                idle.none().await;
                if time::timeout(patience, idle.some()).await.is_err() {
                    return;
                }
                patience = self.config.idle_timeout;
            }
        };
        tokio::select! {
            biased;
            () = self.ending.cancelled() => open.none().await,
            () = patience => {}
        }
    }

    /// Waits until the connection is old, and then until nothing is open on it, but no longer than its grace.
    async fn age(&self, retiring: &CancellationToken, mut open: Watch) -> End {
        // Connections that began together, as after a restart, need not end together.
        time::sleep(self.config.max_connection_age.mul_f64(fastrand::f64().mul_add(0.2, 0.9))).await;
        retiring.cancel();
        match time::timeout(self.config.connection_age_grace, open.none()).await {
            Ok(()) => End::Quiet,
            Err(_elapsed) => End::Cut(CutReason::Aged),
        }
    }

    fn builder(&self, executor: OnLeash) -> http2::Builder<OnLeash> {
        let config = &self.config;
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(config.max_concurrent_streams.get())
            .initial_stream_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_frame_size(config.max_frame_size)
            .max_header_list_size(config.max_header_list_size)
            .max_send_buf_size(config.max_send_buffer)
            .keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout)
            .max_pending_accept_reset_streams(config.max_pending_resets)
            .max_local_error_reset_streams(config.max_local_resets);
        builder
    }
}

/// How a connection came to its end.
enum End {
    Cut(CutReason),
    Done(hyper::Result<()>),
    Quiet,
}

/// How long a peer that is cut is given to hear why.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long a peer with nothing open is given to hang up.
const GOODBYE: Duration = Duration::from_secs(1);

fn log(caller: &Caller, end: &End) {
    let peer = caller.peer().id();
    match end {
        End::Cut(reason) => tracing::info!(%peer, %reason, "peer cut"),
        End::Done(Err(error)) => tracing::debug!(%peer, %error, "connection broke"),
        End::Done(Ok(())) | End::Quiet => tracing::debug!(%peer, "connection ended"),
    }
}
