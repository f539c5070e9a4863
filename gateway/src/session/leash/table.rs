//! Connections by what may be withdrawn from them, and by when they expire.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use daemoneye_bridge::trust::{VerifiedChain, revocation::Difference};

use crate::{
    deny::{Target, targets},
    session::leash::Bond,
};

/// A connection, and the path that it stands on.
pub(super) type Found = (u64, Arc<Bond>, Arc<VerifiedChain>);

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Table {
    last: u64,
    bonds: HashMap<u64, (Arc<Bond>, Arc<VerifiedChain>)>,
    index: HashMap<Target, HashSet<u64>>,
    expiries: BTreeSet<(SystemTime, u64)>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.bonds.len()
    }

    /// Whether nothing at all is kept.
    #[cfg(test)]
    pub(super) fn is_vacant(&self) -> bool {
        self.bonds.is_empty() && self.index.is_empty() && self.expiries.is_empty()
    }

    /// Takes one in; says its number, and whether it expires before all others.
    pub(super) fn insert(&mut self, bond: Arc<Bond>, chain: Arc<VerifiedChain>) -> (u64, bool) {
        self.last = self.last.saturating_add(1);
        let number = self.last;
        self.enter(number, &bond, &chain);
        self.bonds.insert(number, (bond, chain));
        (number, self.expiries.first().is_some_and(|(_, first)| *first == number))
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some((bond, chain)) = self.bonds.remove(&number) {
            self.leave(number, &bond, &chain);
        }
    }

    /// The connection stands on another path now.
    pub(super) fn replace(&mut self, number: u64, chain: Arc<VerifiedChain>) {
        if let Some((bond, old)) = self.bonds.remove(&number) {
            self.leave(number, &bond, &old);
            self.enter(number, &bond, &chain);
            self.bonds.insert(number, (bond, chain));
        }
    }

    fn enter(&mut self, number: u64, bond: &Bond, chain: &VerifiedChain) {
        for target in targets(bond.peer.id(), chain) {
            self.index.entry(target).or_default().insert(number);
        }
        self.expiries.insert((chain.not_after(), number));
    }

    fn leave(&mut self, number: u64, bond: &Bond, chain: &VerifiedChain) {
        for target in targets(bond.peer.id(), chain) {
            if let Some(numbers) = self.index.get_mut(&target) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.index.remove(&target);
                }
            }
        }
        self.expiries.remove(&(chain.not_after(), number));
    }

    fn found(&self, number: u64) -> Option<Found> {
        let (bond, chain) = self.bonds.get(&number)?;
        Some((number, Arc::clone(bond), Arc::clone(chain)))
    }

    /// Those that `target` is about.
    pub(super) fn of(&self, target: &Target) -> impl Iterator<Item = Found> {
        self.index.get(target).into_iter().flatten().filter_map(|number| self.found(*number))
    }

    /// Those that `difference` takes something from: looked up one by one, or gone through if there are fewer of them.
    pub(super) fn touched(&self, difference: &Difference) -> Vec<Found> {
        if difference.revoked().count() > self.bonds.len() {
            let touched = |(_, chain): &(Arc<Bond>, Arc<VerifiedChain>)| difference.touches(chain.links());
            let touched = self.bonds.iter().filter(|(_, entry)| touched(entry));
            return touched.filter_map(|(number, _)| self.found(*number)).collect();
        }
        let revoked =
            difference.revoked().map(|(issuer, serial)| Target::certificate(*issuer, serial.octets()));
        let anchors = difference.anchors().iter().map(|key| Target::Key(*key));
        let targets: HashSet<Target> = revoked.chain(anchors).collect();
        let numbers: HashSet<u64> =
            targets.iter().filter_map(|target| self.index.get(target)).flatten().copied().collect();
        numbers.into_iter().filter_map(|number| self.found(number)).collect()
    }

    /// How many identities are connected, without those that are on their way out.
    pub(super) fn connected(&self) -> usize {
        let staying = self.bonds.values().filter(|(bond, _)| bond.cut.is_cut().is_none());
        staying.map(|(bond, _)| bond.peer.id()).collect::<HashSet<_>>().len()
    }

    /// Everybody.
    pub(super) fn all(&self) -> Vec<Found> {
        self.bonds.keys().filter_map(|number| self.found(*number)).collect()
    }

    /// When the first of all expires.
    pub(super) fn first_expiry(&self) -> Option<SystemTime> {
        self.expiries.first().map(|(moment, _)| *moment)
    }

    /// Those that have expired at `now`. They are not told again, though they are here until they have gone.
    pub(super) fn expired(&mut self, now: SystemTime) -> Vec<Found> {
        let mut expired = Vec::new();
        while let Some((moment, number)) = self.expiries.first().copied()
            && moment <= now
        {
            self.expiries.remove(&(moment, number));
            expired.extend(self.found(number));
        }
        expired
    }
}
