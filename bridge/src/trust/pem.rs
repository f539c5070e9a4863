//! PEM files, through `rustls-pemfile`, which nobody else names.
//!
//! Kept true: no file is read beyond [`MAX_BYTES`], so that a wrong path (a log, a device) cannot fill the memory.

use std::{fs::File, io::Read, path::Path};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pemfile::Item;

/// Most bytes of a PEM file: a bundle of several thousand certificates.
pub(super) const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// What stands in a PEM file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    /// Whether a key is there that only a pass phrase opens.
    pub(super) encrypted: bool,
}

/// Reads all of `path`.
pub(super) fn read(path: &Path) -> Result<Contents, PemError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(PemError::Read)?;
    file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut text).map_err(PemError::Read)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(PemError::TooLong);
    }
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Contents, PemError> {
    let mut contents = Contents {
        encrypted: holds(text, b"BEGIN ENCRYPTED") || holds(text, b"Proc-Type: 4,ENCRYPTED"),
        ..Contents::default()
    };
    let mut rest = text;
    for item in rustls_pemfile::read_all(&mut rest) {
        match item.map_err(PemError::Malformed)? {
            Item::X509Certificate(certificate) => contents.certificates.push(certificate),
            Item::Pkcs1Key(key) => contents.keys.push(key.into()),
            Item::Pkcs8Key(key) => contents.keys.push(key.into()),
            Item::Sec1Key(key) => contents.keys.push(key.into()),
            // Requests, revocation lists and public keys are no part of the material.
            _ => {}
        }
    }
    Ok(contents)
}

/// The revocation lists in `text`, DER each.
pub(super) fn lists(text: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let mut lists = Vec::new();
    let mut rest = text;
    for item in rustls_pemfile::read_all(&mut rest) {
        if let Item::Crl(list) = item.map_err(PemError::Malformed)? {
            lists.push(list.as_ref().to_vec());
        }
    }
    Ok(lists)
}

fn holds(text: &[u8], mark: &[u8]) -> bool {
    text.windows(mark.len()).any(|window| window == mark)
}

/// Why a PEM file could not be read.
#[derive(Debug)]
pub(super) enum PemError {
    Malformed(std::io::Error),
    Read(std::io::Error),
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_holds_nothing() {
        let contents = parse(b"\x00\xff not a certificate").unwrap();
        assert!(contents.certificates.is_empty() && contents.keys.is_empty());
    }

    #[test]
    fn broken_base64_is_told_from_nothing() {
        let text = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(parse(text), Err(PemError::Malformed(_))));
    }

    #[test]
    fn a_key_behind_a_pass_phrase_is_recognised() {
        let text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(parse(text).unwrap().encrypted);
    }
}
