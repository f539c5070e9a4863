use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Purpose, date_time_ymd};
use rustls::{
    AlertDescription, ClientConfig, Error, HandshakeKind, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::trust::{
    Admission, Finding, Floor, Judge, Material, NamePattern, Profile, Recorder, RefusalReason, Role,
    ServerNames, Terms, VerifiedChain, provider, refusal_of,
    tests::pki::{Authority, Folder, client as collector, server as gateway},
};

#[derive(Debug)]
struct Content;

impl Judge for Content {
    fn judge(&self, _chain: &VerifiedChain) -> Result<(), Finding> {
        Ok(())
    }
}

#[derive(Debug)]
struct Nobody;

impl Judge for Nobody {
    fn judge(&self, _chain: &VerifiedChain) -> Result<(), Finding> {
        Err(RefusalReason::NoIdentity.into())
    }
}

fn load(authority: &Authority, params: &CertificateParams, role: Role) -> Arc<Material> {
    let folder = Folder::new(&authority.issue(params), authority.pem());
    Arc::new(Material::load(&folder.files, role).unwrap())
}

fn admission(authority: &Authority, judge: impl Judge + 'static, floor: Floor) -> Admission {
    let terms =
        Terms { protocols: vec![b"h2".to_vec()], floor, profile: Profile::default(), judge: Arc::new(judge) };
    Admission::new(load(authority, &gateway(), Role::Server), terms)
}

fn dialling(authority: &Authority) -> ClientConfig {
    load(authority, &collector(), Role::Client).client_config(&[b"h2"], Floor::Tls12, &ServerNames::default())
}

/// A client that presents whatever it is given.
fn presenting(authority: &Authority, chain: Vec<CertificateDer<'static>>, key: &str) -> ClientConfig {
    let mut config = dialling(authority);
    let key = rustls_pemfile::private_key(&mut key.as_bytes()).unwrap().unwrap();
    let signer = provider::provider().key_provider.load_private_key(key).unwrap();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, signer)));
    config
}

fn issued(authority: &Authority, params: &CertificateParams) -> ClientConfig {
    let leaf = authority.issue(params);
    presenting(authority, leaf.chain, &leaf.key)
}

type Accepted = io::Result<server::TlsStream<DuplexStream>>;
type Dialled = io::Result<client::TlsStream<DuplexStream>>;

async fn shake(admission: &Admission, config: ClientConfig) -> (Accepted, Arc<Recorder>, Dialled) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (settings, recorder) = admission.handshake();
    let name = ServerName::try_from("gw.example.com").unwrap();
    let (accepted, dialled) = tokio::join!(
        TlsAcceptor::from(settings).accept(near),
        TlsConnector::from(Arc::new(config)).connect(name, far)
    );
    (accepted, recorder, dialled)
}

/// The alert that a client was sent, in its handshake or at its first read.
async fn alert(dialled: Dialled) -> AlertDescription {
    let error = match dialled {
        Ok(mut stream) => stream.read_u8().await.unwrap_err(),
        Err(error) => error,
    };
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("{error:?}"),
    }
}

async fn refusal(admission: &Admission, config: ClientConfig) -> (RefusalReason, bool) {
    let (accepted, recorder, dialled) = shake(admission, config).await;
    accepted.unwrap_err();
    assert_eq!(alert(dialled).await, AlertDescription::AccessDenied);
    (recorder.outcome().unwrap_err(), recorder.possession_proven())
}

#[tokio::test]
async fn a_peer_of_the_same_authority_is_accepted_on_both_versions_and_never_resumes() {
    let root = Authority::root("root");
    let admission = admission(&root, Content, Floor::Tls12);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut config = dialling(&root);
        if version.version == ProtocolVersion::TLSv1_2 {
            config = only_tls12(&root, config);
        }
        for _ in 0..2 {
            let (accepted, recorder, dialled) = shake(&admission, config.clone()).await;
            let accepted = accepted.unwrap();
            dialled.unwrap();
            assert_eq!(accepted.get_ref().1.protocol_version(), Some(version.version));
            assert_ne!(accepted.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            assert!(recorder.outcome().unwrap().leaf().is_for_clients());
        }
    }
}

/// The same client with TLS 1.2 alone.
fn only_tls12(root: &Authority, like: ClientConfig) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    ClientConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(like.client_auth_cert_resolver)
}

