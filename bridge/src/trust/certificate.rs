//! What is read off one certificate.
//!
//! A description, not a verdict: nothing here says that a certificate is to be believed. Texts are as the certificate has
//! them; who shows them to people bounds and escapes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

/// What one certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    subject: String,
    issuer: String,
    serial: String,
    serial_bytes: Box<[u8]>,
    not_before: SystemTime,
    not_after: SystemTime,
    names: Names,
    /// Common names of the subject; `None` if one is no text.
    common_names: Option<Vec<String>>,
    purposes: Purposes,
    is_authority: bool,
    spki_sha256: [u8; 32],
}

/// Subject alternative names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    dns: Vec<String>,
    uris: Vec<String>,
    others: Vec<String>,
    /// Whether one could not be read as the kind it claims.
    malformed: bool,
}

/// Extended key usages that are present; a certificate without the extension has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purposes {
    client: bool,
    server: bool,
}

impl Certificate {
    /// Reads the DER form.
    ///
    /// # Errors
    ///
    /// [`CertificateError`], if it is no certificate, has an extension twice, or something follows it.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError)?;
        if !rest.is_empty() {
            return Err(CertificateError);
        }
        Self::of(&parsed)
    }

    /// Describes what was parsed.
    pub(super) fn of(parsed: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let alternatives = parsed.subject_alternative_name().map_err(|_| CertificateError)?;
        let names = alternatives.map_or_else(Names::default, |names_of| names(&names_of.value.general_names));
        let usage = parsed.extended_key_usage().map_err(|_| CertificateError)?;
        let basic = parsed.basic_constraints().map_err(|_| CertificateError)?;
        Ok(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: hex(parsed.raw_serial()),
            serial_bytes: parsed.raw_serial().into(),
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
            names,
            common_names: parsed
                .subject()
                .iter_common_name()
                .map(|name| name.as_str().map(str::to_owned).ok())
                .collect(),
            purposes: Purposes {
                client: usage.as_ref().is_some_and(|usage| usage.value.client_auth),
                server: usage.as_ref().is_some_and(|usage| usage.value.server_auth),
            },
            is_authority: basic.is_some_and(|basic| basic.value.ca),
            spki_sha256: sha256(parsed.public_key().raw),
        })
    }

    /// Distinguished name of the subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Distinguished name of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Serial number, in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Serial number, as the octets of its encoding.
    #[must_use]
    pub const fn serial_bytes(&self) -> &[u8] {
        &self.serial_bytes
    }

    /// Begin of validity.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// DNS names among the subject alternative names.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.names.dns
    }

    /// URIs among the subject alternative names.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.names.uris
    }

    /// Common names of the subject, most often one; `None` if one of them is no text.
    #[must_use]
    pub fn common_names(&self) -> Option<&[String]> {
        self.common_names.as_deref()
    }

    /// Every subject alternative name, each with its kind where it is neither DNS name nor URI.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        let Names { uris, dns, others, .. } = &self.names;
        uris.iter().chain(dns).chain(others).map(String::as_str)
    }

    /// Whether a subject alternative name could not be read as the kind it claims.
    #[must_use]
    pub const fn has_malformed_name(&self) -> bool {
        self.names.malformed
    }

    /// Whether clientAuth is present among the extended key usages.
    #[must_use]
    pub const fn is_for_clients(&self) -> bool {
        self.purposes.client
    }

    /// Whether serverAuth is present among the extended key usages.
    #[must_use]
    pub const fn is_for_servers(&self) -> bool {
        self.purposes.server
    }

    /// Whether its basic constraints make it a certification authority.
    #[must_use]
    pub const fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// SHA-256 of the public key (the whole `SubjectPublicKeyInfo`).
    #[must_use]
    pub const fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// [`Self::spki_sha256`] in hexadecimal.
    #[must_use]
    pub fn spki_hex(&self) -> String {
        hex(&self.spki_sha256)
    }
}

fn names(general: &[GeneralName<'_>]) -> Names {
    let mut names = Names::default();
    for name in general {
        match name {
            GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
            GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(mail) => names.others.push(format!("email:{mail}")),
            GeneralName::IPAddress(bytes) => names.others.push(format!("ip:{}", address(bytes))),
            GeneralName::Invalid(..) => names.malformed = true,
            _ => {}
        }
    }
    names
}

fn address(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(four).to_string();
    }
    <[u8; 16]>::try_from(bytes)
        .map_or_else(|_| hex(bytes), |sixteen| std::net::Ipv6Addr::from(sixteen).to_string())
}

fn moment(time: ASN1Time) -> SystemTime {
    let since = u64::try_from(time.timestamp()).unwrap_or_default();
    UNIX_EPOCH.checked_add(Duration::from_secs(since)).unwrap_or(UNIX_EPOCH)
}

/// Hashes with the provider that TLS uses, so that no second implementation is linked.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    if let rustls::SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 {
        let output = suite.common.hash_provider.hash(bytes);
        digest.iter_mut().zip(output.as_ref()).for_each(|(to, from)| *to = *from);
    }
    digest
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Something is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not read a certificate")]
pub struct CertificateError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(hex(&sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert_eq!(Certificate::parse(b""), Err(CertificateError));
        assert_eq!(Certificate::parse(&[0x30; 64]), Err(CertificateError));
    }

    #[test]
    fn addresses_are_spelt_and_what_is_none_is_shown_raw() {
        assert_eq!(address(&[127, 0, 0, 1]), "127.0.0.1");
        assert_eq!(address(&[0; 16]), "::");
        assert_eq!(address(&[1, 2, 3]), "010203");
    }
}
