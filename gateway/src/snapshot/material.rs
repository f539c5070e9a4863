//! Certificates and revocation lists.

use daemoneye_bridge::trust;
use serde::Serialize;

use crate::snapshot::{Timestamp, Trouble};

/// What is told of a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// What it is for: `server`, `client`, `ca`.
    pub role: &'static str,
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Subject alternative names.
    pub names: Vec<String>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// SHA-256 of the public key, hexadecimal; empty if it was not computed.
    pub spki_sha256: String,
}

impl Certificate {
    /// Most names that are told.
    const MAX_NAMES: usize = 16;
    /// Most characters of a text that is told.
    const MAX_TEXT: usize = 256;

    /// What is told of `certificate`, bounded, whoever wrote it.
    #[must_use]
    pub fn of(role: &'static str, certificate: &trust::Certificate) -> Self {
        let bounded = |text: &str| text.chars().take(Self::MAX_TEXT).collect();
        Self {
            role,
            subject: bounded(certificate.subject()),
            issuer: bounded(certificate.issuer()),
            serial: bounded(certificate.serial()),
            names: certificate.all_names().take(Self::MAX_NAMES).map(bounded).collect(),
            not_before: certificate.not_before().into(),
            not_after: certificate.not_after().into(),
            spki_sha256: certificate.spki_hex(),
        }
    }
}

/// The gateway's own certificates.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Material {
    /// When the generation in force was loaded.
    pub loaded: Option<Timestamp>,
    /// Own chain first, then anchors.
    pub certificates: Vec<Certificate>,
    /// Revocation lists, by issuer.
    pub lists: Vec<RevocationList>,
    /// Why the last reload was refused, and since when; `None` once one has succeeded.
    pub refused: Option<Trouble>,
    /// Which list could not be fetched for the longest time, and why.
    pub unfetched: Option<Trouble>,
}

/// What is told of a revocation list.
#[derive(Clone, Debug, Serialize)]
pub struct RevocationList {
    /// Name of its issuer.
    pub issuer: String,
    /// Its number, hexadecimal.
    pub number: String,
    /// When it was issued.
    pub this_update: Timestamp,
    /// When the next is due.
    pub next_update: Timestamp,
    /// How many certificates it revokes.
    pub entries: usize,
    /// Which file it came from.
    pub source: String,
    /// `fresh`, `grace`, `stale`, or `waiting` for its issuer to be seen.
    pub status: &'static str,
}
