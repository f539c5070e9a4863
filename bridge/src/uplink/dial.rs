//! From a gateway's name to a gRPC channel over mutual TLS.
//!
//! Names are resolved at each dial, so that a moved gateway is found; of several addresses each is tried, in random order.
//! Every step has a deadline.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use daemoneye_proto::{MAX_MESSAGE, v1::federation_client::FederationClient};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::AsyncBufReadExt,
    net::{TcpStream, lookup_host},
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::uplink::{
    Gateway,
    failure::Failure,
    nursery::{Cradle, Nursery},
};

/// What to dial with.
#[derive(Clone, Debug)]
pub(super) struct Dialler {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) patience: Duration,
}

/// A connection to a gateway. Dropping it cuts the connection.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) client: FederationClient<Channel>,
    /// Must be run for anything to happen on the connection.
    pub(super) nursery: Nursery,
    /// What the gateway presented.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Dialled {
    /// Hangs up, with a moment to say goodbye.
    pub(super) async fn wind_up(self) {
        drop(self.client);
        self.nursery.wind_up().await;
    }
}

impl Dialler {
    /// Tries the addresses of `gateway` until one is connected.
    pub(super) async fn dial(&self, gateway: &Gateway) -> Result<Dialled, Failure> {
        let mut failure = Failure::NoAddress { gateway: gateway.clone() };
        for address in self.resolve(gateway).await? {
            match self.within(gateway, "connecting", self.connect(gateway, address)).await {
                Ok(dialled) => return Ok(dialled),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn resolve(&self, gateway: &Gateway) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = gateway.host().parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, gateway.port())]);
        }
        let resolving = async {
            let found = lookup_host((gateway.host(), gateway.port())).await;
            found.map_err(|source| Failure::Resolve { gateway: gateway.clone(), source })
        };
        let mut addresses: Vec<SocketAddr> = self.within(gateway, "resolving", resolving).await?.collect();
        fastrand::shuffle(&mut addresses);
        addresses.truncate(MAX_ADDRESSES);
        Ok(addresses)
    }

    async fn connect(&self, gateway: &Gateway, address: SocketAddr) -> Result<Dialled, Failure> {
        // Boxed: a TLS connection is large, and this future is kept for as long as the uplink lives.
        let tls = Box::pin(self.handshake(gateway, address)).await?;
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let (mut nursery, cradle) = Nursery::new();
        let endpoint = endpoint(gateway, cradle)?;
        let mut tls = Some(TokioIo::new(Box::new(tls)));
        // Handed out once: a connection that is lost is dialled anew by us, with a new resolution and new material.
        let connector = tower::service_fn(move |_uri| {
            let taken = tls.take().ok_or(io::ErrorKind::NotConnected);
            std::future::ready(taken.map_err(io::Error::from))
        });
        let channel = nursery.beside(endpoint.connect_with_connector(connector)).await;
        let channel = channel.map_err(|source| Failure::of_transport(gateway, source))?;
        let client = FederationClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Dialled { client, nursery, chain })
    }

    async fn handshake(
        &self,
        gateway: &Gateway,
        address: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connect = |source| Failure::Connect { gateway: gateway.clone(), source };
        let tcp = TcpStream::connect(address).await.map_err(connect)?;
        tcp.set_nodelay(true).map_err(connect)?;
        let name = ServerName::try_from(gateway.host().to_owned())
            .expect("a gateway's host was checked when it was read");
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await;
        let mut stream = handshake.map_err(|source| Failure::of_handshake(gateway, source))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(Failure::Protocol { gateway: gateway.clone(), what: "it does not speak HTTP/2" });
        }
        hear_verdict(&mut stream).await.map_err(|source| Failure::of_handshake(gateway, source))?;
        Ok(stream)
    }

    async fn within<T>(
        &self,
        gateway: &Gateway,
        doing: &'static str,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = |_| Failure::TimedOut { gateway: gateway.clone(), doing, patience: self.patience };
        time::timeout(self.patience, step).await.map_err(late)?
    }
}

/// Waits for the gateway's first bytes: its HTTP/2 settings, or the alert that refuses this end's certificate.
///
/// With TLS 1.3 the handshake is over at this end before the gateway has judged it. Had something been sent meanwhile, the
/// gateway's system would answer it with a reset, and the alert be lost with all else that was not read yet.
async fn hear_verdict(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    match time::timeout(VERDICT, stream.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => Err(error),
        // A server may as well wait for the client's first word.
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Sets each bound of HTTP/2: the windows are for what comes down, which is little before there is a downlink.
fn endpoint(gateway: &Gateway, cradle: Cradle) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(format!("https://{gateway}"))
        .map_err(|source| Failure::Http { gateway: gateway.clone(), source })?
        .executor(cradle)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint)
}

/// What is spoken on the connection.
pub(super) const ALPN: &[u8] = b"h2";

/// How long a gateway that says nothing is waited for.
const VERDICT: Duration = Duration::from_secs(2);

/// A name with more addresses is no gateway's.
const MAX_ADDRESSES: usize = 8;

const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADERS: u32 = 16 * 1024;

/// HTTP/2 pings find a dead path sooner than the pings of the session, which prove the gateway itself alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
