//! A peer that has stopped reading and sends PINGs: HTTP/2 by hand, because no well-behaved library will do this.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::AsyncWriteExt,
    net::TcpSocket,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_rustls::TlsConnector;

use crate::peer::Credentials;

/// Sends PINGs and never reads an answer.
#[derive(Debug)]
pub struct Blocked {
    written: Arc<AtomicU64>,
    /// Ends when the connection has.
    pinging: JoinHandle<Instant>,
}

/// The preface of HTTP/2 with empty settings, as in RFC 9113, 3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of type PING (RFC 9113, 6.7).
pub(crate) const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";

impl Blocked {
    /// Connects, and begins to send.
    ///
    /// # Errors
    ///
    /// The system's, or that of TLS.
    pub async fn connect(credentials: &Credentials, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // The less it takes, the sooner the gateway is stuck.
        socket.set_recv_buffer_size(4096)?;
        let tcp = socket.connect(address).await?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(credentials.client_config()));
        let mut stream = connector.connect(name, tcp).await?;
        stream.write_all(PREFACE).await?;
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let pinging = tokio::spawn(async move {
            let pings = PING.repeat(64);
            while stream.write_all(&pings).await.is_ok() && stream.flush().await.is_ok() {
                count.fetch_add(1, Relaxed);
            }
            Instant::now()
        });
        Ok(Self { written, pinging })
    }

    /// Waits until neither side gets anything through any more.
    ///
    /// # Panics
    ///
    /// If the connection ends before.
    pub async fn stuck(&self) {
        let mut before = u64::MAX;
        loop {
            let now = self.written.load(Relaxed);
            assert!(!self.pinging.is_finished(), "the connection ended by itself");
            if now == before {
                return;
            }
            before = now;
            time::sleep(STILL).await;
        }
    }

    /// Waits until the connection has ended, and says when.
    ///
    /// # Panics
    ///
    /// If that takes longer than `bound`.
    pub async fn ended(self, bound: Duration) -> Instant {
        time::timeout(bound, self.pinging).await.expect("the connection ends").expect("it does not panic")
    }
}

/// Nothing written for so long is stuck.
const STILL: Duration = Duration::from_millis(500);
