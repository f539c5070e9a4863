//! How a chain is judged, at either end.
//!
//! webpki builds paths and checks signatures, validity, authority bits, path length and name constraints. Each path that it
//! finds is then put to the [profile](super::profile), to the revocation lists and to the [`Judge`], inside webpki's
//! callback, so that another path is still tried when one is refused.
//!
//! Kept true: a [`VerifiedChain`] is made here and nowhere else.

use std::{cell::RefCell, fmt, sync::Arc, time::SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::trust::{
    Anchor, Certificate, Finding, Link, Profile, RefusalReason, Role,
    anchor::Anchors,
    diagnose::{Scene, moment},
    profile::{Exhibit, Path},
    provider,
    revocation::{Evidence, Lists, Points},
};

/// Most certificates that a peer may present; webpki spends 150 ms on eleven that lead nowhere.
pub const MAX_CHAIN: usize = 5;

/// What else must hold of a verified chain before a handshake may succeed: whether it names somebody, say.
///
/// It is asked about each path that leads to an anchor until one is accepted: of two anchors one may speak for the peer's
/// site and the other not.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Judges a chain whose signatures and validity hold.
    ///
    /// # Errors
    ///
    /// The reason to refuse it, and what exactly is wrong.
    fn judge(&self, chain: &VerifiedChain) -> Result<(), Finding>;
}

/// What a peer presents, and when.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Which end of the connection it is.
    pub role: Role,
    /// Its own certificate.
    pub leaf: &'a CertificateDer<'a>,
    /// Those that came with it.
    pub intermediates: &'a [CertificateDer<'a>],
    /// When it is judged.
    pub now: UnixTime,
}

/// Who is asked about a path that webpki has verified.
#[derive(Clone, Copy, Debug)]
pub struct Jury<'a> {
    /// What the profile leaves to the operator.
    pub profile: &'a Profile,
    /// Knows what was revoked; `None` where nothing can be.
    pub revocation: Option<&'a Lists>,
    /// Has the last word.
    pub judge: Option<&'a dyn Judge>,
}

impl Anchors {
    /// Verifies what a peer presented.
    pub(super) fn verify(&self, claim: &Claim<'_>, jury: &Jury<'_>) -> Result<VerifiedChain, Finding> {
        if claim.intermediates.len() >= MAX_CHAIN {
            let count = claim.intermediates.len().saturating_add(1);
            let says = format!("{count} certificates were presented, and {MAX_CHAIN} at most are looked at");
            return Err(Finding::new(RefusalReason::TooManyCertificates, says));
        }
        let leaf = Exhibit::read(claim.leaf).map_err(|_| RefusalReason::Malformed)?;
        // One that cannot be read leads nowhere, and may be beside the point.
        let others: Vec<Option<Exhibit>> =
            claim.intermediates.iter().map(|der| Exhibit::read(der).ok()).collect();
        self.hear(&Trial { anchors: self, claim, jury, leaf: &leaf, others: &others })
    }

    fn hear(&self, trial: &Trial<'_>) -> Result<VerifiedChain, Finding> {
        let scene = trial.others.iter().flatten().collect::<Vec<_>>();
        let claim = trial.claim;
        let scene = Scene { leaf: trial.leaf, others: &scene, anchors: self, role: claim.role };
        let leaf = EndEntityCert::try_from(claim.leaf).map_err(|error| scene.finding(&error))?;
        let usage = match claim.role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let outcome = RefCell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            let judged = trial.judge(path);
            let accepted = judged.is_ok();
            let mut outcome = outcome.borrow_mut();
            // Of several refusals the first is kept: webpki tries the anchors first, so its path is the shortest.
            if accepted || outcome.is_none() {
                *outcome = Some(judged);
            }
            if accepted { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
        };
        let algorithms = provider::provider().signature_verification_algorithms.all;
        let verified = leaf.verify_for_usage(
            algorithms,
            self.trusted(),
            claim.intermediates,
            claim.now,
            usage,
            None,
            Some(&judge),
        );
        match (verified, outcome.into_inner()) {
            (Ok(_), Some(Ok(chain))) => {
                self.meet(&chain);
                Ok(chain)
            }
            (_, Some(Err(finding))) => Err(finding),
            (Err(error), _) => Err(scene.finding(&error)),
            // webpki asks before it accepts; if it did not, nothing was judged.
            (Ok(_), None) => Err(RefusalReason::UnknownIssuer.into()),
        }
    }
}

