//! A broker of our own, in this process: it routes as BUS/RT does where the crate `busrt` does not build.
//!
//! The [embedded bus](crate::bus::embedded) stands on it on Windows, with all that it knows beside the broker: tickets,
//! barriers, held routes, the door. It stands on it in tests on every system, so that one and the same test holds both brokers
//! to the same behaviour.
//!
//! Kept true: whoever publishes waits for a queue that is full, and for nothing else; what one client sends, another hears in
//! the order it was sent; a name has one holder, and is free once its [`Client`] is dropped.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    bus::embedded::filter::{self, Index},
    native::codec::{Code, server::Kind},
};

mod desk;

#[cfg(test)]
mod tests;

/// What a client hears through.
pub(crate) type Queue = async_channel::Receiver<Frame>;

/// Something that one client sent to another.
#[derive(Clone, Debug)]
pub(crate) struct Frame(Arc<Content>);

#[derive(Debug)]
struct Content {
    kind: Kind,
    sender: Arc<str>,
    topic: Option<Box<str>>,
    payload: Bytes,
    realtime: bool,
}

impl Frame {
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn sender(&self) -> &str {
        &self.0.sender
    }

    /// Slashed; none unless published.
    pub(crate) fn topic(&self) -> Option<&str> {
        self.0.topic.as_deref()
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    pub(crate) fn is_realtime(&self) -> bool {
        self.0.realtime
    }
}

/// The broker.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    hall: Arc<Hall>,
    /// Who announces, once the broker speaks for itself.
    speaker: Option<Arc<Client>>,
}

/// Where the clients of a broker find each other.
#[derive(Debug, Default)]
struct Hall {
    guests: RwLock<Guests>,
    ids: AtomicU64,
    traffic: Traffic,
}

/// What came from a client, and what went to it; of the broker, all together.
#[derive(Debug, Default)]
struct Traffic {
    read_frames: AtomicU64,
    read_bytes: AtomicU64,
    written_frames: AtomicU64,
    written_bytes: AtomicU64,
}

impl Traffic {
    fn read(&self, bytes: usize) {
        self.read_frames.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn written(&self, bytes: usize) {
        self.written_frames.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Guests {
    entries: HashMap<u64, Entry>,
    names: HashMap<Arc<str>, u64>,
    index: Index,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    filters: BTreeSet<Box<str>>,
}

/// A client as the others see it.
struct Peer {
    id: u64,
    name: Arc<str>,
    queue: async_channel::Sender<Frame>,
    traffic: Traffic,
    /// What it does not want although its filters match.
    excluded: RwLock<BTreeSet<Box<str>>>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Peer {
    fn wants(&self, topic: &str) -> bool {
        let excluded = self.excluded.read().unwrap_or_else(PoisonError::into_inner);
        !excluded.iter().any(|unwanted| filter::matches(unwanted, topic))
    }

    /// Waits for room in its queue; `false` if nobody reads it any more.
    async fn deliver(&self, hall: &Hall, frame: Frame) -> bool {
        let bytes = frame.payload().len();
        let delivered = self.queue.send(frame).await.is_ok();
        if delivered {
            self.traffic.written(bytes);
            hall.traffic.written(bytes);
        }
        delivered
    }
}

impl Broker {
    /// Registers a client whose queue takes `queue` frames; none if the name is taken. Dropping the client frees the name.
    pub(crate) fn register(&self, name: &str, queue: usize) -> Option<Client> {
        let (sender, heard) = async_channel::bounded(queue.max(1));
        let id = self.hall.ids.fetch_add(1, Ordering::Relaxed);
        let (traffic, excluded) = (Traffic::default(), RwLock::default());
        let peer = Arc::new(Peer { id, name: name.into(), queue: sender, traffic, excluded });
        let mut guests = self.hall.guests.write().unwrap_or_else(PoisonError::into_inner);
        if guests.names.contains_key(name) {
            return None;
        }
        guests.names.insert(Arc::clone(&peer.name), id);
        // Everybody hears that the bus ends.
        guests.index.insert(desk::WARNINGS, id);
        let filters = BTreeSet::from([desk::WARNINGS.into()]);
        guests.entries.insert(id, Entry { peer: Arc::clone(&peer), filters });
        drop(guests);
        Some(Client { peer, hall: Arc::clone(&self.hall), heard: Some(heard) })
    }
}

/// A client of the broker.
#[derive(Debug)]
pub(crate) struct Client {
    peer: Arc<Peer>,
    hall: Arc<Hall>,
    heard: Option<Queue>,
}

impl Client {
    pub(crate) fn name(&self) -> &str {
        &self.peer.name
    }

    /// What it hears through; once. While nobody holds it, what is sent to the client by name is not delivered.
    pub(crate) const fn take_queue(&mut self) -> Option<Queue> {
        self.heard.take()
    }

    /// Publishes to all who subscribe to a slashed topic, or to the one of them that has that name.
    pub(crate) async fn publish(&self, topic: &str, receiver: Option<&str>, payload: &[u8], realtime: bool) {
        self.count(payload);
        let hearers = self.hall.hearers(topic, receiver);
        if hearers.is_empty() {
            return;
        }
        let frame = self.frame(Kind::Publish, Some(topic), payload, realtime);
        for peer in hearers {
            // Whoever reads no more is about to leave.
            peer.deliver(&self.hall, frame.clone()).await;
        }
    }

    /// Sends to the client of that name.
    pub(crate) async fn send(&self, target: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        self.count(payload);
        let target = self.hall.named(target).ok_or(Code::NOT_REGISTERED)?;
        let delivered = target.deliver(&self.hall, self.frame(Kind::Message, None, payload, realtime)).await;
        if delivered { Ok(()) } else { Err(Code::NOT_DELIVERED) }
    }

    /// Sends to all whose names match a mask: `?` is one segment, `*` one or more.
    pub(crate) async fn broadcast(&self, mask: &str, payload: &[u8], realtime: bool) {
        self.count(payload);
        let frame = self.frame(Kind::Broadcast, None, payload, realtime);
        for peer in self.hall.masked(mask) {
            // Whoever reads no more is about to leave.
            peer.deliver(&self.hall, frame.clone()).await;
        }
    }

    /// Hears slashed filters from now on.
    pub(crate) fn subscribe<'a>(&self, filters: impl IntoIterator<Item = &'a str>) {
        let mut guests = self.hall.guests.write().unwrap_or_else(PoisonError::into_inner);
        let Guests { entries, index, .. } = &mut *guests;
        let Some(entry) = entries.get_mut(&self.peer.id) else { return };
        for filter in filters {
            if entry.filters.insert(filter.into()) {
                index.insert(filter, self.peer.id);
            }
        }
        drop(guests);
    }

    /// Hears filters no more.
    pub(crate) fn unsubscribe<'a>(&self, filters: impl IntoIterator<Item = &'a str>) {
        let mut guests = self.hall.guests.write().unwrap_or_else(PoisonError::into_inner);
        let Guests { entries, index, .. } = &mut *guests;
        let Some(entry) = entries.get_mut(&self.peer.id) else { return };
        for filter in filters {
            if entry.filters.remove(filter) {
                index.remove(filter, self.peer.id);
            }
        }
        drop(guests);
    }

    /// Passes over topics that match, whatever it subscribes to.
    pub(crate) fn exclude<'a>(&self, filters: impl IntoIterator<Item = &'a str>) {
        let mut excluded = self.peer.excluded.write().unwrap_or_else(PoisonError::into_inner);
        excluded.extend(filters.into_iter().map(Box::from));
    }

    /// Takes exclusions back.
    pub(crate) fn unexclude<'a>(&self, filters: impl IntoIterator<Item = &'a str>) {
        let mut excluded = self.peer.excluded.write().unwrap_or_else(PoisonError::into_inner);
        for filter in filters {
            excluded.remove(filter);
        }
    }

