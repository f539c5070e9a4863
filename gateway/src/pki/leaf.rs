//! What a leaf certificate shall say, and the certificate that says it.

use std::{fmt, net::IpAddr};

use rcgen::{CertificateParams, IsCa, KeyPair, SanType, SerialNumber};

use crate::pki::{Validity, distinguished_name};

pub use rcgen::{ExtendedKeyUsagePurpose as ExtendedKeyUsage, KeyUsagePurpose as KeyUsage};

/// What a leaf certificate shall say.
#[derive(Clone, Debug)]
pub struct Leaf {
    common_name: String,
    names: Vec<Name>,
    usages: Vec<KeyUsage>,
    extended: Vec<ExtendedKeyUsage>,
    validity: Validity,
}

/// A subject alternative name, not yet checked: [`crate::pki::Authority::issue`] can fail, a builder cannot.
#[derive(Clone, Debug)]
enum Name {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
}

impl Leaf {
    /// A server, so far without names.
    #[must_use]
    pub fn server(common_name: &str) -> Self {
        Self::new(common_name, ExtendedKeyUsage::ServerAuth)
    }

    /// A client, so far without names.
    #[must_use]
    pub fn client(common_name: &str) -> Self {
        Self::new(common_name, ExtendedKeyUsage::ClientAuth)
    }

    /// A collector, named by a SPIFFE URI of `trust_domain` and by a DNS name of `collectors.example.com`.
    #[must_use]
    pub fn collector(trust_domain: &str, site: &str, name: &str) -> Self {
        Self::client(&format!("{site}/{name}"))
            .uri(&format!("spiffe://{trust_domain}/site/{site}/collector/{name}"))
            .dns(&format!("{name}.{site}.collectors.example.com"))
    }

    fn new(common_name: &str, usage: ExtendedKeyUsage) -> Self {
        Self {
            common_name: common_name.to_owned(),
            names: Vec::new(),
            usages: vec![KeyUsage::DigitalSignature],
            extended: vec![usage],
            validity: Validity::days(30),
        }
    }

    /// Adds a DNS name.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(Name::Dns(name.to_owned()));
        self
    }

    /// Adds an address.
    #[must_use]
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.names.push(Name::Ip(address));
        self
    }

    /// Adds a URI.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push(Name::Uri(uri.to_owned()));
        self
    }

    /// Takes all names away.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        self.names.clear();
        self
    }

    /// Replaces the key usage; empty leaves the extension out.
    #[must_use]
    pub fn usages(mut self, usages: impl Into<Vec<KeyUsage>>) -> Self {
        self.usages = usages.into();
        self
    }

    /// Replaces the extended key usage; empty leaves the extension out.
    #[must_use]
    pub fn extended_usages(mut self, usages: impl Into<Vec<ExtendedKeyUsage>>) -> Self {
        self.extended = usages.into();
        self
    }

    /// Replaces the lifetime, which is 30 days.
    #[must_use]
    pub const fn validity(mut self, validity: Validity) -> Self {
        self.validity = validity;
        self
    }

    pub(super) fn common_name(&self) -> &str {
        &self.common_name
    }

    pub(super) fn params(&self, serial: SerialNumber) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&self.common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial);
        params.key_usages.clone_from(&self.usages);
        params.extended_key_usages.clone_from(&self.extended);
        params.not_before = self.validity.from;
        params.not_after = self.validity.until;
        params.subject_alt_names = self.names.iter().map(Name::san).collect::<Result<_, _>>()?;
        Ok(params)
    }
}

impl Name {
    fn san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Ip(address) => SanType::IpAddress(*address),
            Self::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
        })
    }
}

/// An issued certificate with its chain and its key.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<String>,
    der: Vec<u8>,
    serial: Vec<u8>,
    key: String,
    key_der: Vec<u8>,
}

impl Certificate {
    pub(super) fn new(chain: Vec<String>, der: Vec<u8>, serial: &SerialNumber, key: &KeyPair) -> Self {
        Self { chain, der, serial: serial.to_bytes(), key: key.serialize_pem(), key_der: key.serialize_der() }
    }

    /// The certificate and what stands between it and the root, leaf first, as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.concat()
    }

    /// The private key as PEM of PKCS #8.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The certificate alone, as DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The serial number, big-endian.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The private key as DER of PKCS #8.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        &self.key_der
    }
}

impl fmt::Debug for Certificate {
    // The key stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}
