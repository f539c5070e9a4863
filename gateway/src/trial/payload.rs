//! What a message of a trial carries: who sent it, its number, and when.
//!
//! It is JSON of fixed width, because a policy may demand JSON, and read by place, because that costs next to nothing.

use std::time::Duration;

use bytes::Bytes;

/// Bytes of the smallest payload.
pub const LEAST: usize = 64;

/// Where hexadecimal digits stand: connection, number, time in nanoseconds.
const FIELDS: [(usize, usize); 3] = [(6, 4), (17, 12), (36, 16)];

/// A payload of `size` bytes.
pub(super) fn make(connection: usize, number: u64, at: Duration, size: usize) -> Bytes {
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let mut text =
        format!("{{\"c\":\"{connection:04x}\",\"n\":\"{number:012x}\",\"t\":\"{nanos:016x}\",\"\":\"");
    let padding = size.saturating_sub(text.len()).saturating_sub(END.len());
    text.extend(std::iter::repeat_n('x', padding));
    text.push_str(END);
    text.into()
}

const END: &str = "\"}";

/// Connection, number and time of a payload; none if it is somebody else's.
pub(super) fn read(payload: &[u8]) -> Option<(usize, u64, Duration)> {
    let field = |(at, length): (usize, usize)| {
        let text = payload.get(at..at.checked_add(length)?)?;
        u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
    };
    let [connection, number, nanos] = FIELDS.map(field);
    Some((usize::try_from(connection?).ok()?, number?, Duration::from_nanos(nanos?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_is_json_of_its_size() {
        for size in [LEAST, 65, 256, 4096] {
            let made = make(0x12, 0xABCD, Duration::from_nanos(77), size);
            assert_eq!(made.len(), size);
            assert_eq!(read(&made), Some((0x12, 0xABCD, Duration::from_nanos(77))));
            assert!(serde_json::from_slice::<serde_json::Value>(&made).is_ok());
        }
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(&[0xFF; 100]), None);
    }
}
