//! Names of peers, and proof of one.

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use daemoneye_bridge::{
    topic,
    trust::{Certificate, VerifiedChain},
};

/// A peer's name: a site, and a name within it. Shown as `site/name`. Cheap to clone; a name alone proves nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    site: Arc<str>,
    name: Arc<str>,
}

impl PeerId {
    /// Most bytes of a site or a name, as of a DNS label.
    pub const MAX_PART: usize = 63;

    /// Puts a name together.
    ///
    /// # Errors
    ///
    /// [`PeerIdError`], if a part is not 1 to 63 of `a-z`, `0-9`, `_` and `-`.
    pub fn new(site: &str, name: &str) -> Result<Self, PeerIdError> {
        if let Some(part) = [site, name].into_iter().find(|part| !is_part(part)) {
            return Err(PeerIdError(part.chars().take(Self::MAX_PART).collect()));
        }
        Ok(Self { site: site.into(), name: name.into() })
    }

    /// Where it stands.
    #[must_use]
    pub fn site(&self) -> &str {
        &self.site
    }

    /// What it is called there.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.name)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let (site, name) = text.split_once('/').unwrap_or((text, ""));
        Self::new(site, name)
    }
}

impl serde::Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether `text` may be a site or a name.
pub(super) fn is_part(text: &str) -> bool {
    text.len() <= PeerId::MAX_PART && topic::is_segment(text)
}

/// Something is no site or name of a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 1 to 63 characters of a-z, 0-9, `_` and `-`")]
pub struct PeerIdError(String);

/// A peer that proved who it is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct VerifiedPeer(Arc<Proof>);

#[derive(Debug)]
struct Proof {
    id: PeerId,
    /// What its leaf says.
    certificate: Certificate,
    /// How the authority that its path leads to is called.
    anchor: String,
    /// When the first certificate of the path expires.
    not_after: SystemTime,
}

impl VerifiedPeer {
    /// Only [`crate::identity::Directory`] calls this.
    pub(super) fn new(id: PeerId, chain: &VerifiedChain) -> Self {
        Self(Arc::new(Proof {
            id,
            certificate: chain.leaf().clone(),
            anchor: chain.anchor().name().to_owned(),
            not_after: chain.not_after(),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        &self.0.id
    }

    /// What its certificate says: serial, issuer, names, key.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.0.certificate
    }

    /// How the authority that vouches for it is called: by its name in the configuration, else by its subject.
    #[must_use]
    pub fn anchor(&self) -> &str {
        &self.0.anchor
    }

    /// When the first certificate of its path expires: it must not stay beyond.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// A peer for unit tests of later stages; its certificate says nothing of note.
    #[cfg(test)]
    pub(crate) fn assume(id: PeerId) -> Self {
        Self::assume_until(id, SystemTime::now() + std::time::Duration::from_hours(24))
    }

    /// As [`Self::assume`], with an end.
    #[cfg(test)]
    pub(crate) fn assume_until(id: PeerId, not_after: SystemTime) -> Self {
        use crate::pki::{Authority, Leaf};

        let authority = Authority::root("assumed").unwrap();
        let issued = authority.issue(&Leaf::client(id.name())).unwrap();
        let certificate = Certificate::parse(issued.der()).unwrap();
        Self(Arc::new(Proof { id, certificate, anchor: "assumed".to_owned(), not_after }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_and_read_alike() {
        let id = PeerId::new("site-a", "procmond_1").unwrap();
        assert_eq!(id.to_string(), "site-a/procmond_1");
        assert_eq!("site-a/procmond_1".parse(), Ok(id));
    }

    #[test]
    fn what_could_forge_a_bus_name_is_no_part() {
        let long = "a".repeat(64);
        for part in ["", "a.b", "a/b", "A", "*", "a\0", "ä", "#", long.as_str()] {
            assert!(PeerId::new("site", part).is_err() && PeerId::new(part, "name").is_err(), "{part:?}");
        }
        assert!("site".parse::<PeerId>().is_err());
        assert!("site/a/b".parse::<PeerId>().is_err());
    }
}
