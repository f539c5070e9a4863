//! Certificates of any form and lists of them, as strangers show them at the door.
//!
//! What `rcgen` would not make, a key or a signature too weak to be believed, is made by changing what it has made.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, PublicKeyData, RevokedCertParams, SanType, SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::world::TRUST_DOMAIN;

/// An authority that signs whatever it is given.
#[derive(Debug)]
pub struct Forger {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Forger {
    /// A root that is in order but for what `change` does.
    pub fn root(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::signing_with(&PKCS_ECDSA_P256_SHA256, name, change)
    }

    /// The same with a key of RSA.
    pub fn rsa_root(name: &str) -> Self {
        Self::signing_with(&PKCS_RSA_SHA256, name, |_| {})
    }

    fn signing_with(
        algorithm: &'static SignatureAlgorithm,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate_for(algorithm).expect("keys can be made");
        let mut params = authority(name);
        change(&mut params);
        let made = params.self_signed(&key).expect("certificates can be made");
        Self { der: made.der().clone(), pem: made.pem(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one that is in order but for what `change` does.
    #[must_use]
    pub fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = authority(name);
        change(&mut params);
        let made = params.signed_by(&key, &self.issuer).expect("certificates can be made");
        Self { der: made.der().clone(), pem: made.pem(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one whose certificate has a key of RSA with 1,024 bits; it signs with another.
    #[must_use]
    pub fn weakly_below(&self, name: &str) -> Self {
        let params = authority(name);
        let made = params.signed_by(&WeakKey::new(), &self.issuer).expect("certificates can be made");
        let key = KeyPair::generate().expect("keys can be made");
        Self { der: made.der().clone(), pem: made.pem(), issuer: Issuer::new(params, key) }
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of collector `site-a/NAME`, in order but for what `change` does; nothing else is shown.
    pub fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = collector(name);
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).expect("certificates can be made");
        Shown { chain: vec![leaf.der().clone()], key: key.serialize_der() }
    }

    /// The same with a key of RSA with 1,024 bits, which the one who shows it does not hold.
    pub fn issue_weakly(&self, name: &str) -> Shown {
        let leaf =
            collector(name).signed_by(&WeakKey::new(), &self.issuer).expect("certificates can be made");
        let key = KeyPair::generate().expect("keys can be made");
        Shown { chain: vec![leaf.der().clone()], key: key.serialize_der() }
    }

    /// Its list of that number, issued and due so many minutes from now, as PEM.
    pub fn list(&self, number: u64, minutes: [i64; 2], revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let [this_update, next_update] = minutes.map(|minutes| now + Duration::minutes(minutes));
        let entries = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: now - Duration::hours(1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: entries.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("lists can be made")
    }
}

/// What is shown: certificates, the leaf first, and the key that signs the handshake.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The certificates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key, as PKCS #8.
    pub key: Vec<u8>,
}

impl Shown {
    /// Shows the certificates of authorities besides.
    #[must_use]
    pub fn with(mut self, authorities: &[&Forger]) -> Self {
        self.chain.extend(authorities.iter().map(|authority| authority.der.clone()));
        self
    }

    /// Says of the leaf that it was signed with SHA-1, where an RSA key signed it with SHA-256.
    ///
    /// # Panics
    ///
    /// If no RSA key signed it.
    #[must_use]
    pub fn by_sha1(mut self) -> Self {
        let leaf = self.chain.remove(0);
        let (mut der, mut times) = (leaf.to_vec(), 0);
        while let Some(at) = der.windows(RSA_SHA256.len()).position(|octets| octets == RSA_SHA256) {
            der[at + RSA_SHA256.len() - 1] = 5;
            times += 1;
        }
        assert_eq!(times, 2, "the algorithm stands in a certificate twice");
        self.chain.insert(0, der.into());
        self
    }
}

/// The object identifier 1.2.840.113549.1.1.11; with 5 at its end it is that of SHA-1.
const RSA_SHA256: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];

/// A public key of RSA with 1,024 bits.
struct WeakKey(Vec<u8>);

impl WeakKey {
    fn new() -> Self {
        let mut der = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0, 0x80];
        der.resize(der.len() + 127, 1);
        der.extend([0x02, 3, 1, 0, 1]);
        Self(der)
    }
}

impl PublicKeyData for WeakKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

/// Makes a certificate valid from and until so many hours from now.
pub fn valid(from: i64, until: i64) -> impl Fn(&mut CertificateParams) {
    move |params| {
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::hours(from);
        params.not_after = now + Duration::hours(until);
    }
}

fn base(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    valid(-2, 24)(&mut params);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = base(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn collector(name: &str) -> CertificateParams {
    let mut params = base(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![spiffe("site-a", name)];
    params
}

/// The name of a collector.
pub fn spiffe(site: &str, name: &str) -> SanType {
    uri(&format!("spiffe://{TRUST_DOMAIN}/site/{site}/collector/{name}"))
}

/// A URI as a name.
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("it is ASCII"))
}
