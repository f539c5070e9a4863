//! What exactly was wrong, where webpki says only which kind of thing.
//!
//! webpki tries paths until one holds, and keeps the most telling of its errors, without the certificate that it is about.
//! Here the certificates are looked at once more, after the refusal is certain: whatever stands here can make a refusal
//! clearer, never an acceptance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;

use crate::trust::{
    Finding, RefusalReason, Role,
    anchor::Anchors,
    finding::quoted,
    profile::{self, Exhibit, Place, Signature},
};

/// What a refused peer presented, as far as it can be read.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) leaf: &'a Exhibit,
    /// As presented; those that cannot be read left out.
    pub(super) others: &'a [&'a Exhibit],
    pub(super) anchors: &'a Anchors,
    /// What they were presented for.
    pub(super) role: Role,
}

impl<'a> Scene<'a> {
    /// Tells what webpki's error is about.
    pub(super) fn finding(&self, error: &webpki::Error) -> Finding {
        use webpki::Error as E;
        match error {
            E::CertExpired { time, not_after } => self.expired(*time, *not_after),
            E::CertNotValidYet { time, not_before } => self.not_yet(*time, *not_before),
            E::UnknownIssuer => self.unknown_issuer(),
            E::InvalidSignatureForPublicKey => self.bad_signature(),
            E::NameConstraintViolation => self.name_constraint(),
            E::CaUsedAsEndEntity => {
                let says = "is an authority's, and was presented as the peer's own";
                self.leaf.finding(Place::Leaf, RefusalReason::CaAsLeaf, says)
            }
            E::EndEntityUsedAsCa => self.leaf_as_ca(),
            E::PathLenConstraintViolated => self.path_length(),
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => self.algorithm(),
            E::RequiredEkuNotFoundContext(_) => self.purpose(),
            _ => Finding::from(RefusalReason::of(error)),
        }
    }

    fn all(&self) -> impl Iterator<Item = (Place, &'a Exhibit)> {
        let others = self.others.iter().map(|exhibit| (Place::Intermediate, *exhibit));
        std::iter::once((Place::Leaf, self.leaf)).chain(others)
    }

    fn expired(&self, now: UnixTime, not_after: UnixTime) -> Finding {
        let (now, end) = (moment(now), moment(not_after));
        let of = self.all().find(|(_, exhibit)| exhibit.certificate().not_after() == end);
        let (place, exhibit) = of.unwrap_or((Place::Leaf, self.leaf));
        let reason = match place {
            Place::Leaf => RefusalReason::CertificateExpired,
            Place::Anchor | Place::Intermediate => RefusalReason::IntermediateExpired,
        };
        exhibit.finding(place, reason, &profile::expired(end, now))
    }

    fn not_yet(&self, now: UnixTime, not_before: UnixTime) -> Finding {
        let begin = moment(not_before);
        let of = self.all().find(|(_, exhibit)| exhibit.certificate().not_before() == begin);
        let (place, exhibit) = of.unwrap_or((Place::Leaf, self.leaf));
        let wait = begin.duration_since(moment(now)).unwrap_or_default();
        exhibit.finding(place, profile::not_yet_valid(place), &profile::not_yet(wait))
    }

    /// The end of the chain as names have it: where the next issuer is neither presented nor trusted.
    fn top(&self) -> (Place, &'a Exhibit) {
        let mut top = (Place::Leaf, self.leaf);
        for _ in self.others {
            let issuer = top.1.certificate().issuer();
            let next = self.others.iter().find(|exhibit| {
                exhibit.certificate().subject() == issuer && !exhibit.facts().is_self_issued()
            });
            match next {
                Some(next) => top = (Place::Intermediate, next),
                None => break,
            }
        }
        top
    }

