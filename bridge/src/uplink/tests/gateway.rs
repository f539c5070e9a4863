//! A gateway that does what a test says: real TLS, real HTTP/2, and no mind of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use daemoneye_proto::v1::{
    self, LinkRequest, LinkResponse,
    federation_server::{Federation, FederationServer},
    link_request, link_response,
};
use futures_util::Stream;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::{
    io,
    net::TcpListener,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

use crate::{
    event::StreamId,
    lifecycle::{Leash, Lifecycle},
    topic::Topic,
    trust::{Files, revocation::Source},
    uplink::{Config, Gateway},
};

/// Longer than anything here takes, but for a defect.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway, and what a leaf needs to dial it.
pub(crate) struct Scripted {
    pub(crate) address: Gateway,
    pub(crate) leash: Leash,
    pub(crate) folder: TempDir,
    /// How many connections have been accepted.
    pub(crate) connections: watch::Receiver<usize>,
    sessions: mpsc::Receiver<Conversation>,
    /// Who issued everybody.
    root: Arc<(CertificateParams, KeyPair)>,
    acceptors: [TlsAcceptor; 2],
    _life: Lifecycle,
}

/// What gateways show, and who issued it.
type Issued = ([TlsAcceptor; 2], Arc<(CertificateParams, KeyPair)>);

impl Scripted {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lists")).unwrap();
        let (acceptors, root) = issue(&folder);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serving(listener, (acceptors, Arc::new(root)), folder)
    }

    /// Another gateway that the same leaf trusts.
    pub(crate) fn another(&self, listener: TcpListener) -> Self {
        let issued = (self.acceptors.clone(), Arc::clone(&self.root));
        Self::serving(listener, issued, tempfile::tempdir().unwrap())
    }

    fn serving(listener: TcpListener, (acceptors, root): Issued, folder: TempDir) -> Self {
        let life = Lifecycle::new();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (begun, sessions) = mpsc::channel(8);
        let connections = serve(&life.leash(), listener, acceptors.clone(), begun);
        Self { address, leash: life.leash(), folder, connections, sessions, root, acceptors, _life: life }
    }

    pub(crate) fn config(&self) -> Config {
        let at = |name: &str| self.folder.path().join(name);
        let files = Files { cert_file: at("leaf.crt"), key_file: at("leaf.key"), ca_file: at("ca.crt") };
        let mut config = Config::new(vec![self.address.clone()], files);
        config.first_retry = Duration::from_millis(20);
        config.longest_retry = Duration::from_millis(100);
        config.refused_retry = Duration::from_millis(100);
        config.drain_timeout = Duration::from_secs(5);
        config.reload = Duration::from_millis(100);
        config.revocation.sources = vec![Source::Path(at("lists"))];
        config
    }

    /// Lets the root revoke certificates, by their serial numbers, in a list that is due again at a year's begin.
    pub(super) fn revoke(&self, number: u64, serials: &[u64], due: i32) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2025, 1, 1),
            next_update: rcgen::date_time_ymd(due, 1, 1),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let (params, key) = &*self.root;
        let text = list.signed_by(&Issuer::from_params(params, key)).unwrap().pem().unwrap();
        let beside = self.folder.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.folder.path().join("lists/root.crl")).unwrap();
    }

    /// Gives the leaf its next certificate, the key first, as a careless administrator does.
    pub(crate) fn renew(&self) {
        for (from, to) in [("next.key", "leaf.key"), ("next.crt", "leaf.crt")] {
            fs::rename(self.folder.path().join(from), self.folder.path().join(to)).unwrap();
        }
    }

    /// Lets the leaf trust nobody who is here.
    pub(crate) fn distrust(&self) {
        fs::rename(self.folder.path().join("stranger.crt"), self.folder.path().join("ca.crt")).unwrap();
    }

    /// The next session that a leaf begins.
    pub(crate) async fn session(&mut self) -> Conversation {
        timeout(PATIENCE, self.sessions.recv()).await.expect("a leaf dials").expect("the gateway lives")
    }

    /// The next session, welcomed with everything it asks for.
    pub(crate) async fn welcomed(&mut self, credit: u32) -> (Conversation, v1::Hello) {
        let mut session = self.session().await;
        let hello = session.hello().await;
        let resume = hello.streams.iter().map(|state| (state.stream.clone(), state.acked + 1)).collect();
        session.welcome(resume, credit).await;
        (session, hello)
    }
}

/// One session as the gateway has it.
pub(crate) struct Conversation {
    inbound: Streaming<LinkRequest>,
    outbound: mpsc::Sender<Result<LinkResponse, Status>>,
    pub(crate) limits: v1::Limits,
    /// Which connection it is on, counted from 1.
    pub(crate) connection: usize,
}

impl Conversation {
    /// The next frame, but for pings and pongs; none at the end.
    pub(crate) async fn next(&mut self) -> Option<link_request::Frame> {
        loop {
            match self.raw().await {
                Some(link_request::Frame::Ping(_) | link_request::Frame::Pong(_)) => {}
                frame => return frame,
            }
        }
    }

    pub(crate) async fn raw(&mut self) -> Option<link_request::Frame> {
        let next = timeout(PATIENCE, self.inbound.message()).await.expect("the leaf says something");
        next.ok().flatten().and_then(|request| request.frame)
    }

    pub(crate) async fn hello(&mut self) -> v1::Hello {
        match self.raw().await {
            Some(link_request::Frame::Hello(hello)) => hello,
            other => panic!("{other:?} is no hello"),
        }
    }

