//! Who is here: seats of sessions, streams in use, and what admin may see of it.
//!
//! Kept true: a stream of a peer has one holder at a time; a session that gives up its seat has settled or withdrawn
//! everything it handed to the bus, so that whoever takes over knows where to resume. The lock is taken when somebody comes
//! or goes and once a second for the picture, never for an event.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use daemoneye_bridge::{event::StreamId, lifecycle::Leash};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::PeerId,
    policy::{self, Watch},
    session::{
        bell::{Bell, Order},
        hello::Listed,
        live::{Arrival, Live},
        metrics::{Metrics, Who},
        status::Fault,
    },
    snapshot::{Collectors, Gone, Timestamp},
};

/// Caps on what may be here at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    pub(super) sessions: usize,
    pub(super) sessions_per_site: usize,
    pub(super) calls: usize,
    pub(super) remembered: usize,
    pub(super) same_identity: SameIdentity,
}

/// What a second session of one peer does to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SameIdentity {
    /// Nothing, unless they share a stream.
    Allow,
    /// The first makes way.
    NewestWins,
}

/// Who is here. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    view: watch::Sender<Arc<Collectors>>,
    caps: Caps,
    metrics: Metrics,
    /// Begins the names of sessions, so that they differ from those of an earlier run.
    run: u32,
}

#[derive(Debug, Default)]
struct Table {
    /// Numbers seats and claims.
    last: u64,
    seats: HashMap<u64, (Arc<Bell>, Arc<Live>)>,
    by_peer: HashMap<PeerId, usize>,
    by_site: HashMap<String, usize>,
    streams: HashMap<(PeerId, StreamId), Holder>,
    /// The sessions of each peer, for one that ends the older.
    sessions: HashMap<PeerId, Vec<Holder>>,
    guests: HashMap<(Guest, PeerId), usize>,
    /// Bytes that guests of a peer carry.
    loads: HashMap<PeerId, usize>,
    /// All guests together.
    presences: usize,
    gone: VecDeque<Gone>,
}

/// Who has a stream.
#[derive(Clone, Debug)]
struct Holder {
    number: u64,
    /// A session can be asked to make way; a plain call ends by itself.
    bell: Option<Arc<Bell>>,
    gone: CancellationToken,
}

/// Who claims streams.
#[derive(Debug)]
pub(super) enum Claimant {
    /// A plain call, which makes way by itself.
    Call,
    /// A session.
    Session {
        /// By which it is asked to make way.
        bell: Arc<Bell>,
        /// What the policy says of a second session of its peer.
        same_identity: Option<policy::SameIdentity>,
    },
}

/// Somebody who is here without a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Guest {
    /// A plain call.
    Call,
    /// A session that has not said Hello, or is not admitted yet.
    Greeting,
    /// A subscriber.
    Hearing,
}

impl Guest {
    const fn most_per_peer(self) -> usize {
        match self {
            Self::Call | Self::Greeting => 64,
            Self::Hearing => 16,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Call => "calls of this peer under way",
            Self::Greeting => "sessions of this peer without Hello",
            Self::Hearing => "subscriptions of this peer",
        }
    }
}

