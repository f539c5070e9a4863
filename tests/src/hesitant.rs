//! A peer that shows its certificate, and hesitates to prove that it is its own.
//!
//! Whatever changes in the meantime changes between the gateway's verdict on the certificate and the registration of the
//! connection: the instant that a careless gateway forgets.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConnection, pki_types::ServerName};
use tokio::time::Instant;

use crate::{
    blocked::{PING, PREFACE},
    peer::Credentials,
    within,
};

/// One in the middle of its handshake, or after it.
#[derive(Debug)]
pub struct Hesitant {
    tcp: TcpStream,
    connection: ClientConnection,
    /// The end of its last flight.
    withheld: Vec<u8>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is connected.
    In,
    /// It was sent away, so long after it went on.
    Out(Duration),
}

/// Bytes of a record, so few that the last one of the flight holds nothing of the certificate: behind that come its
/// signature, of 70 bytes or more, and the end of the handshake, of 36 or more (RFC 8446, 4.4).
const RECORD: usize = 64;

/// Who hears nothing more for so long is in: who is cut is gone within 100 ms.
const QUIET: Duration = Duration::from_millis(600);

impl Hesitant {
    /// Shakes hands up to the last record of its proof. Blocking, but for milliseconds.
    ///
    /// # Errors
    ///
    /// The system's, or that of TLS.
    pub fn connect(credentials: &Credentials, address: SocketAddr) -> io::Result<Self> {
        let mut config = credentials.client_config();
        config.max_fragment_size = Some(RECORD);
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
        // When it is over for this side, its own last flight has not been sent.
        while connection.is_handshaking() {
            while connection.wants_write() {
                connection.write_tls(&mut tcp)?;
            }
            if connection.read_tls(&mut tcp)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            connection.process_new_packets().map_err(io::Error::other)?;
        }
        let mut flight = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut flight)?;
        }
        let withheld = flight.split_off(last_record(&flight));
        tcp.write_all(&flight)?;
        Ok(Self { tcp, connection, withheld })
    }

    /// Waits until the gateway has read what was sent: it judges a certificate as soon as it has read it.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn heard(&self) {
        let [own, gateway] = [self.tcp.local_addr(), self.tcp.peer_addr()]
            .map(|address| format!(":{:04X}", address.expect("it is connected").port()));
        within(Duration::from_secs(10), "the gateway reads", || {
            let table = fs::read_to_string("/proc/net/tcp").expect("Linux shows its connections");
            let mut sides = table.lines().filter_map(|line| {
                let [_, local, remote, _, queues, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
                else {
                    return None;
                };
                let is_ours = |here: &str, there: &str| local.ends_with(here) && remote.ends_with(there);
                (is_ours(&own, &gateway) || is_ours(&gateway, &own)).then(|| queues == "00000000:00000000")
            });
            // This side has nothing left to send, and that one nothing to read.
            sides.next() == Some(true) && sides.next() == Some(true)
        })
        .await;
    }

    /// Proves who it is after all, begins to speak HTTP/2, and waits for what comes of it.
    ///
    /// # Errors
    ///
    /// The system's, or that of TLS, other than the end of the connection.
    ///
    /// # Panics
    ///
    /// If the task is cancelled.
    pub async fn go_on(self) -> io::Result<Fate> {
        tokio::task::spawn_blocking(move || self.prove()).await.expect("it does not panic")
    }

    fn prove(mut self) -> io::Result<Fate> {
        let begun = Instant::now();
        self.tcp.set_read_timeout(Some(QUIET))?;
        self.tcp.write_all(&self.withheld)?;
        let mut stream = rustls::Stream::new(&mut self.connection, &mut self.tcp);
        let spoken = stream.write_all(&[PREFACE, PING].concat());
        let heard = spoken.and_then(|()| {
            loop {
                match stream.read(&mut [0; 1024]) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        });
        match heard {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Fate::In),
            Ok(()) => Ok(Fate::Out(begun.elapsed())),
            Err(error) if is_end(&error) => Ok(Fate::Out(begun.elapsed())),
            Err(error) => Err(error),
        }
    }
}

/// Whether the other end has gone, politely or not.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Where the last record begins: each has a head of five bytes that ends in its length (RFC 8446, 5.1).
fn last_record(flight: &[u8]) -> usize {
    let (mut last, mut next) = (0, 0);
    while let Some([_, _, _, high, low]) = flight.get(next..next + 5) {
        (last, next) = (next, next + 5 + usize::from(u16::from_be_bytes([*high, *low])));
    }
    last
}
