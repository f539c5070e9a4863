//! Where a stream stands on one session: which sequence number must come next.
//!
//! Pure. Kept true: every number is let through once and in order; none above [`MAX_SEQ`] is.

use daemoneye_bridge::event::Seq;
use daemoneye_proto::MAX_SEQ;

use crate::session::status::Fault;

/// Checks that a stream's events follow each other without a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The first number the peer may begin with: what it does not know to be acknowledged.
    floor: Seq,
    /// The first number that the gateway does not have.
    resume: Seq,
    /// What must come next; `None` before the first.
    next: Option<Seq>,
    /// The gateway knows more of the stream than the peer: its fresh events would pass for duplicates.
    overtaken: bool,
}

impl Cursor {
    /// A stream of which the gateway has settled `hwm`, as its peer states it.
    pub(super) fn new(acked: Seq, next: Seq, hwm: Seq) -> Self {
        let resume = acked.max(hwm).saturating_add(1);
        Self { floor: acked.saturating_add(1), resume, next: None, overtaken: resume > next }
    }

    /// Where the peer is told to go on.
    pub(super) const fn resume(&self) -> Seq {
        self.resume
    }

    /// The highest number that has come.
    pub(super) fn received(&self) -> Seq {
        self.next.unwrap_or(self.resume).max(self.resume).saturating_sub(1)
    }

    /// Lets `count` events from `first` on through, and says how many of the first ones are duplicates.
    ///
    /// A peer whose acks were lost may begin anywhere between what it knows and what the gateway has; from then on every
    /// number follows the one before.
    pub(super) fn accept(&mut self, first: Seq, count: u64) -> Result<u64, Fault> {
        if self.overtaken {
            let problem = "the gateway has seen more of this stream than the peer knows; open a new stream";
            return Err(Fault::broken("stream", problem));
        }
        let follows = match self.next {
            None => (self.floor..=self.resume).contains(&first),
            Some(next) => next == first,
        };
        if !follows {
            return Err(Fault::Sequence { expected: self.next.unwrap_or(self.resume), got: first });
        }
        let end = first.checked_add(count).filter(|end| *end <= MAX_SEQ + 1);
        let Some(end) = end else { return Err(Fault::broken("first_seq", "past 2^63 - 1")) };
        self.next = Some(end);
        Ok(self.resume.saturating_sub(first).min(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_each_other_without_a_hole() {
        let mut cursor = Cursor::new(0, 1, 0);
        assert_eq!(cursor.resume(), 1);
        assert_eq!(cursor.accept(1, 10).unwrap(), 0);
        assert_eq!(cursor.accept(11, 1).unwrap(), 0);
        assert_eq!(cursor.received(), 11);
        for got in [0, 11, 13, MAX_SEQ, u64::MAX] {
            assert!(matches!(cursor.accept(got, 1), Err(Fault::Sequence { expected: 12, .. })), "{got}");
        }
    }

    #[test]
    fn what_the_gateway_has_already_is_a_duplicate() {
        let mut cursor = Cursor::new(5, 20, 8);
        assert_eq!(cursor.resume(), 9);
        assert!(cursor.accept(5, 1).is_err(), "the peer knows that 5 is acknowledged");
        assert_eq!(cursor.accept(6, 2).unwrap(), 2);
        assert_eq!(cursor.received(), 8);
        assert_eq!(cursor.accept(8, 4).unwrap(), 1);
        assert_eq!(cursor.accept(12, 4).unwrap(), 0);
    }

    #[test]
    fn a_lost_mark_does_not_go_behind_what_the_peer_knows() {
        assert_eq!(Cursor::new(100, 101, 0).resume(), 101);
    }

    #[test]
    fn a_stream_that_was_overtaken_takes_nothing() {
        let mut restored = Cursor::new(3, 10, 50);
        assert_eq!(restored.resume(), 51);
        assert!(matches!(restored.accept(4, 1), Err(Fault::Broken { field: "stream", .. })));
        let mut even = Cursor::new(3, 10, 9);
        assert_eq!(even.accept(10, 1).unwrap(), 0, "nothing is missing on either side");
    }

    #[test]
    fn no_number_passes_the_highest() {
        let mut cursor = Cursor::new(MAX_SEQ - 2, MAX_SEQ - 1, 0);
        assert_eq!(cursor.accept(MAX_SEQ - 1, 2).unwrap(), 0);
        assert!(cursor.accept(MAX_SEQ + 1, 1).is_err());
        let mut cursor = Cursor::new(MAX_SEQ - 2, MAX_SEQ - 1, 0);
        assert!(cursor.accept(MAX_SEQ - 1, 3).is_err());
        assert!(cursor.accept(MAX_SEQ - 1, u64::MAX).is_err());
    }
}
