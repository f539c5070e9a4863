//! Through a real socket, with authorities made at run time.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use daemoneye_bridge::lifecycle::Lifecycle;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    identity,
    ingress::{Config, Ingress, Metrics},
    pki::{self, Authority, Certificate, ExtendedKeyUsage, Leaf, Validity},
    snapshot::{Part, Refusal, Refusals},
    tls,
};

const DOMAIN: &str = "td.test";

/// A way in, with what comes out of it.
struct Gate {
    root: Authority,
    folder: TempDir,
    address: SocketAddr,
    refusals: Part<Refusals>,
    peers: mpsc::Receiver<String>,
    store: daemoneye_bridge::trust::Store,
    _life: Lifecycle,
}

impl Gate {
    /// Opens one; `extra` are further keys of `[tcp]`, as JSON.
    fn open(extra: &str) -> Self {
        let root = Authority::root("root").unwrap();
        let folder = tempfile::tempdir().unwrap();
        install(&root, folder.path());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config: Config = serde_json::from_str(&format!(
            r#"{{"bind_address": "127.0.0.1:0"{extra}, "tls_config":
                {{"cert_file": "{}", "key_file": "{}", "ca_file": "{}"}}}}"#,
            at("gateway.crt"),
            at("gateway.key"),
            at("ca.crt"),
        ))
        .unwrap();
        let names: identity::Config = serde_json::from_str(&format!(
            r#"{{"trust_domain": "{DOMAIN}", "dns": ["{{name}}.{{site}}.collectors.example.com"]}}"#
        ))
        .unwrap();
        let life = Lifecycle::new();
        let metrics = Metrics::default();
        let (book, refusals, keeping) = tls::Refusals::open(metrics.tls().clone());
        life.leash().spawn(keeping);
        let (_, denials) = watch::channel(Arc::default());
        let ingress = Ingress::open(config, names, denials, book, &metrics).unwrap();
        let (address, store) = (ingress.local(), ingress.tls().store().clone());
        let (told, peers) = mpsc::channel(64);
        let serve = move |mut stream: super::PeerStream| {
            let told = told.clone();
            async move {
                if let Some(declined) = stream.declined() {
                    stream.write_all(declined.over.to_string().as_bytes()).await.unwrap();
                    return stream.shutdown().await.unwrap();
                }
                told.send(stream.peer().id().to_string()).await.unwrap();
                // Echoes until the other end hangs up.
                let (mut from, mut to) = tokio::io::split(&mut stream);
                drop(tokio::io::copy(&mut from, &mut to).await);
            }
        };
        life.leash().spawn(ingress.run(life.leash(), CancellationToken::new(), serve));
        Self { root, folder, address, refusals, peers, store, _life: life }
    }

    async fn dial(&self, certificate: Option<&Certificate>) -> io::Result<TlsStream<TcpStream>> {
        self.dial_as(certificate, 1, &[b"h2"]).await
    }

    /// Dials, presenting the chain `repeat` times.
    async fn dial_as(
        &self,
        certificate: Option<&Certificate>,
        repeat: usize,
        protocols: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.settings(certificate, repeat, protocols);
        Self::shake(config, TcpStream::connect(self.address).await?).await
    }

    fn settings(
        &self,
        certificate: Option<&Certificate>,
        repeat: usize,
        protocols: &[&[u8]],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.root_pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let pem = certificate.chain_pem().repeat(repeat);
                let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
                let key = PrivatePkcs8KeyDer::from(certificate.key_der().to_vec());
                builder.with_client_auth_cert(chain, PrivateKeyDer::from(key)).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Dials from another address of this host, after sending `header`.
    async fn dial_from(
        &self,
        from: [u8; 4],
        header: &[u8],
        certificate: &Certificate,
    ) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let mut tcp = socket.connect(self.address).await?;
        tcp.write_all(header).await?;
        Self::shake(self.settings(Some(certificate), 1, &[b"h2"]), tcp).await
    }

    async fn shake(config: ClientConfig, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    fn collector(&self, name: &str) -> Certificate {
        self.root.issue(&Leaf::collector(DOMAIN, "site-a", name)).unwrap()
    }

    /// Waits for a refusal of this reason.
    async fn refusal(&mut self, reason: &str) -> Refusal {
        self.refused(reason, 1).await;
        let refusals = self.refusals.borrow();
        refusals.recent.iter().find(|refusal| refusal.reason == reason).unwrap().clone()
    }

    /// Waits for so many refusals of this reason.
    async fn refused(&mut self, reason: &str, times: u64) {
        let count = |refusals: &Refusals| {
            let of_it = refusals.recent.iter().filter(|refusal| refusal.reason == reason);
            of_it.map(|refusal| refusal.count).sum::<u64>()
        };
        let waiting = self.refusals.wait_for(|refusals| count(refusals) >= times);
        let waited = time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("too few of {reason}")).unwrap();
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn install(root: &Authority, folder: &Path) {
    let server = root.issue(&Leaf::server("gateway").dns("localhost")).unwrap();
    pki::write_certificate(folder, "gateway", &server).unwrap();
    pki::write_authority(folder, "ca", root).unwrap();
}

/// Writes a byte and waits for its echo.
async fn echo(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_u8().await.map(drop)
}

#[tokio::test]
async fn a_collector_is_admitted_under_the_name_in_its_certificate() {
    let mut gate = Gate::open("");
    let mut stream = gate.dial(Some(&gate.collector("procmond"))).await.unwrap();
    assert_eq!(gate.peers.recv().await.unwrap(), "site-a/procmond");
    echo(&mut stream).await.unwrap();
}

#[tokio::test]
async fn every_stranger_is_refused_for_a_reason_of_his_own() {
    let mut gate = Gate::open("");
    let collector = || Leaf::collector(DOMAIN, "site-a", "procmond");
    let issue = |leaf: Leaf| gate.root.issue(&leaf).unwrap();
    let other = Authority::root("other").unwrap();
    let cases = [
        (Some(other.issue(&collector()).unwrap()), "unknown_issuer"),
        (Some(issue(collector().validity(Validity::expired()))), "certificate_expired"),
        (Some(issue(collector().validity(Validity::not_yet()))), "certificate_not_yet_valid"),
        (Some(issue(collector().extended_usages([ExtendedKeyUsage::ServerAuth]))), "wrong_purpose"),
        (Some(issue(collector().extended_usages([]))), "no_purpose"),
        (Some(issue(collector().dns("netmond.site-a.collectors.example.com"))), "ambiguous_identity"),
        (Some(issue(collector().dns("*.site-a.collectors.example.com"))), "bad_name"),
        (Some(issue(collector().without_names())), "no_identity"),
        (None, "no_certificate"),
    ];
    for (certificate, reason) in cases {
        if let Ok(mut stream) = gate.dial(certificate.as_ref()).await {
            echo(&mut stream).await.unwrap_err();
        }
        let refusal = gate.refusal(reason).await;
        assert_eq!(refusal.possession_proven, certificate.is_some(), "{reason}");
        assert_eq!(refusal.chain.len(), usize::from(certificate.is_some()), "{reason}");
        assert!(!refusal.hint.is_empty());
    }
    assert!(gate.peers.try_recv().is_err());
}

#[tokio::test]
async fn six_certificates_garbage_and_a_missing_protocol_are_refused() {
    let mut gate = Gate::open("");
    let collector = gate.collector("procmond");
    if let Ok(mut stream) = gate.dial_as(Some(&collector), 6, &[b"h2"]).await {
        echo(&mut stream).await.unwrap_err();
    }
    assert!(!gate.refusal("too_many_certificates").await.possession_proven);

    let mut plain = TcpStream::connect(gate.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // An alert at the most, then the end.
    drop(plain.read_to_end(&mut Vec::new()).await);
    assert_eq!(gate.refusal("not_tls").await.stage, "tls");

    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        if let Ok(mut stream) = gate.dial_as(Some(&collector), 1, protocols).await {
            echo(&mut stream).await.unwrap_err();
        }
    }
    gate.refused("incompatible", 2).await;
    assert!(gate.peers.try_recv().is_err());
}

#[tokio::test]
async fn a_silent_client_is_dropped_at_the_deadline() {
    let mut gate = Gate::open(r#", "greeting_timeout": "1s""#);
    let (begun, mut silent) = (Instant::now(), TcpStream::connect(gate.address).await.unwrap());
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(gate.refusal("timed_out").await.detail, "sent no TLS greeting in time");
}

#[tokio::test]
async fn a_crowd_of_silent_strangers_keeps_no_collector_out() {
    let mut gate = Gate::open(r#", "max_waiting": 4"#);
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(gate.address).await.unwrap());
    }
    let begun = Instant::now();
    let mut stream = gate.dial(Some(&gate.collector("procmond"))).await.unwrap();
    echo(&mut stream).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(gate.peers.recv().await.unwrap(), "site-a/procmond");
    gate.refused("crowded", 32).await;
    assert_eq!(silent.len(), 64);
}

#[tokio::test]
async fn one_more_than_may_be_connected_is_refused_until_one_leaves() {
    let mut gate = Gate::open(r#", "max_connections": 1"#);
    let certificate = gate.collector("procmond");
    let mut first = gate.dial(Some(&certificate)).await.unwrap();
    echo(&mut first).await.unwrap();
    let mut second = gate.dial(Some(&certificate)).await.unwrap();
    let told = second.read_to_string(&mut String::new()).await;
    assert_eq!(told.unwrap(), "as many peers are connected as may be".len());
    gate.refusal("full").await;
    drop(first);
    let again = async {
        loop {
            if let Ok(mut stream) = gate.dial(Some(&certificate)).await
                && echo(&mut stream).await.is_ok()
            {
                return;
            }
        }
    };
    time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_reload_serves_the_new_certificate_and_cuts_nobody() {
    let gate = Gate::open("");
    let certificate = gate.collector("procmond");
    let presented = |stream: &TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap().first().unwrap().clone()
    };
    let mut before = gate.dial(Some(&certificate)).await.unwrap();
    echo(&mut before).await.unwrap();
    install(&gate.root, gate.folder.path());
    gate.store.reload(daemoneye_bridge::trust::revocation::Order::Forward).await.unwrap();
    let mut after = gate.dial(Some(&certificate)).await.unwrap();
    echo(&mut after).await.unwrap();
    echo(&mut before).await.unwrap();
    assert_ne!(presented(&before), presented(&after));
}

#[tokio::test]
async fn a_half_greeting_does_not_stop_the_others() {
    let mut gate = Gate::open("");
    let mut half = TcpStream::connect(gate.address).await.unwrap();
    // The head of a record that announces more than will ever come.
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut stream = gate.dial(Some(&gate.collector("procmond"))).await.unwrap();
    echo(&mut stream).await.unwrap();
    assert!(gate.peers.recv().await.is_some());
}

#[tokio::test]
async fn a_flood_from_one_network_is_turned_away_and_hurts_no_other() {
    let mut gate = Gate::open(r#", "rates": {"per_network": 1, "network_burst": 8}"#);
    let certificate = gate.collector("procmond");
    let mut silent = Vec::new();
    for _ in 0..64 {
        // A reset may come before the connection is seen here.
        silent.extend(TcpStream::connect(gate.address).await.ok());
    }
    gate.refused("rate_exceeded", 50).await;
    let refusal = gate.refusal("rate_exceeded").await;
    assert_eq!((refusal.stage, refusal.possession_proven), ("listener", false));
    let mut stream = gate.dial_from([127, 9, 9, 9], &[], &certificate).await.unwrap();
    echo(&mut stream).await.unwrap();
    assert_eq!(gate.peers.recv().await.unwrap(), "site-a/procmond");
    assert!(silent.len() >= 8);
}

#[tokio::test]
async fn who_proves_himself_is_held_up_by_no_rate() {
    let gate =
        Gate::open(r#", "rates": {"per_network": 1, "network_burst": 2, "in_all": 1, "all_burst": 2}"#);
    let certificate = gate.collector("procmond");
    for _ in 0..20 {
        let mut stream = gate.dial(Some(&certificate)).await.unwrap();
        echo(&mut stream).await.unwrap();
    }
}

#[tokio::test]
async fn a_handshake_that_stops_gives_its_slot_to_who_waits() {
    let mut gate = Gate::open(r#", "max_handshakes": 1"#);
    let mut stuck = Vec::new();
    for _ in 0..3 {
        // A whole greeting, and nothing after it.
        let mut greeting = Vec::new();
        let mut client = rustls::ClientConnection::new(
            Arc::new(gate.settings(None, 1, &[b"h2"])),
            ServerName::try_from("localhost").unwrap(),
        )
        .unwrap();
        client.write_tls(&mut greeting).unwrap();
        let mut tcp = TcpStream::connect(gate.address).await.unwrap();
        tcp.write_all(&greeting).await.unwrap();
        stuck.push(tcp);
    }
    let mut stream = gate.dial(Some(&gate.collector("procmond"))).await.unwrap();
    echo(&mut stream).await.unwrap();
    gate.refusal("crowded").await;
    assert!(gate.peers.recv().await.is_some());
    assert_eq!(stuck.len(), 3);
}

#[tokio::test]
async fn a_peer_that_comes_too_often_is_told_to_wait_and_others_are_not() {
    let mut gate = Gate::open(r#", "flapping": {"burst": 2, "first_pause": "1m"}"#);
    let certificate = gate.collector("procmond");
    for _ in 0..2 {
        echo(&mut gate.dial(Some(&certificate)).await.unwrap()).await.unwrap();
    }
    let mut told = String::new();
    gate.dial(Some(&certificate)).await.unwrap().read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "this peer connects too often, and has to wait");
    let refusal = gate.refusal("cooling_down").await;
    assert!(refusal.possession_proven && refusal.detail.starts_with("site-a/procmond: "), "{refusal:?}");
    // Who does not hold the key brings no pause upon anybody.
    let other = gate.collector("netmond");
    echo(&mut gate.dial(Some(&other)).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_does_not_wait_pays_for_its_handshakes_like_a_stranger() {
    let rates = r#""rates": {"per_network": 1, "network_burst": 4}"#;
    let mut gate = Gate::open(&format!(r#", "flapping": {{"burst": 2, "first_pause": "1m"}}, {rates}"#));
    let certificate = gate.collector("procmond");
    for _ in 0..32 {
        // Told to wait, or reset before anything else.
        drop(gate.dial(Some(&certificate)).await);
    }
    gate.refused("rate_exceeded", 8).await;
    let mut stream = gate.dial_from([127, 9, 9, 9], &[], &gate.collector("netmond")).await.unwrap();
    echo(&mut stream).await.unwrap();
}

#[tokio::test]
async fn over_the_cap_of_a_peer_and_of_a_site_others_are_let_in() {
    let mut gate = Gate::open(r#", "max_connections_per_site": 2, "max_connections_per_peer": 1"#);
    let (first, second, third) = (gate.collector("a-1"), gate.collector("a-2"), gate.collector("a-3"));
    let elsewhere = gate.root.issue(&Leaf::collector(DOMAIN, "site-b", "b-1")).unwrap();
    let mut held = vec![gate.dial(Some(&first)).await.unwrap()];
    echo(&mut held[0]).await.unwrap();
    for (certificate, told) in [
        (&first, Some("as many connections of this peer are open as may be")),
        (&second, None),
        (&third, Some("as many peers of this site are connected as may be")),
        (&elsewhere, None),
    ] {
        let mut stream = gate.dial(Some(certificate)).await.unwrap();
        if let Some(told) = told {
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, told);
        } else {
            echo(&mut stream).await.unwrap();
            held.push(stream);
        }
    }
    gate.refused("peer_full", 1).await;
    gate.refused("site_full", 1).await;
    assert_eq!(held.len(), 3);
}

/// A header of PROXY protocol 2 that speaks for this address, with something after it that is skipped.
fn header(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10".to_vec();
    header.extend(source);
    header.extend([127, 0, 0, 1, 0x30, 0x39, 0x20, 0xfb, 4, 0, 1, 0]);
    header
}

#[tokio::test]
async fn a_listed_proxy_must_say_for_whom_it_connects_and_nobody_else_may() {
    let mut gate = Gate::open(r#", "proxy": {"from": ["127.7.0.0/16"]}"#);
    let certificate = gate.collector("procmond");
    let mut stream = gate.dial_from([127, 7, 0, 1], &header([192, 0, 2, 9]), &certificate).await.unwrap();
    echo(&mut stream).await.unwrap();
    assert_eq!(gate.peers.recv().await.unwrap(), "site-a/procmond");

    let stranger = Authority::root("other").unwrap().issue(&Leaf::collector(DOMAIN, "site-a", "x")).unwrap();
    if let Ok(mut stream) = gate.dial_from([127, 7, 0, 1], &header([192, 0, 2, 9]), &stranger).await {
        echo(&mut stream).await.unwrap_err();
    }
    assert_eq!(gate.refusal("unknown_issuer").await.address, "192.0.2.9");

    gate.dial_from([127, 7, 0, 1], &[], &certificate).await.unwrap_err();
    gate.dial_from([127, 7, 0, 1], b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n", &certificate)
        .await
        .unwrap_err();
    gate.refused("bad_proxy_header", 2).await;
    assert_eq!(gate.refusal("bad_proxy_header").await.address, "127.7.0.1");

    gate.dial_from([127, 8, 0, 1], &header([192, 0, 2, 9]), &certificate).await.unwrap_err();
    assert_eq!(gate.refusal("not_tls").await.address, "127.8.0.1");
}

#[tokio::test]
async fn behind_a_proxy_the_rate_is_that_of_the_real_address() {
    let rates = r#""rates": {"per_network": 1, "network_burst": 4}"#;
    let mut gate = Gate::open(&format!(r#", "proxy": {{"from": ["127.7.0.1"]}}, {rates}"#));
    let certificate = gate.collector("procmond");
    let mut silent = Vec::new();
    for _ in 0..16 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 7, 0, 1], 0))).unwrap();
        let mut tcp = socket.connect(gate.address).await.unwrap();
        tcp.write_all(&header([192, 0, 2, 9])).await.unwrap();
        silent.push(tcp);
    }
    gate.refused("rate_exceeded", 10).await;
    assert_eq!(gate.refusal("rate_exceeded").await.address, "192.0.2.9");
    let mut stream = gate.dial_from([127, 7, 0, 1], &header([192, 0, 3, 9]), &certificate).await.unwrap();
    echo(&mut stream).await.unwrap();
    assert_eq!(silent.len(), 16);
}
