//! The first words of a connection.
//!
//! ```text
//!   broker                           client
//!     0xEB, version u16  ───────►
//!                        ◄───────    0xEB, version u16
//!     code               ───────►
//!                        ◄───────    length u16, name
//!     code               ───────►
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::native::codec::{CodecError, Text};

/// Bytes of the opening word of either side.
pub const OPENING: usize = 3;

/// Bytes before a name.
pub const NAME_HEAD: usize = 2;

/// The version spoken here.
pub const VERSION: u16 = 1;

const MAGIC: u8 = 0xEB;

/// The opening word, the same from either side.
#[must_use]
pub const fn opening() -> [u8; OPENING] {
    let [low, high] = VERSION.to_le_bytes();
    [MAGIC, low, high]
}

/// Judges the peer's opening word.
///
/// # Errors
///
/// [`CodecError::Protocol`] or [`CodecError::Version`]; a broker answers either with [`super::Code::NOT_SUPPORTED`].
pub const fn judge([magic, low, high]: [u8; OPENING]) -> Result<(), CodecError> {
    if magic != MAGIC {
        return Err(CodecError::Protocol);
    }
    match u16::from_le_bytes([low, high]) {
        VERSION => Ok(()),
        other => Err(CodecError::Version(other)),
    }
}

/// Appends the client's name.
///
/// # Errors
///
/// [`CodecError::Length`], if it is too long for the wire; nothing is appended then.
pub fn put_name(into: &mut BytesMut, name: &str) -> Result<(), CodecError> {
    let too_long = |_| CodecError::Length { length: name.len(), most: u16::MAX.into() };
    into.put_u16_le(u16::try_from(name.len()).map_err(too_long)?);
    into.put_slice(name.as_bytes());
    Ok(())
}

/// Reads the length of a name of at most `most` bytes.
///
/// # Errors
///
/// [`CodecError::Length`], if it is longer.
pub fn name_length(head: [u8; NAME_HEAD], most: usize) -> Result<usize, CodecError> {
    let length = usize::from(u16::from_le_bytes(head));
    if length > most { Err(CodecError::Length { length, most }) } else { Ok(length) }
}

/// Reads a name.
///
/// # Errors
///
/// [`CodecError::NotText`], if it is not UTF-8.
pub fn name(bytes: Vec<u8>) -> Result<Text, CodecError> {
    Text::new(Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_understood_by_its_own_kind_only() {
        assert_eq!(judge(opening()), Ok(()));
        assert_eq!(judge([0xEC, 1, 0]), Err(CodecError::Protocol));
        assert_eq!(judge([0xEB, 2, 0]), Err(CodecError::Version(2)));
        assert_eq!(judge([0xEB, 1, 1]), Err(CodecError::Version(257)));
    }

    #[test]
    fn a_name_survives_the_wire_and_a_long_one_is_refused_by_its_head() {
        let mut wire = BytesMut::new();
        put_name(&mut wire, "cli.host.42").unwrap();
        let head = [wire[0], wire[1]];
        assert_eq!(name_length(head, 256), Ok(11));
        assert_eq!(name(wire[2..].to_vec()).unwrap().as_str(), "cli.host.42");
        assert_eq!(name_length([0xFF, 0xFF], 256), Err(CodecError::Length { length: 65_535, most: 256 }));
        assert_eq!(name(vec![0xFF]), Err(CodecError::NotText));
        assert!(put_name(&mut wire, &"x".repeat(70_000)).is_err());
        assert_eq!(wire.len(), 13);
    }
}
