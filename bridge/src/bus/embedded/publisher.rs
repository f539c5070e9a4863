//! The task that publishes for many ports.
//!
//! It takes all commands that wait, publishes their batches in order, and posts one barrier to each member for all of them.
//! A batch that cannot be taken now (nobody hears its route, or somebody who does is full) waits in its lane, and everything
//! later of that lane behind it, whatever port it came through. One whose route has a consumer goes to him first.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
    time::{self, Instant},
};

use crate::bus::{
    Command, LaneId, Taken,
    embedded::{
        Core,
        barrier::Barrier,
        broker::Client,
        consumer::Item,
        group::{Group, confirm, is_broken},
        lane::{Lane, Speaker, Wait},
        ledger::{Consumed, Ledger, Pending, Returns},
        put::put,
        resolve::{Resolved, Resolver, delivered},
    },
};

mod asks;
mod broken;
mod ends;
mod waiting;

use broken::Broken;

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
    /// Those in which batches wait, here or at a consumer.
    lanes: HashMap<LaneId, Lane>,
    /// Those that have lost a batch.
    broken: Broken,
    gone: FuturesUnordered<BoxFuture<'static, u64>>,
    resolver: Resolver,
    /// Batches whose whole audience went away.
    returns: Arc<Returns>,
    /// Number of the next batch.
    order: u64,
    /// Those of which the oldest batch waits for somebody who hears, or has room.
    blocked: HashSet<LaneId>,
    stirred: watch::Receiver<()>,
    /// When batches that wait for a route to settle try again.
    settled: Option<Instant>,
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
            lanes: HashMap::new(),
            broken: Broken::default(),
            gone: FuturesUnordered::new(),
            resolver: Resolver::new(Arc::clone(&core)),
            returns: Arc::default(),
            order: 0,
            settled: None,
            blocked: HashSet::new(),
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
        self.ports.insert(id, Speaker::new(client));
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
                    let consumed = Consumed::default();
                    let batch = Pending { port, lane, order, events, needs: Vec::new(), done, consumed };
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
                    // A port that cannot be attached ends.
                    self.post(mem::take(&mut groups));
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
            // Older than this batch, and maybe of the same lane; and what was published in this turn may be older than what
            // waits, and come back too.
            self.post(mem::take(groups));
            self.take_back().await;
        }
        if !self.ports.contains_key(&batch.port) || self.broken.bars(batch.lane, batch.order) {
            return batch.tell(Taken::Withdrawn);
        }
        let lane = batch.lane;
        if self.lanes.get(&lane).is_some_and(|lane| !lane.waiting.is_empty()) {
            return self.keep(batch);
        }
        if let Some((batch, wait)) = self.publish(batch, groups).await {
            self.keep_back(batch, &wait);
            if matches!(wait, Wait::Older) {
                let (_, mut returned) = self.put_back();
                self.blocked.remove(&lane);
                returned.insert(lane);
                self.attempt(returned).await;
            }
        }
    }

    /// Publishes a batch, or returns it with the reason why it has to wait.
    async fn publish(&mut self, batch: Pending, groups: &mut Vec<Group>) -> Option<(Pending, Wait)> {
        let topics: Vec<_> = batch.events.topics.iter().map(|topic| self.resolver.resolve(topic)).collect();
        let batch = match self.hand_over(batch, &topics) {
            Handover::Given => return None,
            Handover::Overtakes(batch) => return Some((batch, Wait::Away)),
            Handover::Settled(batch) => batch,
        };
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
        }
        if self.returns.any() {
            return Some((batch, Wait::Older));
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

    /// Gives a batch to the next consumer that must take it, if there is one, and nothing of its lane would be overtaken.
    fn hand_over(&mut self, mut batch: Pending, topics: &[Arc<Resolved>]) -> Handover {
        if self.core.hands.is_empty() {
            return Handover::Settled(batch);
        }
        let hand = batch.consumed.next(topics);
        if self.lanes.get(&batch.lane).is_some_and(|lane| lane.must_wait(batch.order, hand)) {
            return Handover::Overtakes(batch);
        }
        let Some(hand) = hand else { return Handover::Settled(batch) };
        let Some(speaker) = self.ports.get(&batch.port) else { return Handover::Settled(batch) };
        let origin = (speaker.client.name().into(), Arc::clone(&self.returns));
        if let Some(lane) = self.enter(batch.port, batch.lane) {
            lane.send_away(batch.order, hand);
        }
        batch.consumed.leave(hand);
        self.core.hands.give(hand, Item::new(batch, topics, hand, origin));
        Handover::Given
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

/// What becomes of a batch before it is published.
enum Handover {
    /// A consumer has it now.
    Given,
    /// It must wait for older ones of its lane that are at a consumer.
    Overtakes(Pending),
    /// No consumer must take it, or each has.
    Settled(Pending),
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
