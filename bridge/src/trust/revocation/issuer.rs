//! Who signs revocation lists.

use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer};

use crate::trust::{CertificateError, certificate::sha256};

/// SHA-256 of a public key (the whole `SubjectPublicKeyInfo`).
pub type KeyHash = [u8; 32];

/// An authority as the issuer of revocation lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name, DER.
    name: Box<[u8]>,
    subject: Box<str>,
    /// Its `SubjectPublicKeyInfo`, DER.
    spki: Box<[u8]>,
    key: KeyHash,
    /// Subject key identifier, where the certificate has one.
    key_id: Option<Box<[u8]>>,
    may_sign: bool,
}

impl Issuer {
    /// Reads the certificate of an authority.
    ///
    /// # Errors
    ///
    /// [`CertificateError`], if it is no certificate.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError)?;
        let usage = parsed.key_usage().map_err(|_| CertificateError)?;
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.into()),
            _ => None,
        });
        Ok(Self {
            name: parsed.subject().as_raw().into(),
            subject: parsed.subject().to_string().into(),
            spki: parsed.public_key().raw.into(),
            key: sha256(parsed.public_key().raw),
            key_id,
            // RFC 5280, section 6.3.3 (f): only where the extension is there must it say so.
            may_sign: usage.is_none_or(|usage| usage.value.crl_sign()),
        })
    }

    /// Its name, DER.
    #[must_use]
    pub const fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its name, for people.
    #[must_use]
    pub const fn subject(&self) -> &str {
        &self.subject
    }

    /// Hash of its key.
    #[must_use]
    pub const fn key(&self) -> &KeyHash {
        &self.key
    }

    pub(super) const fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub(super) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// Whether its key usage, if it has one, lets it sign lists.
    pub(super) const fn may_sign(&self) -> bool {
        self.may_sign
    }
}
