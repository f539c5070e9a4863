//! When a connection ended as its socket saw it, whatever the protocols above it make of that.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};

/// A socket that tells of its end: that nothing more comes, or a reset.
///
/// A client that has heard the last word may let go of its connection before the gateway does; the socket is then read on
/// until the gateway has ended it.
#[derive(Debug)]
pub struct Witness {
    /// There until dropped.
    tcp: Option<TcpStream>,
    /// There until the end.
    tell: Option<mpsc::Sender<Instant>>,
}

impl Witness {
    /// Watches `tcp`; the first end is told.
    pub const fn new(tcp: TcpStream, tell: mpsc::Sender<Instant>) -> Self {
        Self { tcp: Some(tcp), tell: Some(tell) }
    }

    fn ended(&mut self) {
        if let Some(tell) = self.tell.take() {
            // Only the first counts, and nobody may be curious.
            tell.try_send(Instant::now()).unwrap_or_default();
        }
    }

    fn tcp(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.tcp.as_mut().expect("it is there until this is dropped"))
    }
}

impl AsyncRead for Witness {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = ready!(this.tcp().poll_read(cx, buf));
        if read.is_err() || (room > 0 && buf.filled().len() == before) {
            this.ended();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Witness {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.tcp().poll_write(cx, data));
        if written.is_err() {
            this.ended();
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().tcp().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().tcp().poll_shutdown(cx)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let (Some(mut tcp), Some(tell), Ok(runtime)) =
            (self.tcp.take(), self.tell.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        drop(runtime.spawn(async move {
            let mut rest = [0; 1024];
            while tcp.read(&mut rest).await.is_ok_and(|length| length > 0) {}
            tell.try_send(Instant::now()).unwrap_or_default();
        }));
    }
}
