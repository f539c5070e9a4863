//! The task that calls one consumer.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{self, Instant};

use crate::bus::{
    LaneId, PortError, Taken,
    embedded::{
        Core,
        broker::{Client, Frame, Queue},
        consumer::{
            Errand, Hand, Item,
            call::{self, Answer},
            line::Line,
        },
        ledger::Pending,
    },
};

/// How long the broker may take to hand a call over: longer only to a client in this process that does not read.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How often a consumer that is not there is looked for, beside each time that somebody comes in.
const LOOK: Duration = Duration::from_secs(1);

/// Calls the consumer of `hand` until the bus has ended.
pub(in crate::bus::embedded) async fn serve(core: Arc<Core>, hand: Arc<Hand>) {
    let end = End(Arc::clone(&hand));
    // Reserved at the door, so that a consumer can trust it.
    let name = format!("daemoneye.confirm.{}", hand.index);
    let queue = core.config.buffer_size.get().max(hand.consumer.window.saturating_mul(2));
    let mut client = loop {
        match core.register(&name, queue).await {
            Ok((client, _)) => break client,
            Err(PortError::Closed | PortError::Shared) => return,
            Err(PortError::Taken) => {
                core.holds.refuse(&hand.route, hand.consumer.name.as_str(), format!("{name} is taken"));
                time::sleep(LOOK).await;
            }
        }
    };
    let Some(queue) = client.take_queue() else { return };
    let caller = Caller {
        client,
        queue,
        lines: HashMap::new(),
        ready: VecDeque::new(),
        pausing: BTreeSet::new(),
        calls: HashMap::new(),
        last: 0,
        seen: None,
        absent: None,
        failing: 0,
        trouble: Trouble::None,
        core,
        hand,
    };
    caller.run().await;
    drop(end);
}

/// Ends the hand however its caller ends, so that no publisher waits for it.
struct End(Arc<Hand>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The task that calls one consumer.
struct Caller {
    core: Arc<Core>,
    hand: Arc<Hand>,
    client: Client,
    /// Where answers come in.
    queue: Queue,
    lines: HashMap<LaneId, Line>,
    /// Lines whose first batches should be called next.
    ready: VecDeque<LaneId>,
    /// Lines whose last call was in vain, by when to try again.
    pausing: BTreeSet<(Instant, LaneId)>,
    calls: HashMap<u32, Call>,
    /// Number of the last call.
    last: u32,
    /// The consumer's place in the table, if it was there at the last look: another number is another connection.
    seen: Option<u64>,
    /// When to look for a consumer that is not there.
    absent: Option<Instant>,
    /// Lines whose last call was in vain.
    failing: usize,
    trouble: Trouble,
}

/// Whether the route is shown as held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// It is.
    Shown,
    /// It is, but the consumer has taken something since the last bad news.
    Easing,
}

/// An open call.
struct Call {
    place: LaneId,
    events: usize,
    /// The consumer's place in the table when it was made.
    to: Option<u64>,
    /// Until when it must have been answered.
    due: Instant,
}

impl Caller {
    async fn run(mut self) {
        let ended = self.core.ended.clone();
        let hand = Arc::clone(&self.hand);
        let mut stirred = self.core.table.stirred();
        loop {
            let alarm = self.alarm();
            tokio::select! {
                // Answers first: they make room for calls.
                biased;
                frame = self.queue.recv() => match frame {
                    Some(frame) => self.hear(&frame),
                    None => return,
                },
                () = hand.wake.notified() => self.look_at_errands(),
                Ok(()) = stirred.changed() => self.look_at_table(),
                () = until(alarm) => {}
                () = ended.cancelled() => return,
            }
            while let Some(frame) = self.queue.try_recv() {
                self.hear(&frame);
            }
            self.expire(Instant::now());
            self.call_all().await;
            self.show_relief();
        }
    }

