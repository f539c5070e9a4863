//! A bus client that subscribes and then reads nothing more, or only when told to, by hand: no well-behaved library will do
//! this.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::subscriber::Heard;

/// Holds its connection open and does not read by itself.
#[derive(Debug)]
pub struct Stubborn(UnixStream);

impl Stubborn {
    /// Connects to `socket` as `name` and subscribes to `pattern` (slashed).
    ///
    /// # Errors
    ///
    /// The system's, or "not admitted".
    pub fn connect(socket: &Path, name: &str, pattern: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut greeting = [0; 3];
        stream.read_exact(&mut greeting)?;
        stream.write_all(&greeting)?;
        accepted(&mut stream)?;
        stream.write_all(&u16::try_from(name.len()).map_err(io::Error::other)?.to_le_bytes())?;
        stream.write_all(name.as_bytes())?;
        accepted(&mut stream)?;
        // Frame 1: subscribe (2), quality of service 1 in the upper bits, then the pattern.
        let mut frame = 1_u32.to_le_bytes().to_vec();
        frame.push(2 | 1 << 6);
        frame.extend(u32::try_from(pattern.len()).map_err(io::Error::other)?.to_le_bytes());
        frame.extend(pattern.as_bytes());
        stream.write_all(&frame)?;
        let mut ack = [0; 6];
        stream.read_exact(&mut ack)?;
        Ok(Self(stream))
    }

    /// Reads the next delivery: its sender, its topic if it was published, and its payload. Signs of life are passed over.
    ///
    /// # Errors
    ///
    /// The system's; nothing came for 10 seconds, or the other end has closed the connection.
    pub fn read(&mut self) -> io::Result<Heard> {
        loop {
            let mut head = [0; 6];
            self.0.read_exact(&mut head)?;
            let [kind, length @ .., _] = head;
            if kind == 0 {
                continue;
            }
            let mut body = vec![0; u32::from_le_bytes(length) as usize];
            self.0.read_exact(&mut body)?;
            let mut parts = body.splitn(if kind == 1 { 3 } else { 2 }, |byte| *byte == 0);
            let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
            let sender = text();
            let topic = if kind == 1 { text() } else { String::new() };
            return Ok(Heard { sender, topic, payload: parts.next().unwrap_or_default().to_vec() });
        }
    }

    /// Whether the other end has closed the connection, once everything it had written is read.
    pub fn was_sent_away(mut self) -> bool {
        let mut rest = vec![0; 1 << 16];
        loop {
            match self.0.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

fn accepted(stream: &mut UnixStream) -> io::Result<()> {
    let mut code = [0];
    stream.read_exact(&mut code)?;
    if code == [1] { Ok(()) } else { Err(io::Error::other("not admitted")) }
}
