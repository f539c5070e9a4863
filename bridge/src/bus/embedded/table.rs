//! Who subscribes to what.
//!
//! The broker keeps such a table too, but does not show it. Ours follows it: a subscription is entered here after the
//! broker has it, and leaves before it leaves the broker, so that nothing is taken for heard that is not.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};

use crate::{
    bus::embedded::{Core, LocalClient, filter::Index, member::Member},
    topic::Pattern,
};

/// Who subscribes to what. Read once per topic and generation, so its lock is off the data path.
#[derive(Debug)]
pub(crate) struct Table {
    entries: RwLock<Entries>,
    /// Grows whenever an answer of this table may have changed.
    generation: AtomicU64,
    /// Wakes whoever keeps something back: the table changed, or a full consumer has room again.
    stirred: watch::Sender<()>,
    /// Counts the changes of clients of the door.
    locals: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Filters of those who are an audience.
    index: Index,
    /// Filters of those who overhear.
    overheard: Index,
    members: HashMap<u64, Entry>,
    names: HashMap<Arc<str>, u64>,
    /// When an audience last grew.
    subscribed: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    member: Arc<Member>,
    filters: BTreeSet<Box<str>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            entries: RwLock::default(),
            generation: AtomicU64::new(0),
            stirred: watch::Sender::new(()),
            locals: watch::Sender::new(0),
        }
    }

    /// Adds a member that subscribes to nothing yet.
    fn join(&self, member: Arc<Member>) {
        let is_local = member.is_local();
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.names.insert(Arc::clone(&member.name), member.id);
        entries.members.insert(member.id, Entry { member, filters: BTreeSet::new() });
        drop(entries);
        self.local_changed(is_local);
        // No answer about topics has changed, but somebody may wait for whoever has this name.
        self.stir();
    }

    /// Takes a member out.
    fn leave(&self, id: u64) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.members.remove(&id) else { return };
        entries.names.remove(&entry.member.name);
        let (overhears, is_local) = (entry.member.overhears(), entry.member.is_local());
        let index = if overhears { &mut entries.overheard } else { &mut entries.index };
        for filter in &entry.filters {
            index.remove(filter, id);
        }
        drop(entries);
        self.changed();
        self.local_changed(is_local);
    }

    /// How many filters a member holds.
    pub(crate) fn filters(&self, id: u64) -> usize {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.members.get(&id).map_or(0, |entry| entry.filters.len())
    }

    /// Adds filters of a member.
    pub(crate) fn subscribe<'a>(&self, id: u64, filters: impl IntoIterator<Item = &'a str>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Entries { index, overheard, members, subscribed, .. } = &mut *entries;
        let Some(entry) = members.get_mut(&id) else { return };
        let is_local = entry.member.is_local();
        let index = if entry.member.overhears() {
            overheard
        } else {
            *subscribed = Some(Instant::now());
            index
        };
        for filter in filters {
            if entry.filters.insert(filter.into()) {
                index.insert(filter, id);
            }
        }
        drop(entries);
        self.changed();
        self.local_changed(is_local);
    }

    /// Takes filters of a member away.
    pub(crate) fn unsubscribe<'a>(&self, id: u64, filters: impl IntoIterator<Item = &'a str>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Entries { index, overheard, members, .. } = &mut *entries;
        let Some(entry) = members.get_mut(&id) else { return };
        // Under the lock, as it is read: see [`Self::hearers`].
        entry.member.depart();
        let is_local = entry.member.is_local();
        let index = if entry.member.overhears() { overheard } else { index };
        for filter in filters {
            if entry.filters.remove(filter) {
                index.remove(filter, id);
            }
        }
        drop(entries);
        self.changed();
        self.local_changed(is_local);
    }

    /// The clients of the door.
    pub(crate) fn locals(&self) -> Vec<LocalClient> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let locals = entries.members.values().filter(|entry| entry.member.is_local());
        let client = |entry: &Entry| LocalClient {
            id: entry.member.id,
            name: Arc::clone(&entry.member.name),
            filters: entry.filters.iter().cloned().collect(),
        };
        let clients = locals.map(client).collect();
        drop(entries);
        clients
    }

    /// Counts the changes of clients of the door.
    pub(crate) fn local_changes(&self) -> watch::Receiver<u64> {
        self.locals.subscribe()
    }

    fn local_changed(&self, is_local: bool) {
        if is_local {
            self.locals.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Who hears a slashed topic, in the order of ids.
    pub(crate) fn audience(&self, topic: &str) -> Box<[Arc<Member>]> {
        self.hearers(topic).into_iter().map(|(member, _)| member).collect()
    }

    /// Who hears a slashed topic, in the order of ids, each with its departures as they were when it did.
    pub(crate) fn hearers(&self, topic: &str) -> Vec<(Arc<Member>, u64)> {
        self.holders(topic, |entries| &entries.index)
    }

    /// Who overhears a slashed topic, in the order of ids.
    pub(crate) fn overhearers(&self, topic: &str) -> Box<[Arc<Member>]> {
        self.holders(topic, |entries| &entries.overheard).into_iter().map(|(member, _)| member).collect()
    }

    fn holders(&self, topic: &str, index: impl FnOnce(&Entries) -> &Index) -> Vec<(Arc<Member>, u64)> {
        let mut ids = Vec::new();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        index(&entries).holders(topic, &mut ids);
        ids.sort_unstable();
        ids.dedup();
        let found = ids.iter().filter_map(|id| entries.members.get(id)).map(|entry| &entry.member);
        let mut members: Vec<_> = found.map(|member| (Arc::clone(member), member.departures())).collect();
        drop(entries);
        members.retain(|(member, _)| !member.excludes(topic));
        members
    }

    /// Whether some subscription overlaps `pattern`. Who overhears does not count.
    pub(crate) fn hears(&self, pattern: &Pattern) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        pattern.bus_forms().iter().any(|form| entries.index.overlaps(form))
    }

    /// When an audience last grew; read it after asking whether something is heard.
    pub(crate) fn subscribed(&self) -> Option<Instant> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).subscribed
    }

    /// The member of that name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Member>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let id = entries.names.get(name)?;
        entries.members.get(id).map(|entry| Arc::clone(&entry.member))
    }

    /// Which generation an answer belongs to; read it before asking.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says that an answer may have changed.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.stir();
    }

    /// Wakes whoever keeps something back.
    pub(crate) fn stir(&self) {
        self.stirred.send_replace(());
    }

    /// What wakes whoever keeps something back.
    pub(crate) fn stirred(&self) -> watch::Receiver<()> {
        self.stirred.subscribe()
    }
}

