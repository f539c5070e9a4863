//! Distribution points: which of an issuer's lists a certificate is on, if it is revoked.
//!
//! An issuer may divide its certificates among lists. Each list then says which point it is for, and each certificate which
//! points it may stand on; that another list does not name a certificate means nothing (RFC 5280, section 6.3.3 (b) (2)).

use x509_parser::{
    certificate::X509Certificate,
    extensions::{DistributionPointName, GeneralName, IssuingDistributionPoint, ParsedExtension},
};

/// Names of distribution points: full names, by URI or directory name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::trust) struct Points(Box<[Box<[u8]>]>);

impl Points {
    /// Where `certificate` stands if it is revoked. Points for some reasons only, or of another issuer's lists, are none of
    /// those that a list here is for.
    pub(in crate::trust) fn of_certificate(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Vec::new();
        for extension in certificate.extensions() {
            if let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() {
                let own = points.iter().filter(|point| point.reasons.is_none() && point.crl_issuer.is_none());
                names.extend(own.filter_map(|point| point.distribution_point.as_ref()).flat_map(full));
            }
        }
        // The point of lists that no certificate points to (RFC 5280, section 6.3.3, last paragraph).
        names.push(named(DIRECTORY, certificate.issuer().as_raw()));
        Self(names.into())
    }

    /// Which point a list is for; `None` if it does not say, and so is for all.
    pub(super) fn of_list(point: &IssuingDistributionPoint<'_>) -> Option<Self> {
        point.distribution_point.as_ref().map(|name| Self(full(name).into()))
    }

    /// Whether they have a name in common.
    pub(super) fn meet(&self, other: &Self) -> bool {
        self.0.iter().any(|name| other.0.contains(name))
    }
}

fn full(point: &DistributionPointName<'_>) -> Vec<Box<[u8]>> {
    let DistributionPointName::FullName(names) = point else { return Vec::new() };
    let known = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(named(URI, uri.as_bytes())),
        GeneralName::DirectoryName(name) => Some(named(DIRECTORY, name.as_raw())),
        _ => None,
    });
    known.collect()
}

/// A name behind its kind, so that one of another kind is never the same.
fn named(kind: u8, name: &[u8]) -> Box<[u8]> {
    [&[kind], name].concat().into()
}

/// Tags of the kinds of a general name (RFC 5280, section 4.2.1.6).
const DIRECTORY: u8 = 4;
const URI: u8 = 6;
