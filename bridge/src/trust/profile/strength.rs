//! How strong a key and a signature are.
//!
//! Accepted is what no published attack brings below 112 bits (NIST SP 800-57, part 1): RSA of 2048 bits or more, the NIST
//! curves from P-256 on, Ed25519; signatures with SHA-256 or better. webpki checks signatures with the algorithms of the
//! provider, but looks at no key that signs nothing: the leaf's, for one.

use std::fmt;

use x509_parser::{
    oid_registry::{self as oid, Oid},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

/// What a public key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::trust) enum Key {
    Ec(&'static str),
    Ed25519,
    /// Its kind cannot be read, or is none that is known here.
    Other(Box<str>),
    /// So many bits, and whether modulus and exponent are of the usual form.
    Rsa {
        bits: usize,
        sound: bool,
    },
}

impl Key {
    pub(super) fn of(key: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &key.algorithm.algorithm;
        if *algorithm == oid::OID_SIG_ED25519 {
            return Self::Ed25519;
        }
        if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
            // Curves that are spelt out instead of named are refused (RFC 5480, 2.1.1).
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            return curve
                .as_ref()
                .map_or_else(|| Self::Other("ECDSA without a named curve".into()), curve_of);
        }
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => Self::rsa(rsa.modulus, rsa.exponent),
            Ok(PublicKey::DSA(_)) => Self::Other("DSA".into()),
            _ => Self::Other(format!("of kind {}", algorithm.to_id_string()).into()),
        }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        let modulus = crate::trust::significant(modulus);
        let unused = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        let bits = modulus.len().saturating_mul(8).saturating_sub(unused);
        let exponent = crate::trust::significant(exponent);
        let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
        let sound = bits.is_multiple_of(8) && odd(modulus) && odd(exponent) && exponent != [1];
        Self::Rsa { bits, sound }
    }

    pub(super) const fn is_strong(&self) -> bool {
        match self {
            Self::Ec(_) | Self::Ed25519 => true,
            Self::Other(_) => false,
            Self::Rsa { bits, sound } => *sound && *bits >= SHORTEST_RSA,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ec(curve) => write!(f, "ECDSA {curve}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other(kind) => f.write_str(kind),
            Self::Rsa { bits, sound: true } => write!(f, "RSA of {bits} bits"),
            Self::Rsa { bits, sound: false } => {
                write!(f, "RSA of {bits} bits with an unusual modulus or exponent")
            }
        }
    }
}

/// Fewest bits of an RSA modulus.
const SHORTEST_RSA: usize = 2048;

fn curve_of(curve: &Oid<'_>) -> Key {
    if *curve == oid::OID_EC_P256 {
        Key::Ec("P-256")
    } else if *curve == oid::OID_NIST_EC_P384 {
        Key::Ec("P-384")
    } else if *curve == oid::OID_NIST_EC_P521 {
        Key::Ec("P-521")
    } else {
        Key::Other(format!("ECDSA on curve {}", curve.to_id_string()).into())
    }
}

/// How a certificate was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trust) enum Signature {
    /// Not known to be weak; whether it is accepted is the provider's to say.
    Sound,
    /// With a hash that can be forged.
    Weak(&'static str),
}

impl Signature {
    pub(super) fn of(algorithm: &Oid<'_>) -> Self {
        match algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.2" => Self::Weak("MD2"),
            "1.2.840.113549.1.1.4" => Self::Weak("MD5"),
            // RSA, ECDSA, DSA, and RSA as OIW had it.
            "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" | "1.3.14.3.2.29" => {
                Self::Weak("SHA-1")
            }
            _ => Self::Sound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rsa_counts_its_bits_and_refuses_odd_forms() {
        let mut modulus = vec![0, 0x80];
        modulus.extend([1; 255]);
        assert_eq!(Key::rsa(&modulus, &[1, 0, 1]), Key::Rsa { bits: 2048, sound: true });
        assert!(Key::rsa(&modulus, &[1, 0, 1]).is_strong());
        assert!(!Key::rsa(&modulus, &[1]).is_strong());
        assert!(!Key::rsa(&modulus, &[1, 0, 0]).is_strong());
        assert!(!Key::rsa(&modulus[..129], &[1, 0, 1]).is_strong());
        modulus[1] = 0x40;
        assert_eq!(Key::rsa(&modulus, &[3]), Key::Rsa { bits: 2047, sound: false });
    }
}
