//! The task that publishes for many ports.
//!
//! It takes all commands that wait, publishes their batches in order, and posts one barrier to each member for all of them.
//! A batch that cannot be taken now (nobody hears its route, or somebody who does is full) waits at its port, and
//! everything later of the same lane of that port behind it.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

use busrt::broker::Client;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
    time::{self, Instant},
};

use crate::bus::{
    Command, Taken,
    embedded::{
        Core,
        barrier::Barrier,
        group::{Group, confirm, is_broken},
        ledger::{Ledger, Pending, Returns},
        listen::Listener,
        put::put,
        resolve::{Resolver, delivered},
    },
};

mod asks;
mod ends;

/// Most commands of one wake-up.
const WAKE: usize = 256;

/// Events published before their barrier is posted.
const BARRIER: usize = 1024;

/// A port that begins.
pub(super) struct Opened {
    pub(super) id: u64,
    pub(super) client: Client,
    /// Ends when the port is dropped.
    pub(super) gone: oneshot::Receiver<()>,
}

/// The task that publishes for many ports.
pub(super) struct Publisher {
    core: Arc<Core>,
    opened: mpsc::Receiver<Opened>,
    commands: mpsc::Receiver<Command>,
    /// Pumps of ports that begin to hear.
    pumps: mpsc::Sender<BoxFuture<'static, ()>>,
    ports: HashMap<u64, Speaker>,
    gone: FuturesUnordered<BoxFuture<'static, u64>>,
    resolver: Resolver,
    /// Batches whose whole audience went away.
    returns: Arc<Returns>,
    /// Number of the next batch.
    order: u64,
    /// Port and lane of batches that wait, in the order in which they try again.
    blocked: VecDeque<(u64, u64)>,
    stirred: watch::Receiver<()>,
    /// When batches that wait for a route to settle try again.
    settled: Option<Instant>,
}

/// A port, from the publisher's side.
struct Speaker {
    client: Client,
    /// There if the port hears.
    listener: Option<Listener>,
    /// Lanes with batches that wait.
    lanes: HashMap<u64, Lane>,
    /// Barriers with batches of this port, oldest first.
    unsettled: VecDeque<Arc<Barrier<Ledger>>>,
}

/// What waits in one lane of a port.
#[derive(Default)]
struct Lane {
    /// Batches that cannot be taken now, oldest first.
    waiting: VecDeque<Pending>,
    /// The route that the oldest of them waits for.
    held: Option<usize>,
}

/// Why a batch cannot be taken now.
enum Wait {
    /// Nobody hears this route.
    Unheard(usize),
    /// Somebody who hears it has too much to read, or all who do are just going away, or have just unsubscribed.
    Full,
    /// Something older has just come back.
    Older,
    /// Its route has just begun to be heard, and somebody may still be about to subscribe to its topic.
    Settling,
}

impl Publisher {
    pub(super) fn new(
        core: Arc<Core>,
        opened: mpsc::Receiver<Opened>,
        commands: mpsc::Receiver<Command>,
        pumps: mpsc::Sender<BoxFuture<'static, ()>>,
    ) -> Self {
        Self {
            opened,
            commands,
            pumps,
            ports: HashMap::new(),
            gone: FuturesUnordered::new(),
            resolver: Resolver::new(Arc::clone(&core)),
            returns: Arc::default(),
            order: 0,
            settled: None,
            blocked: VecDeque::new(),
            stirred: core.table.stirred(),
            core,
        }
    }

    /// Publishes until the bus has ended.
    pub(super) async fn run(mut self) {
        let ended = self.core.ended.clone();
        let returns = Arc::clone(&self.returns);
        let mut commands = Vec::with_capacity(WAKE);
        loop {
            tokio::select! {
                // Ports first, for a command may be theirs; then what is older than any command.
                biased;
                Some(opened) = self.opened.recv() => self.open(opened),
                () = returns.wake.notified() => self.take_back().await,
                Some(port) = self.gone.next(), if !self.gone.is_empty() => self.close(port, None).await,
                Ok(()) = self.stirred.changed(), if !self.blocked.is_empty() => self.resume().await,
                () = until(self.settled), if self.settled.is_some() => {
                    self.settled = None;
                    self.resume().await;
                }
                count = self.commands.recv_many(&mut commands, WAKE) => {
                    if count == 0 {
                        return;
                    }
                    self.work(&mut commands).await;
                }
                () = ended.cancelled() => return,
            }
        }
    }