impl Registry {
    pub(super) fn new(caps: Caps, metrics: Metrics) -> Self {
        let table = Mutex::new(Table::default());
        let view = watch::Sender::new(Arc::default());
        Self(Arc::new(Shared { table, view, caps, metrics, run: fastrand::u32(..) }))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The picture, renewed by [`Self::run`].
    pub(super) fn view(&self) -> watch::Receiver<Arc<Collectors>> {
        self.0.view.subscribe()
    }

    /// Passes orders on to every session and renews the picture, until the last session has gone after a drain.
    pub(super) async fn run(self, mut policy: Watch, leash: Leash, every: Duration) {
        let mut clock = time::interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                () = leash.draining(), if !draining => {
                    draining = true;
                    self.ring(Order::Drain);
                }
                () = policy.changed() => self.ring(Order::Rejudge),
                _ = clock.tick() => {
                    self.publish(every);
                    if draining {
                        // Somebody may have been seated while the order went round.
                        self.ring(Order::Drain);
                    }
                }
            }
            if draining && self.lock().seats.is_empty() {
                self.publish(every);
                return;
            }
        }
    }

    fn ring(&self, order: Order) {
        for (bell, _) in self.lock().seats.values() {
            bell.ring(order);
        }
    }

    fn publish(&self, every: Duration) {
        let now = Instant::now();
        let (live, gone): (Vec<_>, Vec<_>) = {
            let table = self.lock();
            let live = table.seats.values().map(|(_, live)| Arc::clone(live)).collect();
            (live, table.gone.iter().cloned().collect())
        };
        let mut rows: Vec<_> = live.iter().map(|live| live.row(now)).collect();
        rows.sort_by(|a, b| (&a.peer, &a.session).cmp(&(&b.peer, &b.session)));
        let interval_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        let picture = Collectors { as_of: Some(Timestamp::now()), interval_ms, live: rows, gone };
        self.0.view.send_replace(Arc::new(picture));
    }

    /// Lets somebody in who has no seat.
    pub(super) fn admit(&self, guest: Guest, peer: &PeerId) -> Result<Presence, Fault> {
        let mut table = self.lock();
        if table.presences >= self.0.caps.calls.saturating_add(self.0.caps.sessions) {
            return Err(Fault::Full { what: "calls under way" });
        }
        let count = table.guests.entry((guest, peer.clone())).or_default();
        if *count >= guest.most_per_peer() {
            return Err(Fault::Full { what: guest.what() });
        }
        *count += 1;
        table.presences += 1;
        drop(table);
        Ok(Presence { registry: self.clone(), key: (guest, peer.clone()), load: 0 })
    }

    /// Takes the streams of a peer for one holder, asking older sessions to make way and waiting until they have.
    ///
    /// Cancel safe: a dropped call holds nothing.
    pub(super) async fn claim(
        &self,
        peer: &PeerId,
        streams: &[StreamId],
        by: Claimant,
        patience: Duration,
    ) -> Result<Claim, Fault> {
        let deadline = Instant::now() + patience;
        loop {
            let blockers = match self.try_claim(peer, streams, &by) {
                Ok(claim) => return Ok(claim),
                Err(blockers) => blockers,
            };
            for blocker in blockers {
                match (&blocker.bell, &by) {
                    (Some(older), Claimant::Session { .. }) => older.ring(Order::Fence),
                    (Some(_), Claimant::Call) => return Err(Fault::InUse { what: "the stream" }),
                    (None, _) => {}
                }
                if time::timeout_at(deadline, blocker.gone.cancelled()).await.is_err() {
                    return Err(Fault::InUse { what: "a stream of this peer" });
                }
            }
        }
    }

    fn try_claim(&self, peer: &PeerId, streams: &[StreamId], by: &Claimant) -> Result<Claim, Vec<Holder>> {
        let mut table = self.lock();
        let key = |stream: &StreamId| (peer.clone(), *stream);
        let (bell, one_only) = match by {
            Claimant::Call => (None, false),
            Claimant::Session { bell, same_identity } => {
                let newest = self.0.caps.same_identity == SameIdentity::NewestWins;
                let one_only = same_identity.map_or(newest, |stated| stated == policy::SameIdentity::Newest);
                (Some(bell), one_only)
            }
        };
        let older = table.sessions.get(peer).filter(|_| one_only).into_iter().flatten().cloned();
        let streams_of = streams.iter().filter_map(|stream| table.streams.get(&key(stream)).cloned());
        let blockers: Vec<_> = streams_of.chain(older).collect();
        if !blockers.is_empty() {
            return Err(blockers);
        }
        table.last += 1;
        let holder = Holder { number: table.last, bell: bell.cloned(), gone: CancellationToken::new() };
        for stream in streams {
            table.streams.insert(key(stream), holder.clone());
        }
        // Whatever holds for this one: a role may ask of the next that it be the only one.
        if bell.is_some() {
            table.sessions.entry(peer.clone()).or_default().push(holder.clone());
        }
        drop(table);
        Ok(Claim { registry: self.clone(), peer: peer.clone(), streams: streams.to_vec(), holder })
    }

    /// Gives a session its seat, if the caps allow.
    pub(super) fn seat(&self, arrival: Arrival, streams: &[Listed], claim: Claim) -> Result<Seat, Fault> {
        let (peer, bell) = (arrival.peer.clone(), claim.holder.bell.clone().unwrap_or_default());
        let mut table = self.lock();
        if table.seats.len() >= self.0.caps.sessions {
            return Err(Fault::Full { what: "sessions" });
        }
        if table.by_peer.get(&peer).is_some_and(|count| *count >= arrival.connections) {
            return Err(Fault::Full { what: "sessions of this peer" });
        }
        if table.by_site.get(peer.site()).is_some_and(|count| *count >= self.0.caps.sessions_per_site) {
            return Err(Fault::Full { what: "sessions of this site" });
        }
        let number = claim.holder.number;
        let who = self.0.metrics.who(arrival.label.clone(), peer.site());
        let live = Arc::new(Live::new(arrival, format!("{:08x}-{number}", self.0.run), streams));
        table.seats.insert(number, (Arc::clone(&bell), Arc::clone(&live)));
        *table.by_peer.entry(peer.clone()).or_default() += 1;
        *table.by_site.entry(peer.site().to_owned()).or_default() += 1;
        drop(table);
        self.0.metrics.opened(&who);
        Ok(Seat {
            registry: self.clone(),
            claim: Some(claim),
            number,
            bell,
            live,
            who,
            left: ("aborted", String::new()),
        })
    }
}

