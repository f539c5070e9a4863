//! Batches that wait: how they are kept back, come back, and try again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    mem,
};

use crate::bus::{
    LaneId, Taken,
    embedded::{
        lane::{Lane, Wait},
        ledger::Pending,
        publisher::Publisher,
    },
};

impl Publisher {
    /// The lane, in which something of the port is going to wait; `None` if the port is no more.
    pub(super) fn enter(&mut self, port: u64, id: LaneId) -> Option<&mut Lane> {
        self.ports.get_mut(&port)?.lanes.insert(id);
        let lane = self.lanes.entry(id).or_default();
        lane.ports.insert(port);
        Some(lane)
    }

    /// Puts a batch to its place among those of its lane, unless something older was withdrawn.
    pub(super) fn keep(&mut self, batch: Pending) {
        if self.broken.bars(batch.lane, batch.order) {
            return batch.tell(Taken::Withdrawn);
        }
        match self.enter(batch.port, batch.lane) {
            Some(lane) => lane.insert(batch),
            None => batch.tell(Taken::Withdrawn),
        }
    }

    /// Puts a batch back where it came from: in front of its lane.
    pub(super) fn keep_back(&mut self, batch: Pending, wait: &Wait) {
        let id = batch.lane;
        self.keep(batch);
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        match wait {
            // Those that come back will wake it.
            Wait::Away => {}
            Wait::Full | Wait::Older | Wait::Settling | Wait::Unheard(_) => drop(self.blocked.insert(id)),
        }
        let held = match wait {
            Wait::Unheard(route) => Some(*route),
            Wait::Settling => lane.held,
            Wait::Away | Wait::Full | Wait::Older => None,
        };
        if lane.held != held {
            let before = mem::replace(&mut lane.held, held);
            self.show_hold(before, held);
        }
    }

    pub(super) fn show_hold(&self, before: Option<usize>, after: Option<usize>) {
        if let Some(pattern) = after.and_then(|route| self.resolver.pattern(route)) {
            self.core.holds.hold(pattern);
        }
        if let Some(pattern) = before.and_then(|route| self.resolver.pattern(route)) {
            self.core.holds.release(pattern);
        }
    }

    /// Takes batches back, and lets all that wait try again; where only consumers gave some back, just their lanes.
    pub(super) async fn take_back(&mut self) {
        let (lost, mut lanes) = self.put_back();
        if lost {
            lanes.extend(mem::take(&mut self.blocked));
        }
        self.attempt(lanes).await;
    }

    /// Takes batches back that were published to members which are gone, or that their consumer has taken, each to its place
    /// in its lane. Returns whether there are some of the former, and the lanes of all.
    pub(super) fn put_back(&mut self) -> (bool, HashSet<LaneId>) {
        let (mut lost, mut lanes) = (0, HashSet::new());
        for mut batch in self.returns.take() {
            lanes.insert(batch.lane);
            if !batch.consumed.arrive() {
                lost += 1;
            } else if let Some(lane) = self.lanes.get_mut(&batch.lane) {
                lane.welcome(batch.order);
            }
            self.keep(batch);
        }
        self.core.counters.resubmitted.add(lost);
        (lost > 0, lanes)
    }

    /// Lets every blocked lane try again.
    pub(super) async fn resume(&mut self) {
        let lanes = mem::take(&mut self.blocked);
        self.attempt(lanes).await;
    }

    /// Lets lanes try again, the oldest batch of all of them first.
    pub(super) async fn attempt(&mut self, lanes: HashSet<LaneId>) {
        let mut groups = Vec::new();
        let mut oldest = BinaryHeap::with_capacity(lanes.len());
        for id in lanes {
            self.queue(id, &mut oldest);
        }
        while let Some(Reverse((_, id))) = oldest.pop() {
            // It may be here twice, if some of its batches came back meanwhile.
            let Some(batch) = self.lanes.get_mut(&id).and_then(|lane| lane.waiting.pop_front()) else {
                continue;
            };
            if let Some((batch, wait)) = self.publish(batch, &mut groups).await {
                self.keep_back(batch, &wait);
                if matches!(wait, Wait::Older) {
                    // To their places, maybe before this one.
                    self.blocked.remove(&id);
                    for returned in self.put_back().1 {
                        self.queue(returned, &mut oldest);
                    }
                    self.queue(id, &mut oldest);
                }
            } else {
                self.queue(id, &mut oldest);
            }
        }
        self.post(groups);
    }

    /// Notes when the oldest batch of a lane came; one in which nothing waits is seen to.
    fn queue(&mut self, id: LaneId, oldest: &mut BinaryHeap<Reverse<(u64, LaneId)>>) {
        match self.lanes.get(&id).map(|lane| lane.waiting.front().map(|batch| batch.order)) {
            Some(Some(order)) => oldest.push(Reverse((order, id))),
            Some(None) => self.empty(id),
            None => {}
        }
    }

    /// Sees to a lane in which nothing waits any more.
    fn empty(&mut self, id: LaneId) {
        self.blocked.remove(&id);
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let (held, away) = (lane.held.take(), lane.is_away());
        self.show_hold(held, None);
        if away {
            return;
        }
        for port in self.lanes.remove(&id).into_iter().flat_map(|lane| lane.ports) {
            if let Some(speaker) = self.ports.get_mut(&port) {
                speaker.lanes.remove(&id);
            }
        }
    }
}
