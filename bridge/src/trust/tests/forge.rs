//! Certificates of any form, written octet by octet: what no tool would issue, a stranger may still present.

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;

/// One element: its tag, its length, and what it holds.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut whole = vec![tag];
    if length < 0x80 {
        whole.push(u8::try_from(length).unwrap());
    } else {
        let octets: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect();
        whole.push(0x80 | u8::try_from(octets.len()).unwrap());
        whole.extend(octets);
    }
    whole.extend(content);
    whole
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, parts)
}

fn bits(content: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], content])
}

fn name(common: &str) -> Vec<u8> {
    if common.is_empty() {
        return sequence(&[]);
    }
    let value = sequence(&[&[0x06, 3, 0x55, 4, 3], &element(0x0c, &[common.as_bytes()])]);
    sequence(&[&element(0x31, &[&value])])
}

/// An algorithm without parameters, or with them.
pub(super) fn algorithm(oid: &[u8], parameters: &[u8]) -> Vec<u8> {
    sequence(&[&element(0x06, &[oid]), parameters])
}

/// Contents of object identifiers.
pub(super) const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
pub(super) const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
pub(super) const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const DSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P192: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1];

/// A key of RSA with so many bits.
pub(super) fn rsa_key(bits_of: usize) -> Vec<u8> {
    let mut modulus = vec![0, 0x80];
    modulus.resize(bits_of / 8 + 1, 1);
    let key = sequence(&[&element(0x02, &[&modulus]), &element(0x02, &[&[1, 0, 1]])]);
    sequence(&[&algorithm(RSA, &[5, 0]), &bits(&key)])
}

/// A key of DSA.
pub(super) fn dsa_key() -> Vec<u8> {
    let number = element(0x02, &[&[1; 128]]);
    sequence(&[&algorithm(DSA, &sequence(&[&number, &number, &number])), &bits(&number)])
}

/// A key on curve P-192.
pub(super) fn p192_key() -> Vec<u8> {
    sequence(&[&algorithm(EC, P192), &bits(&[&[4][..], &[1; 48]].concat())])
}

/// A key on a curve that is spelt out.
pub(super) fn explicit_curve_key() -> Vec<u8> {
    sequence(&[&algorithm(EC, &sequence(&[&[2, 1, 1]])), &bits(&[&[4][..], &[1; 64]].concat())])
}

/// An extension below 2.5.29.
#[derive(Clone)]
pub(super) struct Extension {
    pub(super) arc: u8,
    pub(super) critical: bool,
    pub(super) value: Vec<u8>,
}

/// A certificate to be.
#[derive(Clone)]
pub(super) struct Forge {
    pub(super) version: u8,
    pub(super) serial: Vec<u8>,
    pub(super) signed_with: Vec<u8>,
    pub(super) issuer: &'static str,
    pub(super) subject: &'static str,
    pub(super) years: (u16, u16),
    pub(super) key: Vec<u8>,
    pub(super) extensions: Vec<Extension>,
}

pub(super) const SUBJECT_KEY_ID: u8 = 14;
pub(super) const KEY_USAGE: u8 = 15;
pub(super) const ALTERNATIVES: u8 = 17;
pub(super) const BASIC: u8 = 19;
pub(super) const NAME_CONSTRAINTS: u8 = 30;
pub(super) const AUTHORITY_KEY_ID: u8 = 35;
pub(super) const POLICY_CONSTRAINTS: u8 = 36;
pub(super) const PURPOSES: u8 = 37;

/// Octets of a key usage with `digitalSignature`, with `keyCertSign` and `cRLSign`, and with both.
pub(super) const SIGNS: &[u8] = &[3, 2, 7, 0x80];
pub(super) const CERTIFIES: &[u8] = &[3, 2, 1, 0x06];
pub(super) const BOTH: &[u8] = &[3, 2, 1, 0x86];

const CLIENT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

impl Forge {
    /// A leaf that is in order.
    pub(super) fn leaf(issuer: &'static str, key: &KeyPair) -> Self {
        let uri = element(0x86, &[b"spiffe://td/site/a/collector/b"]);
        Self {
            version: 2,
            serial: vec![1],
            signed_with: algorithm(ECDSA_SHA256, &[]),
            issuer,
            subject: "leaf",
            years: (2024, 2124),
            key: key.subject_public_key_info(),
            extensions: Vec::new(),
        }
        .with(AUTHORITY_KEY_ID, false, &sequence(&[&element(0x80, &[&[1; 20]])]))
        .with(KEY_USAGE, true, SIGNS)
        .with(PURPOSES, false, &sequence(&[&element(0x06, &[CLIENT])]))
        .with(ALTERNATIVES, false, &sequence(&[&uri]))
    }

    /// An authority that is in order; `issuer` is its own name for a root.
    pub(super) fn authority(issuer: &'static str, subject: &'static str, key: &KeyPair) -> Self {
        Self { subject, extensions: Vec::new(), ..Self::leaf(issuer, key) }
            .with(AUTHORITY_KEY_ID, false, &sequence(&[&element(0x80, &[&[1; 20]])]))
            .with(SUBJECT_KEY_ID, false, &element(0x04, &[&[1; 20]]))
            .with(KEY_USAGE, true, CERTIFIES)
            .with(BASIC, true, &sequence(&[&[1, 1, 0xff]]))
    }

    /// Sets an extension, in the place of one of the same kind.
    pub(super) fn with(mut self, arc: u8, critical: bool, value: &[u8]) -> Self {
        self.extensions.retain(|extension| extension.arc != arc);
        self.extensions.push(Extension { arc, critical, value: value.to_vec() });
        self
    }

    /// Takes an extension away.
    pub(super) fn without(mut self, arc: u8) -> Self {
        self.extensions.retain(|extension| extension.arc != arc);
        self
    }

    /// Signs it.
    pub(super) fn sign(&self, signer: &KeyPair) -> CertificateDer<'static> {
        let time = |year: u16| element(0x18, &[format!("{year}0101000000Z").as_bytes()]);
        let extensions: Vec<Vec<u8>> = self.extensions.iter().map(encode).collect();
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        let extensions = element(0xa3, &[&sequence(&extensions)]);
        let tbs = sequence(&[
            &element(0xa0, &[&[2, 1, self.version]]),
            &element(0x02, &[&self.serial]),
            &self.signed_with,
            &name(self.issuer),
            &sequence(&[&time(self.years.0), &time(self.years.1)]),
            &name(self.subject),
            &self.key,
            if self.extensions.is_empty() { &[] } else { &extensions },
        ]);
        let signature = bits(&signer.sign(&tbs).unwrap());
        sequence(&[&tbs, &self.signed_with, &signature]).into()
    }
}

fn encode(extension: &Extension) -> Vec<u8> {
    let critical: &[u8] = if extension.critical { &[1, 1, 0xff] } else { &[] };
    let oid = element(0x06, &[&[0x55, 0x1d, extension.arc]]);
    sequence(&[&oid, critical, &element(0x04, &[&extension.value])])
}