/// Counts down, and forgets what has come to nothing.
fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K, by: usize) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(by);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Somebody is here without a seat, until this is dropped.
#[derive(Debug)]
pub(super) struct Presence {
    registry: Registry,
    key: (Guest, PeerId),
    /// Bytes that it carries.
    load: usize,
}

impl Presence {
    /// Takes up `bytes` until it is dropped; all guests of a peer together at most `most`, but one at least.
    pub(super) fn carry(&mut self, bytes: usize, most: usize) -> Result<(), Fault> {
        let mut table = self.registry.lock();
        let load = table.loads.entry(self.key.1.clone()).or_default();
        if *load > 0 && load.saturating_add(bytes) > most {
            return Err(Fault::Full { what: "bytes of calls of this peer under way" });
        }
        *load = load.saturating_add(bytes);
        drop(table);
        self.load = self.load.saturating_add(bytes);
        Ok(())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        decrement(&mut table.guests, &self.key, 1);
        decrement(&mut table.loads, &self.key.1, self.load);
        table.presences = table.presences.saturating_sub(1);
    }
}

/// Streams of a peer are held, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    registry: Registry,
    peer: PeerId,
    streams: Vec<StreamId>,
    holder: Holder,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        for stream in &self.streams {
            table.streams.remove(&(self.peer.clone(), *stream));
        }
        if let Some(sessions) = table.sessions.get_mut(&self.peer) {
            sessions.retain(|session| session.number != self.holder.number);
            if sessions.is_empty() {
                table.sessions.remove(&self.peer);
            }
        }
        drop(table);
        self.holder.gone.cancel();
    }
}

/// A session is here, until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Registry,
    claim: Option<Claim>,
    number: u64,
    pub(super) bell: Arc<Bell>,
    pub(super) live: Arc<Live>,
    who: Who,
    /// What is remembered of the end: unless something is said, the process cut it short.
    left: (&'static str, String),
}

impl Seat {
    /// A ping came back.
    pub(super) fn round_trip(&self, took: Duration) {
        self.live.round_trip(took);
        self.registry.0.metrics.round_trip(took);
    }

    /// Gets up; `reason` is for machines, `detail` for people.
    pub(super) fn leave(mut self, reason: &'static str, detail: String) {
        self.left = (reason, detail);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (reason, detail) = &self.left;
        let gone = self.live.gone(reason, detail);
        let mut table = self.registry.lock();
        table.seats.remove(&self.number);
        decrement(&mut table.by_peer, &self.live.peer, 1);
        decrement(&mut table.by_site, &self.live.peer.site().to_owned(), 1);
        table.gone.push_front(gone);
        table.gone.truncate(self.registry.0.caps.remembered);
        drop(table);
        self.registry.0.metrics.closed(&self.who, reason);
        // Only now may a newer session take over the streams: it counts the seats.
        self.claim = None;
    }
}
