//! Revocation lists spelt out element by element, so that they can be wrong in every way.

use std::time::{Duration, SystemTime};

use rcgen::SigningKey;
use x509_parser::{num_bigint::BigUint, time::ASN1Time};

use crate::trust::{revocation::Issuer, tests::pki::Authority};

/// What a list says.
#[derive(Clone)]
pub(super) struct Forge {
    pub(super) number: Option<u64>,
    pub(super) critical_number: bool,
    pub(super) this_update: SystemTime,
    pub(super) next_update: SystemTime,
    pub(super) entries: Vec<Entry>,
    pub(super) key_id: bool,
    /// Whole extensions, after the usual ones.
    pub(super) extensions: Vec<Vec<u8>>,
}

/// An entry: serial number, and whole extensions.
#[derive(Clone)]
pub(super) struct Entry(pub(super) Vec<u8>, pub(super) Vec<Vec<u8>>);

impl Forge {
    pub(super) fn new(number: u64, serials: &[u64]) -> Self {
        let entry = |serial: &u64| Entry(BigUint::from(*serial).to_bytes_be(), Vec::new());
        let now = SystemTime::now();
        Self {
            number: Some(number),
            critical_number: false,
            this_update: now - Duration::from_hours(1),
            next_update: now + Duration::from_hours(24),
            entries: serials.iter().map(entry).collect(),
            key_id: true,
            extensions: Vec::new(),
        }
    }

    /// Signs it with the key of `by`, in the name of `named`.
    pub(super) fn signed(&self, named: &Authority, by: &Authority) -> Vec<u8> {
        let (issuer, signer) = (Issuer::parse(named.own()).unwrap(), Issuer::parse(by.own()).unwrap());
        let entries: Vec<u8> = self.entries.iter().flat_map(|entry| self.entry(entry)).collect();
        let mut extensions = Vec::new();
        if let Some(number) = self.number {
            let number = integer(&BigUint::from(number).to_bytes_be());
            extensions.push(extension(20, self.critical_number, &number));
        }
        if self.key_id {
            extensions.push(extension(35, false, &tlv(0x30, &tlv(0x80, signer.key_id().unwrap()))));
        }
        extensions.extend(self.extensions.iter().cloned());
        let mut tbs = vec![
            integer(&[1]),
            ECDSA_SHA256.to_vec(),
            issuer.name().to_vec(),
            time(self.this_update),
            time(self.next_update),
        ];
        if !entries.is_empty() {
            tbs.push(tlv(0x30, &entries));
        }
        tbs.push(tlv(0xa0, &tlv(0x30, &extensions.concat())));
        let tbs = tlv(0x30, &tbs.concat());
        let mut signature = vec![0];
        signature.extend(by.key().sign(&tbs).unwrap());
        tlv(0x30, &[tbs, ECDSA_SHA256.to_vec(), tlv(0x03, &signature)].concat())
    }

    /// Signs it as `by`.
    pub(super) fn by(&self, by: &Authority) -> Vec<u8> {
        self.signed(by, by)
    }

    fn entry(&self, Entry(serial, extensions): &Entry) -> Vec<u8> {
        let mut parts = vec![integer(serial), time(self.this_update)];
        if !extensions.is_empty() {
            parts.push(tlv(0x30, &extensions.concat()));
        }
        tlv(0x30, &parts.concat())
    }
}

/// An extension of the arc `id-ce`.
pub(super) fn extension(arc: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![tlv(0x06, &[0x55, 0x1d, arc])];
    if critical {
        parts.push(tlv(0x01, &[0xff]));
    }
    parts.push(tlv(0x04, value));
    tlv(0x30, &parts.concat())
}

/// An issuing distribution point with a full name and `flags` after it.
pub(super) fn point(flags: &[u8]) -> Vec<u8> {
    let name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://pki.example.com/a.crl")));
    extension(28, true, &tlv(0x30, &[name, flags.to_vec()].concat()))
}

pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 128 {
        out.push(u8::try_from(length).unwrap());
    } else {
        let octets = BigUint::from(length).to_bytes_be();
        out.push(0x80 | u8::try_from(octets.len()).unwrap());
        out.extend(octets);
    }
    out.extend_from_slice(content);
    out
}

fn integer(octets: &[u8]) -> Vec<u8> {
    let mut content = octets.to_vec();
    if octets.first().is_none_or(|first| *first >= 0x80) {
        content.insert(0, 0);
    }
    tlv(0x02, &content)
}

fn time(moment: SystemTime) -> Vec<u8> {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let date = ASN1Time::from_timestamp(i64::try_from(since).unwrap()).unwrap().to_datetime();
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second(),
    );
    // RFC 5280, section 5.1.2.4: UTCTime through 2049.
    tlv(0x17, text.get(2..).unwrap().as_bytes())
}

pub(super) fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", lines.join("\n"))
}

const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
