//! Who gets in: certificates that an operator meets first, and versions and suites of TLS.

use std::{net::SocketAddr, sync::Arc};

use daemoneye_gateway::pki::{Authority, Leaf as Profile, Validity};
use daemoneye_tests::{
    eventually,
    greeting::{ECDHE_AEAD, ECDHE_CBC, Greeting, RSA},
    peer::{Credentials, Session},
    world::{TRUST_DOMAIN, World},
};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

use crate::world;

/// Tries to open a session; the transport's refusal and the gateway's are both no.
async fn knock(world: &World, credentials: &Credentials) -> Result<(), Option<Status>> {
    let channel = credentials.channel(world.address).await.map_err(|_| None)?;
    Session::open(channel, vec![]).await.map(|_| ()).map_err(Some)
}

#[tokio::test]
async fn only_a_certificate_of_our_authority_with_a_name_and_a_role_gets_in() {
    let mut world = world("");
    world.start().await;
    let collector = || Profile::collector(TRUST_DOMAIN, "site-a", "procmond-1");
    assert!(knock(&world, &world.credentials("site-a", "procmond-1")).await.is_ok());

    let stranger = Authority::root("Another root").unwrap();
    let of = |profile: Profile| world.credentials_of(&world.authority, &profile);
    let refused = [
        ("no certificate", Credentials { own: None, ..of(collector()) }),
        ("another CA", world.credentials_of(&stranger, &collector())),
        ("expired", of(collector().validity(Validity::expired()))),
        ("not yet valid", of(collector().validity(Validity::not_yet()))),
        ("server only", of(collector().extended_usages([ExtendedKeyUsagePurpose::ServerAuth]))),
        ("no extended key usage", of(collector().extended_usages([]))),
        ("no name", of(collector().without_names())),
        ("two names", of(collector().uri(&format!("spiffe://{TRUST_DOMAIN}/site/site-b/collector/other")))),
    ];
    for (what, credentials) in refused {
        let told = knock(&world, &credentials).await;
        assert!(told.is_err(), "{what}: was admitted");
    }
    let before = world.json("/api/v1/refusals");
    assert!(before.to_string().len() > 200, "refusals are shown: {before}");

    // A valid certificate without any role is told so.
    let without_role = knock(&world, &world.credentials("site-a", "nobody")).await;
    let status = without_role.unwrap_err().expect("the handshake is fine");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

#[tokio::test]
async fn a_collector_is_shown_while_it_is_there_and_after_it_has_gone() {
    let mut world = world("");
    world.start().await;
    let channel = world.credentials("site-b", "netmond-7").channel(world.address).await.unwrap();
    let (session, _) = Session::open(channel, vec![]).await.unwrap();
    let listed = |world: &World, list: &str| {
        world.json("/api/v1/collectors")[list]
            .as_array()
            .is_some_and(|rows| rows.iter().any(|row| row["peer"] == "site-b/netmond-7"))
    };
    eventually("it is shown as live", || listed(&world, "live")).await;
    drop(session);
    eventually("it is shown as gone", || listed(&world, "gone") && !listed(&world, "live")).await;
}

/// How often a reason was taken down.
fn refused(world: &World, reason: &str) -> u64 {
    let refusals = world.json("/api/v1/refusals");
    let entries = refusals["recent"].as_array().expect("refusals are listed");
    entries.iter().filter(|entry| entry["reason"] == reason).filter_map(|entry| entry["count"].as_u64()).sum()
}

/// Greets, and returns the kind of the record that answers.
async fn answer(address: SocketAddr, greeting: Greeting) -> u8 {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(&greeting.record()).await.unwrap();
    tcp.read_u8().await.unwrap()
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

#[tokio::test]
async fn old_versions_and_weak_suites_are_refused_each_for_a_reason_of_its_own() {
    let mut world = world("");
    world.start().await;
    let sound = Greeting { version: 0x0303, suites: ECDHE_AEAD, extended_master_secret: true };
    assert_eq!(
        answer(world.address, sound).await,
        HANDSHAKE,
        "the sound one differs from the rest in one thing"
    );
    let without_ems = Greeting { extended_master_secret: false, ..sound };
    for (what, greeting, reason, times) in [
        ("TLS 1.0", Greeting { version: 0x0301, ..sound }, "tls_version", 1),
        ("TLS 1.1", Greeting { version: 0x0302, ..sound }, "tls_version", 2),
        ("TLS 1.2 with CBC", Greeting { suites: ECDHE_CBC, ..sound }, "tls_suite", 1),
        ("TLS 1.2 without ECDHE", Greeting { suites: RSA, ..sound }, "tls_suite", 2),
        ("TLS 1.2 without the extended master secret", without_ems, "tls_master_secret", 1),
    ] {
        assert_eq!(answer(world.address, greeting).await, ALERT, "{what}");
        eventually(what, || refused(&world, reason) == times).await;
    }
}

/// A configuration that keeps sessions to resume them, and speaks one version.
fn resuming(credentials: &Credentials, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(credentials.anchors.as_bytes()).unwrap()).unwrap();
    let (chain, key) = credentials.own.as_ref().unwrap();
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn no_session_is_resumed_in_either_version() {
    let mut world = world("");
    world.start().await;
    let credentials = world.credentials("site-a", "procmond-1");
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let config = resuming(&credentials, version);
        for _ in 0..3 {
            let tcp = TcpStream::connect(world.address).await.unwrap();
            let connector = TlsConnector::from(Arc::clone(&config));
            let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
            // The gateway's first word: a ticket would have come before it.
            tls.read_u8().await.unwrap();
            let connection = tls.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(spoken));
            assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(connection.tls13_tickets_received(), 0);
        }
    }
}
