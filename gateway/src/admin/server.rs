//! The listener and its connections: bounded in number and in time, each a task on the leash.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
};
use daemoneye_bridge::lifecycle::Leash;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tower::{
    ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer,
};

use crate::{
    admin::{
        Config,
        api::{self, Sources},
        guard, probes,
        problem::Problem,
        ui,
    },
    snapshot::Snapshots,
    telemetry::metrics::Exporter,
};

/// The admin listener, bound and not yet answering.
#[derive(Debug)]
pub struct Admin {
    config: Config,
    main: TcpListener,
    probes: Option<TcpListener>,
    /// Where it listens, with the port that was found if 0 was asked for.
    address: SocketAddr,
    probe_address: Option<SocketAddr>,
}

impl Admin {
    /// Binds what the configuration names.
    ///
    /// # Errors
    ///
    /// [`BindError`] names the address that could not be bound.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let (main, address) = listen(config.bind_address).await?;
        let (probes, probe_address) = match config.probe_address {
            Some(address) => listen(address).await.map(|(listener, found)| (Some(listener), Some(found)))?,
            None => (None, None),
        };
        Ok(Self { config, main, probes, address, probe_address })
    }

    /// Where the API is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the probes are besides, if anywhere.
    #[must_use]
    pub const fn probe_address(&self) -> Option<SocketAddr> {
        self.probe_address
    }

    /// Answers until the leash says to drain; connections are tasks of the leash.
    pub async fn run(self, leash: Leash, snapshots: Snapshots, exporter: Exporter) {
        let hosts = Arc::new(self.config.allowed_hosts.clone());
        let sources = Sources { snapshots: snapshots.clone(), exporter };
        let full = api::routes()
            .merge(Router::new().merge(probes::routes()).merge(ui::routes()).with_state(snapshots.clone()))
            .with_state(sources);
        let full =
            bounded(full, &self.config).layer(middleware::from_fn_with_state(hosts, guard::check_host));
        let full = full.layer(middleware::from_fn(guard::harden));
        let main = accept(self.main, full, leash.clone(), self.config.clone());
        let Some(listener) = self.probes else { return main.await };
        let bare = bounded(probes::routes().with_state(snapshots), &self.config);
        let bare = bare.layer(middleware::from_fn(guard::harden));
        tokio::join!(main, accept(listener, bare, leash, self.config));
    }
}

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not listen on {address} for operators; is another gateway running? stop it, or choose another \
     admin.bind_address or admin.probe_address"
)]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let named = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(named)?;
    let found = listener.local_addr().map_err(named)?;
    Ok((listener, found))
}

/// Adds what no route may go without: answers for the unknown, and bounds on requests at once, their bodies and time.
fn bounded(routes: Router, config: &Config) -> Router {
    let limits = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overrun))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(config.max_connections.get()))
        .layer(TimeoutLayer::new(config.request_timeout));
    routes
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(limits)
}

async fn overrun(error: BoxError) -> Response {
    let problem = if error.is::<tower::timeout::error::Elapsed>() {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "the request took longer than admin.request_timeout")
    } else {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once")
    };
    problem.into_response()
}

/// Takes connections while there is room for one more.
async fn accept(listener: TcpListener, routes: Router, leash: Leash, config: Config) {
    let slots = Arc::new(Semaphore::new(config.max_connections.get()));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            biased;
            () = leash.draining() => return,
            next = next => next,
        };
        match accepted {
            Ok((tcp, _address)) => {
                leash.spawn(converse(tcp, routes.clone(), leash.clone(), config.request_timeout, slot));
            }
            Err(error) => {
                // Most often EMFILE: the queue stays readable, so retrying at once would spin.
                tracing::warn!(%error, "admin accept failed");
                time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Answers one client until it leaves, is idle too long, or has had its time.
async fn converse(
    tcp: TcpStream,
    routes: Router,
    leash: Leash,
    patience: Duration,
    slot: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also ends a connection that idles between two requests.
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    let over = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = leash.draining() => None,
        () = time::sleep(LIFETIME) => None,
    };
    let ended = if let Some(ended) = over {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        // A client that reads no answer must not keep its slot.
        time::timeout(patience, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection failed");
    }
    drop(slot);
}

/// Most bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;

/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Longest a connection lives: a slot comes back even from who never stops asking.
const LIFETIME: Duration = Duration::from_mins(5);

/// Pause after an accept error that is not the peer's.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);