    fn unknown_issuer(&self) -> Finding {
        let (place, top) = self.top();
        let issuer = top.certificate().issuer();
        let (shown, subject) = (quoted(issuer), quoted(top.certificate().subject()));
        let which = match place {
            Place::Leaf => "the leaf".to_owned(),
            Place::Anchor | Place::Intermediate => format!("intermediate {subject}"),
        };
        if self.others.iter().any(|exhibit| exhibit.certificate().subject() == issuer) {
            let says = format!("{which} was issued by {shown}, which was presented, but is no anchor");
            return Finding::new(RefusalReason::UnknownIssuer, says);
        }
        if self.anchors.has_met(issuer) {
            let says = format!(
                "intermediate {shown} missing: {which} was issued by {shown}, which no anchor is and nobody presented"
            );
            return Finding::new(RefusalReason::MissingIntermediate, says);
        }
        let says = format!(
            "{which} was issued by {shown}, which is neither an anchor nor presented: if it is an intermediate, it is missing"
        );
        Finding::new(RefusalReason::UnknownIssuer, says)
    }

    fn bad_signature(&self) -> Finding {
        let (_, top) = self.top();
        let issuer = top.certificate().issuer();
        let says = if self.anchors.named(issuer).next().is_some() {
            format!("an anchor is called {}, but its key signed no certificate of this chain", quoted(issuer))
        } else {
            format!("a certificate of the chain was not signed by the key of {}", quoted(issuer))
        };
        Finding::new(RefusalReason::BadSignature, says)
    }

    /// Constraints by names that webpki cannot compare refuse whatever the names are.
    fn name_constraint(&self) -> Finding {
        let anchors = self.anchors.named(self.top().1.certificate().issuer());
        let anchors = anchors.map(|anchor| (Place::Anchor, anchor.exhibit()));
        let authorities = self.all().skip(1).chain(anchors);
        for (place, exhibit) in authorities {
            if let Some(kind) = exhibit.facts().foreign_constraint() {
                let says = format!("is constrained by {kind}, which always refuses");
                return exhibit.finding(place, RefusalReason::NameConstraintUri, &says);
            }
        }
        let names: Vec<&str> = self.leaf.certificate().all_names().take(4).collect();
        let says =
            format!("names {}, for which an authority of its path may not speak", quoted(&names.join(", ")));
        self.leaf.finding(Place::Leaf, RefusalReason::NameConstraint, &says)
    }

    fn leaf_as_ca(&self) -> Finding {
        let reason = RefusalReason::LeafAsCa;
        let wrong = self.others.iter().find(|exhibit| !exhibit.facts().is_authority());
        wrong.map_or_else(
            || Finding::from(reason),
            |exhibit| {
                exhibit.finding(Place::Intermediate, reason, "is no authority, and signed a certificate")
            },
        )
    }

    fn path_length(&self) -> Finding {
        let limited =
            self.others.iter().filter_map(|exhibit| Some((exhibit.facts().path_length()?, exhibit)));
        limited.min_by_key(|(length, _)| *length).map_or_else(
            || Finding::from(RefusalReason::PathLength),
            |(length, exhibit)| {
                let says = format!("allows {length} authorities below it, and there are more");
                exhibit.finding(Place::Intermediate, RefusalReason::PathLength, &says)
            },
        )
    }

    fn algorithm(&self) -> Finding {
        for (place, exhibit) in self.all() {
            if let Signature::Weak(hash) = exhibit.facts().signature() {
                let says = format!("is signed with {hash}, which can be forged");
                return exhibit.finding(place, RefusalReason::WeakSignature, &says);
            }
        }
        let anchors = self.anchors.named(self.top().1.certificate().issuer());
        let anchors = anchors.map(|anchor| (Place::Anchor, anchor.exhibit()));
        let weak = self.all().chain(anchors).find_map(|(place, exhibit)| {
            exhibit.broken(place).find(|(rule, _)| rule.reason == RefusalReason::WeakKey)
        });
        weak.map_or_else(|| Finding::from(RefusalReason::UnsupportedAlgorithm), |(_, finding)| finding)
    }

    fn purpose(&self) -> Finding {
        let says = format!("has an extended key usage that leaves out {}", self.role.purpose());
        let wrong = self.all().find(|(_, exhibit)| profile::leaves_out(self.role, exhibit));
        let (place, exhibit) = wrong.unwrap_or((Place::Leaf, self.leaf));
        let reason =
            if place == Place::Leaf { RefusalReason::WrongPurpose } else { RefusalReason::CaPurpose };
        exhibit.finding(place, reason, &says)
    }
}

/// A moment as the standard library has it.
pub(super) fn moment(time: UnixTime) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(UNIX_EPOCH)
}
