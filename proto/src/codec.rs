//! How messages are read off a connection, so that each pins its own bytes and no others.
//!
//! A field of type `bytes` is a slice of the buffer it was read from. Tonic's buffer grows to the largest message and holds
//! what came before and after; one byte kept could keep megabytes that nobody counts. So each message is copied into an
//! allocation of its own, which costs one copy and leaves tonic its buffer to use again.
//!
//! Kept true: what a decoded message pins is no more than its known fields, encoded, and [`SLACK`].

use std::{fmt, marker::PhantomData};

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, DecodeBuf},
};
use tonic_prost::{ProstCodec, ProstEncoder};

/// Bytes of a message that may be unknown or said twice and are kept all the same: dropping them costs another copy.
pub const SLACK: usize = 256;

/// Writes messages as [`ProstCodec`] does, and reads them into memory of their own.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for Codec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

/// Reads messages of type `U`.
pub struct Decoder<U>(PhantomData<U>);

impl<U> fmt::Debug for Decoder<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let decoded = decode(buf.chunk());
        buf.advance(buf.remaining());
        // As `ProstDecoder` says it.
        decoded.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Both buffers begin small and grow with what a stream carries: most sessions are idle most of the time.
fn buffers() -> BufferSettings {
    BufferSettings::new(1 << 10, 32 << 10)
}

/// Decodes a message that pins what it needs, whatever else was in `wire`.
fn decode<U: Message + Default>(wire: &[u8]) -> Result<U, prost::DecodeError> {
    let message = U::decode(Bytes::copy_from_slice(wire))?;
    if wire.len() <= message.encoded_len().saturating_add(SLACK) {
        return Ok(message);
    }
    // Fields of a later version, which a receiver ignores; or a peer that wants memory kept which nobody counts.
    U::decode(Bytes::from(message.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn event(payload: &[u8]) -> v1::Event {
        v1::Event { topic: 1, payload: Bytes::copy_from_slice(payload), time_unix_nanos: 7, origin_seq: 0 }
    }

    /// The bytes of the allocation that `slice` pins, if nobody else does.
    fn pinned(slice: Bytes) -> usize {
        slice.try_into_mut().unwrap().capacity()
    }

    #[test]
    fn a_payload_pins_its_own_message_only() {
        let mut wire = event(&[5; 1000]).encode_to_vec();
        let len = wire.len();
        wire.extend_from_slice(&event(&vec![6; 100_000]).encode_to_vec());
        let message: v1::Event = decode(&wire[..len]).unwrap();
        assert_eq!(message, event(&[5; 1000]));
        assert!(pinned(message.payload) <= len);
    }

    #[test]
    fn what_is_not_known_or_said_twice_is_not_kept() {
        // Field 15, of bytes.
        let mut unknown = event(b"x").encode_to_vec();
        unknown.push(0x7a);
        prost::encoding::encode_varint(1 << 20, &mut unknown);
        unknown.resize(unknown.len() + (1 << 20), 0);
        // Of a field that is said twice the last counts.
        let mut twice = event(&vec![9; 1 << 20]).encode_to_vec();
        twice.extend_from_slice(&event(b"x").encode_to_vec());
        for wire in [unknown, twice] {
            let message: v1::Event = decode(&wire).unwrap();
            assert_eq!(message, event(b"x"));
            assert!(pinned(message.payload) < 100);
        }
    }

    #[test]
    fn a_message_that_is_none_is_refused() {
        assert!(decode::<v1::Event>(&[0xff; 40]).is_err());
    }
}
