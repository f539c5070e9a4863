//! What waits to be written to one client, and where tokens stand in it.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use crate::bus::embedded::barrier::Token;

/// Bytes after which a piece is full and the next begins. A piece is written by one call.
const PIECE: usize = 256 << 10;

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Oldest first; only the last one grows. In pieces, so that what is written costs no move of what is not.
    pieces: VecDeque<BytesMut>,
    bytes: usize,
    /// Bytes ever written.
    written: u64,
    /// Tokens, each with the number of bytes that must have been written before it passes.
    tokens: VecDeque<(u64, Token)>,
    /// Where each message ends, in bytes ever written.
    ends: VecDeque<u64>,
    /// An empty piece, kept for its memory.
    spare: BytesMut,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) const fn len(&self) -> usize {
        self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Lets `encode` append to it.
    pub(super) fn append<T>(&mut self, encode: impl FnOnce(&mut BytesMut) -> T) -> T {
        let full = self.pieces.back().is_none_or(|piece| piece.len() >= PIECE);
        if full {
            self.pieces.push_back(std::mem::take(&mut self.spare));
        }
        let Some(piece) = self.pieces.back_mut() else { return encode(&mut BytesMut::new()) };
        let before = piece.len();
        let result = encode(piece);
        self.bytes += piece.len() - before;
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
        self.pieces.front().map_or(&[], |piece| piece)
    }

    /// Notes that so many bytes of [`Self::front`] were written.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(piece) = self.pieces.front_mut() else { return };
        let count = count.min(piece.len());
        piece.advance(count);
        self.bytes -= count;
        self.written += count as u64;
        if piece.is_empty()
            && let Some(mut piece) = self.pieces.pop_front()
        {
            // A piece that one huge frame has blown up is not kept.
            if piece.capacity() <= 2 * PIECE {
                piece.clear();
                self.spare = piece;
            }
        }
        self.pass();
    }

    fn pass(&mut self) {
        while self.ends.pop_front_if(|end| *end <= self.written).is_some() {}
        while self.tokens.front().is_some_and(|(behind, _)| *behind <= self.written) {
            if let Some((_, token)) = self.tokens.pop_front() {
                token.pass();
            }
        }
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
        let mut outbox = Outbox::default();
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
        let mut outbox = Outbox::default();
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
}
