//! Bytes of one connection: what was read and not decoded, what waits to be written.
//!
//! Both directions are moved in one place, so that neither waits for the other. What is written is put together into pieces; a
//! large payload is a piece of its own and is written from where it lies.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Bytes read at once.
const READ: usize = 64 << 10;

/// A payload of so many bytes is not copied.
const LARGE: usize = 8 << 10;

/// Bytes after which a piece is full.
const PIECE: usize = 64 << 10;

/// Pieces written by one call.
const VECTORED: usize = 16;

/// One connection.
pub(super) struct Wire<I> {
    io: I,
    /// Read, and not decoded.
    pub(super) read: BytesMut,
    /// Full, oldest first.
    pieces: VecDeque<Bytes>,
    /// Being filled.
    last: BytesMut,
    waiting: usize,
    /// Whether what was written may still wait below.
    unflushed: bool,
}

/// What moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// The peer has said its last.
    End,
    /// Something was read.
    Read,
    /// Something was written.
    Written,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Wire<I> {
    pub(super) fn new(io: I) -> Self {
        let (read, last) = (BytesMut::new(), BytesMut::new());
        Self { io, read, pieces: VecDeque::new(), last, waiting: 0, unflushed: false }
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting + self.last.len()
    }

    /// Whether everything was written.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting() == 0 && !self.unflushed
    }

    /// Lets `encode` append to what is written.
    pub(super) fn append<T>(&mut self, encode: impl FnOnce(&mut BytesMut) -> T) -> T {
        if self.last.len() >= PIECE {
            self.close_piece();
        }
        encode(&mut self.last)
    }

    /// Appends a payload, by reference if it is large.
    pub(super) fn append_payload(&mut self, payload: &Bytes) {
        if payload.len() < LARGE {
            self.last.extend_from_slice(payload);
            return;
        }
        self.close_piece();
        self.waiting += payload.len();
        self.pieces.push_back(payload.clone());
    }

    fn close_piece(&mut self) {
        if !self.last.is_empty() {
            self.waiting += self.last.len();
            self.pieces.push_back(self.last.split().freeze());
        }
    }

    /// Writes what waits, and reads if `may_read`, whichever goes first.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub(super) async fn moved(&mut self, may_read: bool) -> io::Result<Moved> {
        self.close_piece();
        poll_fn(|cx| self.poll_moved(cx, may_read)).await
    }

    fn poll_moved(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<io::Result<Moved>> {
        // Writing first: as long as the peer takes bytes, they make room for more.
        if !self.is_idle()
            && let Poll::Ready(written) = self.poll_write(cx)
        {
            return Poll::Ready(written.map(|()| Moved::Written));
        }
        if !may_read {
            return Poll::Pending;
        }
        self.read.reserve(READ);
        let read = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?;
        Poll::Ready(Ok(if read == 0 { Moved::End } else { Moved::Read }))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = Pin::new(&mut self.io);
        if self.waiting == 0 {
            ready!(io.poll_flush(cx))?;
            self.unflushed = false;
            return Poll::Ready(Ok(()));
        }
        let mut slices = [IoSlice::new(&[]); VECTORED];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let mut written = ready!(io.as_mut().poll_write_vectored(cx, slices.get(..count).unwrap_or(&[])))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.waiting = self.waiting.saturating_sub(written);
        while written > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let step = written.min(piece.len());
            piece.advance(step);
            written -= step;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads without waiting; whether there was something.
    pub(super) async fn more(&mut self) -> bool {
        poll_fn(|cx| {
            self.read.reserve(READ);
            let read = pin!(self.io.read_buf(&mut self.read)).poll(cx);
            // An end or an error is met again by whoever waits.
            Poll::Ready(matches!(read, Poll::Ready(Ok(count)) if count > 0))
        })
        .await
    }

    /// Writes what is left and says goodbye.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.close_piece();
        while !self.is_idle() {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await
    }

    /// Reads exactly so many bytes; for the greeting.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub(super) async fn exactly<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.io.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// The same for a length that is known at run time and bounded by the caller.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub(super) async fn some(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.io.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Writes all that waits.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.close_piece();
        while !self.is_idle() {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_in_order_however_large() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut wire = Wire::new(near);
        let mut random = fastrand::Rng::with_seed(3);
        let mut sent = Vec::new();
        for _ in 0..200 {
            let payload: Bytes = (0..random.usize(..20_000)).map(|_| random.u8(..)).collect();
            wire.append(|into| into.extend_from_slice(b"head"));
            wire.append_payload(&payload);
            sent.extend_from_slice(b"head");
            sent.extend_from_slice(&payload);
        }
        assert_eq!(wire.waiting(), sent.len());
        let reading = async {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        };
        let (written, got) = tokio::join!(wire.finish(), reading);
        written.unwrap();
        assert!(sent == got);
    }
}
