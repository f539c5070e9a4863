//! The certificates and lists that all servers are given.

use daemoneye_tests::world::TRUST_DOMAIN;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// Collectors that take turns.
const COLLECTORS: usize = 1000;

/// A root, an intermediate, and what it issues: P-256 all of them. The keys of the authorities sign revocation lists.
pub(crate) struct Pki {
    pub(crate) root: Issuer<'static, KeyPair>,
    pub(crate) root_pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) issuer_pem: String,
    /// Chain and key.
    pub(crate) server: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = || KeyPair::generate().expect("keys can be made");
        let (root_key, root) = (key(), authority("Bench root", 1));
        let root_pem = root.self_signed(&root_key).expect("certificates can be made").pem();
        let root = Issuer::new(root, root_key);
        let (issuer_key, issuer) = (key(), authority("Bench issuer", 0));
        let issuer_pem = issuer.signed_by(&issuer_key, &root).expect("certificates can be made").pem();
        let issuer = Issuer::new(issuer, issuer_key);
        let mut pki = Self { root, root_pem, issuer, issuer_pem, server: <(String, String)>::default() };
        let name = SanType::DnsName("localhost".try_into().expect("it is a name"));
        pki.server = pki.issue("gateway", ExtendedKeyUsagePurpose::ServerAuth, name);
        pki
    }

    pub(crate) fn collectors(&self) -> Vec<(String, String)> {
        let collector = |number| {
            let uri = format!("spiffe://{TRUST_DOMAIN}/site/site-a/collector/load-{number}");
            let name = SanType::URI(uri.try_into().expect("it is a URI"));
            self.issue(&format!("load-{number}"), ExtendedKeyUsagePurpose::ClientAuth, name)
        };
        (0..COLLECTORS).map(collector).collect()
    }

    /// A chain and its key.
    fn issue(&self, subject: &str, usage: ExtendedKeyUsagePurpose, name: SanType) -> (String, String) {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = named(subject);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = vec![name];
        let own = params.signed_by(&key, &self.issuer).expect("certificates can be made").pem();
        (format!("{own}{}", self.issuer_pem), key.serialize_pem())
    }
}

fn authority(subject: &str, depth: u8) -> CertificateParams {
    let mut params = named(subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(subject: &str) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = now - time::Duration::minutes(5);
    params.not_after = now + time::Duration::days(30);
    params
}

/// 16 random bytes, positive and never shortened.
fn serial() -> SerialNumber {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A revocation list, as PEM, of certificates that nobody has.
pub(crate) fn list(issuer: &Issuer<'_, KeyPair>, entries: usize) -> String {
    let now = OffsetDateTime::now_utc();
    let revoked = || RevokedCertParams {
        serial_number: serial(),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: now - time::Duration::hours(1),
        next_update: now + time::Duration::days(1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: std::iter::repeat_with(revoked).take(entries).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).and_then(|list| list.pem()).expect("revocation lists can be made")
}
