//! Frames to bytes and back, for both sides of a connection; no sockets.
//!
//! Kept true: a length that the peer wrote is compared with a bound before anything is allocated for it, and what decodes
//! encodes to the same bytes.

use std::{fmt, hash, str};

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub mod client;
pub mod greeting;
pub mod server;

/// Whether a frame wants an answer, and whether it may wait in a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// No answer.
    #[default]
    No,
    /// Answered when the broker has processed it.
    Processed,
    /// No answer; written at once.
    Realtime,
    /// Answered; written at once.
    RealtimeProcessed,
}

impl Qos {
    /// Whether the sender waits for an ack.
    #[must_use]
    pub const fn needs_ack(self) -> bool {
        matches!(self, Self::Processed | Self::RealtimeProcessed)
    }

    /// Whether the frame must not wait in a buffer.
    #[must_use]
    pub const fn is_realtime(self) -> bool {
        matches!(self, Self::Realtime | Self::RealtimeProcessed)
    }

    const fn bits(self) -> u8 {
        match self {
            Self::No => 0,
            Self::Processed => 1,
            Self::Realtime => 2,
            Self::RealtimeProcessed => 3,
        }
    }

    const fn of_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::No,
            1 => Self::Processed,
            2 => Self::Realtime,
            _ => Self::RealtimeProcessed,
        }
    }
}

/// The result byte of an ack or of a greeting's step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

impl Code {
    /// Done.
    pub const OK: Self = Self(0x01);
    /// Nobody of that name is registered.
    pub const NOT_REGISTERED: Self = Self(0x71);
    /// The frame's contents are wrong.
    pub const DATA: Self = Self(0x72);
    /// Input or output failed.
    pub const IO: Self = Self(0x73);
    /// Something else failed.
    pub const OTHER: Self = Self(0x74);
    /// Not known here.
    pub const NOT_SUPPORTED: Self = Self(0x75);
    /// Taken, or too busy.
    pub const BUSY: Self = Self(0x76);
    /// The addressee did not get it.
    pub const NOT_DELIVERED: Self = Self(0x77);
    /// Too late.
    pub const TIMEOUT: Self = Self(0x78);
    /// Not allowed.
    pub const ACCESS: Self = Self(0x79);

    /// What it says, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::OK => "ok",
            Self::NOT_REGISTERED => "client not registered",
            Self::DATA => "data error",
            Self::IO => "input or output error",
            Self::NOT_SUPPORTED => "not supported",
            Self::BUSY => "busy",
            Self::NOT_DELIVERED => "not delivered",
            Self::TIMEOUT => "timed out",
            Self::ACCESS => "access denied",
            _ => "error",
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({:#04x}, {})", self.0, self.meaning())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x})", self.meaning(), self.0)
    }
}

/// A name, topic or mask as it came off the wire: UTF-8 without NUL, sharing the frame's memory.
#[derive(Clone, Default)]
pub struct Text(Bytes);

impl Text {
    fn new(bytes: Bytes) -> Result<Self, CodecError> {
        str::from_utf8(&bytes).map_err(|_| CodecError::NotText)?;
        Ok(Self(bytes))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked by `new`; checking again costs less than a copy of its own would.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As bytes, for comparing with what was seen before.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Text {}

impl hash::Hash for Text {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// What breaks the wire. After any of these the connection cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A frame, name or part of one that is longer than allowed.
    #[error("a length of {length} bytes is over the bound of {most}")]
    Length {
        /// What the frame says, or would have to say.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// A body that ends before its parts do.
    #[error("a part of the frame is not terminated")]
    NoSeparator,
    /// A name, topic or mask that is not UTF-8.
    #[error("a name or topic is not UTF-8")]
    NotText,
    /// The first byte is not that of BUS/RT.
    #[error("the peer does not speak BUS/RT")]
    Protocol,
    /// An unknown kind of frame or operation.
    #[error("unknown kind of frame {0:#04x}")]
    UnknownKind(u8),
    /// A protocol version that is not ours.
    #[error("the peer speaks version {0} of BUS/RT")]
    Version(u16),
}

/// Cuts what stands before the next NUL off `body`.
fn cut(body: &mut Bytes) -> Result<Text, CodecError> {
    let end = body.iter().position(|byte| *byte == 0).ok_or(CodecError::NoSeparator)?;
    let text = body.split_to(end);
    body.advance(1);
    Text::new(text)
}

/// The length field of a frame whose body has these parts.
fn body_length(parts: impl Iterator<Item = usize>) -> Result<u32, CodecError> {
    let length = parts.fold(0_usize, usize::saturating_add);
    u32::try_from(length).map_err(|_| CodecError::Length { length, most: u32::MAX as usize })
}

/// Appends parts that end with a NUL.
fn put_terminated(into: &mut BytesMut, parts: &[&str]) {
    for part in parts {
        into.put_slice(part.as_bytes());
        into.put_u8(0);
    }
}

/// The unsigned number at `at`, if `bytes` reach that far.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

/// Takes a frame of `head` and `length` bytes off the front and returns its body, or makes room for the rest of it.
fn take_body(
    from: &mut BytesMut,
    head: usize,
    length: u32,
    most: usize,
) -> Result<Option<Bytes>, CodecError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > most {
        return Err(CodecError::Length { length, most });
    }
    let whole = head.saturating_add(length);
    if from.len() < whole {
        from.reserve(whole - from.len());
        return Ok(None);
    }
    from.advance(head);
    Ok(Some(from.split_to(length).freeze()))
}
