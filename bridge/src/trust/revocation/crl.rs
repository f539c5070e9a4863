//! One revocation list, parsed.
//!
//! Its structure and entries are read by webpki's strict reader, which refuses delta and indirect lists, those split by
//! reason, and critical extensions that it does not know; x509-parser reads the few fields that webpki keeps to itself.
//!
//! Kept true: a [`Crl`] is complete, has a number and both dates, and its entries are sorted by serial number.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::UnixTime;
use webpki::{BorrowedCertRevocationList, RevocationReason};
use x509_parser::{
    asn1_rs::{Any, Class, FromDer, Tag},
    extensions::{ParsedExtension, X509Extension},
    time::ASN1Time,
    x509::{SubjectPublicKeyInfo, X509Name},
};

use crate::trust::{
    certificate::sha256,
    provider,
    revocation::{Issuer, Number, Points, Revoked},
};

/// A complete revocation list. That it parses says nothing of its signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    /// Name of its issuer, DER.
    issuer: Box<[u8]>,
    issuer_text: Box<str>,
    /// Which of several keys of that name signed it, as the issuer says.
    key_id: Option<Box<[u8]>>,
    number: Number,
    this_update: SystemTime,
    next_update: SystemTime,
    scope: Scope,
    /// Sorted by serial number.
    entries: Box<[Revoked]>,
    /// SHA-256 of the whole, to tell a change without keeping it.
    digest: [u8; 32],
}

/// Which certificates of its issuer a list is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) holders: Holders,
    /// The extension as it stands, for lists of different distribution points are different lists.
    point: Box<[u8]>,
    /// Of which distribution point it is; `None` if it is of none, and about all certificates of its holders.
    pub(super) of: Option<Points>,
}

/// Whose certificates a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holders {
    All,
    Authorities,
    EndEntities,
}

impl Crl {
    /// Parses the DER form.
    ///
    /// # Errors
    ///
    /// [`CrlError`] says what is wrong with it.
    pub fn parse(der: &[u8]) -> Result<Self, CrlError> {
        let strict = BorrowedCertRevocationList::from_der(der).map_err(|error| CrlError::of(&error))?;
        let entries = entries(&strict)?;
        let (tbs, _, _) = signed(der).ok_or(CrlError::Malformed)?;
        let Head { issuer, this_update, next_update, extensions } = head(tbs).ok_or(CrlError::Malformed)?;
        let Marks { number, key_id, scope } = Marks::read(extensions)?;
        let (_, name) = X509Name::from_der(issuer).map_err(|_| CrlError::Malformed)?;
        if next_update < this_update {
            return Err(CrlError::Dates);
        }
        Ok(Self {
            issuer: issuer.into(),
            issuer_text: name.to_string().into(),
            key_id,
            number,
            this_update,
            next_update,
            scope,
            entries,
            digest: sha256(der),
        })
    }

