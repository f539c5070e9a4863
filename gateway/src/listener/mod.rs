//! The socket: binds, accepts, and keeps strangers few.
//!
//! Turns a port into [`Accepted`] connections. It owns acceptance, so that nobody else has to know that `accept` fails for
//! want of descriptors and would spin. Whoever has not proven who he is stands in a bounded crowd: when it is full, the
//! longest silent one makes room, so that strangers who say nothing cannot keep collectors out. Who comes too fast from one
//! network is turned away before anything is done for him.
//!
//! Kept true: at most `max_waiting` connections are silent or queued and at most `max_handshakes` in their handshake; an
//! error never ends acceptance; a stranger costs no line of the log above debug.

pub(crate) mod ages;
mod crowd;
pub mod proxy;
pub(crate) mod rates;

use std::{
    io,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{self, Instant},
};

use self::{
    crowd::Crowd,
    rates::{Over, Rates, Toll},
};
pub use self::{crowd::Place, rates::Config as RatesConfig};

/// Settings of the listener; every value is usable as it stands. Read as a part of the section `[tcp]`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub bind_address: SocketAddr,
    /// Most connections at once that have not greeted, or wait for a slot for their handshake.
    pub max_waiting: NonZeroUsize,
    /// Most handshakes at once.
    pub max_handshakes: NonZeroUsize,
    /// Most connections that the kernel holds until they are accepted.
    pub backlog: NonZeroU32,
    /// How long a connection may be silent before the kernel asks whether the other host is there.
    pub keepalive: Duration,
    /// How fast strangers may come.
    pub rates: rates::Config,
    /// Who may connect for others.
    pub proxy: proxy::Config,
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    local: SocketAddr,
    keepalive: Duration,
    crowd: Crowd,
    rates: Rates,
    proxy: Arc<proxy::Config>,
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
        let crowd = Crowd::new(config.max_waiting, config.max_handshakes);
        let (rates, proxy) = (Rates::new(config.rates), Arc::new(config.proxy.clone()));
        Ok(Self { tcp, local, keepalive: config.keepalive, crowd, rates, proxy, metrics })
    }

    /// Where it listens; the port is a real one even if 0 was asked for.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a connection, whoever else is in the middle of his.
    ///
    /// Cancel safe: a dropped call takes neither a place nor a socket.
    ///
    /// # Errors
    ///
    /// [`Turned`], if it was turned away at once.
    pub async fn accept(&mut self) -> Result<Accepted, Turned> {
        loop {
            let patience = self.crowd.patience();
            tokio::select! {
                biased;
                // Whoever left makes room for whoever comes.
                () = self.crowd.news() => {}
                // A slot whose holder has stopped in the middle goes to somebody who waits.
                () = patience => if self.crowd.relieve() {
                    self.metrics.crowded.inc();
                },
                accepted = self.tcp.accept() => match accepted {
                    Ok((tcp, remote)) => match prepare(&tcp, self.keepalive) {
                        Ok(()) => return self.enter(tcp, remote),
                        Err(error) => tracing::debug!(%remote, %error, "connection lost before it began"),
                    },
                    Err(error) => self.failed(&error).await,
                },
            }
        }
    }

    fn enter(&mut self, tcp: TcpStream, remote: SocketAddr) -> Result<Accepted, Turned> {
        self.metrics.connections.inc();
        let by_proxy = self.proxy.lists(remote.ip());
        // For whom a proxy connects is not known yet.
        let toll = if by_proxy { None } else { Some(self.metrics.toll(&self.rates, &tcp, remote)?) };
        let (place, crowded) = self.crowd.enter();
        if crowded {
            self.metrics.crowded.inc();
        }
        let door =
            Door { rates: self.rates.clone(), proxy: Arc::clone(&self.proxy), metrics: self.metrics.clone() };
        let proxied = by_proxy.then_some(door);
        Ok(Accepted { tcp, remote, place, toll, proxied })
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
    /// Where it comes from; of a proxied one known once it is introduced.
    pub remote: SocketAddr,
    /// Its place among the unproven.
    pub place: Place,
    /// What it has paid.
    toll: Option<Toll>,
    /// What it takes to introduce it, if a proxy has connected for it.
    proxied: Option<Door>,
}

/// What a connection that comes through a proxy is judged with once it is known whose it is.
#[derive(Debug)]
struct Door {
    rates: Rates,
    proxy: Arc<proxy::Config>,
    metrics: Metrics,
}

