//! Revocation lists, and why a certificate stands on one.

use std::{fmt, str::FromStr};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::pki::{Authority, PkiError, Validity};

/// A certificate that is no longer to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// Since when.
    pub at: OffsetDateTime,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate was revoked (RFC 5280, section 5.3.1); a development PKI has no use for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is no longer used.
    CessationOfOperation,
    /// Somebody else may have its key.
    KeyCompromise,
    /// Another stands in its place.
    Superseded,
    /// It is not said.
    #[default]
    Unspecified,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 4] =
        [Self::CessationOfOperation, Self::KeyCompromise, Self::Superseded, Self::Unspecified];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CessationOfOperation => "cessation-of-operation",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::Unspecified => "unspecified",
        }
    }

    /// RFC 5280 has "unspecified" left out rather than written.
    const fn code(self) -> Option<RevocationReason> {
        match self {
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::Unspecified => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, ReasonError> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(ReasonError)
    }
}

/// A word that is no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use cessation-of-operation, key-compromise, superseded or unspecified")]
pub struct ReasonError;

impl Authority {
    /// Signs the list of what this authority has revoked, as PEM. `number` must grow from list to list; who reads the list
    /// wants the next one before `validity` ends.
    ///
    /// # Errors
    ///
    /// [`PkiError`], if it cannot be signed.
    pub fn crl(&self, number: u64, validity: Validity, revoked: &[Revoked]) -> Result<String, PkiError> {
        let entries = revoked.iter().map(|revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: revoked.at,
            reason_code: revoked.reason.code(),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: validity.from,
            next_update: validity.until,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.issuer).and_then(|list| list.pem());
        signed.map_err(|source| PkiError { name: "revocation list".to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

    use super::*;
    use crate::pki::Leaf;

    #[test]
    fn a_list_tells_number_times_and_who_is_on_it() {
        let authority = Authority::root("root").unwrap();
        let leaf = authority.issue(&Leaf::server("gateway")).unwrap();
        let revoked = Revoked {
            serial: leaf.serial().to_vec(),
            at: OffsetDateTime::now_utc(),
            reason: Reason::KeyCompromise,
        };
        let pem = authority.crl(7, Validity::days(7), &[revoked]).unwrap();
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
        let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
        assert_eq!(list.crl_number().unwrap().to_string(), "7");
        assert!(list.next_update().unwrap() > list.last_update());
        let on_it = list.iter_revoked_certificates().next().unwrap();
        assert_eq!(on_it.raw_serial(), leaf.serial());
        assert_eq!(on_it.reason_code().unwrap().1.0, 1);
    }

    #[test]
    fn every_reason_has_a_word_that_is_read_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.to_string().parse(), Ok(reason));
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
        assert_eq!("no".parse::<Reason>(), Err(ReasonError));
    }
}
