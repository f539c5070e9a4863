//! The chain profile: what must hold of a path beside what webpki checks.
//!
//! webpki builds the path and checks signatures, validity, authority bits, path length and DNS and IP name constraints. It
//! passes over key usage, takes a missing extended key usage for any, looks at no key that signs nothing, and at nothing of
//! an anchor but its name, key and name constraints. All that is judged here, as a table of rules and the few that need
//! more than one certificate. `docs/chain.md` has both halves on one page.
//!
//! Kept true: a rule is broken or not by the path alone; who the peer is and whether it was revoked is asked after it.

mod facts;
mod purpose;
mod rules;
mod strength;

use std::time::{Duration, SystemTime};

use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::trust::{
    Anchor, Certificate, CertificateError, Finding, MAX_CHAIN, RefusalReason, Role, finding,
    revocation::Points,
};

pub(super) use self::{
    facts::Facts,
    purpose::leaves_out,
    rules::{Place, RULES, Rule},
    strength::Signature,
};

/// What the profile leaves to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// How long a leaf may be valid from begin to end; `None` sets no limit.
    pub max_leaf_lifetime: Option<Duration>,
    /// Most authorities between leaf and anchor; those that are their own issuers do not count (RFC 5280, 6.1.4 (l)).
    pub max_depth: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self { max_leaf_lifetime: None, max_depth: MAX_CHAIN - 1 }
    }
}

/// A certificate, read once: what is told of it, and what the profile looks at.
#[derive(Clone, Debug)]
pub(super) struct Exhibit {
    certificate: Certificate,
    facts: Facts,
    points: Points,
}

impl Exhibit {
    /// Reads the DER form.
    pub(super) fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError)?;
        if !rest.is_empty() {
            return Err(CertificateError);
        }
        Ok(Self {
            certificate: Certificate::of(&parsed)?,
            facts: Facts::of(&parsed),
            points: Points::of_certificate(&parsed),
        })
    }

    pub(super) const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Which revocation lists it stands on, if it is revoked.
    pub(super) const fn points(&self) -> &Points {
        &self.points
    }

    /// The rules that it breaks in this place, and what is wrong with it.
    pub(super) fn broken(&self, place: Place) -> impl Iterator<Item = (&'static Rule, Finding)> {
        RULES.iter().filter(move |rule| rule.is_broken(place, &self.facts)).map(move |rule| {
            let (reason, says) = match (rule.reason, place) {
                (RefusalReason::WeakKey, Place::Leaf) => (RefusalReason::WeakKey, self.with_key(rule)),
                (RefusalReason::WeakKey, _) => (RefusalReason::WeakCaKey, self.with_key(rule)),
                (reason, _) => (reason, rule.says.to_owned()),
            };
            (rule, self.finding(place, reason, &says))
        })
    }

    fn with_key(&self, rule: &Rule) -> String {
        format!("{} ({})", rule.says, self.facts.key())
    }

    /// Says what is wrong with it.
    pub(super) fn finding(&self, place: Place, reason: RefusalReason, says: &str) -> Finding {
        let subject = finding::quoted(self.certificate.subject());
        Finding::new(reason, format!("{} {subject} {says}", place.as_str()))
    }
}

/// A path that webpki has verified.
#[derive(Debug)]
pub(super) struct Path<'a> {
    pub(super) role: Role,
    pub(super) leaf: &'a Exhibit,
    /// From the leaf upwards.
    pub(super) between: &'a [&'a Exhibit],
    pub(super) anchor: &'a Anchor,
}

