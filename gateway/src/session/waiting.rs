//! A permitted batch that found no room on the bus.
//!
//! It may wait long, and the policy may change meanwhile: what has not reached the bus is judged again.

use daemoneye_bridge::{event::Seq, topic::Topic};

use crate::{
    bus::Outgoing,
    policy::{Denial, Speaker},
    session::{intake::Rejection, stream::Pending},
};

/// A batch that waits for room on the bus.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) stream: usize,
    pub(super) mouth: usize,
    pub(super) pending: Pending,
    pub(super) batch: Outgoing,
}

impl Waiting {
    /// Rejects the events that their speaker may not publish any longer.
    pub(super) fn withhold(&mut self, speaker: &mut Result<Speaker, Denial>) {
        let topics = self.batch.topics();
        let denials: Vec<Option<Rejection>> = match speaker {
            Err(denial) => topics.iter().map(|_| Some(Rejection::from(&*denial))).collect(),
            Ok(speaker) => {
                let mut permit = speaker.permit();
                let denial = |topic: &Topic| speaker.allow(&mut permit, topic.dotted()).err();
                topics.iter().map(denial).map(|denial| denial.as_ref().map(Rejection::from)).collect()
            }
        };
        if denials.iter().all(Option::is_none) {
            return;
        }
        // The numbers of a batch are those up to its last that were not rejected; duplicates came before them.
        let rejected = &mut self.pending.rejected;
        let is_here = |seq: &Seq| rejected.binary_search_by_key(seq, |event| event.seq).is_err();
        let mut seqs: Vec<Seq> =
            (0..=self.pending.last).rev().filter(is_here).take(self.batch.len()).collect();
        seqs.reverse();
        let denial = |topic: usize| denials.get(topic).and_then(Option::as_ref);
        for (place, topic) in self.batch.withhold(|topic| denial(topic).is_none()) {
            if let (Some(seq), Some(denial)) = (seqs.get(place), denial(topic)) {
                rejected.push(denial.clone().of(*seq));
            }
        }
        rejected.sort_unstable_by_key(|event| event.seq);
    }
}
