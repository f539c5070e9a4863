//! What one generation takes away that an older one gave.

use std::collections::{HashMap, HashSet};

use crate::trust::{
    Link,
    revocation::{KeyHash, Number, Revoked},
};

/// What changed to somebody's disadvantage between two generations: whose sessions must be judged again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Serial numbers that were not revoked before, by issuer key.
    revoked: HashMap<KeyHash, HashSet<Number>>,
    /// Keys of anchors that are gone, or are there under other terms.
    anchors: HashSet<KeyHash>,
}

impl Difference {
    /// Whether nobody need be judged again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty() && self.anchors.is_empty()
    }

    /// Whether a path with these links must be judged again.
    #[must_use]
    pub fn touches(&self, links: &[Link]) -> bool {
        let revoked = links.iter().any(|link| {
            let serials = self.revoked.get(link.issuer_spki());
            serials.is_some_and(|serials| {
                Number::of(link.serial()).is_some_and(|serial| serials.contains(&serial))
            })
        });
        revoked || links.last().is_some_and(|link| self.anchors.contains(link.issuer_spki()))
    }

    /// What was revoked: issuer key and serial number.
    pub fn revoked(&self) -> impl Iterator<Item = (&KeyHash, &Number)> {
        self.revoked.iter().flat_map(|(key, serials)| serials.iter().map(move |serial| (key, serial)))
    }

    /// Keys of anchors that are gone, or are there under other terms.
    #[must_use]
    pub const fn anchors(&self) -> &HashSet<KeyHash> {
        &self.anchors
    }

    pub(in crate::trust) fn lose(&mut self, anchor: KeyHash) {
        self.anchors.insert(anchor);
    }

    /// Adds those of `entries` that none of `before` has. All are sorted.
    pub(super) fn revoke<'a>(
        &mut self,
        key: KeyHash,
        entries: &[Revoked],
        before: impl Iterator<Item = &'a [Revoked]>,
    ) {
        let mut fresh: Vec<Number> = entries.iter().map(|entry| *entry.serial()).collect();
        for old in before {
            let mut old = old.iter().map(Revoked::serial).peekable();
            fresh.retain(|serial| {
                while old.next_if(|known| *known < serial).is_some() {}
                old.peek().is_none_or(|known| *known != serial)
            });
        }
        if !fresh.is_empty() {
            self.revoked.entry(key).or_default().extend(fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn entries(serials: &[u8]) -> Vec<Revoked> {
        let number = |serial: &u8| Number::of(&[*serial]).unwrap();
        serials
            .iter()
            .map(|serial| Revoked::new(number(serial), SystemTime::UNIX_EPOCH, "unspecified"))
            .collect()
    }

    #[test]
    fn only_what_no_older_list_had_is_new() {
        let mut difference = Difference::default();
        let (one, two) = (entries(&[1, 3, 9]), entries(&[4]));
        difference.revoke([7; 32], &entries(&[1, 2, 3, 4, 10]), [&*one, &*two].into_iter());
        let mut found: Vec<String> = difference.revoked().map(|(_, serial)| serial.to_string()).collect();
        found.sort();
        assert_eq!(found, ["02", "0a"]);
        difference.revoke([8; 32], &one, std::iter::once(&*one));
        assert_eq!(difference.revoked().count(), 2);
    }
}