impl Accepted {
    /// Learns from the proxy, if one has connected, for whom.
    ///
    /// # Errors
    ///
    /// [`Turned`], if it does not say so, or that one comes too fast.
    pub async fn introduced(mut self) -> Result<Self, Turned> {
        let Some(Door { rates, proxy, metrics }) = self.proxied.take() else { return Ok(self) };
        let header = tokio::select! {
            biased;
            () = self.place.evicted() => return Err(Turned { remote: self.remote, why: Away::Crowded }),
            header = time::timeout(proxy.timeout, proxy::read(&mut self.tcp)) => header,
        };
        let refuse = |why: String| metrics.turn_away(&self.tcp, self.remote, Away::Proxy(why));
        match header {
            Err(_elapsed) => return Err(refuse("it sent no header in time".to_owned())),
            Ok(Err(malformed)) => return Err(refuse(malformed.to_string())),
            Ok(Ok(source)) => self.remote = source.unwrap_or(self.remote),
        }
        self.toll = Some(metrics.toll(&rates, &self.tcp, self.remote)?);
        Ok(self)
    }

    /// The socket, where it comes from, and what is given back when it is proven or refused.
    #[must_use]
    pub fn into_parts(self) -> (TcpStream, SocketAddr, Standing) {
        (self.tcp, self.remote, Standing { place: self.place, toll: self.toll })
    }
}

/// What an unproven connection holds; given back when dropped.
#[derive(Debug)]
pub struct Standing {
    /// Its place among the unproven.
    pub place: Place,
    toll: Option<Toll>,
}

impl Standing {
    /// Gives the place back: the peer has proven who it is. What it has paid is another matter.
    #[must_use]
    pub fn proven(self) -> Paid {
        Paid(self.toll)
    }
}

/// What a peer has paid that has proven who it is; lost when dropped.
#[derive(Debug, Default)]
pub struct Paid(Option<Toll>);

impl Paid {
    /// Gives it back: the peer is welcome, and its network is known from now on.
    pub fn give_back(self) {
        if let Some(toll) = self.0 {
            toll.give_back();
        }
    }
}

/// A connection that was turned away before its handshake.
#[derive(Clone, Debug)]
pub struct Turned {
    /// Where it came from.
    pub remote: SocketAddr,
    /// Why.
    pub why: Away,
}

/// Why a connection was turned away before its handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Away {
    /// Its place was needed.
    #[error("pushed out by newer connections")]
    Crowded,
    /// It came through a proxy that did not say for whom.
    #[error("it came from an address of tcp.proxy, and {0}")]
    Proxy(String),
    /// Too many come from its network.
    #[error("too many connections from its network prove nothing")]
    NetworkRate,
    /// Too many come from everywhere.
    #[error("too many connections prove nothing, and nobody of its network ever did")]
    Rate,
}

impl Away {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Crowded => "crowded",
            Self::Proxy(_) => "proxy",
            Self::NetworkRate => "network_rate",
            Self::Rate => "rate",
        }
    }
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
    turned: Family<Reason, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// Takes what a connection costs, or turns it away.
    fn toll(&self, rates: &Rates, tcp: &TcpStream, remote: SocketAddr) -> Result<Toll, Turned> {
        rates.take(remote.ip(), Instant::now()).map_err(|over| {
            let why = match over {
                Over::All => Away::Rate,
                Over::Network => Away::NetworkRate,
            };
            self.turn_away(tcp, remote, why)
        })
    }

    fn turn_away(&self, tcp: &TcpStream, remote: SocketAddr, why: Away) -> Turned {
        // A reset: whoever is turned away must not leave a connection in TIME_WAIT here.
        if let Err(error) = SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "could not ask for a reset");
        }
        self.turned.get_or_create(&Reason { reason: why.as_str() }).inc();
        Turned { remote, why }
    }

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
        for reason in ["network_rate", "proxy", "rate"] {
            drop(metrics.turned.get_or_create(&Reason { reason }));
        }
        registry.register(
            "turned_away",
            "Connections closed before their handshake, by reason",
            metrics.turned.clone(),
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
            max_waiting: NonZeroUsize::MIN.saturating_add(1),
            max_handshakes: NonZeroUsize::MIN,
            backlog: NonZeroU32::MIN.saturating_add(63),
            keepalive: Duration::from_mins(1),
            rates: rates::Config::default(),
            proxy: proxy::Config::default(),
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
            accepted.push(listener.accept().await.unwrap());
        }
        assert_eq!(silent.len(), accepted.len());
        accepted[0].place.evicted().await;
        assert!(!accepted[1].place.is_evicted() && !accepted[2].place.is_evicted());
        assert_eq!((metrics.connections.get(), metrics.crowded.get()), (3, 1));
    }
}
