//! A certificate authority for development, demonstrations and tests.
//!
//! It makes what the chain profile demands (P-256 keys, `digitalSignature` on leaves, `keyCertSign` and a path length on
//! authorities, random serial numbers) and, when asked, what it forbids: an expired certificate, one that is not yet
//! valid, one with the wrong usage, with two identities or with none. [`Folder`] keeps authorities, an index of what they
//! issued, and their revocation lists in a folder. Nothing here is meant to sign certificates that somebody relies on: the
//! keys of the authorities lie unencrypted beside what they sign, or never leave the process.

mod crl;
mod files;
mod folder;
mod index;
mod leaf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub use crl::{Reason, ReasonError, Revoked};
pub use files::{FileError, Files, write_authority, write_certificate};
pub use folder::{Folder, FolderError, Issued, Plan};
pub use index::{Entry, Kind, Revocation};
pub use leaf::{Certificate, ExtendedKeyUsage, KeyUsage, Leaf};

/// An authority that issues certificates and further authorities.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM of this authority and those above it, without the root; what a leaf's chain must carry.
    path: Vec<String>,
    /// PEM of the root, which peers trust.
    root: String,
    /// Further authorities that may stand below this one; none for one that issues leaves only.
    depth: u8,
}

impl Authority {
    /// Makes a root that lasts a year, below which one intermediate may stand.
    ///
    /// # Errors
    ///
    /// [`PkiError`], if the key or the certificate cannot be made.
    pub fn root(name: &str) -> Result<Self, PkiError> {
        Self::root_valid(name, Validity::days(365))
    }

    /// Makes a root that lasts as said.
    ///
    /// # Errors
    ///
    /// [`PkiError`], if the key or the certificate cannot be made.
    pub fn root_valid(name: &str, validity: Validity) -> Result<Self, PkiError> {
        let failed = |source| PkiError { name: name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let params = authority_params(name, validity, 1);
        let root = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), path: Vec::new(), root, depth: 1 })
    }

    /// Makes an authority below this one that lasts half a year and issues leaves only.
    ///
    /// # Errors
    ///
    /// [`PkiError`], if the key or the certificate cannot be made.
    pub fn intermediate(&self, name: &str) -> Result<Self, PkiError> {
        self.intermediate_valid(name, Validity::days(182))
    }

    /// Makes an authority below this one that lasts as said. Its path length is one less than this one's, and it is made
    /// even where none may stand, so that a verifier can be shown a chain that is too long.
    ///
    /// # Errors
    ///
    /// [`PkiError`], if the key or the certificate cannot be made.
    pub fn intermediate_valid(&self, name: &str, validity: Validity) -> Result<Self, PkiError> {
        self.certify(name, validity).map(|(authority, _)| authority)
    }

    /// Makes an authority below this one; its serial number is what this one would revoke.
    fn certify(&self, name: &str, validity: Validity) -> Result<(Self, SerialNumber), PkiError> {
        let failed = |source| PkiError { name: name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let depth = self.depth.saturating_sub(1);
        let params = authority_params(name, validity, depth);
        let serial = params.serial_number.clone().unwrap_or_else(serial);
        let own = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        let path = std::iter::once(own).chain(self.path.iter().cloned()).collect();
        Ok((Self { issuer: Issuer::new(params, key), path, root: self.root.clone(), depth }, serial))
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    ///
    /// [`PkiError`], if the key or the certificate cannot be made, or a name cannot stand in a certificate.
    pub fn issue(&self, leaf: &Leaf) -> Result<Certificate, PkiError> {
        let failed = |source| PkiError { name: leaf.common_name().to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let serial = serial();
        let params = leaf.params(serial.clone()).map_err(failed)?;
        let own = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let chain = std::iter::once(own.pem()).chain(self.path.iter().cloned()).collect();
        Ok(Certificate::new(chain, own.der().to_vec(), &serial, &key))
    }

    /// An authority made earlier, from what was kept of it.
    fn restore(name: &str, key: &str, root: String, path: Vec<String>) -> Result<Self, PkiError> {
        let failed = |source| PkiError { name: name.to_owned(), source };
        let key = KeyPair::from_pem(key).map_err(failed)?;
        let depth = u8::from(path.is_empty());
        // Of the parameters an issuer uses the name and the usages; its own certificate is signed long since.
        let issuer = Issuer::new(authority_params(name, Validity::days(1), depth), key);
        Ok(Self { issuer, path, root, depth })
    }

    /// PEM of the private key, for [`Self::restore`].
    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// PEM of the authority's own certificate.
    fn own_pem(&self) -> &str {
        self.path.first().unwrap_or(&self.root)
    }

    /// PEM of the root, for who shall trust what this authority issues.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root
    }
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    from: OffsetDateTime,
    until: OffsetDateTime,
}

impl Validity {
    /// From `from` until `until`.
    #[must_use]
    pub const fn between(from: OffsetDateTime, until: OffsetDateTime) -> Self {
        Self { from, until }
    }

    /// From a few minutes ago, because clocks differ, until so many days from now.
    #[must_use]
    pub fn days(days: i64) -> Self {
        Self::lasting(Duration::days(days))
    }

    /// From a few minutes ago until `time` from now. Certificates know whole seconds only.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { from: now - CLOCK_SKEW, until: now + time }
    }

    /// Over since an hour.
    #[must_use]
    pub fn expired() -> Self {
        let now = OffsetDateTime::now_utc();
        Self { from: now - Duration::days(2), until: now - Duration::hours(1) }
    }

    /// Begins in an hour.
    #[must_use]
    pub fn not_yet() -> Self {
        let now = OffsetDateTime::now_utc();
        Self { from: now + Duration::hours(1), until: now + Duration::days(2) }
    }
}