    pub(crate) async fn batch(&mut self) -> v1::Batch {
        match self.next().await {
            Some(link_request::Frame::Batch(batch)) => batch,
            other => panic!("{other:?} is no batch"),
        }
    }

    pub(crate) async fn welcome(&self, resume: Vec<(bytes::Bytes, u64)>, credit: u32) {
        let resume = resume
            .into_iter()
            .map(|(stream, resume)| v1::Resume { stream, resume, rejected: Vec::new() })
            .collect();
        self.say(link_response::Frame::Welcome(v1::Welcome {
            protocol: 1,
            software: "scripted".into(),
            session: "s-1".into(),
            peer: "site-a/leaf".into(),
            limits: Some(self.limits),
            credit: Some(v1::Credit { events: credit, bytes: 1 << 20 }),
            resume,
        }))
        .await;
    }

    pub(crate) async fn ack(&self, stream: &bytes::Bytes, acked: u64, rejected: Vec<v1::Rejected>) {
        self.say(link_response::Frame::Ack(v1::Ack { stream: stream.clone(), acked, rejected })).await;
    }

    pub(crate) async fn say(&self, frame: link_response::Frame) {
        self.outbound.send(Ok(LinkResponse { frame: Some(frame) })).await.expect("the leaf listens");
    }

    pub(crate) async fn end(self, status: Status) {
        self.outbound.send(Err(status)).await.expect("the leaf listens");
    }

    /// Waits until the leaf has half-closed or is gone.
    pub(crate) async fn closed(&mut self) -> usize {
        let mut batches = 0;
        while let Some(frame) = self.next().await {
            batches += usize::from(matches!(frame, link_request::Frame::Batch(_)));
        }
        batches
    }
}

/// What a batch holds, in short.
pub(crate) fn payloads(batch: &v1::Batch) -> Vec<String> {
    batch.events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

pub(crate) fn id(bytes: &bytes::Bytes) -> StreamId {
    StreamId::from_slice(bytes).unwrap()
}

/// Waits until `reached`, as told by a watch.
pub(crate) async fn until<T: std::fmt::Debug + Send + Sync>(
    watch: &mut watch::Receiver<T>,
    reached: impl FnMut(&T) -> bool + Send,
) {
    let seen = timeout(PATIENCE, watch.wait_for(reached)).await.is_ok_and(|seen| seen.is_ok());
    assert!(seen, "still {:?}", watch.borrow());
}

/// Root, gateway and leaf; the leaf's files go into `folder`. The gateway has a certificate for its first connection, with
/// serial number 1, and another for all others, with 2.
fn issue(folder: &TempDir) -> ([TlsAcceptor; 2], (CertificateParams, KeyPair)) {
    let mut root = CertificateParams::new(Vec::<String>::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_key = KeyPair::generate().unwrap();
    let root_certificate = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::from_params(&root, &root_key);
    let leaf = |usage, san, serial: Option<u64>| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = serial.map(Into::into);
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2124, 1, 1);
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![san];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let uri = SanType::URI("spiffe://td/site/a/collector/leaf".try_into().unwrap());
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("ca.crt", root_certificate.pem());
    write("stranger.crt", root.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());
    for name in ["leaf", "next"] {
        let (certificate, key) = leaf(ExtendedKeyUsagePurpose::ClientAuth, uri.clone(), None);
        write(&format!("{name}.crt"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
        let key = folder.path().join(format!("{name}.key"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    }

    let here = SanType::IpAddress([127, 0, 0, 1].into());
    let acceptor = |serial| {
        let (certificate, key) = leaf(ExtendedKeyUsagePurpose::ServerAuth, here.clone(), Some(serial));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    };
    let acceptors = [acceptor(1), acceptor(2)];
    (acceptors, (root, root_key))
}

/// One end of a connection, and its number.
struct Pipe(io::DuplexStream, usize);

impl Connected for Pipe {
    type ConnectInfo = usize;

    fn connect_info(&self) -> usize {
        self.1
    }
}

impl io::AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl io::AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn serve(
    leash: &Leash,
    listener: TcpListener,
    acceptors: [TlsAcceptor; 2],
    begun: mpsc::Sender<Conversation>,
) -> watch::Receiver<usize> {
    let (count, connections) = watch::channel(0);
    let (connected, incoming) = mpsc::channel::<io::Result<Pipe>>(8);
    let spawner = leash.clone();
    leash.spawn(async move {
        let [first, others] = acceptors;
        let mut number = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = if number == 0 { &first } else { &others };
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            number += 1;
            // What tonic serves must tell where it comes from; a pipe does, our TLS stream does not.
            let (near, mut far) = io::duplex(64 * 1024);
            spawner.spawn(async move {
                let _cut = io::copy_bidirectional(&mut tls, &mut far).await;
            });
            connected.send(Ok(Pipe(near, number))).await.unwrap_or_default();
            count.send_modify(|count| *count += 1);
        }
    });
    leash.spawn(async move {
        let service = FederationServer::new(Script { begun });
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming));
        served.await.unwrap();
    });
    connections
}

struct Script {
    begun: mpsc::Sender<Conversation>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Federation for Script {
    type LinkStream = Answers<LinkResponse>;
    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (outbound, answers) = mpsc::channel(64);
        let limits = v1::Limits {
            max_payload: 1 << 20,
            max_batch_events: 4096,
            max_message: 4 << 20,
            heartbeat: Duration::from_secs(30).try_into().ok(),
        };
        let connection = request.extensions().get().copied().unwrap_or_default();
        let session = Conversation { inbound: request.into_inner(), outbound, limits, connection };
        self.begun.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn publish(
        &self,
        _request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn subscribe(
        &self,
        _request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

/// How long something took.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}