    fn open(&mut self, Opened { id, client, gone }: Opened) {
        let speaker = Speaker { client, listener: None, lanes: HashMap::new(), unsettled: VecDeque::new() };
        self.ports.insert(id, speaker);
        self.gone.push(gone.map(move |_| id).boxed());
    }

    /// Learns of ports that have been opened; a command may be theirs.
    fn open_all(&mut self) {
        while let Ok(opened) = self.opened.try_recv() {
            self.open(opened);
        }
    }

    async fn work(&mut self, commands: &mut Vec<Command>) {
        let mut groups = Vec::new();
        let mut behind = 0;
        for command in commands.drain(..) {
            match command {
                Command::Submit { port, lane, events, done } => {
                    let order = self.order;
                    self.order += 1;
                    behind += events.len();
                    let batch = Pending { port, lane, order, events, needs: Vec::new(), done };
                    self.submit(batch, &mut groups).await;
                    if behind >= BARRIER {
                        behind = 0;
                        self.post(mem::take(&mut groups));
                        // The broker's calls seldom wait, so nothing else would make way for others on this thread.
                        task::yield_now().await;
                    }
                }
                Command::Ask { port, ask, done } => {
                    // An error means that nobody waits for the answer.
                    done.send(self.answer(port, ask).await).unwrap_or_default();
                }
                Command::Attach { port, drum, done } => {
                    done.send(self.attach(port, drum).await).unwrap_or_default();
                }
                Command::Close { port, done } => {
                    self.post(mem::take(&mut groups));
                    self.close(port, Some(done)).await;
                }
            }
        }
        self.post(groups);
    }

    async fn submit(&mut self, batch: Pending, groups: &mut Vec<Group>) {
        if !self.ports.contains_key(&batch.port) {
            self.open_all();
        }
        if self.returns.any() {
            // Older than this batch, and maybe of the same port.
            self.take_back().await;
        }
        let Some(speaker) = self.ports.get_mut(&batch.port) else {
            return batch.tell(Taken::Withdrawn);
        };
        if let Some(lane) = speaker.lanes.get_mut(&batch.lane) {
            return lane.waiting.push_back(batch);
        }
        let place = (batch.port, batch.lane);
        if let Some((batch, wait)) = self.publish(batch, groups).await {
            self.keep_back(batch, &wait);
            self.blocked.push_back(place);
            if matches!(wait, Wait::Older) {
                self.take_back().await;
            }
        }
    }

    /// Publishes a batch, or returns it with the reason why it has to wait.
    async fn publish(&mut self, batch: Pending, groups: &mut Vec<Group>) -> Option<(Pending, Wait)> {
        let topics: Vec<_> = batch.events.topics.iter().map(|topic| self.resolver.resolve(topic)).collect();
        if let Some(held) = topics.iter().find(|topic| topic.is_held()) {
            return Some((batch, Wait::Unheard(held.route)));
        }
        if let Some(until) = topics.iter().filter_map(|topic| topic.settling()).max() {
            self.settled = Some(self.settled.map_or(until, |earlier| earlier.min(until)));
            return Some((batch, Wait::Settling));
        }
        if topics.iter().any(|topic| topic.must_wait()) {
            return Some((batch, Wait::Full));
        }
        // Asked after the table: whoever is no longer in it has been closed before.
        if is_broken(groups) {
            self.post(mem::take(groups));
            if self.returns.any() {
                return Some((batch, Wait::Older));
            }
        }
        let speaker = self.ports.get_mut(&batch.port)?;
        put(&self.core, &mut speaker.client, &batch.events, &topics).await;
        // Somebody may have unsubscribed since the topics were resolved: he will pass the barrier, and has not heard it.
        let Some(topics) = topics.into_iter().map(delivered).collect::<Option<Vec<_>>>() else {
            return Some((batch, Wait::Full));
        };
        confirm(&self.core, batch, &topics, groups);
        None
    }

