//! What waits to be written to one client, and where tokens stand in it.

use std::{collections::VecDeque, time::SystemTime};

use bytes::{Buf, BytesMut};

use crate::{
    bus::{door::slow::Gap, embedded::barrier::Token},
    native::codec::server,
};

/// Bytes after which a piece is full and the next begins, unless the outbox is small. A piece is written by one call.
const PIECE: usize = 256 << 10;

/// Bytes of a piece at least.
const SMALL_PIECE: usize = 4 << 10;

/// What waits to be written.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Oldest first; only the last one grows. In pieces of whole frames, so that what is written costs no move of what is
    /// not, and what is dropped neither.
    pieces: VecDeque<Piece>,
    /// Bytes after which a piece is full.
    piece: usize,
    bytes: usize,
    /// Bytes ever written.
    written: u64,
    /// Tokens, each with the number of bytes that must have been written before it passes.
    tokens: VecDeque<(u64, Token)>,
    /// Where each message ends, in bytes ever written.
    ends: VecDeque<u64>,
    /// Messages written to the end.
    delivered: u64,
    /// An empty piece, kept for its memory.
    spare: BytesMut,
}

/// Whole frames.
#[derive(Debug, Default)]
struct Piece {
    bytes: BytesMut,
    /// That something was dropped before what follows, and where the record of it begins.
    gap: Option<(Gap, usize)>,
}

impl Outbox {
    /// An outbox that is to hold so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            piece: (most / 8).clamp(SMALL_PIECE, PIECE),
            bytes: 0,
            written: 0,
            tokens: VecDeque::new(),
            ends: VecDeque::new(),
            delivered: 0,
            spare: BytesMut::new(),
        }
    }

    /// Messages written to the end.
    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes that wait.
    pub(super) const fn len(&self) -> usize {
        self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Lets `encode` append to it.
    pub(super) fn append<T>(&mut self, encode: impl FnOnce(&mut BytesMut) -> T) -> T {
        let full =
            self.pieces.back().is_none_or(|piece| piece.bytes.len() >= self.piece || piece.gap.is_some());
        if full {
            self.pieces.push_back(Piece { bytes: std::mem::take(&mut self.spare), gap: None });
        }
        let Some(Piece { bytes, .. }) = self.pieces.back_mut() else { return encode(&mut BytesMut::new()) };
        let before = bytes.len();
        let result = encode(bytes);
        self.bytes += bytes.len() - before;
        result
    }

    /// Appends a message.
    pub(super) fn deliver<E>(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        self.append(encode)?;
        self.ends.push_back(self.written + self.bytes as u64);
        Ok(())
    }

    /// Messages that have not been written to the end.
    pub(super) fn undelivered(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Places tokens behind all that waits; those with nothing before them pass.
    pub(super) fn place(&mut self, tokens: impl Iterator<Item = Token>) {
        let behind = self.written + self.bytes as u64;
        self.tokens.extend(tokens.map(|token| (behind, token)));
        self.pass();
    }

    /// What to write next.
    pub(super) fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece.bytes)
    }

    /// Notes that so many bytes of [`Self::front`] were written.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(Piece { bytes: piece, .. }) = self.pieces.front_mut() else { return };
        let count = count.min(piece.len());
        piece.advance(count);
        self.bytes -= count;
        self.written += count as u64;
        if piece.is_empty()
            && let Some(Piece { bytes: mut piece, .. }) = self.pieces.pop_front()
        {
            // A piece that one huge frame has blown up is not kept.
            if piece.capacity() <= 2 * PIECE {
                piece.clear();
                self.spare = piece;
            }
        }
        self.pass();
    }

    /// Drops the oldest published messages and broadcasts until at most `most` bytes wait, as far as that is possible, and
    /// puts a record of the hole where they were; returns how many. Acks and what was sent by name stay. No token may
    /// stand in it.
    pub(super) fn shed(&mut self, most: usize, now: SystemTime) -> u64 {
        // The first piece may be written in part, and then ends in the middle of a frame.
        let first = self.written + self.front().len() as u64;
        let (mut kept, mut gap) = (Sifted::default(), Gap { dropped: 0, since: now });
        let (mut removed, mut dropped) = (0, 0);
        while self.bytes > most
            && let Some(piece) = self.pieces.remove(1)
        {
            self.bytes -= piece.bytes.len();
            removed += piece.bytes.len() as u64;
            let told = piece.gap.map(|(earlier, record)| {
                gap = Gap { dropped: gap.dropped + earlier.dropped, since: earlier.since.min(gap.since) };
                record
            });
            dropped += kept.sift(piece.bytes.get(..told.unwrap_or(piece.bytes.len())).unwrap_or_default());
        }
        if removed == 0 {
            return 0;
        }
        gap.dropped += dropped;
        let record = kept.bytes.len();
        gap.tell(&mut kept.bytes);
        let length = kept.bytes.len() as u64;
        let later = self.ends.iter().filter(|end| **end > first + removed).map(|end| end - removed + length);
        let early = self.ends.iter().filter(|end| **end <= first).copied();
        self.ends = early.chain(kept.ends.iter().map(|end| first + end)).chain(later).collect();
        self.bytes += kept.bytes.len();
        self.pieces.insert(1.min(self.pieces.len()), Piece { bytes: kept.bytes, gap: Some((gap, record)) });
        dropped
    }

    fn pass(&mut self) {
        while self.ends.pop_front_if(|end| *end <= self.written).is_some() {
            self.delivered += 1;
        }
        while self.tokens.front().is_some_and(|(behind, _)| *behind <= self.written) {
            if let Some((_, token)) = self.tokens.pop_front() {
                token.pass();
            }
        }
    }
}

