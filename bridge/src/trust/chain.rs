//! How a chain is judged, at either end.
//!
//! webpki builds the path and checks signatures, validity, authority bits, path length and name constraints. What it leaves
//! out is the profile below: a bound on the chain, the extended key usage *present* in the leaf, the validity of the anchor
//! itself. An anchor is judged inside webpki's callback, so that another path is still tried.
//!
//! Kept true: a [`VerifiedChain`] is made here and nowhere else.

use std::{
    cell::Cell,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::trust::{Certificate, Link, RefusalReason, Role, provider};

/// Most certificates that a peer may present; webpki spends 150 ms on eleven that lead nowhere.
pub const MAX_CHAIN: usize = 5;

/// What else must hold of a verified chain before a handshake may succeed: whether it names somebody, say.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Judges a chain whose signatures and validity hold.
    ///
    /// # Errors
    ///
    /// The reason to refuse it.
    fn judge(&self, chain: &VerifiedChain) -> Result<(), RefusalReason>;
}

/// An authority that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    certificate: Certificate,
}

impl Anchor {
    /// What the authority's certificate says.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        self.certificate.not_before() <= now && now <= self.certificate.not_after()
    }
}

/// The authorities that are trusted.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchors {
    /// What webpki searches; the same order as `known`.
    trusted: Vec<TrustAnchor<'static>>,
    /// What is told of each.
    known: Vec<Arc<Anchor>>,
}

impl Anchors {
    /// Adds an authority; `None` if its certificate cannot be read.
    pub(super) fn add(&mut self, der: &CertificateDer<'_>) -> Option<&Anchor> {
        let trusted = webpki::anchor_from_trusted_cert(der).ok()?.to_owned();
        let certificate = Certificate::parse(der).ok()?;
        self.trusted.push(trusted);
        self.known.push(Arc::new(Anchor { certificate }));
        self.known.last().map(AsRef::as_ref)
    }

    pub(super) fn known(&self) -> &[Arc<Anchor>] {
        &self.known
    }

    /// Verifies what a peer of role `role` presented.
    pub(super) fn verify(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedChain, RefusalReason> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(RefusalReason::TooManyCertificates);
        }
        let certificate = Certificate::parse(leaf).map_err(|_| RefusalReason::Malformed)?;
        let suited = match role {
            Role::Client => certificate.is_for_clients(),
            Role::Server => certificate.is_for_servers(),
        };
        let path = self.path(role, leaf, intermediates, now)?;
        if !suited {
            return Err(RefusalReason::WrongPurpose);
        }
        let not_after = path.not_after.min(certificate.not_after());
        Ok(VerifiedChain {
            leaf: certificate,
            der: leaf.clone().into_owned(),
            anchor: path.anchor,
            links: path.links.into(),
            not_after,
        })
    }

    fn path(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Path, RefusalReason> {
        let certificate = Certificate::parse(leaf).map_err(|_| RefusalReason::Malformed)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| RefusalReason::of(&error))?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let expired = Cell::new(false);
        let judge = |path: &VerifiedPath<'_>| {
            let valid = self.anchor(path).is_some_and(|anchor| anchor.is_valid(moment(now)));
            expired.set(expired.get() || !valid);
            if valid { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
        };
        let path =
            leaf.verify_for_usage(
                provider::provider().signature_verification_algorithms.all,
                &self.trusted,
                intermediates,
                now,
                usage,
                None,
                Some(&judge),
            )
            .map_err(|error| {
                if expired.get() { RefusalReason::AnchorExpired } else { RefusalReason::of(&error) }
            })?;
        let anchor = self.anchor(&path).ok_or(RefusalReason::UnknownIssuer)?;
        let mut not_after = anchor.certificate.not_after();
        let (mut links, mut signed) = (Vec::new(), certificate);
        for between in path.intermediate_certificates() {
            let between = Certificate::parse(&between.der()).map_err(|_| RefusalReason::Malformed)?;
            not_after = not_after.min(between.not_after());
            links.push(Link::of(&signed, &between));
            signed = between;
        }
        links.push(Link::of(&signed, &anchor.certificate));
        Ok(Path { anchor: Arc::clone(anchor), links, not_after })
    }

    /// Which of ours a path ends in. webpki hands back a reference into the slice it was given.
    fn anchor(&self, path: &VerifiedPath<'_>) -> Option<&Arc<Anchor>> {
        let end = path.anchor();
        let place = self.trusted.iter().position(|trusted| trusted == end)?;
        self.known.get(place)
    }
}

/// What a found path adds to its leaf.
struct Path {
    anchor: Arc<Anchor>,
    links: Vec<Link>,
    not_after: SystemTime,
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

fn moment(time: UnixTime) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(UNIX_EPOCH)
}
