//! The socket: binds, accepts, and keeps strangers few.
//!
//! Turns a port into [`Accepted`] connections. It owns acceptance, so that nobody else has to know that `accept` fails for
//! want of descriptors and would spin. Whoever has not proven who he is stands in a bounded crowd: when it is full, the
//! longest silent one makes room, so that strangers who say nothing cannot keep collectors out.
//!
//! Kept true: at most `max_handshakes` connections are unproven and at most `max_connections` proven; an error never ends
//! acceptance.

mod crowd;

use std::{
    io,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time,
};

use self::crowd::Crowd;
pub use self::crowd::{Full, Place, Slot};

/// Settings of the listener; every value is usable as it stands. Read as a part of the section `[tcp]`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub bind_address: SocketAddr,
    /// Most peers connected at once.
    pub max_connections: NonZeroUsize,
    /// Most connections at once that have not proven who they are.
    pub max_handshakes: NonZeroUsize,
    /// Most connections that the kernel holds until they are accepted.
    pub backlog: NonZeroU32,
    /// How long a connection may be silent before the kernel asks whether the other host is there.
    pub keepalive: Duration,
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    local: SocketAddr,
    keepalive: Duration,
    crowd: Crowd,
    metrics: Metrics,
}

impl Listener {
    /// Binds and listens. Needs a runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`] names the address and a remedy.
    pub fn bind(config: &Config, metrics: Metrics) -> Result<Self, BindError> {
        let address = config.bind_address;
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart finds the connections of its predecessor in TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let tcp = socket.listen(config.backlog.get())?;
            let local = tcp.local_addr()?;
            Ok((tcp, local))
        };
        let (tcp, local) = bind().map_err(|source| BindError::new(address, source))?;
        let slots = Arc::new(Semaphore::new(config.max_connections.get().min(Semaphore::MAX_PERMITS)));
        let crowd = Crowd::new(config.max_handshakes, slots);
        Ok(Self { tcp, local, keepalive: config.keepalive, crowd, metrics })
    }

    /// Where it listens; the port is a real one even if 0 was asked for.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a place, then for a connection.
    ///
    /// Cancel safe: a dropped call takes neither a place nor a socket.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            let (room, patience) = (self.crowd.has_room(), self.crowd.patience());
            tokio::select! {
                biased;
                // Whoever left makes room for whoever comes.
                () = self.crowd.news() => {}
                accepted = self.tcp.accept(), if room => match accepted {
                    Ok((tcp, remote)) => match prepare(&tcp, self.keepalive) {
                        Ok(()) => return self.enter(tcp, remote),
                        Err(error) => tracing::debug!(%remote, %error, "connection lost before it began"),
                    },
                    Err(error) => self.failed(&error).await,
                },
                // A full crowd of those who stopped in the middle of their handshake gives way after a while.
                () = patience, if !room => {}
            }
        }
    }

    fn enter(&mut self, tcp: TcpStream, remote: SocketAddr) -> Accepted {
        self.metrics.connections.inc();
        let (place, crowded) = self.crowd.enter();
        if crowded {
            self.metrics.crowded.inc();
        }
        Accepted { tcp, remote, place }
    }

    async fn failed(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            tracing::debug!(%error, "connection lost before accept");
            return;
        }
        // Most often EMFILE: the queue stays readable, so retrying at once would spin.
        self.metrics.accept_errors.inc();
        tracing::warn!(%error, "accept failed");
        time::sleep(EXHAUSTED_PAUSE).await;
    }
}

/// How long to wait for descriptors or memory to come back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

fn prepare(tcp: &TcpStream, keepalive: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(keepalive).with_interval(keepalive / 4);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// A connection of somebody unknown.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub tcp: TcpStream,
    /// Where it comes from.
    pub remote: SocketAddr,
    /// Its place among the unproven.
    pub place: Place,
}

/// Why the port could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process has the port.
    #[error(
        "could not listen on {0}: the port is in use; stop what uses it, or choose another tcp.bind_address"
    )]
    Busy(SocketAddr),
    /// The address is not one of this host.
    #[error("could not listen on {0}: this host has no such address; choose another tcp.bind_address")]
    Foreign(SocketAddr),
    /// Anything else.
    #[error("could not listen on {address}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The port needs a privilege.
    #[error(
        "could not listen on {0}: ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or choose another tcp.bind_address"
    )]
    Privileged(SocketAddr),
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Busy(address),
            io::ErrorKind::AddrNotAvailable => Self::Foreign(address),
            io::ErrorKind::PermissionDenied if address.port() < 1024 => Self::Privileged(address),
            _ => Self::Other { address, source },
        }
    }
}

/// What the listener counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connections: Counter,
    accept_errors: Counter,
    crowded: Counter,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("listener");
        registry.register("connections", "Connections accepted", metrics.connections.clone());
        registry.register(
            "accept_errors",
            "Failures to accept that were not the peer's, such as a lack of descriptors",
            metrics.accept_errors.clone(),
        );
        registry.register(
            "crowded_out",
            "Unproven connections dropped to make room for newer ones",
            metrics.crowded.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(port: u16) -> Config {
        Config {
            bind_address: SocketAddr::from(([127, 0, 0, 1], port)),
            max_connections: NonZeroUsize::MIN,
            max_handshakes: NonZeroUsize::MIN.saturating_add(1),
            backlog: NonZeroU32::MIN.saturating_add(63),
            keepalive: Duration::from_mins(1),
        }
    }

    #[tokio::test]
    async fn a_busy_port_and_a_foreign_address_are_told_apart() {
        let first = Listener::bind(&config(0), Metrics::default()).unwrap();
        let again = Listener::bind(&config(first.local().port()), Metrics::default());
        assert!(matches!(again, Err(BindError::Busy(_))));
        let bind_address = SocketAddr::from(([192, 0, 2, 1], 0));
        let foreign = Listener::bind(&Config { bind_address, ..config(0) }, Metrics::default());
        assert!(matches!(foreign, Err(BindError::Foreign(_))));
    }

    #[tokio::test]
    async fn a_full_crowd_lets_the_newest_in_and_the_oldest_go() {
        let metrics = Metrics::default();
        let mut listener = Listener::bind(&config(0), metrics.clone()).unwrap();
        let mut accepted = Vec::new();
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(listener.local()).await.unwrap());
            accepted.push(listener.accept().await);
        }
        assert_eq!(silent.len(), accepted.len());
        accepted[0].place.evicted().await;
        assert!(!accepted[1].place.is_evicted() && !accepted[2].place.is_evicted());
        assert_eq!((metrics.connections.get(), metrics.crowded.get()), (3, 1));
    }
}
