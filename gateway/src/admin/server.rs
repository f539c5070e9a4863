//! The listener and its connections: bounded in number and in time, each a task on the leash.

use std::{io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
};
use daemoneye_bridge::{bus::door::DoorError, lifecycle::Leash};
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tower::{
    ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer,
};

use crate::{
    admin::{
        Commands, Config,
        api::{self, Sources},
        caller::Caller,
        guard, probes,
        problem::Problem,
        socket::Socket,
        token::{TokenError, Tokens},
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
    socket: Option<Socket>,
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
    /// [`BindError`] names the address or the path that could not be bound.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let (main, address) = listen(config.bind_address).await?;
        let (probes, probe_address) = match config.probe_address {
            Some(address) => listen(address).await.map(|(listener, found)| (Some(listener), Some(found)))?,
            None => (None, None),
        };
        if let Some(file) = &config.token_file {
            // Read again whenever one is shown; what is wrong with it is better said now.
            Tokens::load(file)?;
        }
        let socket = config.socket_path.as_deref().map(Socket::take).transpose()?;
        Ok(Self { config, main, socket, probes, address, probe_address })
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
    pub async fn run(self, leash: Leash, snapshots: Snapshots, exporter: Exporter, commands: Commands) {
        let hosts = Arc::new(self.config.allowed_hosts.clone());
        let sources = Sources { snapshots: snapshots.clone(), exporter, commands };
        let full = api::routes()
            .merge(Router::new().merge(probes::routes()).merge(ui::routes()).with_state(snapshots.clone()))
            .with_state(sources);
        let tokens: Option<Arc<Path>> = self.config.token_file.as_deref().map(Arc::from);
        // Bounds of their own, so that a flood on the one never keeps an operator out of the other.
        let [full, local_full] = [full.clone(), full].map(|routes| {
            bounded(routes, &self.config)
                .layer(middleware::from_fn_with_state(Arc::clone(&hosts), guard::check_change))
                .layer(middleware::from_fn_with_state(tokens.clone(), guard::recognise))
                .layer(middleware::from_fn_with_state(Arc::clone(&hosts), guard::check_host))
                .layer(middleware::from_fn(guard::harden))
        });
        let bare = bounded(probes::routes().with_state(snapshots), &self.config)
            .layer(middleware::from_fn(guard::harden));
        let local = async {
            if let Some(socket) = self.socket {
                socket.run(&local_full, &leash, &self.config).await;
            }
        };
        let probes = async {
            if let Some(listener) = self.probes {
                accept(listener, &bare, &leash, &self.config).await;
            }
        };
        tokio::join!(accept(self.main, &full, &leash, &self.config), local, probes);
    }
}

/// A place that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// An address.
    #[error(
        "could not listen on {address} for operators; is another gateway running? stop it, or choose another \
         admin.bind_address or admin.probe_address"
    )]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The UNIX socket.
    #[error("could not listen for changes; choose another admin.socket_path, or \"\" for none")]
    Socket(#[from] DoorError),
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let named = |source| BindError::Address { address, source };
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
async fn accept(listener: TcpListener, routes: &Router, leash: &Leash, config: &Config) {
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
                let visit = Visit { caller: Caller::Remote, patience: config.request_timeout, slot };
                leash.spawn(visit.converse(tcp, routes.clone(), leash.clone()));
            }
            Err(error) => {
                // Most often EMFILE: the queue stays readable, so retrying at once would spin.
                tracing::warn!(%error, "admin accept failed");
                time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// One client's connection.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) caller: Caller,
    /// For each request, and for what is left of one at the end.
    pub(super) patience: Duration,
    /// Its place among the connections.
    pub(super) slot: OwnedSemaphorePermit,
}

impl Visit {
    /// Answers one client until it leaves, is idle too long, or has had its time.
    pub(super) async fn converse<S>(self, stream: S, routes: Router, leash: Leash)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { caller, patience, slot } = self;
        let named = ServiceBuilder::new().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(caller.clone());
            request
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Also ends a connection that idles between two requests.
            .header_read_timeout(patience)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(named.service(routes)));
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
}

/// Most bytes of a request's body.
const MAX_BODY: usize = 256 * 1024;

/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Longest a connection lives: a slot comes back even from who never stops asking.
const LIFETIME: Duration = Duration::from_mins(5);

/// Pause after an accept error that is not the peer's.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);
