//! The links of a chain, put in order and looked at one by one.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::trust::{
    MAX_CHAIN,
    anchor::Anchors,
    explain::{Case, Signed, Step, read},
    profile::{Exhibit, Place},
    provider,
};

/// A certificate, and its encoding.
type Read<'a> = (&'a CertificateDer<'static>, Exhibit);

/// What is to be said of each link; no more are looked at than a handshake would.
pub(super) fn steps(case: &Case<'_>, anchors: &Anchors) -> Vec<Step> {
    let mut left: Vec<Read<'_>> =
        case.chain.iter().take(MAX_CHAIN).filter_map(|der| Some((der, read(der)?))).collect();
    if left.is_empty() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let mut current = (Place::Leaf, left.remove(0));
    loop {
        let (place, (der, exhibit)) = &current;
        if let Some((anchor, signed)) = anchor_of(case, anchors, der, exhibit) {
            steps.push(Step::of(Some(*place), exhibit, case.at, Some(signed)));
            steps.push(Step::of(Some(Place::Anchor), &anchor, case.at, None));
            break;
        }
        let Some(next) = issuer_among(&left, der, exhibit) else {
            steps.push(Step::of(Some(*place), exhibit, case.at, None));
            break;
        };
        let next = left.remove(next);
        steps.push(Step::of(Some(*place), exhibit, case.at, Some(signed(der, next.0))));
        current = (Place::Intermediate, next);
    }
    steps.extend(left.iter().map(|(_, exhibit)| Step::of(None, exhibit, case.at, None)));
    steps
}

/// The anchor whose name is that of the issuer; one whose key signed it, if there is one.
fn anchor_of(
    case: &Case<'_>,
    anchors: &Anchors,
    der: &CertificateDer<'_>,
    exhibit: &Exhibit,
) -> Option<(Exhibit, Signed)> {
    let issuer = exhibit.certificate().issuer();
    anchors.named(issuer).next()?;
    let mut found = None;
    for candidate in case.anchors {
        let Some(anchor) = read(candidate).filter(|anchor| anchor.certificate().subject() == issuer) else {
            continue;
        };
        let signed = signed(der, candidate);
        if signed == Signed::Verified || found.is_none() {
            found = Some((anchor, signed));
        }
        if signed == Signed::Verified {
            break;
        }
    }
    found
}

/// Among those of the issuer's name the one whose key signed it, else the first.
fn issuer_among(left: &[Read<'_>], der: &CertificateDer<'_>, exhibit: &Exhibit) -> Option<usize> {
    let issuer = exhibit.certificate().issuer();
    let of_name = |(_, other): &Read<'_>| other.certificate().subject() == issuer;
    let signing = |other: &Read<'_>| of_name(other) && signed(der, other.0) == Signed::Verified;
    left.iter().position(signing).or_else(|| left.iter().position(of_name))
}

/// Whether the key of `issuer` signed `der`.
fn signed(der: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Signed {
    let (Ok((_, parsed)), Ok(issuer)) = (X509Certificate::from_der(der), EndEntityCert::try_from(issuer))
    else {
        return Signed::Unsupported;
    };
    let (message, signature) = (parsed.tbs_certificate.as_ref(), parsed.signature_value.data.as_ref());
    let mut answer = Signed::Unsupported;
    for algorithm in provider::provider().signature_verification_algorithms.all {
        match issuer.verify_signature(*algorithm, message, signature) {
            Ok(()) => return Signed::Verified,
            Err(webpki::Error::InvalidSignatureForPublicKey) => answer = Signed::Forged,
            Err(_) => {}
        }
    }
    answer
}