const CLOCK_SKEW: Duration = Duration::minutes(5);

fn authority_params(name: &str, validity: Validity, depth: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsage::KeyCertSign, KeyUsage::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = validity.from;
    params.not_after = validity.until;
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "DaemonEye");
    name.push(DnType::CommonName, common_name);
    name
}

/// 126 random bits in 16 bytes: positive, and never shortened by a leading zero.
fn serial() -> SerialNumber {
    let mut bytes = Uuid::new_v4().into_bytes();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A certificate that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("could not make the certificate of `{name}`")]
pub struct PkiError {
    name: String,
    #[source]
    source: rcgen::Error,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        RootCertStore,
        pki_types::{CertificateDer, UnixTime},
        server::WebPkiClientVerifier,
    };
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn an_intermediate_may_sign_leaves_and_nothing_else() {
        let root = Authority::root("root").unwrap();
        let authority = root.intermediate("intermediate").unwrap();
        let bytes = der(&authority.path[0]);
        let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca);
        assert_eq!(constraints.path_len_constraint, Some(0));
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());

        let bytes = der(root.root_pem());
        let (_, above) = X509Certificate::from_der(&bytes).unwrap();
        assert_eq!(above.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(1));
    }

    #[test]
    fn a_verifier_that_trusts_the_root_accepts_the_chain_and_no_longer_one() {
        let root = Authority::root("root").unwrap();
        let authority = root.intermediate("intermediate").unwrap();
        let mut anchors = RootCertStore::empty();
        anchors.add(der(root.root_pem()).into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(anchors.into(), provider).build().unwrap();
        let verify = |authority: &Authority| {
            let issued =
                authority.issue(&Leaf::collector("demo.daemoneye.test", "site-a", "procmond-1")).unwrap();
            let between: Vec<CertificateDer<'_>> = authority.path.iter().map(|pem| der(pem).into()).collect();
            verifier.verify_client_cert(&issued.der().into(), &between, UnixTime::now())
        };
        verify(&authority).unwrap();
        verify(&root).unwrap();
        verify(&authority.intermediate("one too many").unwrap()).unwrap_err();
        verify(&Authority::root("root").unwrap()).unwrap_err();
    }

    #[test]
    fn a_chain_leads_from_the_leaf_to_below_the_root() {
        let root = Authority::root("root").unwrap();
        let authority = root.intermediate("intermediate").unwrap();
        let issued = authority.issue(&Leaf::server("gateway").dns("localhost")).unwrap();
        assert_eq!(issued.chain_pem().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!issued.chain_pem().contains(root.root_pem()));
        assert!(root.issue(&Leaf::server("gateway")).unwrap().chain_pem().matches("BEGIN").count() == 1);
    }

    #[test]
    fn a_collector_names_itself_twice_and_is_a_client() {
        let authority = Authority::root("root").unwrap();
        let issued =
            authority.issue(&Leaf::collector("demo.daemoneye.test", "site-a", "procmond-1")).unwrap();
        let (_, leaf) = X509Certificate::from_der(issued.der()).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert!(
            names
                .iter()
                .any(|name| name.contains("spiffe://demo.daemoneye.test/site/site-a/collector/procmond-1")),
            "{names:?}"
        );
        assert!(names.iter().any(|name| name.contains("procmond-1.site-a.collectors.")), "{names:?}");
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        assert!(!leaf.is_ca());
        assert!(leaf.validity().is_valid());
    }

    #[test]
    fn what_the_profile_forbids_can_be_asked_for() {
        let authority = Authority::root("root").unwrap();
        let base = Leaf::collector("demo.daemoneye.test", "site-a", "procmond-1");
        let of = |leaf: &Leaf| authority.issue(leaf).unwrap();

        let expired = of(&base.clone().validity(Validity::expired()));
        assert!(!X509Certificate::from_der(expired.der()).unwrap().1.validity().is_valid());
        let future = of(&base.clone().validity(Validity::not_yet()));
        assert!(!X509Certificate::from_der(future.der()).unwrap().1.validity().is_valid());
        let useless = of(&base.clone().extended_usages([]));
        assert!(X509Certificate::from_der(useless.der()).unwrap().1.extended_key_usage().unwrap().is_none());
        let anonymous = of(&base.clone().without_names());
        assert!(
            X509Certificate::from_der(anonymous.der())
                .unwrap()
                .1
                .subject_alternative_name()
                .unwrap()
                .is_none()
        );
        let twofold = of(&base.uri("spiffe://demo.daemoneye.test/site/site-b/collector/netmond-1"));
        let (_, twofold) = X509Certificate::from_der(twofold.der()).unwrap();
        let names = twofold.subject_alternative_name().unwrap().unwrap().value.general_names.len();
        assert_eq!(names, 3);
    }

    #[test]
    fn serial_numbers_differ() {
        let authority = Authority::root("root").unwrap();
        let leaf = Leaf::server("gateway");
        let serials: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                let issued = authority.issue(&leaf).unwrap();
                X509Certificate::from_der(issued.der()).unwrap().1.raw_serial().to_vec()
            })
            .collect();
        assert!(serials.iter().all(|serial| serial.len() == 16));
        assert_ne!(serials[0], serials[1]);
        assert_ne!(serials[1], serials[2]);
    }
}
