//! Clients of BUS/RT that come in over TLS: the crate's own, and one by hand.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use busrt::ipc::{Client, Config};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{eventually::soon, peer::Credentials};

/// What a client of BUS/RT offers in ALPN.
pub const ALPN: &[&[u8]] = &[b"busrt/1"];

/// Makes a TLS connection that offers `protocols`.
///
/// # Errors
///
/// Those of the handshake, as the client sees them.
pub async fn dial(
    address: SocketAddr,
    credentials: &Credentials,
    protocols: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = credentials.client_config();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// The crate's own client, over TLS by way of a socket pair: it takes UNIX sockets only.
///
/// # Errors
///
/// The client's, if it is not admitted.
pub async fn client(
    address: SocketAddr,
    credentials: &Credentials,
    name: &str,
) -> Result<Client, busrt::Error> {
    let mut tls = dial(address, credentials, ALPN).await.map_err(busrt::Error::io)?;
    let (near, mut far) = UnixStream::pair().map_err(busrt::Error::io)?;
    tokio::spawn(async move {
        // It ends when either end does.
        let _ended = tokio::io::copy_bidirectional_with_sizes(&mut far, &mut tls, 1 << 16, 1 << 16).await;
    });
    // The path is of no use but must look like one.
    Client::connect_stream(near, &Config::new("/tls.sock", name).timeout(Duration::from_secs(10))).await
}

/// A client by hand, so that it can also speak wrongly.
#[derive(Debug)]
pub struct Hand {
    /// Its connection.
    pub stream: TlsStream<TcpStream>,
}

impl Hand {
    /// Greets as `name` and returns the last answer: 1 lets it in.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub async fn greet(mut stream: TlsStream<TcpStream>, name: &str) -> io::Result<(Self, u8)> {
        let mut opening = [0; 3];
        stream.read_exact(&mut opening).await?;
        stream.write_all(&opening).await?;
        if stream.read_u8().await? != 1 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = u16::try_from(name.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_le_bytes()[..], name.as_bytes()].concat()).await?;
        let answer = stream.read_u8().await?;
        Ok((Self { stream }, answer))
    }

    /// Writes one frame.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub async fn say(&mut self, id: u32, operation: u8, qos: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes();
        let frame = [&id.to_le_bytes()[..], &[operation | qos << 6], &length, body].concat();
        self.stream.write_all(&frame).await
    }

    /// The code of the ack of `id`; what else is heard is passed over.
    ///
    /// # Panics
    ///
    /// If it does not come, or the connection ends first.
    pub async fn ack(&mut self, id: u32) -> u8 {
        loop {
            let mut head = [0; 6];
            soon("an ack", self.stream.read_exact(&mut head)).await.expect("the gateway is there");
            let number = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
            match head[0] {
                0xFE if number == id => return head[5],
                0x00 | 0xFE => {}
                _ => {
                    let mut body = vec![0; usize::try_from(number).expect("64 bits")];
                    self.stream.read_exact(&mut body).await.expect("the gateway is there");
                }
            }
        }
    }

    /// Waits until the gateway has ended the connection.
    ///
    /// # Panics
    ///
    /// If it does not within `bound`.
    pub async fn ended(&mut self, bound: Duration) {
        let mut rest = vec![0; 1 << 16];
        let end = async { while self.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
        time::timeout(bound, end).await.expect("the gateway ends the connection in time");
    }
}
