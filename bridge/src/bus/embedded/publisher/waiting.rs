//! Batches that wait: how they are kept back, come back, and try again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    mem,
};

use crate::bus::{
    Taken,
    embedded::{
        lane::{Lane, Wait},
        ledger::Pending,
        publisher::Publisher,
    },
};

impl Publisher {
    /// Puts a batch back where it came from: in front of its lane.
    pub(super) fn keep_back(&mut self, batch: Pending, wait: &Wait) {
        let Some(speaker) = self.ports.get_mut(&batch.port) else {
            return batch.tell(Taken::Withdrawn);
        };
        let lane = speaker.lanes.entry(batch.lane).or_default();
        lane.waiting.push_front(batch);
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
        let (lost, consumed) = self.put_back();
        if lost {
            self.resume().await;
        } else {
            self.attempt(consumed).await;
        }
    }

    /// Takes batches back that were published to members which are gone, or that their consumer has taken, each to its place
    /// in its lane. Returns whether there are some of the former, and the lanes of the latter.
    fn put_back(&mut self) -> (bool, VecDeque<(u64, u64)>) {
        let (mut lost, mut consumed) = (0, VecDeque::new());
        for mut batch in self.returns.take() {
            let at = (batch.port, batch.lane);
            let was_taken = batch.consumed.arrive();
            lost += u64::from(!was_taken);
            let Some(speaker) = self.ports.get_mut(&batch.port) else {
                batch.tell(Taken::Withdrawn);
                continue;
            };
            let lane = speaker.lanes.entry(batch.lane).or_default();
            if was_taken {
                lane.welcome(batch.order);
            }
            lane.insert(batch);
            if was_taken && consumed.back() != Some(&at) {
                consumed.push_back(at);
            } else if !was_taken && !self.blocked.contains(&at) {
                self.blocked.push_back(at);
            }
        }
        self.core.counters.resubmitted.add(lost);
        (lost > 0, consumed)
    }

    /// Lets every blocked lane try again.
    pub(super) async fn resume(&mut self) {
        let places = mem::take(&mut self.blocked);
        self.attempt(places).await;
    }

    /// Lets lanes try again, the oldest batch of all of them first: a stream may speak through several ports.
    async fn attempt(&mut self, places: VecDeque<(u64, u64)>) {
        let mut groups = Vec::new();
        let mut oldest = BinaryHeap::with_capacity(places.len());
        for place in places {
            self.queue(place, &mut oldest);
        }
        while let Some(Reverse((_, place))) = oldest.pop() {
            // It may be here twice, if some of its batches came back meanwhile.
            let Some(batch) = self.lane(place).and_then(|lane| lane.waiting.pop_front()) else { continue };
            if let Some((batch, wait)) = self.publish(batch, &mut groups).await {
                self.keep_back(batch, &wait);
                match wait {
                    // To their places, maybe before this one; all try again, for they have woken the task.
                    Wait::Older => {
                        for consumed in self.put_back().1 {
                            self.queue(consumed, &mut oldest);
                        }
                        self.queue(place, &mut oldest);
                    }
                    // Those that come back will wake it.
                    Wait::Away => {}
                    Wait::Full | Wait::Settling | Wait::Unheard(_) if self.blocked.contains(&place) => {}
                    Wait::Full | Wait::Settling | Wait::Unheard(_) => self.blocked.push_back(place),
                }
            } else {
                self.queue(place, &mut oldest);
            }
        }
        self.post(groups);
    }

    /// Notes when the oldest batch of a lane came; one in which nothing waits is seen to.
    fn queue(&mut self, place: (u64, u64), oldest: &mut BinaryHeap<Reverse<(u64, (u64, u64))>>) {
        match self.lane(place).map(|lane| lane.waiting.front().map(|batch| batch.order)) {
            Some(Some(order)) => oldest.push(Reverse((order, place))),
            Some(None) => self.empty(place),
            None => {}
        }
    }

    /// Sees to a lane in which nothing waits any more.
    fn empty(&mut self, place: (u64, u64)) {
        let Some(lane) = self.lane(place) else { return };
        let (before, away) = (lane.held.take(), lane.is_away());
        self.show_hold(before, None);
        if let Some(speaker) = self.ports.get_mut(&place.0).filter(|_| !away) {
            speaker.lanes.remove(&place.1);
        }
    }

    fn lane(&mut self, (port, lane): (u64, u64)) -> Option<&mut Lane> {
        self.ports.get_mut(&port)?.lanes.get_mut(&lane)
    }
}
