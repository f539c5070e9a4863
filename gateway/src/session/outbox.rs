//! What waits to be told to the peer.
//!
//! A session never waits for its peer to read: words wait here until there is room in the short queue to the wire, and
//! acks are not even made before that, so that many become one. Kept true: at most [`Outbox::MOST`] words wait; when there
//! are as many the session reads nothing that would add to them.

use std::collections::VecDeque;

use daemoneye_proto::v1::{self, link_response::Frame};
use tokio::sync::mpsc;
use tonic::Status;

use crate::session::status::Fault;

/// What the wire takes. Boxed, because a queue has room for 32 at the least, and most sessions are idle most of the time.
pub(super) type Answer = Box<Result<v1::LinkResponse, Status>>;

/// What waits to be told to the peer.
#[derive(Debug)]
pub(super) struct Outbox {
    wire: mpsc::Sender<Answer>,
    words: VecDeque<Frame>,
}

impl Outbox {
    /// Frames in the queue to the wire. Short, so that acks are made late and say much.
    pub(super) const ROOM: usize = 8;

    /// Most words that wait here.
    const MOST: usize = 32;

    pub(super) const fn new(wire: mpsc::Sender<Answer>) -> Self {
        Self { wire, words: VecDeque::new() }
    }

    /// Puts a word in the queue. A later credit replaces an earlier one.
    pub(super) fn say(&mut self, word: Frame) {
        if let (Frame::Credit(_), Some(waiting)) =
            (&word, self.words.iter_mut().find(|waiting| matches!(waiting, Frame::Credit(_))))
        {
            *waiting = word;
            return;
        }
        self.words.push_back(word);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.words.len() >= Self::MOST
    }

    /// Waits for room on the wire.
    ///
    /// Cancel safe.
    pub(super) async fn room(&self) -> Result<(), Fault> {
        self.wire.reserve().await.map(drop).map_err(|_| Fault::Lost)
    }

    /// Sends words, and what `more` gives when there are none, for as long as there is room.
    pub(super) fn send(&mut self, mut more: impl FnMut() -> Option<Frame>) {
        while let Ok(room) = self.wire.try_reserve() {
            let Some(frame) = self.words.pop_front().or_else(&mut more) else { return };
            room.send(Box::new(Ok(v1::LinkResponse { frame: Some(frame) })));
        }
    }

    /// The queue itself, for the last word.
    pub(super) const fn wire(&self) -> &mpsc::Sender<Answer> {
        &self.wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn credit(events: u32) -> Frame {
        Frame::Credit(v1::Credit { events, bytes: 0 })
    }

    #[tokio::test]
    async fn words_go_before_acks_and_only_the_last_credit_counts() {
        let (wire, mut told) = mpsc::channel(Outbox::ROOM);
        let mut outbox = Outbox::new(wire);
        outbox.say(credit(1));
        outbox.say(Frame::Pong(v1::Pong { nonce: 7 }));
        outbox.say(credit(2));
        let mut acks = std::iter::once(Frame::Ack(v1::Ack::default()));
        outbox.send(|| acks.next());
        let mut frames = Vec::new();
        while let Ok(answer) = told.try_recv() {
            frames.extend(answer.unwrap().frame);
        }
        assert!(matches!(
            frames.as_slice(),
            [Frame::Credit(v1::Credit { events: 2, .. }), Frame::Pong(_), Frame::Ack(_)]
        ));
    }

    #[tokio::test]
    async fn what_finds_no_room_waits_and_acks_are_not_made() {
        let (wire, _told) = mpsc::channel(1);
        let mut outbox = Outbox::new(wire);
        outbox.say(credit(1));
        outbox.say(Frame::Pong(v1::Pong { nonce: 7 }));
        outbox.send(|| panic!("an ack was made without room for it"));
        assert!(!outbox.is_empty());
    }
}
