//! One certificate of a verified path, as revocation and re-judging know it.
//!
//! A serial number means something only beside the key that signed it: names of issuers repeat, keys do not.
//!
//! Kept true: a link is made of a certificate and the one that signed it, and of nothing else.

use std::time::{Duration, SystemTime};

use crate::trust::Certificate;

/// One certificate of a verified path, the anchor excepted, and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    issuer_spki: [u8; 32],
    serial: Box<[u8]>,
    spki: [u8; 32],
    subject: Box<str>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Link {
    /// The link between `certificate` and `issuer`, who signed it.
    pub(super) fn of(certificate: &Certificate, issuer: &Certificate) -> Self {
        Self {
            issuer_spki: *issuer.spki_sha256(),
            serial: significant(certificate.serial_bytes()).into(),
            spki: *certificate.spki_sha256(),
            subject: certificate.subject().into(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
        }
    }

    /// SHA-256 of the key that signed it (the whole `SubjectPublicKeyInfo`).
    #[must_use]
    pub const fn issuer_spki(&self) -> &[u8; 32] {
        &self.issuer_spki
    }

    /// Its serial number without leading zero octets; whoever looks it up passes his own through [`significant`].
    #[must_use]
    pub const fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// SHA-256 of its own key (the whole `SubjectPublicKeyInfo`).
    #[must_use]
    pub const fn spki(&self) -> &[u8; 32] {
        &self.spki
    }

    /// Distinguished name of its subject, to tell people which it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Begin of its validity.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of its validity.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// How long it is valid from begin to end.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// The octets of a serial number that count: leading zeros are of the encoding, not of the number, and an encoding with
/// too many of them must not slip past a revocation list.
#[must_use]
pub fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_do_not_make_another_number() {
        assert_eq!(significant(&[0, 0, 0x80, 0]), [0x80, 0]);
        assert_eq!(significant(&[0x80, 0]), [0x80, 0]);
        assert!(significant(&[0]).is_empty());
    }
}