/// One claim before the jury.
#[derive(Debug)]
struct Trial<'a> {
    anchors: &'a Anchors,
    claim: &'a Claim<'a>,
    jury: &'a Jury<'a>,
    leaf: &'a Exhibit,
    /// In the order of the claim; `None` for what cannot be read.
    others: &'a [Option<Exhibit>],
}

impl Trial<'_> {
    /// Judges a path that webpki has verified.
    fn judge(&self, path: &VerifiedPath<'_>) -> Result<VerifiedChain, Finding> {
        let anchor = self.anchors.of(path).ok_or(RefusalReason::UnknownIssuer)?;
        // Those of the path, for whatever else was presented nobody has vouched.
        let ders: Vec<CertificateDer<'_>> = path.intermediate_certificates().map(webpki::Cert::der).collect();
        let between: Option<Vec<&Exhibit>> = ders.iter().map(|der| self.exhibit(der)).collect();
        let between = between.ok_or(RefusalReason::Malformed)?;
        let now = moment(self.claim.now);
        let found = Path { role: self.claim.role, leaf: self.leaf, between: &between, anchor };
        if let Some(finding) = found.findings(self.jury.profile, now).next() {
            return Err(finding);
        }
        let chain = self.chain(&between, anchor);
        if let Some(revocation) = self.jury.revocation {
            let points: Vec<&Points> =
                std::iter::once(self.leaf).chain(between.iter().copied()).map(Exhibit::points).collect();
            revocation.judge(&Evidence { links: &chain.links, points: &points, between: &ders }, now)?;
        }
        if let Some(judge) = self.jury.judge {
            judge.judge(&chain)?;
        }
        Ok(chain)
    }

    fn exhibit(&self, der: &CertificateDer<'_>) -> Option<&Exhibit> {
        let place = self.claim.intermediates.iter().position(|presented| presented == der)?;
        self.others.get(place)?.as_ref()
    }

    fn chain(&self, between: &[&Exhibit], anchor: &Arc<Anchor>) -> VerifiedChain {
        let leaf = self.leaf.certificate();
        let authorities = between.iter().map(|exhibit| exhibit.certificate()).chain([anchor.certificate()]);
        let mut not_after = leaf.not_after();
        let mut signed = leaf;
        let mut links = Vec::with_capacity(between.len().saturating_add(1));
        for authority in authorities {
            links.push(Link::of(signed, authority));
            not_after = not_after.min(authority.not_after());
            signed = authority;
        }
        VerifiedChain {
            leaf: leaf.clone(),
            der: self.claim.leaf.clone().into_owned(),
            anchor: Arc::clone(anchor),
            links: links.into(),
            not_after,
        }
    }
}

/// A chain that leads from a leaf to an anchor and holds now.
#[derive(Clone, Debug)]
pub struct VerifiedChain {
    leaf: Certificate,
    der: CertificateDer<'static>,
    anchor: Arc<Anchor>,
    links: Arc<[Link]>,
    not_after: SystemTime,
}

impl VerifiedChain {
    /// The peer's own certificate.
    #[must_use]
    pub const fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The peer's own certificate as presented.
    #[must_use]
    pub const fn leaf_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The authority that it leads to.
    #[must_use]
    pub const fn anchor(&self) -> &Arc<Anchor> {
        &self.anchor
    }

    /// Every certificate of the path with the key that signed it, the leaf first; the anchor is not among them.
    #[must_use]
    pub const fn links(&self) -> &Arc<[Link]> {
        &self.links
    }

    /// When the first certificate of the path expires, anchor included.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }
}
