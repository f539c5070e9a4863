//! One revoked certificate.

use std::{fmt, time::SystemTime};

use crate::trust::significant;

/// A non-negative integer of up to 20 octets: a serial number, or the number of a list (RFC 5280, sections 4.1.2.2 and
/// 5.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number([u8; Self::OCTETS]);

impl Number {
    const OCTETS: usize = 20;

    /// The number that `octets` spell, the most significant first; `None` if it is longer than 20 octets.
    #[must_use]
    pub fn of(octets: &[u8]) -> Option<Self> {
        let octets = significant(octets);
        let mut number = [0; Self::OCTETS];
        let from = Self::OCTETS.checked_sub(octets.len())?;
        number.get_mut(from..)?.copy_from_slice(octets);
        Some(Self(number))
    }

    /// Its octets without leading zeros, the most significant first.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        significant(&self.0)
    }
}

impl fmt::Display for Number {
    /// Hexadecimal, without leading zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = significant(&self.0);
        if octets.is_empty() {
            return f.write_str("00");
        }
        octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// An entry of a revocation list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    serial: Number,
    since: SystemTime,
    reason: &'static str,
}

impl Revoked {
    pub(super) const fn new(serial: Number, since: SystemTime, reason: &'static str) -> Self {
        Self { serial, since, reason }
    }

    /// Serial number of the certificate.
    #[must_use]
    pub const fn serial(&self) -> &Number {
        &self.serial
    }

    /// When it was revoked.
    #[must_use]
    pub const fn since(&self) -> SystemTime {
        self.since
    }

    /// Why, in the words of RFC 5280, section 5.3.1; `unspecified` if the list does not say.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_its_octets_spell() {
        assert_eq!(Number::of(&[0, 0, 7]), Number::of(&[7]));
        assert!(Number::of(&[1, 0]).unwrap() > Number::of(&[0xff]).unwrap());
        assert!(Number::of(&[1; 20]).is_some() && Number::of(&[1; 21]).is_none());
        assert_eq!(Number::of(&[0, 0x0a, 0xff]).unwrap().to_string(), "0aff");
        assert_eq!(Number::of(&[]).unwrap().to_string(), "00");
    }
}