/// What stays of pieces that are dropped.
#[derive(Debug, Default)]
struct Sifted {
    bytes: BytesMut,
    /// Where each message ends.
    ends: Vec<u64>,
}

impl Sifted {
    /// Keeps of whole frames what must not be dropped; returns how many messages are.
    fn sift(&mut self, mut frames: &[u8]) -> u64 {
        let mut dropped = 0;
        while let Some(kind) = frames.first() {
            let message = server::delivery_length(frames);
            let (frame, rest) = frames.split_at(message.unwrap_or(server::HEAD).min(frames.len()));
            frames = rest;
            if message.is_some() && *kind != server::Kind::Message as u8 {
                dropped += 1;
                continue;
            }
            self.bytes.extend_from_slice(frame);
            if message.is_some() {
                self.ends.push(self.bytes.len() as u64);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use bytes::BufMut;

    use super::*;
    use crate::bus::embedded::barrier::{Barrier, Outcome};

    struct Count(Arc<AtomicUsize>);

    impl Outcome for Count {
        fn settle(&self, passed: &[u64]) {
            assert_eq!(passed.len(), 1);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn token(count: &Arc<AtomicUsize>) -> std::iter::Once<Token> {
        std::iter::once(Barrier::raise(Count(Arc::clone(count))).1)
    }

    #[test]
    fn a_token_passes_when_every_byte_before_it_is_written() {
        let count = Arc::default();
        let mut outbox = Outbox::new(1 << 20);
        outbox.place(token(&count));
        assert_eq!(count.load(Ordering::Relaxed), 1, "nothing was before it");
        outbox.append(|into| into.put_slice(b"12345"));
        outbox.place(token(&count));
        outbox.append(|into| into.put_slice(b"678"));
        outbox.advance(4);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        outbox.advance(1);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_eq!((outbox.front(), outbox.len()), (&b"678"[..], 3));
    }

    #[test]
    fn what_comes_out_is_what_went_in_over_many_pieces() {
        let mut outbox = Outbox::new(1 << 20);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..400 {
            let length = random.usize(..9000);
            let frame: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            outbox.append(|into| into.put_slice(&frame));
            sent.extend_from_slice(&frame);
            let take = random.usize(..=outbox.front().len());
            got.extend_from_slice(&outbox.front()[..take]);
            outbox.advance(take);
        }
        while !outbox.is_empty() {
            got.extend_from_slice(outbox.front());
            outbox.advance(outbox.front().len());
        }
        assert!(sent == got);
        assert!(outbox.pieces.is_empty());
    }

    /// All that is in it, decoded.
    fn drain(outbox: &mut Outbox) -> Vec<(String, Vec<u8>)> {
        let (mut wire, mut seen) = (BytesMut::new(), Vec::new());
        while !outbox.is_empty() {
            wire.extend_from_slice(outbox.front());
            outbox.advance(outbox.front().len());
        }
        while let Some(frame) = server::decode(&mut wire, 1 << 20).unwrap() {
            match frame {
                server::ServerFrame::Delivery(delivery) => {
                    let what = format!("{:?} {}", delivery.kind, delivery.topic.as_str());
                    seen.push((what, delivery.payload.to_vec()));
                }
                server::ServerFrame::Ack { id, .. } => {
                    seen.push(("ack".to_owned(), vec![u8::try_from(id).unwrap()]));
                }
                server::ServerFrame::Ping => seen.push(("ping".to_owned(), Vec::new())),
            }
        }
        assert!(wire.is_empty());
        seen
    }

    fn put(outbox: &mut Outbox, kind: server::Kind, payload: &[u8]) {
        let envelope = server::Envelope { kind, realtime: false, sender: "s", topic: "t" };
        outbox.deliver(|into| server::deliver(into, &envelope, &[payload])).unwrap();
    }

    #[test]
    fn what_is_shed_is_the_oldest_and_is_told_where_it_was() {
        const MOST: usize = 64 << 10;
        let mut outbox = Outbox::new(MOST);
        let mut dropped = 0;
        let mut sheds = 0;
        for n in 0..400_u32 {
            put(&mut outbox, server::Kind::Publish, &[&n.to_le_bytes()[..], &[0; 1000]].concat());
            if n == 20 {
                outbox.append(|into| server::ack(into, 7, crate::native::codec::Code::OK));
                put(&mut outbox, server::Kind::Message, b"by name");
            }
            if n == 2 {
                // The first piece has been begun, in the middle of a frame.
                outbox.advance(1500);
            }
            if outbox.len() > MOST {
                dropped += outbox.shed(MOST / 2, SystemTime::UNIX_EPOCH);
                sheds += 1;
                assert!(outbox.len() <= MOST / 2 + 200);
            }
        }
        assert!(sheds > 3 && dropped > 200, "{sheds} {dropped}");
        let undelivered = outbox.undelivered();
        let (delivered, head) = (outbox.delivered(), outbox.front().len());
        assert_eq!(delivered, 1);
        // The rest of the frame that was begun.
        outbox.advance(1014 * 2 - 1500);
        assert!(head > 0);
        let seen = drain(&mut outbox);
        assert_eq!(undelivered, 400 + 1 - 1 - dropped, "one was written to the end");
        assert_eq!(outbox.delivered(), 401 - dropped);
        let place = |what: &str| seen.iter().position(|(seen, _)| seen == what).unwrap();
        let record = place("Publish daemoneye/gap");
        let told = String::from_utf8(seen[record].1.clone()).unwrap();
        assert_eq!(told, format!("{{\"dropped\":{dropped},\"since_unix_ms\":0}}"));
        assert!(place("ack") < record && place("Message ") < record, "they stay, in front of the record");
        let numbers: Vec<u32> = seen
            .iter()
            .filter(|(what, _)| what == "Publish t")
            .map(|(_, payload)| u32::from_le_bytes(payload[..4].try_into().unwrap()))
            .collect();
        let jumps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert_eq!(jumps.len(), 1, "one hole: {jumps:?}");
        assert_eq!(u64::from(jumps[0][1] - jumps[0][0] - 1), dropped);
        assert_eq!(seen[record + 1].1[..4], jumps[0][1].to_le_bytes());
        assert_eq!(numbers.last(), Some(&399));
    }

    #[test]
    fn what_must_stay_is_not_shed() {
        let mut outbox = Outbox::new(0);
        for _ in 0..100 {
            put(&mut outbox, server::Kind::Message, &[1; 1000]);
        }
        assert_eq!(outbox.shed(1000, SystemTime::now()), 0);
        assert_eq!(outbox.undelivered(), 100);
        let seen = drain(&mut outbox);
        assert_eq!(seen.iter().filter(|(what, _)| what == "Message ").count(), 100);
    }
}