/// A member's place in the table, held by its owner.
///
/// Dropping it ends the member, also when the owner's task panics: a member that nobody drains would hold up the broker.
#[derive(Debug)]
pub(crate) struct Seat {
    core: Arc<Core>,
    member: Arc<Member>,
}

impl Seat {
    /// Adds a member that subscribes to nothing yet.
    pub(crate) fn take(core: Arc<Core>, member: Arc<Member>) -> Self {
        core.table.join(Arc::clone(&member));
        Self { core, member }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Its tokens go first, so that their batches are back with their publishers before the table shows it gone.
        self.member.close();
        self.core.table.leave(self.member.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::{
        broker::{Broker, Engine},
        member::Kind,
    };

    async fn member(broker: &mut Broker, id: u64, name: &str) -> Arc<Member> {
        let mut client = broker.register(name, 16).await.unwrap();
        let queue = client.take_queue().unwrap();
        Arc::new(Member::new(id, name.into(), queue, (Kind::Door, 1)))
    }

    #[tokio::test]
    async fn the_table_knows_who_hears_a_topic_until_he_leaves() {
        let mut broker = Broker::new(Engine::default());
        let table = Table::new();
        for (id, name, filter) in [(1, "a", "events/#"), (2, "b", "events/+/start"), (3, "c", "control/#")] {
            table.join(member(&mut broker, id, name).await);
            table.subscribe(id, [filter, filter]);
        }
        let heard = |topic: &str| table.audience(topic).iter().map(|m| m.id).collect::<Vec<_>>();
        assert_eq!(heard("events/process/start"), [1, 2]);
        assert_eq!(heard("events/process/stop"), [1]);
        assert!(table.hears(&Pattern::parse("events.network.#").unwrap()));
        assert!(!table.hears(&Pattern::parse("alerts.#").unwrap()));

        let before = table.generation();
        table.named("a").unwrap().exclude("events/process/+");
        table.leave(2);
        assert!(table.generation() > before);
        assert!(heard("events/process/start").is_empty());
        assert_eq!(heard("events/network/dns"), [1]);
        table.unsubscribe(1, ["events/#"]);
        assert!(!table.hears(&Pattern::parse("events.#").unwrap()));
        assert_eq!(table.filters(3), 1);
    }
}
