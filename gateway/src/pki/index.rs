//! What a development PKI has issued: the book that revocation lists are written from.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use time::OffsetDateTime;

use crate::pki::{Leaf, Reason, Revoked, Validity};

/// The book, as it lies in the folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// Trust domain of the collectors' SPIFFE URIs.
    pub(super) trust_domain: String,
    /// Domain of the collectors' DNS names.
    pub(super) dns_domain: String,
    /// Number of the newest revocation lists.
    pub(super) crl_number: u64,
    /// Name and end of the root, which nobody issued.
    pub(super) root: Root,
    /// Everything that was issued, the intermediate first.
    pub(super) issued: Vec<Entry>,
}

/// What is remembered of the root.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    pub(super) name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) not_after: OffsetDateTime,
}

/// What a certificate was issued for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The intermediate authority.
    Authority,
    /// A collector.
    Collector,
    /// A gateway.
    Server,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority => "authority",
            Self::Collector => "collector",
            Self::Server => "server",
        })
    }
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Serial number, hexadecimal: 1 to 20 octets.
    #[serde(deserialize_with = "serial")]
    pub serial: String,
    /// For what.
    pub kind: Kind,
    /// `<site>/<name>` of a collector, the name of a server or of the authority.
    pub name: String,
    /// DNS names, so that it can be renewed.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Addresses, so that it can be renewed.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// URIs, so that it can be renewed.
    #[serde(default)]
    pub uris: Vec<String>,
    /// Until when it is valid.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Since when it is not to be believed, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

/// When and why a certificate was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why.
    pub reason: Reason,
}

impl Entry {
    /// What a new certificate with the same names shall say.
    pub(super) fn profile(&self, validity: Validity) -> Leaf {
        let leaf = match self.kind {
            Kind::Server => Leaf::server(&self.name),
            Kind::Authority | Kind::Collector => Leaf::client(&self.name),
        };
        let leaf = self.uris.iter().fold(leaf, |leaf, uri| leaf.uri(uri));
        let leaf = self.dns.iter().fold(leaf, |leaf, name| leaf.dns(name));
        self.ips.iter().fold(leaf, |leaf, address| leaf.ip(*address)).validity(validity)
    }

    /// Whether it is the certificate with this serial number, or one of this name.
    fn is(&self, what: &str) -> bool {
        self.name == what || self.serial.eq_ignore_ascii_case(what)
    }

    fn is_in_force(&self, now: OffsetDateTime) -> bool {
        self.revoked.is_none() && self.not_after > now
    }
}

impl Index {
    /// The newest certificate of a name or serial number.
    pub(super) fn newest(&self, what: &str) -> Option<&Entry> {
        self.issued.iter().rev().find(|entry| entry.is(what))
    }

    /// Marks as revoked all of a name, or the one of a serial number, that are still in force; returns how many were.
    pub(super) fn revoke(&mut self, what: &str, reason: Reason, now: OffsetDateTime) -> usize {
        let known = self.issued.iter_mut().filter(|entry| entry.is(what) && entry.is_in_force(now));
        known.map(|entry| entry.revoked = Some(Revocation { at: now, reason })).count()
    }

    /// What stands on the list of the root (`Kind::Authority`), or of the intermediate (all others). RFC 5280 keeps an entry
    /// on the lists until one list beyond its certificate's end; kept here for good, the lists are small.
    pub(super) fn revoked(&self, is_of: impl Fn(Kind) -> bool) -> Vec<Revoked> {
        let listed = self.issued.iter().filter(|entry| is_of(entry.kind)).filter_map(|entry| {
            // Every serial number was made here, or checked when the index was read.
            let Revocation { at, reason } = entry.revoked?;
            Some(Revoked { serial: from_hex(&entry.serial)?, at, reason })
        });
        listed.collect()
    }
}

/// Reads a serial number. One that is none would be left off the lists, and its certificate stay valid.
fn serial<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let octets = from_hex(&text).filter(|octets| (1..=20).contains(&octets.len()));
    let wrong =
        || Error::custom(format!("serial {text:?} must be 1 to 20 octets, two hexadecimal digits each"));
    octets.map(|_| text.clone()).ok_or_else(wrong)
}

/// Bytes as hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_back() {
        assert_eq!(from_hex(&to_hex(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
        assert_eq!((from_hex("0"), from_hex("xy")), (None, None));
    }
}