    /// Puts a batch back where it came from: in front of its lane.
    fn keep_back(&mut self, batch: Pending, wait: &Wait) {
        let Some(speaker) = self.ports.get_mut(&batch.port) else {
            return batch.tell(Taken::Withdrawn);
        };
        let lane = speaker.lanes.entry(batch.lane).or_default();
        lane.waiting.push_front(batch);
        let held = match wait {
            Wait::Unheard(route) => Some(*route),
            Wait::Settling => lane.held,
            Wait::Full | Wait::Older => None,
        };
        if lane.held != held {
            let before = mem::replace(&mut lane.held, held);
            self.show_hold(before, held);
        }
    }

    fn show_hold(&self, before: Option<usize>, after: Option<usize>) {
        if let Some(pattern) = after.and_then(|route| self.resolver.pattern(route)) {
            self.core.holds.hold(pattern);
        }
        if let Some(pattern) = before.and_then(|route| self.resolver.pattern(route)) {
            self.core.holds.release(pattern);
        }
    }

    /// Takes batches back that were published to members which are gone, and lets all that wait try again.
    async fn take_back(&mut self) {
        self.put_back();
        self.resume().await;
    }

    /// Takes batches back that were published to members which are gone, each to its place in its lane.
    fn put_back(&mut self) {
        let returned = self.returns.take();
        self.core.counters.resubmitted.add(returned.len() as u64);
        for batch in returned {
            let at = (batch.port, batch.lane);
            let Some(speaker) = self.ports.get_mut(&batch.port) else {
                batch.tell(Taken::Withdrawn);
                continue;
            };
            let waiting = &mut speaker.lanes.entry(batch.lane).or_default().waiting;
            waiting.insert(waiting.partition_point(|other| other.order < batch.order), batch);
            if !self.blocked.contains(&at) {
                self.blocked.push_back(at);
            }
        }
    }

    /// Lets every blocked lane try again. Those that got nothing through come first the next time.
    async fn resume(&mut self) {
        let mut groups = Vec::new();
        let (mut stuck, mut moved) = (VecDeque::new(), VecDeque::new());
        for place in mem::take(&mut self.blocked) {
            let mut progress = false;
            while let Some(batch) = self.lane(place).and_then(|lane| lane.waiting.pop_front()) {
                if let Some((batch, wait)) = self.publish(batch, &mut groups).await {
                    self.keep_back(batch, &wait);
                    if matches!(wait, Wait::Older) {
                        // To their places, maybe before this one; all try again, for they have woken the task.
                        self.put_back();
                        continue;
                    }
                    break;
                }
                progress = true;
            }
            match self.lane(place) {
                Some(lane) if lane.waiting.is_empty() => {
                    let before = lane.held;
                    self.show_hold(before, None);
                    if let Some(speaker) = self.ports.get_mut(&place.0) {
                        speaker.lanes.remove(&place.1);
                    }
                }
                Some(_) if progress => moved.push_back(place),
                Some(_) => stuck.push_back(place),
                None => {}
            }
        }
        for place in stuck.into_iter().chain(moved) {
            if !self.blocked.contains(&place) {
                self.blocked.push_back(place);
            }
        }
        self.post(groups);
    }

    fn lane(&mut self, (port, lane): (u64, u64)) -> Option<&mut Lane> {
        self.ports.get_mut(&port)?.lanes.get_mut(&lane)
    }

    /// Posts one barrier for each group.
    fn post(&mut self, groups: Vec<Group>) {
        for Group { members, batches } in groups {
            let mut ports: Vec<u64> = batches.iter().map(|batch| batch.port).collect();
            ports.sort_unstable();
            ports.dedup();
            let ledger = Ledger::new(batches, Arc::clone(&self.returns), Arc::clone(&self.core.counters));
            let (barrier, own) = Barrier::raise(ledger);
            for port in ports {
                if let Some(speaker) = self.ports.get_mut(&port) {
                    while speaker.unsettled.front().is_some_and(|oldest| oldest.outcome().is_done()) {
                        speaker.unsettled.pop_front();
                    }
                    speaker.unsettled.push_back(Arc::clone(&barrier));
                }
            }
            for member in members {
                member.post(own.of(member.id));
            }
        }
    }
}

/// Ends at that time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
