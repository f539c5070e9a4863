//! Authorities that are trusted, and what each may speak for.
//!
//! webpki takes of an anchor its name, its key and its name constraints (RFC 5280, 6.1.1 (d)); everything else that its
//! certificate says is kept beside it and judged by the [profile](super::profile).
//!
//! Kept true: two anchors of one name and one key have the same rights, so that it never matters which of them is found.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::VerifiedPath;

use crate::trust::{Certificate, Rights, VerifiedChain, profile::Exhibit};

/// An authority that is trusted.
#[derive(Clone, Debug)]
pub struct Anchor {
    exhibit: Exhibit,
    rights: Arc<Rights>,
}

impl Anchor {
    /// What the authority's certificate says.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        self.exhibit.certificate()
    }

    /// How it is called: as configuration has it, else by its subject.
    #[must_use]
    pub fn name(&self) -> &str {
        self.rights.name().unwrap_or_else(|| self.certificate().subject())
    }

    /// What it may speak for.
    #[must_use]
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    pub(super) const fn exhibit(&self) -> &Exhibit {
        &self.exhibit
    }

    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.certificate().not_before() <= now && now <= self.certificate().not_after()
    }
}

/// The same certificate with the same rights.
impl PartialEq for Anchor {
    fn eq(&self, other: &Self) -> bool {
        self.certificate() == other.certificate() && self.rights == other.rights
    }
}

impl Eq for Anchor {}

/// The authorities that are trusted.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchors {
    /// What webpki searches; the same order as `known`.
    trusted: Vec<TrustAnchor<'static>>,
    /// What is known of each.
    known: Vec<Arc<Anchor>>,
    /// Intermediates that were seen below them, to tell a missing one from a foreign authority.
    met: Arc<Met>,
}

/// Subjects of intermediates, written once each. A lock would stand in the way of every handshake.
#[derive(Debug)]
struct Met([OnceLock<Box<str>>; MOST_MET]);

/// Most intermediates that are remembered: more than any fleet has.
const MOST_MET: usize = 64;

impl Default for Met {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

/// Why an authority was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnchorError {
    /// It is there already, with other rights.
    Contradicting,
    /// Its certificate cannot be read.
    Unreadable,
}

impl Anchors {
    /// Adds an authority.
    pub(super) fn add(
        &mut self,
        der: &CertificateDer<'_>,
        rights: &Arc<Rights>,
    ) -> Result<&Anchor, AnchorError> {
        let trusted = webpki::anchor_from_trusted_cert(der).map_err(|_| AnchorError::Unreadable)?.to_owned();
        let exhibit = Exhibit::read(der).map_err(|_| AnchorError::Unreadable)?;
        let is_same = |other: &TrustAnchor<'_>| {
            other.subject == trusted.subject
                && other.subject_public_key_info == trusted.subject_public_key_info
        };
        let mut others = self.trusted.iter().zip(&self.known);
        if others.any(|(other, known)| is_same(other) && known.rights != *rights) {
            return Err(AnchorError::Contradicting);
        }
        self.trusted.push(trusted);
        self.known.push(Arc::new(Anchor { exhibit, rights: Arc::clone(rights) }));
        self.known.last().map(AsRef::as_ref).ok_or(AnchorError::Unreadable)
    }

    pub(super) fn known(&self) -> &[Arc<Anchor>] {
        &self.known
    }

    pub(super) fn trusted(&self) -> &[TrustAnchor<'static>] {
        &self.trusted
    }

    /// Which of ours a path ends in. webpki hands back a reference into the slice that it was given, which tells apart two
    /// certificates of one authority: of an old and a renewed one, each is judged by its own.
    pub(super) fn of(&self, path: &VerifiedPath<'_>) -> Option<&Arc<Anchor>> {
        let end: *const TrustAnchor<'_> = path.anchor();
        let place = self.trusted.iter().position(|trusted| std::ptr::eq(trusted, end.cast()))?;
        self.known.get(place)
    }

    /// Those of this name.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Anchor>> {
        self.known.iter().filter(move |anchor| anchor.certificate().subject() == name)
    }

    /// Remembers the intermediates of a chain that was accepted.
    pub(super) fn meet(&self, chain: &VerifiedChain) {
        chain.links().iter().skip(1).for_each(|link| self.meet_named(link.subject()));
    }

    /// Remembers an intermediate; the last ones of very many are forgotten.
    pub(super) fn meet_named(&self, subject: &str) {
        for place in &self.met.0 {
            if **place.get_or_init(|| subject.into()) == *subject {
                return;
            }
        }
    }

    /// Whether an intermediate of this name was seen.
    pub(super) fn has_met(&self, subject: &str) -> bool {
        self.met.0.iter().map_while(OnceLock::get).any(|met| **met == *subject)
    }
}
