//! How many peers may be connected: in all, of a site, under one name.
//!
//! Who comes over a cap is told so politely, in a connection that does nothing else; those are few, and beyond them nobody
//! is let into a handshake while the gateway is full.
//!
//! Kept true: at most `max_connections` peers are served, at most a few more are being told why they are not. The lock is
//! taken when a peer comes or goes, never across an await.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    identity::PeerId,
    ingress::flaps::{self, Flaps},
};

/// The caps in force.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most peers connected at once.
    pub connections: NonZeroUsize,
    /// Most of them of one site.
    pub per_site: NonZeroUsize,
    /// Most of them under one name.
    pub per_peer: NonZeroUsize,
}

impl Limits {
    /// Most connections in which somebody is told that there is no room.
    #[must_use]
    pub fn polite(&self) -> usize {
        (self.connections.get() / 8).clamp(4, 64)
    }
}

/// Who is connected. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Caps {
    limits: Limits,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    served: usize,
    declined: usize,
    by_site: HashMap<String, usize>,
    by_peer: HashMap<PeerId, usize>,
    flaps: Flaps,
}

/// What becomes of a peer.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is served.
    Served(Slot),
    /// It is told why not.
    Declined(Slot, Declined),
    /// It is not even told.
    Dropped(Declined),
}

impl Entry {
    /// Whether the peer comes too often.
    pub(super) const fn is_flapping(&self) -> bool {
        matches!(self, Self::Declined(_, why) | Self::Dropped(why) if matches!(why.over, Over::Flapping))
    }
}

/// Why a peer that has proven who it is is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declined {
    /// Why.
    pub over: Over,
    /// When it may come back.
    pub wait: Duration,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// Peers in all.
    #[error("as many peers are connected as may be")]
    All,
    /// Its own coming and going.
    #[error("this peer connects too often, and has to wait")]
    Flapping,
    /// Connections under its name.
    #[error("as many connections of this peer are open as may be")]
    Peer,
    /// Peers of its site.
    #[error("as many peers of this site are connected as may be")]
    Site,
}

impl Caps {
    pub(super) fn new(limits: Limits, flapping: flaps::Config) -> Self {
        let table = Table {
            served: 0,
            declined: 0,
            by_site: HashMap::new(),
            by_peer: HashMap::new(),
            flaps: Flaps::new(flapping),
        };
        Self { limits, table: Arc::new(Mutex::new(table)) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no room even for telling somebody that there is none.
    pub(super) fn is_beyond(&self) -> bool {
        let table = self.lock();
        table.served >= self.limits.connections.get() && table.declined >= self.limits.polite()
    }

    /// Counts a peer in, if it may be.
    #[expect(clippy::significant_drop_tightening, reason = "judged and counted under one lock")]
    pub(super) fn enter(&self, peer: &PeerId) -> Entry {
        let mut table = self.lock();
        let over = match table.flaps.arrive(peer, Instant::now()) {
            Err(wait) => Some(Declined { over: Over::Flapping, wait }),
            Ok(()) => table.over(&self.limits, peer).map(|over| Declined { over, wait: COME_BACK }),
        };
        match over {
            None => {
                table.served = table.served.saturating_add(1);
                *table.by_site.entry(peer.site().to_owned()).or_default() += 1;
                *table.by_peer.entry(peer.clone()).or_default() += 1;
                Entry::Served(Slot { caps: self.clone(), peer: Some(peer.clone()) })
            }
            Some(why) if table.declined < self.limits.polite() => {
                table.declined = table.declined.saturating_add(1);
                Entry::Declined(Slot { caps: self.clone(), peer: None }, why)
            }
            Some(why) => Entry::Dropped(why),
        }
    }
}

impl Table {
    fn over(&self, limits: &Limits, peer: &PeerId) -> Option<Over> {
        let is_full =
            |count: Option<&usize>, most: NonZeroUsize| count.is_some_and(|count| *count >= most.get());
        if is_full(self.by_peer.get(peer), limits.per_peer) {
            return Some(Over::Peer);
        }
        if is_full(self.by_site.get(peer.site()), limits.per_site) {
            return Some(Over::Site);
        }
        (self.served >= limits.connections.get()).then_some(Over::All)
    }
}

/// When whoever met a cap is asked to come back.
const COME_BACK: Duration = Duration::from_secs(5);

/// A connection that is counted; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    caps: Caps,
    /// Who is served; nobody, if somebody is told that he is not.
    peer: Option<PeerId>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.caps.lock();
        let Some(peer) = &self.peer else {
            table.declined = table.declined.saturating_sub(1);
            return;
        };
        table.served = table.served.saturating_sub(1);
        leave(&mut table.by_site, peer.site());
        leave(&mut table.by_peer, peer);
    }
}

/// Counts one down, and forgets what has come to nothing.
fn leave<K, Q>(counts: &mut HashMap<K, usize>, key: &Q)
where
    K: std::borrow::Borrow<Q> + Eq + std::hash::Hash,
    Q: Eq + std::hash::Hash + ?Sized,
{
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(connections: usize, per_site: usize, per_peer: usize) -> Caps {
        let number = |number| NonZeroUsize::new(number).unwrap();
        let (connections, per_site, per_peer) = (number(connections), number(per_site), number(per_peer));
        Caps::new(Limits { connections, per_site, per_peer }, flaps::Config::default())
    }

    fn over(entry: &Entry) -> Option<Over> {
        match entry {
            Entry::Served(_) => None,
            Entry::Declined(_, why) | Entry::Dropped(why) => Some(why.over),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_cap_is_told_from_the_others_and_is_free_again_when_somebody_leaves() {
        let caps = caps(4, 3, 2);
        let peer = |text: &str| text.parse::<PeerId>().unwrap();
        let mut served = Vec::new();
        for name in ["a/x", "a/x", "a/y", "b/x"] {
            served.push(caps.enter(&peer(name)));
        }
        assert!(served.iter().all(|entry| over(entry).is_none()));
        assert_eq!(over(&caps.enter(&peer("a/x"))), Some(Over::Peer));
        assert_eq!(over(&caps.enter(&peer("a/z"))), Some(Over::Site));
        assert_eq!(over(&caps.enter(&peer("b/y"))), Some(Over::All));
        served.clear();
        assert!(caps.lock().by_peer.is_empty() && caps.lock().by_site.is_empty());
        assert_eq!(over(&caps.enter(&peer("a/x"))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn some_are_told_that_it_is_full_and_the_rest_is_not_heard() {
        let caps = caps(1, 9, 9);
        let peer = |number: usize| PeerId::new("a", &format!("p-{number}")).unwrap();
        let _served = caps.enter(&peer(0));
        let told: Vec<_> = (0..4).map(|number| caps.enter(&peer(number))).collect();
        assert!(told.iter().all(|entry| matches!(entry, Entry::Declined(..))));
        assert!(caps.is_beyond());
        assert!(matches!(caps.enter(&peer(9)), Entry::Dropped(_)));
        drop(told);
        assert!(!caps.is_beyond());
    }
}
