//! A remote collector that speaks the protocol by hand, so that it can also speak it wrongly.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use daemoneye_proto::v1::{
    Batch, Event, Hello, LinkRequest, LinkResponse, StreamClass, StreamState, Welcome,
    federation_client::FederationClient, link_request, link_response,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use uuid::Uuid;

use crate::{eventually::soon, witness::Witness};

/// What a peer shows and trusts, in PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Certificates it trusts for the gateway.
    pub anchors: String,
    /// Its own chain, leaf first, and key; none: it shows no certificate.
    pub own: Option<(String, String)>,
}

impl Credentials {
    /// A TLS configuration with ALPN `h2`.
    ///
    /// # Panics
    ///
    /// If the PEM is not well-formed: tests make their own.
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for anchor in CertificateDer::pem_slice_iter(self.anchors.as_bytes()) {
            roots.add(anchor.expect("test PEM is well-formed")).expect("test anchors are certificates");
        }
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("the provider has the default versions")
                .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .expect("test PEM is well-formed");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("test PEM is well-formed");
                builder.with_client_auth_cert(chain, key).expect("test keys match")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// Opens a gRPC channel to the gateway at `address`.
    ///
    /// # Errors
    ///
    /// The transport's, when the gateway cannot be reached.
    pub async fn channel(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        self.channel_over(address, |tcp| tcp).await
    }

    /// The same, and a receiver that is told when the gateway has ended the connection, as the socket saw it.
    ///
    /// # Errors
    ///
    /// The transport's, when the gateway cannot be reached.
    pub async fn witnessed(
        &self,
        address: SocketAddr,
    ) -> Result<(Channel, mpsc::Receiver<Instant>), tonic::transport::Error> {
        let (tell, ended) = mpsc::channel(1);
        let channel = self.channel_over(address, move |tcp| Witness::new(tcp, tell.clone())).await?;
        Ok((channel, ended))
    }

    async fn channel_over<S>(
        &self,
        address: SocketAddr,
        wrap: impl Fn(TcpStream) -> S + Clone + Send + 'static,
    ) -> Result<Channel, tonic::transport::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connector = TlsConnector::from(Arc::new(self.client_config()));
        Endpoint::from_static("http://gateway.invalid")
            .connect_timeout(Duration::from_secs(10))
            .connect_with_connector(service_fn(move |_: Uri| {
                let (connector, wrap) = (connector.clone(), wrap.clone());
                async move {
                    let tcp = TcpStream::connect(address).await?;
                    tcp.set_nodelay(true)?;
                    let tcp = wrap(tcp);
                    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                    connector.connect(name, tcp).await.map(TokioIo::new)
                }
            }))
            .await
    }
}

/// One session, driven frame by frame.
#[derive(Debug)]
pub struct Session {
    /// What the peer says. Dropping it half-closes the session.
    pub say: mpsc::Sender<LinkRequest>,
    /// What the gateway says.
    pub hear: Streaming<LinkResponse>,
}

impl Session {
    /// Calls `Link` with any first frame; what the gateway makes of it is heard later.
    ///
    /// # Panics
    ///
    /// If the call itself is refused without an answer on the stream.
    pub async fn call(channel: Channel, first: LinkRequest) -> Self {
        let (say, said) = mpsc::channel(64);
        say.send(first).await.expect("the receiver is held");
        let hear = FederationClient::new(channel).link(ReceiverStream::new(said)).await;
        Self { say, hear: hear.expect("the stream begins before its first frame is judged").into_inner() }
    }

    /// Opens a session for `streams` and waits for its `Welcome`.
    ///
    /// # Errors
    ///
    /// The gateway's status, if it does not admit the peer.
    pub async fn open(channel: Channel, streams: Vec<StreamState>) -> Result<(Self, Welcome), Status> {
        let (say, said) = mpsc::channel(64);
        let hello =
            Hello { protocol: daemoneye_proto::PROTOCOL_VERSION, software: "tests".to_owned(), streams };
        say.send(request(link_request::Frame::Hello(hello))).await.expect("the receiver is held");
        let hear = FederationClient::new(channel).link(ReceiverStream::new(said)).await?.into_inner();
        let mut session = Self { say, hear };
        match session.next().await? {
            link_response::Frame::Welcome(welcome) => Ok((session, welcome)),
            other => panic!("the first frame is {other:?}"),
        }
    }

    /// Says one frame.
    ///
    /// # Panics
    ///
    /// If the session has ended.
    pub async fn say(&self, frame: link_request::Frame) {
        self.say.send(request(frame)).await.expect("the session is open");
    }

    /// The gateway's next frame.
    ///
    /// # Errors
    ///
    /// The status with which the session ended; OK if it ended well.
    ///
    /// # Panics
    ///
    /// If the gateway is silent for long.
    pub async fn next(&mut self) -> Result<link_response::Frame, Status> {
        match soon("the gateway says something", self.hear.message()).await? {
            Some(response) => Ok(response.frame.expect("a response has a frame")),
            None => Err(Status::ok("the session ended")),
        }
    }

    /// Waits for an ack of `stream` at or above `seq`, and returns all rejections on the way.
    ///
    /// # Errors
    ///
    /// The status with which the session ended.
    pub async fn acked(
        &mut self,
        stream: Uuid,
        seq: u64,
    ) -> Result<Vec<daemoneye_proto::v1::Rejected>, Status> {
        let mut rejected = Vec::new();
        loop {
            if let link_response::Frame::Ack(ack) = self.next().await?
                && ack.stream == stream.as_bytes().as_slice()
            {
                rejected.extend(ack.rejected);
                if ack.acked >= seq {
                    return Ok(rejected);
                }
            }
        }
    }

    /// Waits for the end of the session.
    pub async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// Wraps a frame.
pub const fn request(frame: link_request::Frame) -> LinkRequest {
    LinkRequest { frame: Some(frame) }
}

/// A stream that begins: nothing acked, 1 is next.
pub fn new_stream(stream: Uuid) -> StreamState {
    StreamState {
        stream: bytes::Bytes::copy_from_slice(stream.as_bytes()),
        class: StreamClass::Critical.into(),
        acked: 0,
        next: 1,
    }
}

/// A batch of `payloads` on one topic, from the peer itself.
pub fn batch(
    stream: Uuid,
    first_seq: u64,
    topic: &str,
    payloads: impl IntoIterator<Item = Vec<u8>>,
) -> link_request::Frame {
    link_request::Frame::Batch(Batch {
        stream: bytes::Bytes::copy_from_slice(stream.as_bytes()),
        first_seq,
        collector: String::new(),
        topics: vec![topic.to_owned()],
        events: payloads
            .into_iter()
            .map(|payload| Event { topic: 0, payload: payload.into(), time_unix_nanos: 0, origin_seq: 0 })
            .collect(),
        origin: None,
    })
}
