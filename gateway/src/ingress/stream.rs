//! A connection with a name.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use daemoneye_bridge::trust::VerifiedChain;
use rustls::pki_types::CertificateDer;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    identity::VerifiedPeer,
    ingress::caps::{Declined, Slot},
    session::{http2::Cut, leash::Papers},
    tls::{Protocol, Secured},
};

/// What a peer reads from and writes to.
#[derive(Debug)]
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    protocol: Protocol,
    peer: VerifiedPeer,
    remote: SocketAddr,
    /// What it was admitted on.
    chain: Arc<VerifiedChain>,
    presented: Arc<[CertificateDer<'static>]>,
    /// What may end it, once somebody serves it.
    cut: Option<Cut>,
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
        let protocol = secured.protocol();
        let (chain, presented) = (Arc::clone(secured.chain()), secured.presented().into());
        let (io, remote) = secured.into_parts();
        Self { io, protocol, peer, remote, chain, presented, cut: None, declined, _slot: slot }
    }

    /// What it speaks.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
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

    /// What it was admitted on.
    #[must_use]
    pub fn papers(&self) -> Papers {
        let (chain, presented) = (Arc::clone(&self.chain), Arc::clone(&self.presented));
        Papers { peer: self.peer.clone(), chain, presented }
    }

    /// Takes what may end it. A peer that is cut and does not take its last words finds the connection reset: what waits
    /// to be sent would otherwise keep it open at its end.
    pub fn obey(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        if self.cut.as_ref().is_some_and(Cut::is_abandoned) {
            // A socket that is broken already is closed anyhow.
            let _reset = SockRef::from(self.io.get_ref().0).set_linger(Some(Duration::ZERO));
        }
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