#[tokio::test]
async fn a_floor_of_1_3_refuses_1_2() {
    let root = Authority::root("root");
    let admission = admission(&root, Content, Floor::Tls13);
    let (accepted, ..) = shake(&admission, only_tls12(&root, dialling(&root))).await;
    accepted.unwrap_err();
}

#[tokio::test]
async fn every_refused_certificate_gets_one_alert_and_a_reason_of_its_own() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let admission = admission(&root, Content, Floor::Tls12);
    let changed = |change: fn(&mut CertificateParams)| {
        let mut params = collector();
        change(&mut params);
        issued(&root, &params)
    };
    let stranger = other.issue(&collector());
    let cases = [
        (presenting(&root, stranger.chain, &stranger.key), RefusalReason::UnknownIssuer),
        (changed(|p| p.not_after = date_time_ymd(2025, 1, 1)), RefusalReason::CertificateExpired),
        (changed(|p| p.not_before = date_time_ymd(2120, 1, 1)), RefusalReason::CertificateNotYetValid),
        (changed(|p| p.extended_key_usages = vec![Purpose::ServerAuth]), RefusalReason::WrongPurpose),
        (changed(|p| p.extended_key_usages.clear()), RefusalReason::NoPurpose),
    ];
    for (config, reason) in cases {
        assert_eq!(refusal(&admission, config).await, (reason, true));
    }
}

#[tokio::test]
async fn six_certificates_are_refused_before_anything_is_verified() {
    let root = Authority::root("root");
    let admission = admission(&root, Content, Floor::Tls12);
    let mut leaf = root.issue(&collector());
    leaf.chain.extend(std::iter::repeat_n(root.der().clone(), 5));
    let config = presenting(&root, leaf.chain, &leaf.key);
    assert_eq!(refusal(&admission, config).await, (RefusalReason::TooManyCertificates, false));
}

#[tokio::test]
async fn a_borrowed_certificate_is_refused() {
    let root = Authority::root("root");
    let admission = admission(&root, Content, Floor::Tls12);
    let (victim, thief) = (root.issue(&collector()), root.issue(&collector()));
    let config = presenting(&root, victim.chain, &thief.key);
    assert_eq!(refusal(&admission, config).await, (RefusalReason::PossessionNotProven, false));
}

#[tokio::test]
async fn the_judge_has_the_last_word() {
    let root = Authority::root("root");
    let admission = admission(&root, Nobody, Floor::Tls12);
    assert_eq!(refusal(&admission, dialling(&root)).await, (RefusalReason::NoIdentity, true));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let root = Authority::root("root");
    let admission = admission(&root, Content, Floor::Tls12);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (accepted, recorder, _dialled) = shake(&admission, config).await;
    accepted.unwrap_err();
    assert_eq!(recorder.outcome().unwrap_err(), RefusalReason::NoCertificate);
}

#[tokio::test]
async fn a_path_expires_with_the_first_of_its_certificates() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let (accepted, recorder, _dialled) =
        shake(&admission(&root, Content, Floor::Tls12), issued(&between, &collector())).await;
    accepted.unwrap();
    let chain = recorder.outcome().unwrap();
    let until = SystemTime::UNIX_EPOCH
        + Duration::from_secs(date_time_ymd(2099, 1, 1).unix_timestamp().cast_unsigned());
    assert_eq!(chain.not_after(), until);
    assert_eq!(chain.anchor().certificate().subject(), "CN=root");
    assert!(chain.leaf().not_after() > until);
}

#[tokio::test]
async fn a_server_is_checked_by_name_pattern_and_purpose() {
    let root = Authority::root("root");
    let admission = admission(&root, Content, Floor::Tls12);
    let client = load(&root, &collector(), Role::Client);
    for (pattern, fits) in [
        ("spiffe://td/gateway/*", true),
        ("gw.example.com", true),
        ("*.example.com", true),
        ("spiffe://td/collector/*", false),
        ("other.example.com", false),
    ] {
        let names = ServerNames::new(vec![NamePattern::parse(pattern).unwrap()]);
        let (_, _, dialled) = shake(&admission, client.client_config(&[b"h2"], Floor::Tls12, &names)).await;
        match dialled {
            Ok(_) => assert!(fits, "{pattern}"),
            Err(error) => {
                assert!(!fits, "{pattern}");
                assert_eq!(refusal_of(&error), Some(RefusalReason::WrongServerName));
            }
        }
    }
}
