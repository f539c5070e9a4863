//! A whole list, to be asked.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use daemoneye_bridge::trust::VerifiedChain;
use serde::{Deserialize, Serialize};

use crate::{deny::Target, identity::PeerId, snapshot::Timestamp};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    target: Target,
    reason: String,
    actor: String,
    since: Timestamp,
    until: Option<Timestamp>,
}

/// An entry without its target, as it is stored; times are milliseconds since the UNIX epoch.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    reason: String,
    actor: String,
    since: u64,
    until: Option<u64>,
}

impl Entry {
    pub(super) fn new(target: Target, reason: String, actor: &str, until: Option<SystemTime>) -> Self {
        let now = Timestamp::now();
        Self { target, reason, actor: actor.to_owned(), since: now, until: until.map(Timestamp) }
    }

    /// Whom it is about.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Why, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Who made it.
    #[must_use]
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        self.since
    }

    /// Until when; for good without it.
    #[must_use]
    pub const fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether it still holds.
    #[must_use]
    pub fn holds(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until.0)
    }

    pub(super) fn row(&self) -> String {
        let (reason, actor) = (self.reason.clone(), self.actor.clone());
        let until = self.until.map(|until| millis(until.0));
        let row = Row { reason, actor, since: millis(self.since.0), until };
        serde_json::to_string(&row).unwrap_or_default()
    }

    pub(super) fn read(target: &str, row: &str) -> Option<Self> {
        let Row { reason, actor, since, until } = serde_json::from_str(row).ok()?;
        let target = target.parse().ok()?;
        Some(Self { target, reason, actor, since: moment(since), until: until.map(moment) })
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn moment(millis: u64) -> Timestamp {
    Timestamp(UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH))
}

/// A whole list. One that is in force never changes: another takes its place.
#[derive(Clone, Debug, Default)]
pub struct Denials(BTreeMap<Target, Arc<Entry>>);

impl Denials {
    /// How many entries there are, those that are over included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries, in the order of their targets.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.values()
    }

    /// The entry for exactly this target.
    #[must_use]
    pub fn get(&self, target: &Target) -> Option<&Arc<Entry>> {
        self.0.get(target)
    }

    /// The first entry that keeps `peer`, who has `chain`, out at `now`.
    #[must_use]
    pub fn find(&self, peer: &PeerId, chain: &VerifiedChain, now: SystemTime) -> Option<&Arc<Entry>> {
        if self.0.is_empty() {
            return None;
        }
        let targets = targets(peer, chain);
        targets.iter().filter_map(|target| self.0.get(target)).find(|entry| entry.holds(now))
    }

    /// The entries that `before` had not, or had otherwise.
    pub fn since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.0.values().filter(|entry| before.get(entry.target()).is_none_or(|old| !Arc::ptr_eq(old, entry)))
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.insert_shared(Arc::new(entry));
    }

    pub(super) fn insert_shared(&mut self, entry: Arc<Entry>) {
        self.0.insert(entry.target.clone(), entry);
    }

    pub(super) fn remove(&mut self, target: &Target) -> Option<Arc<Entry>> {
        self.0.remove(target)
    }
}

/// Every target that an entry about `peer`, who has `chain`, may have.
#[must_use]
pub fn targets(peer: &PeerId, chain: &VerifiedChain) -> Vec<Target> {
    let links = chain.links().iter();
    let certificates = links.clone().map(|link| Target::certificate(*link.issuer_spki(), link.serial()));
    let keys = links.map(|link| Target::Key(*link.spki()));
    let anchor = Target::Key(*chain.anchor().certificate().spki_sha256());
    let names = [Target::Identity(peer.clone()), Target::Site(peer.site().into()), anchor];
    names.into_iter().chain(certificates).chain(keys).collect()
}