    /// Whether `der`, which this was parsed from, was signed with `issuer`'s key.
    ///
    /// # Errors
    ///
    /// [`CrlError::Signature`], or [`CrlError::MayNotSign`] if the key is right and its certificate does not allow it.
    pub(super) fn verify(der: &[u8], issuer: &Issuer) -> Result<(), CrlError> {
        let (tbs, algorithm, signature) = signed(der).ok_or(CrlError::Malformed)?;
        let (_, key) = SubjectPublicKeyInfo::from_der(issuer.spki()).map_err(|_| CrlError::Signature)?;
        // The key's own algorithm is the first element of what stands around it.
        let kind =
            element(&mut element(&mut issuer.spki(), SEQUENCE).ok_or(CrlError::Signature)?.content, SEQUENCE)
                .ok_or(CrlError::Signature)?;
        let fits = provider::provider()
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|offered| *offered.signature_alg_id() == *algorithm)
            .filter(|offered| *offered.public_key_alg_id() == *kind.content)
            .any(|offered| offered.verify_signature(&key.subject_public_key.data, tbs, signature).is_ok());
        match (fits, issuer.may_sign()) {
            (true, true) => Ok(()),
            (true, false) => Err(CrlError::MayNotSign),
            (false, _) => Err(CrlError::Signature),
        }
    }

    /// Whether `issuer` has the name that this list gives its issuer.
    #[must_use]
    pub fn is_by_name_of(&self, issuer: &Issuer) -> bool {
        *self.issuer == *issuer.name()
    }

    /// Whether it says itself that another key than `issuer`'s signed it.
    pub(super) fn disowns(&self, issuer: &Issuer) -> bool {
        matches!((&self.key_id, issuer.key_id()), (Some(own), Some(theirs)) if **own != *theirs)
    }

    /// Name of the issuer, for people.
    #[must_use]
    pub const fn issuer(&self) -> &str {
        &self.issuer_text
    }

    /// Its number (RFC 5280, section 5.2.3).
    #[must_use]
    pub const fn number(&self) -> &Number {
        &self.number
    }

    /// When it was issued.
    #[must_use]
    pub const fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// When the next is due; from then on it is stale.
    #[must_use]
    pub const fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Its entries, sorted by serial number.
    #[must_use]
    pub const fn entries(&self) -> &[Revoked] {
        &self.entries
    }

    /// The entry of a serial number.
    #[must_use]
    pub fn find(&self, serial: &Number) -> Option<&Revoked> {
        let place = self.entries.binary_search_by_key(serial, |entry| *entry.serial()).ok()?;
        self.entries.get(place)
    }

    pub(super) const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Debug for Crl {
    /// Without the entries, of which there may be a hundred thousand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("issuer", &self.issuer_text)
            .field("number", &self.number)
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

fn entries(list: &BorrowedCertRevocationList<'_>) -> Result<Box<[Revoked]>, CrlError> {
    let mut entries = Vec::new();
    for entry in list {
        let entry = entry.map_err(|error| CrlError::of(&error))?;
        let serial = Number::of(entry.serial_number).ok_or(CrlError::LongSerial)?;
        let reason = reason(entry.reason_code)?;
        entries.push(Revoked::new(serial, moment(entry.revocation_date), reason));
    }
    entries.sort_unstable_by_key(|entry| *entry.serial());
    Ok(entries.into())
}

const fn reason(code: Option<RevocationReason>) -> Result<&'static str, CrlError> {
    use RevocationReason as R;
    Ok(match code {
        None | Some(R::Unspecified) => "unspecified",
        Some(R::KeyCompromise) => "keyCompromise",
        Some(R::CaCompromise) => "cACompromise",
        Some(R::AffiliationChanged) => "affiliationChanged",
        Some(R::Superseded) => "superseded",
        Some(R::CessationOfOperation) => "cessationOfOperation",
        Some(R::CertificateHold) => "certificateHold",
        Some(R::PrivilegeWithdrawn) => "privilegeWithdrawn",
        Some(R::AaCompromise) => "aACompromise",
        // Of use in a delta list only (RFC 5280, section 5.3.1): whatever this list is, it is not complete.
        Some(R::RemoveFromCrl) => return Err(CrlError::RemoveFromCrl),
    })
}

/// What the extensions of a list say.
struct Marks {
    number: Number,
    key_id: Option<Box<[u8]>>,
    scope: Scope,
}

impl Marks {
    fn read(mut extensions: &[u8]) -> Result<Self, CrlError> {
        let (mut number, mut key_id) = (None, None);
        let mut scope = Scope { holders: Holders::All, point: Box::default(), of: None };
        while !extensions.is_empty() {
            let (rest, extension) = X509Extension::from_der(extensions).map_err(|_| CrlError::Malformed)?;
            extensions = rest;
            match extension.parsed_extension() {
                // RFC 5280, section 5.2.3: it must be there and must not be critical.
                ParsedExtension::CRLNumber(_) if extension.critical => return Err(CrlError::CriticalNumber),
                ParsedExtension::CRLNumber(value) => number = Number::of(&value.to_bytes_be()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    key_id = id.key_identifier.as_ref().map(|id| id.0.into());
                }
                ParsedExtension::IssuingDistributionPoint(point) => {
                    scope.point = extension.value.into();
                    scope.of = Points::of_list(point);
                    scope.holders = match (point.only_contains_user_certs, point.only_contains_ca_certs) {
                        (true, _) => Holders::EndEntities,
                        (false, true) => Holders::Authorities,
                        (false, false) => Holders::All,
                    };
                }
                _ => {}
            }
        }
        Ok(Self { number: number.ok_or(CrlError::NoNumber)?, key_id, scope })
    }
}

/// The fields before and after the entries.
struct Head<'a> {
    issuer: &'a [u8],
    this_update: SystemTime,
    next_update: SystemTime,
    /// What stands in the sequence of extensions.
    extensions: &'a [u8],
}

/// Splits a list into what is signed, the algorithm and the signature.
fn signed(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut rest = element(&mut &*der, SEQUENCE)?.content;
    let tbs = element(&mut rest, SEQUENCE)?;
    let algorithm = element(&mut rest, SEQUENCE)?;
    let signature = element(&mut rest, Tag::BitString)?;
    // The first octet counts unused bits, of which a signature has none.
    let signature = signature.content.strip_prefix(&[0])?;
    Some((tbs.whole, algorithm.content, signature))
}