    fn count(&self, payload: &[u8]) {
        self.peer.traffic.read(payload.len());
        self.hall.traffic.read(payload.len());
    }

    fn frame(&self, kind: Kind, topic: Option<&str>, payload: &[u8], realtime: bool) -> Frame {
        // Copied: a slice of what was read would keep all that was read with it, for as long as somebody is slow.
        let payload = Bytes::copy_from_slice(payload);
        let sender = Arc::clone(&self.peer.name);
        Frame(Arc::new(Content { kind, sender, topic: topic.map(Into::into), payload, realtime }))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut guests = self.hall.guests.write().unwrap_or_else(PoisonError::into_inner);
        let Guests { entries, names, index } = &mut *guests;
        let Some(entry) = entries.remove(&self.peer.id) else { return };
        names.remove(&self.peer.name);
        for filter in &entry.filters {
            index.remove(filter, self.peer.id);
        }
        drop(guests);
    }
}

impl Hall {
    /// Who hears a topic, in the order in which they came.
    fn hearers(&self, topic: &str, receiver: Option<&str>) -> Vec<Arc<Peer>> {
        let mut ids = Vec::new();
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.index.holders(topic, &mut ids);
        ids.sort_unstable();
        ids.dedup();
        let found = ids.iter().filter_map(|id| guests.entries.get(id)).map(|entry| &entry.peer);
        let meant = |peer: &&Arc<Peer>| receiver.is_none_or(|receiver| *peer.name == *receiver);
        let mut peers: Vec<Arc<Peer>> = found.filter(meant).map(Arc::clone).collect();
        drop(guests);
        peers.retain(|peer| peer.wants(topic));
        peers
    }

    fn named(&self, name: &str) -> Option<Arc<Peer>> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        let id = guests.names.get(name)?;
        guests.entries.get(id).map(|entry| Arc::clone(&entry.peer))
    }

    fn masked(&self, mask: &str) -> Vec<Arc<Peer>> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        let peers = guests.entries.values().map(|entry| &entry.peer);
        let found = peers.filter(|peer| masks(mask, &peer.name)).map(Arc::clone).collect();
        drop(guests);
        found
    }
}

/// Whether `mask` is for `name`. What stands behind a `*` is passed over, as BUS/RT does.
fn masks(mask: &str, name: &str) -> bool {
    let mut given = name.split('.');
    for wanted in mask.split('.') {
        let Some(segment) = given.next() else { return false };
        match wanted {
            "*" => return true,
            "?" => {}
            literal if literal == segment => {}
            _ => return false,
        }
    }
    given.next().is_none()
}
