//! One connection to the broker: the greeting, frames out of a buffer and into one.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time,
};

use crate::native::codec::{
    Code, CodecError, client, greeting,
    server::{self, ServerFrame},
};

/// Room made before a read. An idle connection keeps no more than this.
const READ: usize = 16 << 10;

/// Buffers that have grown beyond this are given back once they are empty.
const KEEP: usize = 256 << 10;

/// A connection that the broker knows by name.
#[derive(Debug)]
pub(super) struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: BytesMut,
    /// What is still to be written.
    pub(super) output: BytesMut,
    /// Bytes of a delivery that are dropped as they come.
    skip: usize,
    /// Whether anything was written since the last ping was due.
    spoke: bool,
}

/// What an exchange was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchanged {
    Read,
    Written,
}

/// Connects and registers `name`, within `timeout` in all.
pub(super) async fn dial(path: &Path, name: &str, timeout: Duration) -> Result<Connection, DialError> {
    let greeted = time::timeout(timeout, async {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| DialError::Connect { path: path.to_owned(), source })?;
        greet(stream, name).await
    });
    greeted.await.unwrap_or(Err(DialError::Silent))
}

async fn greet(mut stream: UnixStream, name: &str) -> Result<Connection, DialError> {
    let mut opening = [0; greeting::OPENING];
    stream.read_exact(&mut opening).await?;
    greeting::judge(opening)?;
    stream.write_all(&greeting::opening()).await?;
    agree(&mut stream, name).await?;
    let mut output = BytesMut::new();
    greeting::put_name(&mut output, name)?;
    stream.write_all_buf(&mut output).await?;
    agree(&mut stream, name).await?;
    let (reader, writer) = stream.into_split();
    Ok(Connection { reader, writer, input: BytesMut::new(), output, skip: 0, spoke: true })
}

async fn agree(stream: &mut UnixStream, name: &str) -> Result<(), DialError> {
    match Code(stream.read_u8().await?) {
        Code::OK => Ok(()),
        Code::BUSY => Err(DialError::Taken { name: name.into() }),
        code => Err(DialError::Refused { name: name.into(), code }),
    }
}

impl Connection {
    /// Waits until there is something to read or to have been written, and does it.
    ///
    /// Cancel safe: what was read is kept, what was written is gone from the output.
    pub(super) async fn exchange(&mut self) -> Result<Exchanged, LinkError> {
        let Self { reader, writer, input, output, spoke, .. } = self;
        input.reserve(READ);
        tokio::select! {
            // First: a broker that never stops talking must not keep us from speaking.
            biased;
            written = write(writer, output), if !output.is_empty() => {
                *spoke = true;
                written.map(|()| Exchanged::Written)
            }
            read = reader.read_buf(input) => match read {
                Ok(0) => Err(LinkError::Closed),
                Ok(_) => Ok(Exchanged::Read),
                Err(source) => Err(LinkError::Io(source)),
            }
        }
    }

    /// Writes some of the output; waits for ever if there is none. Reads nothing.
    ///
    /// Cancel safe: what was written is gone from the output.
    pub(super) async fn write(&mut self) -> Result<(), LinkError> {
        if self.output.is_empty() {
            return std::future::pending().await;
        }
        self.spoke = true;
        write(&mut self.writer, &mut self.output).await
    }

    /// Adds a sign of life, unless something was written since the last call or still is to be.
    pub(super) fn ping(&mut self) {
        if !self.spoke && self.output.is_empty() {
            client::ping(&mut self.output);
        }
        self.spoke = false;
    }

    /// The next whole frame that was read. A delivery of more than `most` bytes is dropped as it comes, however long.
    pub(super) fn frame(&mut self, most: usize) -> Result<Option<ServerFrame>, LinkError> {
        loop {
            let dropped = self.skip.min(self.input.len());
            self.input.advance(dropped);
            self.skip -= dropped;
            if self.skip > 0 {
                return Ok(None);
            }
            match server::delivery_length(&self.input) {
                Some(length) if length > most => self.skip = length,
                _ => break,
            }
        }
        let frame = server::decode(&mut self.input, most)?;
        if self.input.is_empty() && self.input.capacity() > KEEP {
            self.input = BytesMut::new();
        }
        Ok(frame)
    }
}

async fn write(writer: &mut OwnedWriteHalf, output: &mut BytesMut) -> Result<(), LinkError> {
    if writer.write_buf(output).await.map_err(LinkError::Io)? == 0 {
        return Err(LinkError::Closed);
    }
    if output.is_empty() && output.capacity() > KEEP {
        *output = BytesMut::new();
    }
    Ok(())
}

/// Why the broker could not be entered.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// No connection.
    #[error("could not connect to broker socket {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Lost while greeting.
    #[error("the broker broke off the greeting")]
    Io(#[from] io::Error),
    /// Lost before it was ready.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Not a broker.
    #[error("the broker's greeting makes no sense")]
    Protocol(#[from] CodecError),
    /// Not let in.
    #[error("the broker refused the name `{name}`: {code}")]
    Refused { name: Box<str>, code: Code },
    /// Accepted, and said nothing.
    #[error("the broker did not greet in time")]
    Silent,
    /// The name is in use.
    #[error("another client of the broker has the name `{name}`")]
    Taken { name: Box<str> },
}

impl DialError {
    /// Whether another client has the name.
    pub(super) const fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    /// Whether the broker itself is missing, whoever asks.
    pub(super) const fn is_away(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Io(_) | Self::Silent)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The broker closed it.
    #[error("the broker closed the connection")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection to the broker failed")]
    Io(#[source] io::Error),
    /// What the broker says makes no sense.
    #[error("the broker broke the protocol")]
    Protocol(#[from] CodecError),
    /// The broker does not take what it is sent.
    #[error("the broker refused a frame: {0}")]
    Refused(Code),
    /// No answer within the deadline.
    #[error("the broker did not confirm in time")]
    Unconfirmed,
}