fn head(tbs: &[u8]) -> Option<Head<'_>> {
    let mut rest = element(&mut &*tbs, SEQUENCE)?.content;
    element(&mut rest, Tag::Integer)?;
    element(&mut rest, SEQUENCE)?;
    let issuer = element(&mut rest, SEQUENCE)?.whole;
    let (after, this_update) = ASN1Time::from_der(rest).ok()?;
    let (after, next_update) = ASN1Time::from_der(after).ok()?;
    rest = after;
    // Absent where nobody is revoked.
    let mut ahead = rest;
    if element(&mut ahead, SEQUENCE).is_some() {
        rest = ahead;
    }
    let (_, tagged) = Any::from_der(rest).ok()?;
    let explicit = tagged.class() == Class::ContextSpecific && tagged.tag() == Tag(0);
    let extensions = element(&mut &*tagged.data, SEQUENCE).filter(|_| explicit)?.content;
    Some(Head { issuer, this_update: asn1(this_update), next_update: asn1(next_update), extensions })
}

const SEQUENCE: Tag = Tag::Sequence;

/// One element of DER.
#[derive(Clone, Copy)]
struct Element<'a> {
    /// With its header.
    whole: &'a [u8],
    content: &'a [u8],
}

/// Takes the next element off `input` if it is a universal one tagged `tag`.
fn element<'a>(input: &mut &'a [u8], tag: Tag) -> Option<Element<'a>> {
    let (rest, any) = Any::from_der(input).ok()?;
    let whole = input.get(..input.len().checked_sub(rest.len())?)?;
    if any.tag() != tag || any.class() != Class::Universal {
        return None;
    }
    *input = rest;
    Some(Element { whole, content: any.data })
}

fn moment(time: UnixTime) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(UNIX_EPOCH)
}

fn asn1(time: ASN1Time) -> SystemTime {
    let since = u64::try_from(time.timestamp()).unwrap_or_default();
    moment(UnixTime::since_unix_epoch(Duration::from_secs(since)))
}

/// Why a revocation list cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// Its number is marked critical.
    #[error(
        "its number is marked critical, against RFC 5280, section 5.2.3: issue it with a tool that follows it"
    )]
    CriticalNumber,
    /// It ends before it begins.
    #[error("its next update is before its last: look at the clock of the issuer")]
    Dates,
    /// It says only what changed.
    #[error("it is a delta list, which says only what changed: publish the complete one")]
    Delta,
    /// It is about certificates of others than its issuer.
    #[error("it is an indirect list, about certificates of several issuers: publish one of each issuer")]
    Indirect,
    /// An entry's serial number has more than 20 octets.
    #[error(
        "a serial number in it is longer than 20 octets, against RFC 5280, section 4.1.2.2: issue that certificate again"
    )]
    LongSerial,
    /// It cannot be read.
    #[error("it is cut off or not well-formed: copy it again")]
    Malformed,
    /// Its issuer's certificate does not allow it to sign lists.
    #[error("its issuer's key usage lacks cRLSign: issue that authority's certificate again with it")]
    MayNotSign,
    /// It has no number.
    #[error("it has no number, against RFC 5280, section 5.2.3: issue it with a tool that follows it")]
    NoNumber,
    /// It does not cover all reasons.
    #[error("it is one of several lists for different reasons or points: publish the complete one")]
    Partial,
    /// An entry takes another back, which only a delta list can.
    #[error("an entry has reason removeFromCRL, which only a delta list may have: publish the complete one")]
    RemoveFromCrl,
    /// Its signature does not check out.
    #[error("its signature is not by the key of the issuer that it names: fetch it from that issuer again")]
    Signature,
    /// A critical extension that is not known.
    #[error("it or an entry of it has a critical extension that is not understood: publish one without")]
    UnknownExtension,
}

impl CrlError {
    const fn of(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::InvalidCrlNumber => Self::NoNumber,
            E::UnsupportedCrlIssuingDistributionPoint | E::UnsupportedRevocationReasonsPartitioning => {
                Self::Partial
            }
            E::UnsupportedCriticalExtension => Self::UnknownExtension,
            E::UnsupportedDeltaCrl => Self::Delta,
            E::UnsupportedIndirectCrl => Self::Indirect,
            _ => Self::Malformed,
        }
    }
}