    /// When something must be looked at although nothing came.
    fn alarm(&self) -> Option<Instant> {
        // As many as the window at most.
        let due = self.calls.values().map(|call| call.due).min();
        let pause = self.pausing.first().map(|(until, _)| *until);
        [due, pause, self.absent].into_iter().flatten().min()
    }

    fn look_at_errands(&mut self) {
        for errand in self.hand.errands() {
            match errand {
                Errand::Take(item) => {
                    let place = item.batch.lane;
                    self.lines.entry(place).or_default().items.push_back(*item);
                    self.make_ready(place);
                }
                Errand::Withdraw { port, lanes, done } => {
                    // An error means that the publisher has ended.
                    done.send(self.withdraw(port, &lanes)).unwrap_or_default();
                }
            }
        }
    }

    /// Takes the batches of a port out of its lanes' lines, and all that came after them; returns the lane and place of each.
    fn withdraw(&mut self, port: u64, lanes: &HashSet<LaneId>) -> Vec<(LaneId, u64)> {
        let (mut withdrawn, mut ended) = (Vec::new(), HashSet::new());
        for place in lanes {
            let Some(line) = self.lines.get_mut(place) else { continue };
            let Some(first) = line.items.iter().position(|item| item.batch.port == port) else { continue };
            for Item { batch, .. } in line.items.drain(first..) {
                withdrawn.push((*place, batch.order));
                batch.tell(Taken::Withdrawn);
            }
            if line.items.is_empty() {
                self.failing -= usize::from(line.attempts > 0);
                self.lines.remove(place);
                ended.insert(*place);
            }
        }
        // A call is about the first of its line; where these stay, it goes on.
        if !ended.is_empty() {
            self.calls.retain(|_, call| !ended.contains(&call.place));
            self.ready.retain(|place| !ended.contains(place));
            self.pausing.retain(|(_, place)| !ended.contains(place));
        }
        withdrawn
    }

    /// Lets a line call, unless it does, or waits already.
    fn make_ready(&mut self, place: LaneId) {
        if let Some(line) = self.lines.get_mut(&place)
            && line.called == 0
            && !line.waits
        {
            line.waits = true;
            self.ready.push_back(place);
        }
    }

    /// Sees whether the consumer came or went.
    fn look_at_table(&mut self) {
        let now = self.core.table.named(self.hand.consumer.name.as_str()).map(|member| member.id);
        if now == self.seen {
            return;
        }
        self.seen = now;
        self.absent = None;
        // Whoever was called and is gone will not answer.
        for place in self.close_all(|call| call.to != now) {
            self.core.counters.consumer_unanswered.add(1);
            self.make_ready(place);
        }
    }

    /// Forgets a call that was not answered with yes; returns whose it was.
    fn close(&mut self, id: u32) -> Option<LaneId> {
        let call = self.calls.remove(&id)?;
        if let Some(line) = self.lines.get_mut(&call.place) {
            line.called = 0;
        }
        Some(call.place)
    }

    /// Forgets calls that were not answered; returns whose they were.
    fn close_all(&mut self, is_over: impl Fn(&Call) -> bool) -> Vec<LaneId> {
        let places: Vec<LaneId> =
            self.calls.extract_if(|_, call| is_over(call)).map(|(_, call)| call.place).collect();
        for place in &places {
            if let Some(line) = self.lines.get_mut(place) {
                line.called = 0;
            }
        }
        places
    }

    /// Sees to what is overdue, and to pauses that have ended.
    fn expire(&mut self, now: Instant) {
        for place in self.close_all(|call| call.due <= now) {
            self.core.counters.consumer_unanswered.add(1);
            let patience = self.hand.consumer.answer_within;
            self.fail(place, format!("did not answer within {patience:?}"));
        }
        while let Some(first) = self.pausing.first().copied().filter(|(until, _)| *until <= now) {
            self.pausing.remove(&first);
            if let Some(line) = self.lines.get_mut(&first.1) {
                line.waits = false;
            }
            self.make_ready(first.1);
        }
        self.absent = self.absent.filter(|until| *until > now);
    }

