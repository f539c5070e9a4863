//! What a broker sends: deliveries, acks, signs of life.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::native::codec::{Code, CodecError, Text, body_length, cut, put_terminated, take_body, u32_at};

/// Bytes before the body of a delivery, and all of an ack or a sign of life.
pub const HEAD: usize = 6;

const PING: u8 = 0x00;
const ACK: u8 = 0xFE;

/// How a delivery was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To a topic.
    Publish = 0x01,
    /// To this client by name.
    Message = 0x12,
    /// To a mask of names.
    Broadcast = 0x13,
}

/// A frame of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// The answer to the client's frame `id`.
    Ack {
        /// Which frame.
        id: u32,
        /// What became of it.
        code: Code,
    },
    /// Something that another client sent.
    Delivery(Delivery),
    /// A sign of life.
    Ping,
}

/// Something that another client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How.
    pub kind: Kind,
    /// Whether the sender asked for haste.
    pub realtime: bool,
    /// Who.
    pub sender: Text,
    /// Slashed; empty unless published.
    pub topic: Text,
    /// What.
    pub payload: Bytes,
}

/// The names that a delivery begins with.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// How it was sent.
    pub kind: Kind,
    /// Whether its sender asked for haste.
    pub realtime: bool,
    /// Its sender.
    pub sender: &'a str,
    /// Its topic; not written unless published.
    pub topic: &'a str,
}

/// Appends a delivery whose payload is `parts`, one after the other.
///
/// # Errors
///
/// [`CodecError::Length`], if it does not fit into a frame; nothing is appended then.
pub fn deliver(into: &mut BytesMut, envelope: &Envelope<'_>, parts: &[&[u8]]) -> Result<(), CodecError> {
    let payload = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    head(into, envelope, payload)?;
    for part in parts {
        into.put_slice(part);
    }
    Ok(())
}

/// Appends all of a delivery but its payload, which has `payload` bytes and follows it on the wire from where it lies.
///
/// # Errors
///
/// [`CodecError::Length`], if it does not fit into a frame; nothing is appended then.
pub fn head(into: &mut BytesMut, envelope: &Envelope<'_>, payload: usize) -> Result<(), CodecError> {
    let both = [envelope.sender, envelope.topic];
    let names = if envelope.kind == Kind::Publish { &both[..] } else { &both[..1] };
    let length = body_length(names.iter().map(|name| name.len() + 1).chain([payload]))?;
    into.reserve(HEAD.saturating_add(length as usize));
    into.put_u8(envelope.kind as u8);
    into.put_u32_le(length);
    into.put_u8(u8::from(envelope.realtime));
    put_terminated(into, names);
    Ok(())
}

/// Appends an ack.
pub fn ack(into: &mut BytesMut, id: u32, code: Code) {
    into.put_u8(ACK);
    into.put_u32_le(id);
    into.put_u8(code.0);
}

/// Appends a sign of life.
pub fn ping(into: &mut BytesMut) {
    into.put_bytes(PING, HEAD);
}

/// How many bytes the delivery at the front of `from` has, head included, so that one that is too long can be skipped;
/// `None` if it is not a delivery, or its head is not there yet.
#[must_use]
pub fn delivery_length(from: &[u8]) -> Option<usize> {
    let (first, length) = (*from.first()?, u32_at(from, 1)?);
    let is_delivery = [Kind::Publish, Kind::Message, Kind::Broadcast].iter().any(|kind| *kind as u8 == first);
    is_delivery.then(|| HEAD.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Takes the next whole frame off `from`; `None` until it is there. A body may have `most` bytes.
///
/// # Errors
///
/// [`CodecError`], if the wire is broken.
pub fn decode(from: &mut BytesMut, most: usize) -> Result<Option<ServerFrame>, CodecError> {
    let (Some(&first), Some(field), Some(&last)) = (from.first(), u32_at(from, 1), from.get(5)) else {
        return Ok(None);
    };
    let kind = match first {
        PING => {
            from.advance(HEAD);
            return Ok(Some(ServerFrame::Ping));
        }
        ACK => {
            from.advance(HEAD);
            return Ok(Some(ServerFrame::Ack { id: field, code: Code(last) }));
        }
        0x01 => Kind::Publish,
        0x12 => Kind::Message,
        0x13 => Kind::Broadcast,
        unknown => return Err(CodecError::UnknownKind(unknown)),
    };
    let Some(mut body) = take_body(from, HEAD, field, most)? else { return Ok(None) };
    let sender = cut(&mut body)?;
    let topic = if kind == Kind::Publish { cut(&mut body)? } else { Text::default() };
    Ok(Some(ServerFrame::Delivery(Delivery { kind, realtime: last != 0, sender, topic, payload: body })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 16;

    fn encode(frame: &ServerFrame, into: &mut BytesMut) {
        match frame {
            ServerFrame::Ack { id, code } => ack(into, *id, *code),
            ServerFrame::Delivery(Delivery { kind, realtime, sender, topic, payload }) => {
                let envelope = Envelope {
                    kind: *kind,
                    realtime: *realtime,
                    sender: sender.as_str(),
                    topic: topic.as_str(),
                };
                deliver(into, &envelope, &[payload]).unwrap();
            }
            ServerFrame::Ping => ping(into),
        }
    }

    #[test]
    fn every_frame_survives_the_wire_however_it_is_cut() {
        let mut whole = BytesMut::new();
        for (kind, topic) in
            [(Kind::Publish, "events/process/start"), (Kind::Message, ""), (Kind::Broadcast, "")]
        {
            for realtime in [false, true] {
                let envelope = Envelope { kind, realtime, sender: "collector.site-a.procmond-1", topic };
                deliver(&mut whole, &envelope, &[b"head", b"\0", b"tail"]).unwrap();
            }
        }
        ack(&mut whole, u32::MAX, Code::OK);
        ack(&mut whole, 1, Code::ACCESS);
        ping(&mut whole);
        for step in [1, 5, 6, 64, whole.len()] {
            let (mut wire, mut again, mut seen) = (BytesMut::new(), BytesMut::new(), 0);
            for piece in whole.chunks(step) {
                wire.extend_from_slice(piece);
                while let Some(frame) = decode(&mut wire, MOST).unwrap() {
                    encode(&frame, &mut again);
                    seen += 1;
                }
            }
            assert_eq!((seen, wire.len()), (9, 0), "pieces of {step}");
            assert_eq!(again, whole, "pieces of {step}");
        }
    }

    #[test]
    fn a_broken_frame_is_an_error_and_no_panic() {
        let decode = |bytes: &[u8]| decode(&mut BytesMut::from(bytes), MOST);
        assert_eq!(decode(&[0x02, 0, 0, 0, 0, 0]), Err(CodecError::UnknownKind(0x02)));
        assert_eq!(decode(&[0x12, 1, 0, 0, 0, 0, b'x']), Err(CodecError::NoSeparator));
        assert_eq!(decode(&[0x01, 2, 0, 0, 0, 0, b'x', 0]), Err(CodecError::NoSeparator));
        assert_eq!(decode(&[0x01, 0, 0, 2, 0, 0]), Err(CodecError::Length { length: 2 << 16, most: MOST }));
        assert_eq!(decode(&[0xFE, 1, 0, 0, 0]), Ok(None));
    }
}
