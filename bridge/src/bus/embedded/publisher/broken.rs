//! Lanes that have lost a batch.
//!
//! A port that closes takes back what was not taken. What came later of the same lane must not go either, or whoever hears
//! it sees the end of a stream before its middle, which comes again from elsewhere.
//!
//! Kept true: memory is bounded. Who speaks in a lane learns of the loss at once and says no more in it, so that only lanes
//! broken a moment ago matter.

use std::collections::{HashMap, VecDeque};

use crate::bus::LaneId;

/// Lanes that have lost a batch, each with the place of the first.
#[derive(Debug, Default)]
pub(super) struct Broken {
    since: HashMap<LaneId, u64>,
    /// In the order in which they broke.
    order: VecDeque<LaneId>,
}

impl Broken {
    /// Most that are remembered.
    const MOST: usize = 4096;

    /// Notes that the batch of that place was withdrawn.
    pub(super) fn note(&mut self, lane: LaneId, place: u64) {
        if let Some(since) = self.since.get_mut(&lane) {
            *since = place.min(*since);
            return;
        }
        if self.order.len() == Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.since.remove(&oldest);
        }
        self.since.insert(lane, place);
        self.order.push_back(lane);
    }

    /// From where on nothing of the lane may go.
    pub(super) fn since(&self, lane: LaneId) -> Option<u64> {
        self.since.get(&lane).copied()
    }

    /// Whether the batch of that place may not go.
    pub(super) fn bars(&self, lane: LaneId, place: u64) -> bool {
        !self.since.is_empty() && self.since(lane).is_some_and(|since| since <= place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_barred_from_its_first_loss_on_and_the_oldest_is_forgotten() {
        let (mut broken, lanes) = (Broken::default(), [LaneId::new(), LaneId::new()]);
        broken.note(lanes[0], 7);
        broken.note(lanes[0], 5);
        broken.note(lanes[0], 9);
        assert!(!broken.bars(lanes[0], 4) && broken.bars(lanes[0], 5) && !broken.bars(lanes[1], 5));
        for _ in 0..Broken::MOST {
            broken.note(LaneId::new(), 1);
        }
        assert!(!broken.bars(lanes[0], 5));
        assert_eq!((broken.since.len(), broken.order.len()), (Broken::MOST, Broken::MOST));
    }
}