    /// Lets a line pause after a call in vain.
    fn fail(&mut self, place: LaneId, cause: String) {
        let Some(line) = self.lines.get_mut(&place) else { return };
        self.failing += usize::from(line.attempts == 0);
        line.attempts = line.attempts.saturating_add(1);
        line.waits = true;
        self.pausing.insert((Instant::now() + line.pause(), place));
        self.show_trouble(cause);
    }

    fn hear(&mut self, frame: &Frame) {
        if frame.sender() != self.hand.consumer.name.as_str() {
            return;
        }
        let Some(Answer { id, taken }) = call::answer(frame) else { return };
        match taken {
            Ok(()) => self.give_back(id),
            Err(why) => {
                if let Some(place) = self.close(id) {
                    self.core.counters.consumer_refusals.add(1);
                    self.fail(place, format!("refused: {why}"));
                }
            }
        }
    }

    /// Gives the batches of a call back to their publishers: their consumer has taken them.
    fn give_back(&mut self, id: u32) {
        let Some(call) = self.calls.remove(&id) else { return };
        let Some(line) = self.lines.get_mut(&call.place) else { return };
        self.core.counters.consumer_taken.add(call.events as u64);
        if self.trouble == Trouble::Shown {
            self.trouble = Trouble::Easing;
        }
        self.failing -= usize::from(line.attempts > 0);
        line.attempts = 0;
        let taken: Vec<Item> = line.items.drain(..line.called.min(line.items.len())).collect();
        line.called = 0;
        if line.items.is_empty() {
            self.lines.remove(&call.place);
        } else {
            self.make_ready(call.place);
        }
        // All of one port, and so of one publisher.
        let Some(returns) = taken.first().map(|item| Arc::clone(&item.returns)) else { return };
        returns.put(taken.into_iter().map(|item| item.batch).collect::<Vec<Pending>>());
    }

    /// Makes the calls that may be made now.
    async fn call_all(&mut self) {
        while self.absent.is_none() && self.calls.len() < self.hand.consumer.window {
            let name = self.hand.consumer.name.clone();
            let member = self.core.table.named(name.as_str());
            if member.as_ref().is_some_and(|member| member.is_full()) {
                // The table is stirred when there is room.
                return;
            }
            let Some(place) = self.ready.pop_front() else { return };
            let Some(line) = self.lines.get_mut(&place) else { continue };
            self.last = self.last.checked_add(1).unwrap_or(1);
            let (id, portion) = (self.last, line.portion());
            let request = call::request(id, line.items.iter().take(portion));
            let sent = self.client.send(name.as_str(), &request, false);
            match time::timeout(HAND_OVER, sent).await {
                Ok(Ok(())) => {
                    let events = line.items.iter().take(portion).map(|item| item.events().count()).sum();
                    (line.waits, line.called) = (false, portion);
                    let due = Instant::now() + self.hand.consumer.answer_within;
                    self.calls.insert(id, Call { place, events, to: member.map(|member| member.id), due });
                    self.core.counters.consumer_calls.add(1);
                }
                Ok(Err(_)) => {
                    // Not registered, or just going away.
                    self.ready.push_front(place);
                    self.absent = Some(Instant::now() + LOOK);
                    self.show_trouble("is not connected".to_owned());
                }
                Err(_) => self.fail(place, "does not read what it is sent".to_owned()),
            }
        }
    }

    fn show_trouble(&mut self, cause: String) {
        self.trouble = Trouble::Shown;
        self.core.holds.refuse(&self.hand.route, self.hand.consumer.name.as_str(), cause);
    }

    /// Says that the route is served again, once nothing is in vain any more.
    fn show_relief(&mut self) {
        let served = self.trouble == Trouble::Easing && self.absent.is_none() && self.failing == 0;
        if self.trouble != Trouble::None && (served || self.lines.is_empty()) {
            self.trouble = Trouble::None;
            self.core.holds.relent(&self.hand.route);
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
