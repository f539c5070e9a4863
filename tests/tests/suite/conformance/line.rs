//! One client's socket, below any codec of ours: bytes out, bytes in.

use std::path::Path;

use daemoneye_tests::eventually::soon;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::UNEXCLUDE;

/// The opening word of version 1.
pub(super) const OPENING: [u8; 3] = [0xEB, 1, 0];

/// Ids from here on are those of fences.
const FENCE: u32 = 0xF000_0000;

/// A client that has its name.
pub(super) struct Line {
    stream: UnixStream,
    buffer: Vec<u8>,
    last: u32,
}

/// A frame of a client.
pub(super) fn frame(id: u32, operation: u8, qos: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("test frames are short").to_le_bytes();
    [&id.to_le_bytes()[..], &[operation | qos << 6], &length, body].concat()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string can be written");
        text
    })
}

impl Line {
    /// Greets, and returns all that the broker said until the client had a name, or was refused.
    pub(super) async fn greet(socket: &Path, opening: [u8; 3], name: &[u8]) -> (String, Option<Self>) {
        let mut stream = UnixStream::connect(socket).await.expect("the broker listens");
        let mut heard = vec![0; 3];
        soon("the opening", stream.read_exact(&mut heard)).await.expect("the broker greets");
        stream.write_all(&opening).await.expect("the broker reads");
        let length = u16::try_from(name.len()).expect("test names are short").to_le_bytes();
        for word in [&[][..], &[&length[..], name].concat()] {
            // The broker may have hung up.
            let _written = stream.write_all(word).await;
            let mut answer = [0];
            if soon("the answer", stream.read_exact(&mut answer)).await.is_err() {
                return (hex(&heard) + " closed", None);
            }
            heard.push(answer[0]);
            if answer[0] != 1 {
                let closed = soon("the end", stream.read(&mut answer)).await.is_ok_and(|count| count > 0);
                return (hex(&heard) + if closed { " goes on" } else { " closed" }, None);
            }
        }
        (hex(&heard), Some(Self { stream, buffer: Vec::new(), last: 0 }))
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        // The broker may have hung up half-way: that is heard.
        let _written = self.stream.write_all(bytes).await;
    }

    /// Asks, and returns what is heard until the broker is through with it.
    pub(super) async fn ask(&mut self, operation: u8, qos: u8, body: &[u8]) -> String {
        self.write(&frame(7, operation, qos, body)).await;
        self.heard().await
    }

    /// All that is heard up to a fence: a frame that means nothing and is answered.
    pub(super) async fn heard(&mut self) -> String {
        self.last += 1;
        let fence = FENCE + self.last;
        self.write(&frame(fence, UNEXCLUDE, 1, b"fence")).await;
        let end = [&[0xFE][..], &fence.to_le_bytes(), &[1]].concat();
        let mut heard = Vec::new();
        loop {
            match self.frame().await {
                Some(frame) if frame == end => return hex(&heard),
                Some(frame) => heard.extend(frame),
                None => return hex(&heard) + " closed",
            }
        }
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> Vec<u8> {
        self.frame().await.expect("the line is open")
    }

    /// The next frame that is no sign of life.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<6>() {
                let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
                let body = if matches!(head[0], 0x00 | 0xFE) { 0 } else { length as usize };
                if self.buffer.len() >= 6 + body {
                    let frame: Vec<u8> = self.buffer.drain(..6 + body).collect();
                    if frame[0] == 0 {
                        continue;
                    }
                    return Some(frame);
                }
            }
            match soon("the broker says something", self.stream.read_buf(&mut self.buffer)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
