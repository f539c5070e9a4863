//! A connection with a name.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    identity::VerifiedPeer,
    ingress::caps::{Declined, Slot},
    tls::Secured,
};

/// What a peer reads from and writes to.
#[derive(Debug)]
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    peer: VerifiedPeer,
    remote: SocketAddr,
    declined: Option<Declined>,
    /// One of the connections that there may be; free again when this is dropped.
    _slot: Slot,
}

impl PeerStream {
    pub(super) fn new(
        secured: Secured,
        peer: VerifiedPeer,
        (slot, declined): (Slot, Option<Declined>),
    ) -> Self {
        let (io, remote) = secured.into_parts();
        Self { io, peer, remote, declined, _slot: slot }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// Where the other end is.
    #[must_use]
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Why the peer is to be told that it is not served, if it is not.
    #[must_use]
    pub const fn declined(&self) -> Option<Declined> {
        self.declined
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
