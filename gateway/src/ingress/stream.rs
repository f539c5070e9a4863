//! A connection with a name.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use daemoneye_bridge::trust::RefusalReason;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    identity::VerifiedPeer,
    listener::Slot,
    tls::{Refusal, Secured, Stage},
};

/// What a peer reads from and writes to.
#[derive(Debug)]
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    peer: VerifiedPeer,
    remote: SocketAddr,
    /// One of the connections that there may be; free again when this is dropped.
    _slot: Slot,
}

impl PeerStream {
    pub(super) fn new(secured: Secured, peer: VerifiedPeer) -> Result<Self, Refusal> {
        let full = secured.refuse(Stage::Listener, RefusalReason::Full);
        let (io, remote, place) = secured.into_parts();
        let slot = place.claim().map_err(|_full| full)?;
        Ok(Self { io, peer, remote, _slot: slot })
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
