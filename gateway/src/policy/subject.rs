//! Whom a policy judges: a name, and what vouches for it.

use std::sync::Arc;

use crate::identity::{PeerId, VerifiedPeer};

/// A name, and what vouches for it. Cheap to clone; it proves nothing by itself, so no permit is made of one outside this
/// crate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    id: PeerId,
    anchor: Option<Arc<str>>,
    spki: Option<[u8; 32]>,
}

impl Subject {
    /// A name of which no certificate is known: it has no role that asks for an authority or a key.
    #[must_use]
    pub const fn named(id: PeerId) -> Self {
        Self { id, anchor: None, spki: None }
    }

    /// The same, as if the authority `anchor` vouched for it.
    #[must_use]
    pub fn vouched_by(mut self, anchor: &str) -> Self {
        self.anchor = Some(anchor.into());
        self
    }

    /// The same, as if its public key had this SHA-256.
    #[must_use]
    pub const fn with_key(mut self, spki: [u8; 32]) -> Self {
        self.spki = Some(spki);
        self
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &PeerId {
        &self.id
    }

    /// The authority that vouches for it, if that is known.
    #[must_use]
    pub fn anchor(&self) -> Option<&str> {
        self.anchor.as_deref()
    }

    /// SHA-256 of its public key, if that is known.
    #[must_use]
    pub const fn spki(&self) -> Option<&[u8; 32]> {
        self.spki.as_ref()
    }
}

impl From<&VerifiedPeer> for Subject {
    fn from(peer: &VerifiedPeer) -> Self {
        Self::named(peer.id().clone()).vouched_by(peer.anchor()).with_key(*peer.certificate().spki_sha256())
    }
}

impl From<&PeerId> for Subject {
    fn from(id: &PeerId) -> Self {
        Self::named(id.clone())
    }
}

impl From<&Self> for Subject {
    fn from(subject: &Self) -> Self {
        subject.clone()
    }
}
