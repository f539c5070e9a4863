//! Whom an entry is about, in one line of text.
//!
//! Kept true: a target has one spelling, so that it is on the list once.

use std::{fmt, str::FromStr};

use crate::identity::PeerId;

/// Whom an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Whoever has this certificate in his path: `certificate:<SHA-256 of the issuer's key>:<serial>`, both in hexadecimal.
    Certificate {
        /// SHA-256 of the issuer's `SubjectPublicKeyInfo`.
        issuer: [u8; 32],
        /// Serial number without leading zero octets.
        serial: Box<[u8]>,
    },
    /// One peer: `identity:<site>/<name>`.
    Identity(PeerId),
    /// Whoever has this key in his path, be it his own or an authority's: `spki:<SHA-256 in hexadecimal>`.
    Key([u8; 32]),
    /// All peers of a site: `site:<site>`.
    Site(Box<str>),
}

impl Target {
    /// The certificate that `issuer` gave this serial number; leading zeros do not count.
    #[must_use]
    pub fn certificate(issuer: [u8; 32], serial: &[u8]) -> Self {
        let zeros = serial.iter().take_while(|octet| **octet == 0).count();
        Self::Certificate { issuer, serial: serial.get(zeros..).unwrap_or_default().into() }
    }

    /// The kind, as a stable word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "certificate",
            Self::Identity(_) => "identity",
            Self::Key(_) => "spki",
            Self::Site(_) => "site",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Certificate { issuer, serial } => {
                // Zero has no octets that count, and without digits it could not be read back.
                let serial = if serial.is_empty() { &[0] } else { &**serial };
                write!(f, "{kind}:{}:{}", hex(issuer), hex(serial))
            }
            Self::Identity(peer) => write!(f, "{kind}:{peer}"),
            Self::Key(key) => write!(f, "{kind}:{}", hex(key)),
            Self::Site(site) => write!(f, "{kind}:{site}"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError(text.chars().take(SHOWN).collect());
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let target = match kind {
            "certificate" => rest.split_once(':').and_then(|(issuer, serial)| {
                let serial = octets(serial).filter(|serial| (1..=MOST_SERIAL).contains(&serial.len()))?;
                Some(Self::certificate(hash(issuer)?, &serial))
            }),
            "identity" => rest.parse().ok().map(Self::Identity),
            "spki" => hash(rest).map(Self::Key),
            // A site is whatever may stand before a name.
            "site" => PeerId::new(rest, "x").ok().map(|peer| Self::Site(peer.site().into())),
            _ => None,
        };
        target.ok_or_else(wrong)
    }
}

impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Characters of a wrong target that are repeated in the complaint.
const SHOWN: usize = 128;

/// Octets of the longest serial number that is taken: RFC 5280 (4.1.2.2) allows 20, and more are about.
const MOST_SERIAL: usize = 64;

fn hash(text: &str) -> Option<[u8; 32]> {
    octets(text)?.try_into().ok()
}

/// Reads hexadecimal, with or without colons between octets, as other tools print it.
fn octets(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn hex(octets: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    octets.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 0xf)]).collect()
}

/// A text names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of `identity:<site>/<name>`, `site:<site>`, `spki:<SHA-256>` and `certificate:<SHA-256 of the issuer's key>:<serial>`"
)]
pub struct TargetError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_and_read_alike() {
        let key = "ab".repeat(32);
        for text in [
            "identity:site-a/procmond-1".to_owned(),
            "site:site-a".to_owned(),
            format!("spki:{key}"),
            format!("certificate:{key}:7f01"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_spellings_are_the_same_target() {
        let (plain, colons) = ("AB".repeat(32), vec!["ab"; 32].join(":"));
        let read = |text: String| text.parse::<Target>().unwrap();
        assert_eq!(read(format!("spki:{plain}")), read(format!("spki:{colons}")));
        assert_eq!(read(format!("certificate:{plain}:00:7F:01")), read(format!("certificate:{plain}:7f01")));
    }

    #[test]
    fn what_names_nobody_is_refused_with_the_forms() {
        let key = "ab".repeat(32);
        for text in [
            "",
            "site-a",
            "site:",
            "site:A",
            "identity:site-a",
            "spki:ab",
            &format!("certificate:{key}"),
            &format!("certificate:{key}:"),
            &format!("certificate:{key}:7"),
            "host:x",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("identity:<site>/<name>"), "{error}");
        }
    }
}
