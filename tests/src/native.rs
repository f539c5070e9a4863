//! Clients of BUS/RT that come in over TLS: the crate's own, and one by hand.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use busrt::ipc::{Client, Config};
use bytes::BytesMut;
use daemoneye_bridge::native::codec::server::{self, Delivery, ServerFrame};
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

/// Bytes of the largest frame that is understood.
const LARGEST: usize = 16 << 20;

/// A client by hand, so that it can also speak wrongly.
#[derive(Debug)]
pub struct Hand {
    /// Its connection.
    pub stream: TlsStream<TcpStream>,
    /// Read, and not understood yet.
    read: BytesMut,
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
        Ok((Self { stream, read: BytesMut::new() }, answer))
    }

    /// Writes one frame.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub async fn say(&mut self, id: u32, operation: u8, qos: u8, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&frame(id, operation, qos, body)).await
    }

    /// The next frame; `None` once the gateway has said its last and closed in order.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of the connection, and an end without a goodbye of TLS is one.
    pub async fn next(&mut self) -> io::Result<Option<ServerFrame>> {
        loop {
            if let Some(frame) = server::decode(&mut self.read, LARGEST).map_err(io::Error::other)? {
                return Ok(Some(frame));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The code of the ack of `id`; what else is heard is passed over.
    ///
    /// # Panics
    ///
    /// If it does not come, or the connection ends first.
    pub async fn ack(&mut self, id: u32) -> u8 {
        loop {
            match soon("an ack", self.next()).await.expect("the gateway is there") {
                Some(ServerFrame::Ack { id: of, code }) if of == id => return code.0,
                Some(_) => {}
                None => panic!("the gateway has closed the connection"),
            }
        }
    }

    /// The next thing that it hears; acks are passed over.
    ///
    /// # Panics
    ///
    /// If it does not come, or the connection ends first.
    pub async fn heard(&mut self) -> Delivery {
        loop {
            match soon("a delivery", self.next()).await.expect("the gateway is there") {
                Some(ServerFrame::Delivery(delivery)) => return delivery,
                Some(_) => {}
                None => panic!("the gateway has closed the connection"),
            }
        }
    }

    /// Waits until the gateway has ended the connection; says whether it did so in order.
    ///
    /// # Panics
    ///
    /// If it does not within `bound`.
    pub async fn ended(&mut self, bound: Duration) -> bool {
        let end = async {
            loop {
                match self.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        };
        time::timeout(bound, end).await.expect("the gateway ends the connection in time")
    }
}

/// One frame of a client, as on the wire.
///
/// # Panics
///
/// If its body is over 4 GiB.
pub fn frame(id: u32, operation: u8, qos: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("tests say little").to_le_bytes();
    [&id.to_le_bytes()[..], &[operation | qos << 6], &length, body].concat()
}
