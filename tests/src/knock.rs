//! One handshake at the gateway's door, and what it comes to.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, TcpStream as Plain},
    sync::Arc,
    time::Duration,
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, Stream,
    SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpSocket;

use crate::forge::Shown;

/// What a stranger is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It gets in.
    In,
    /// It does not.
    Alert(AlertDescription),
}

/// Who knocks: one version of TLS, and what it shows, whether that fits its key or not. It would resume a session.
///
/// # Panics
///
/// If `anchor`, the PEM of the gateway's authority, or the key is not well-formed.
pub fn knocker(
    anchor: &str,
    shown: Option<&Shown>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let anchor = CertificateDer::from_pem_slice(anchor.as_bytes()).expect("test PEM is well-formed");
    roots.add(anchor).expect("test anchors are certificates");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("the provider speaks both")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(Shown { chain, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            let key = provider.key_provider.load_private_key(key).expect("test keys are of use");
            let certified = CertifiedKey::new(chain.clone(), key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Knocks from an address of this host, and says what came and what kind of handshake it was.
///
/// # Panics
///
/// If the door is shut without a word.
pub async fn knock(
    config: &Arc<ClientConfig>,
    source: Ipv4Addr,
    to: SocketAddr,
) -> (Told, Option<HandshakeKind>) {
    let socket = TcpSocket::new_v4().expect("sockets can be made");
    socket.bind(SocketAddr::from((source, 0))).expect("all of 127/8 is this host");
    let tcp = socket.connect(to).await.and_then(tokio::net::TcpStream::into_std).expect("the door is there");
    let config = Arc::clone(config);
    let shake = tokio::task::spawn_blocking(move || shake(config, tcp));
    shake.await.expect("a handshake does not panic").expect("the door answers")
}

fn shake(config: Arc<ClientConfig>, mut tcp: Plain) -> io::Result<(Told, Option<HandshakeKind>)> {
    tcp.set_nonblocking(false)?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    // The gateway's first word comes after its verdict.
    let read = Stream::new(&mut connection, &mut tcp).read_exact(&mut [0]);
    let told = match read {
        Ok(()) => Told::In,
        Err(error) => match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(alert)) => Told::Alert(*alert),
            _ => return Err(error),
        },
    };
    Ok((told, connection.handshake_kind()))
}
