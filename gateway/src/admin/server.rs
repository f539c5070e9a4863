//! The listener, what every request passes, and what no route may go without.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
};
use daemoneye_bridge::{
    bus::door::DoorError,
    lifecycle::Leash,
    reception::{self, Bounds},
};
use tokio::net::TcpListener;
use tower::{
    ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer,
};

use crate::{
    admin::{
        Commands, Config,
        api::{self, Sources},
        caller::Caller,
        guard,
        pages::Pages,
        probes,
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
        let sources = Sources { snapshots: snapshots.clone(), exporter, commands, pages: Pages::default() };
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
        let Config { max_connections: connections, request_timeout: patience, .. } = self.config;
        let bounds = Bounds { connections, patience };
        let local = async {
            if let Some(socket) = self.socket {
                socket.run(local_full, leash.clone(), bounds).await;
            }
        };
        let probes = async {
            if let Some(listener) = self.probes {
                accept(listener, bare, leash.clone(), bounds).await;
            }
        };
        tokio::join!(accept(self.main, full, leash.clone(), bounds), local, probes);
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

/// Takes connections over the network.
async fn accept(listener: TcpListener, routes: Router, leash: Leash, bounds: Bounds) {
    let listener = &listener;
    let next = || async move { listener.accept().await.map(|(tcp, _address)| (tcp, Caller::Remote)) };
    reception::run(bounds, routes, leash, next).await;
}

/// Most bytes of a request's body.
const MAX_BODY: usize = 256 * 1024;