impl Path<'_> {
    /// Its certificates and where each stands, the leaf first.
    fn all(&self) -> impl Iterator<Item = (Place, &Exhibit)> {
        let between = self.between.iter().map(|exhibit| (Place::Intermediate, *exhibit));
        let ends = [(Place::Leaf, self.leaf)];
        ends.into_iter().chain(between).chain([(Place::Anchor, self.anchor.exhibit())])
    }

    /// Everything that is wrong with it, what says most first.
    pub(super) fn findings(&self, profile: &Profile, now: SystemTime) -> impl Iterator<Item = Finding> {
        let rules = self.all().flat_map(|(place, exhibit)| exhibit.broken(place)).map(|(_, finding)| finding);
        let whole = [
            self.anchor_in_time(now),
            purpose::of_leaf(self.role, self.leaf),
            purpose::of_anchor(self.role, self.anchor.exhibit()),
        ];
        let rest = [self.depth(profile), self.path_length(), self.lifetime(profile), self.trust_domain()];
        whole.into_iter().flatten().chain(rules).chain(rest.into_iter().flatten())
    }

    /// webpki takes an anchor for valid always.
    fn anchor_in_time(&self, now: SystemTime) -> Option<Finding> {
        if self.anchor.is_valid(now) {
            return None;
        }
        let (anchor, exhibit) = (self.anchor.certificate(), self.anchor.exhibit());
        let (reason, says) = anchor.not_before().duration_since(now).map_or_else(
            |_| (RefusalReason::AnchorExpired, expired(anchor.not_after(), now)),
            |wait| (RefusalReason::AnchorNotYetValid, not_yet(wait)),
        );
        Some(exhibit.finding(Place::Anchor, reason, &says))
    }

    /// How many authorities stand between leaf and anchor; self-issued ones do not count.
    fn authorities(&self) -> usize {
        self.between.iter().filter(|exhibit| !exhibit.facts().is_self_issued()).count()
    }

    fn depth(&self, profile: &Profile) -> Option<Finding> {
        let (count, most) = (self.authorities(), profile.max_depth);
        let says =
            || format!("{count} authorities stand between leaf and anchor, and {most} at most are allowed");
        (count > most).then(|| Finding::new(RefusalReason::PathTooDeep, says()))
    }

    /// The path length of the anchor; webpki checks that of the others (RFC 5280, 4.2.1.9).
    fn path_length(&self) -> Option<Finding> {
        let allowed = self.anchor.exhibit().facts().path_length()?;
        let count = self.authorities();
        let says = || format!("allows {allowed} authorities below it, and there are {count}");
        let anchor = self.anchor.exhibit();
        usize::try_from(allowed)
            .is_ok_and(|allowed| count > allowed)
            .then(|| anchor.finding(Place::Anchor, RefusalReason::AnchorPathLength, &says()))
    }

    fn lifetime(&self, profile: &Profile) -> Option<Finding> {
        let most = profile.max_leaf_lifetime?;
        let leaf = self.leaf.certificate();
        // Both ends of the validity belong to it (RFC 5280, 4.1.2.5).
        let lifetime = leaf.not_after().duration_since(leaf.not_before()).unwrap_or_default();
        let (is, may) = (finding::in_words(lifetime), finding::in_words(most));
        let says = format!("is valid for {is}, and {may} at most are allowed");
        (lifetime > most).then(|| self.leaf.finding(Place::Leaf, RefusalReason::LifetimeTooLong, &says))
    }

    fn trust_domain(&self) -> Option<Finding> {
        let domain = self.anchor.rights().forbidden_domain(self.leaf.certificate())?;
        let says = format!("may not speak for trust domain {}", finding::quoted(domain));
        Some(self.anchor.exhibit().finding(Place::Anchor, RefusalReason::AnchorNotForDomain, &says))
    }
}

/// "expired 3 days ago".
pub(super) fn expired(not_after: SystemTime, now: SystemTime) -> String {
    format!("expired {} ago", finding::in_words(now.duration_since(not_after).unwrap_or_default()))
}

/// Why a certificate in this place is refused that is not valid yet.
pub(super) const fn not_yet_valid(place: Place) -> RefusalReason {
    match place {
        Place::Anchor => RefusalReason::AnchorNotYetValid,
        Place::Intermediate => RefusalReason::IntermediateNotYetValid,
        Place::Leaf => RefusalReason::CertificateNotYetValid,
    }
}

/// "is not valid before 3 minutes from now: is a clock wrong?".
pub(super) fn not_yet(wait: Duration) -> String {
    format!("is not valid before {} from now: is a clock wrong?", finding::in_words(wait))
}
