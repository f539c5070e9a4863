//! Lists of intermediates that nobody has named, until one presents itself in a verified path.
//!
//! Kept true: a list leaves here only under a key that a verified path showed; no more than [`MOST`] keys are remembered,
//! and one with lists is not kept out by those without.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::trust::revocation::{Crl, CrlError, Issuer, KeyHash, lists::Listed};

/// Most intermediates that are remembered; of further ones only those that lists wait for.
pub(super) const MOST: usize = 1024;

/// Lists whose issuer is not known yet, and intermediates that were met.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with its DER, which is verified when its issuer is met.
    lists: Vec<(Listed, Box<[u8]>)>,
    /// Held for a look-up; for the time of one signature check when an intermediate is met for the first time.
    met: RwLock<HashMap<KeyHash, Met>>,
}

#[derive(Debug)]
struct Met {
    issuer: Issuer,
    lists: Arc<[Listed]>,
}

impl Waiting {
    pub(super) fn add(&mut self, listed: Listed, der: &[u8]) {
        self.lists.push((listed, der.into()));
    }

    pub(super) fn has_met(&self, key: &KeyHash) -> bool {
        self.met.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Remembers `issuer` and verifies those lists of its name under its key.
    pub(super) fn meet(&self, issuer: Issuer) {
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        if met.contains_key(issuer.key()) {
            return;
        }
        let named = self.lists.iter().filter(|(listed, _)| listed.crl().is_by_name_of(&issuer));
        // A key may be certified twice, and not every certificate lets it sign lists; a peer that chooses which one it
        // presents must not choose whether it is revoked.
        let is_own = |der: &[u8]| matches!(Crl::verify(der, &issuer), Ok(()) | Err(CrlError::MayNotSign));
        let own = named.filter(|(_, der)| is_own(der));
        let lists = Listed::newest(own.map(|(listed, _)| listed.clone()));
        if met.len() >= MOST {
            // An authority can make as many others as it likes: one without lists gives way to one with.
            let idle = met.iter().find(|(_, met)| met.lists.is_empty()).map(|(key, _)| *key);
            let Some(idle) = idle.filter(|_| !lists.is_empty()) else { return };
            met.remove(&idle);
        }
        met.insert(*issuer.key(), Met { issuer, lists });
    }

    /// Verified lists of an intermediate.
    pub(super) fn of(&self, key: &KeyHash) -> Option<Arc<[Listed]>> {
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        met.get(key).map(|met| Arc::clone(&met.lists))
    }

    /// Every intermediate that was met, with its lists.
    pub(super) fn met(&self) -> Vec<(Issuer, Arc<[Listed]>)> {
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        met.values().map(|met| (met.issuer.clone(), Arc::clone(&met.lists))).collect()
    }

    /// Lists that nobody has yet been met for.
    pub(super) fn left(&self) -> Vec<Listed> {
        let met = self.met();
        let taken = |listed: &Listed| met.iter().any(|(_, lists)| lists.contains(listed));
        self.lists.iter().map(|(listed, _)| listed).filter(|listed| !taken(listed)).cloned().collect()
    }

    /// Whatever waits, to tell one generation from another.
    pub(super) fn all(&self) -> impl Iterator<Item = &Listed> {
        self.lists.iter().map(|(listed, _)| listed)
    }
}
