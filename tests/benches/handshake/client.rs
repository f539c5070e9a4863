//! Collectors that come, prove themselves, and go.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::pki::Pki;

/// What each collector is configured with.
pub(crate) type Clients = Arc<[Arc<ClientConfig>]>;

/// Configures collectors that resume nothing, and that offer what leaves do, or one key exchange only.
pub(crate) fn clients(
    pki: &Pki,
    collectors: &[(String, String)],
    group: Option<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> Clients {
    let mut provider = default_provider();
    if let Some(group) = group {
        provider.kx_groups = vec![group];
    }
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(pki.root_pem.as_bytes()).expect("our PEM is well-formed");
    roots.add(root).expect("our root is a certificate");
    let roots = Arc::new(roots);
    let configure = |(chain, key): &(String, String)| {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("our PEM is well-formed");
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.expect("our PEM is well-formed"), key)
            .expect("our keys match");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Arc::new(config)
    };
    collectors.iter().map(configure).collect()
}

/// One collector after the other, until one fails.
pub(crate) async fn come_and_go(
    address: SocketAddr,
    clients: Clients,
    next: Arc<AtomicUsize>,
    done: Arc<AtomicU64>,
) -> io::Error {
    loop {
        let turn = next.fetch_add(1, Relaxed) % clients.len();
        match handshake(address, &clients[turn]).await {
            Ok(_) => done.fetch_add(1, Relaxed),
            Err(error) => return error,
        };
    }
}

/// The preface of HTTP/2 with empty settings: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A full handshake, and the server's first word, which it says when it has judged the client's certificate.
pub(crate) async fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<NamedGroup> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    // Else its port is of no use for a minute.
    tcp.set_zero_linger()?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    tls.write_all(PREFACE).await?;
    if tls.read(&mut [0; 64]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let connection = tls.get_ref().1;
    assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let exchange = connection.negotiated_key_exchange_group().expect("a full handshake has a key exchange");
    Ok(exchange.name())
}
