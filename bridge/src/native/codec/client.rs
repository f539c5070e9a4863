//! What clients send: id, flags (operation and quality of service), length, body.

use bytes::{BufMut, Bytes, BytesMut};

use crate::native::codec::{CodecError, Qos, Text, body_length, cut, put_terminated, take_body, u32_at};

/// Bytes before the body.
pub const HEAD: usize = 9;

const NOP: u8 = 0x00;
const PUBLISH: u8 = 0x01;
const SUBSCRIBE: u8 = 0x02;
const UNSUBSCRIBE: u8 = 0x03;
const EXCLUDE: u8 = 0x04;
const UNEXCLUDE: u8 = 0x05;
const PUBLISH_FOR: u8 = 0x06;
const MESSAGE: u8 = 0x12;
const BROADCAST: u8 = 0x13;

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrame {
    /// The number that its ack carries.
    pub id: u32,
    /// Whether it wants one.
    pub qos: Qos,
    /// What is asked.
    pub request: Request,
}

/// What a client asks of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send to every client whose name the mask matches.
    Broadcast {
        /// Dotted; `?` is one segment, `*` the rest.
        mask: Text,
        /// What to send.
        payload: Bytes,
    },
    /// Do not deliver these topics, though a subscription matches them.
    Exclude(Topics),
    /// Send to one client.
    Message {
        /// Its name.
        target: Text,
        /// What to send.
        payload: Bytes,
    },
    /// A sign of life.
    Ping,
    /// Publish to all subscribers of a topic.
    Publish {
        /// Slashed.
        topic: Text,
        /// What to publish.
        payload: Bytes,
    },
    /// Publish to one subscriber of a topic.
    PublishFor {
        /// Slashed.
        topic: Text,
        /// The name of that subscriber.
        receiver: Text,
        /// What to publish.
        payload: Bytes,
    },
    /// Deliver these topics.
    Subscribe(Topics),
    /// Take back an [`Request::Exclude`].
    Unexclude(Topics),
    /// Take back a [`Request::Subscribe`].
    Unsubscribe(Topics),
}

/// Topics of one frame, kept as they came: however many there are, they take no more memory than the frame did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics(Text);

impl Topics {
    /// Each topic; none for an empty body, which is how the command line of `busrt` writes an empty list.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let list = Some(self.0.as_str()).filter(|list| !list.is_empty());
        list.into_iter().flat_map(|list| list.split('\0'))
    }
}

/// What every frame of a client begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The number that the ack carries.
    pub id: u32,
    /// Whether an ack is wanted.
    pub qos: Qos,
}

impl Head {
    fn put(self, into: &mut BytesMut, operation: u8, length: u32) {
        into.put_u32_le(self.id);
        into.put_u8(operation | self.qos.bits() << 6);
        into.put_u32_le(length);
    }
}

/// Which list of topics [`topics`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicsOf {
    /// A [`Request::Exclude`].
    Exclude,
    /// A [`Request::Subscribe`].
    Subscribe,
    /// A [`Request::Unexclude`].
    Unexclude,
    /// A [`Request::Unsubscribe`].
    Unsubscribe,
}

/// Appends a [`Request::Publish`].
///
/// # Errors
///
/// [`CodecError::Length`], if it does not fit into a frame; nothing is appended then.
pub fn publish(into: &mut BytesMut, head: Head, topic: &str, payload: &[u8]) -> Result<(), CodecError> {
    addressed(into, head, PUBLISH, &[topic], payload)
}

/// Appends a [`Request::PublishFor`].
///
/// # Errors
///
/// [`CodecError::Length`], if it does not fit into a frame; nothing is appended then.
pub fn publish_for(
    into: &mut BytesMut,
    head: Head,
    topic: &str,
    receiver: &str,
    payload: &[u8],
) -> Result<(), CodecError> {
    addressed(into, head, PUBLISH_FOR, &[topic, receiver], payload)
}

/// Appends a [`Request::Message`].
///
/// # Errors
///
/// [`CodecError::Length`], if it does not fit into a frame; nothing is appended then.
pub fn message(into: &mut BytesMut, head: Head, target: &str, payload: &[u8]) -> Result<(), CodecError> {
    addressed(into, head, MESSAGE, &[target], payload)
}

/// Appends a [`Request::Broadcast`].
///
/// # Errors
///
/// [`CodecError::Length`], if it does not fit into a frame; nothing is appended then.
pub fn broadcast(into: &mut BytesMut, head: Head, mask: &str, payload: &[u8]) -> Result<(), CodecError> {
    addressed(into, head, BROADCAST, &[mask], payload)
}

/// Appends a frame that lists topics.
///
/// # Errors
///
/// [`CodecError::Length`], if they do not fit into a frame; nothing is appended then.
pub fn topics(into: &mut BytesMut, head: Head, of: TopicsOf, topics: &[&str]) -> Result<(), CodecError> {
    let operation = match of {
        TopicsOf::Exclude => EXCLUDE,
        TopicsOf::Subscribe => SUBSCRIBE,
        TopicsOf::Unexclude => UNEXCLUDE,
        TopicsOf::Unsubscribe => UNSUBSCRIBE,
    };
    let separators = topics.len().saturating_sub(1);
    let length = body_length(topics.iter().map(|topic| topic.len()).chain([separators]))?;
    head.put(into, operation, length);
    for (index, topic) in topics.iter().enumerate() {
        if index > 0 {
            into.put_u8(0);
        }
        into.put_slice(topic.as_bytes());
    }
    Ok(())
}

/// Appends a sign of life.
pub fn ping(into: &mut BytesMut) {
    into.put_bytes(0, HEAD);
}

/// Takes the next whole frame off `from`; `None` until it is there. A body may have `most` bytes.
///
/// # Errors
///
/// [`CodecError`], if the wire is broken.
pub fn decode(from: &mut BytesMut, most: usize) -> Result<Option<ClientFrame>, CodecError> {
    let (Some(id), Some(&flags), Some(length)) = (u32_at(from, 0), from.get(4), u32_at(from, 5)) else {
        return Ok(None);
    };
    // BUS/RT looks at the flags only: a ping has no body, whatever its length says.
    let length = if flags == 0 { 0 } else { length };
    let Some(body) = take_body(from, HEAD, length, most)? else { return Ok(None) };
    let request = if flags == 0 { Request::Ping } else { request(flags & 0x3F, body)? };
    Ok(Some(ClientFrame { id, qos: Qos::of_bits(flags >> 6), request }))
}

fn request(operation: u8, mut body: Bytes) -> Result<Request, CodecError> {
    Ok(match operation {
        PUBLISH => Request::Publish { topic: cut(&mut body)?, payload: body },
        SUBSCRIBE => Request::Subscribe(Topics(Text::new(body)?)),
        UNSUBSCRIBE => Request::Unsubscribe(Topics(Text::new(body)?)),
        EXCLUDE => Request::Exclude(Topics(Text::new(body)?)),
        UNEXCLUDE => Request::Unexclude(Topics(Text::new(body)?)),
        PUBLISH_FOR => {
            Request::PublishFor { topic: cut(&mut body)?, receiver: cut(&mut body)?, payload: body }
        }
        MESSAGE => Request::Message { target: cut(&mut body)?, payload: body },
        BROADCAST => Request::Broadcast { mask: cut(&mut body)?, payload: body },
        // With a quality of service it is no ping to BUS/RT: it has a body, nothing comes of it, and it is not answered.
        NOP => cut(&mut body).map(|_| Request::Ping)?,
        unknown => return Err(CodecError::UnknownKind(unknown)),
    })
}

fn addressed(
    into: &mut BytesMut,
    head: Head,
    operation: u8,
    names: &[&str],
    payload: &[u8],
) -> Result<(), CodecError> {
    let length = body_length(names.iter().map(|name| name.len() + 1).chain([payload.len()]))?;
    into.reserve(HEAD.saturating_add(length as usize));
    head.put(into, operation, length);
    put_terminated(into, names);
    into.put_slice(payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 16;

    /// One frame of each kind, as a client writes them.
    fn script() -> (BytesMut, usize) {
        let mut wire = BytesMut::new();
        let qos = [Qos::No, Qos::Processed, Qos::Realtime, Qos::RealtimeProcessed];
        let mut ids = (1..).zip(qos.into_iter().cycle()).map(|(id, qos)| Head { id, qos });
        let mut head = || ids.next().unwrap();
        publish(&mut wire, head(), "events/process/start", b"\0binary\0").unwrap();
        publish(&mut wire, head(), "", b"").unwrap();
        publish_for(&mut wire, head(), "a/b", "engine", b"x").unwrap();
        message(&mut wire, head(), "engine", b"hello").unwrap();
        broadcast(&mut wire, head(), "engine.*", b"all").unwrap();
        topics(&mut wire, head(), TopicsOf::Subscribe, &["a/#", "b"]).unwrap();
        topics(&mut wire, head(), TopicsOf::Unsubscribe, &["a/#"]).unwrap();
        topics(&mut wire, head(), TopicsOf::Exclude, &["a/b", "c", "d"]).unwrap();
        topics(&mut wire, head(), TopicsOf::Unexclude, &["a/b"]).unwrap();
        ping(&mut wire);
        (wire, 10)
    }

    fn encode(frame: &ClientFrame, into: &mut BytesMut) {
        let head = Head { id: frame.id, qos: frame.qos };
        let list =
            |into: &mut BytesMut, of, list: &Topics| topics(into, head, of, &list.iter().collect::<Vec<_>>());
        match &frame.request {
            Request::Broadcast { mask, payload } => broadcast(into, head, mask.as_str(), payload),
            Request::Exclude(topics) => list(into, TopicsOf::Exclude, topics),
            Request::Message { target, payload } => message(into, head, target.as_str(), payload),
            Request::Ping => {
                ping(into);
                Ok(())
            }
            Request::Publish { topic, payload } => publish(into, head, topic.as_str(), payload),
            Request::PublishFor { topic, receiver, payload } => {
                publish_for(into, head, topic.as_str(), receiver.as_str(), payload)
            }
            Request::Subscribe(topics) => list(into, TopicsOf::Subscribe, topics),
            Request::Unexclude(topics) => list(into, TopicsOf::Unexclude, topics),
            Request::Unsubscribe(topics) => list(into, TopicsOf::Unsubscribe, topics),
        }
        .unwrap();
    }

    #[test]
    fn every_frame_survives_the_wire_however_it_is_cut() {
        let (whole, count) = script();
        for step in [1, 2, 7, 64, whole.len()] {
            let (mut wire, mut again, mut seen) = (BytesMut::new(), BytesMut::new(), 0);
            for piece in whole.chunks(step) {
                wire.extend_from_slice(piece);
                while let Some(frame) = decode(&mut wire, MOST).unwrap() {
                    encode(&frame, &mut again);
                    seen += 1;
                }
            }
            assert_eq!((seen, wire.len()), (count, 0), "pieces of {step}");
            assert_eq!(again, whole, "pieces of {step}");
        }
    }

    #[test]
    fn a_payload_keeps_its_zeros() {
        let mut wire = BytesMut::new();
        publish(&mut wire, Head { id: 7, qos: Qos::Processed }, "a/b", b"\0\0x\0").unwrap();
        let frame = decode(&mut wire, MOST).unwrap().unwrap();
        let Request::Publish { topic, payload } = frame.request else { panic!("{frame:?}") };
        assert_eq!((frame.id, frame.qos), (7, Qos::Processed));
        assert_eq!((topic.as_str(), &payload[..]), ("a/b", &b"\0\0x\0"[..]));
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_memory_is_taken() {
        let mut wire = BytesMut::from(&[1, 0, 0, 0, PUBLISH, 0xFF, 0xFF, 0xFF, 0xFF][..]);
        let before = wire.capacity();
        let length = u32::MAX as usize;
        assert_eq!(decode(&mut wire, MOST), Err(CodecError::Length { length, most: MOST }));
        assert_eq!(wire.capacity(), before);
    }

    #[test]
    fn a_broken_frame_is_an_error_and_no_panic() {
        let frame = |operation: u8, body: &[u8]| {
            let mut wire = BytesMut::new();
            Head { id: 1, qos: Qos::No }.put(&mut wire, operation, u32::try_from(body.len()).unwrap());
            wire.extend_from_slice(body);
            decode(&mut wire, MOST)
        };
        assert_eq!(frame(PUBLISH, b"no end"), Err(CodecError::NoSeparator));
        assert_eq!(frame(PUBLISH_FOR, b"topic\0no end"), Err(CodecError::NoSeparator));
        assert_eq!(frame(PUBLISH, b"\xFF\0"), Err(CodecError::NotText));
        assert_eq!(frame(SUBSCRIBE, b"a\0\xFF"), Err(CodecError::NotText));
        assert_eq!(frame(0x20, b"x\0"), Err(CodecError::UnknownKind(0x20)));
        assert_eq!(frame(0x40, b""), Err(CodecError::NoSeparator));
        assert_eq!(frame(0x40, b"x\0y").unwrap().unwrap().request, Request::Ping);
    }

    #[test]
    fn random_bytes_never_panic_nor_reserve_over_the_bound() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let length = random.usize(..64);
            let mut wire: BytesMut = (0..length).map(|_| random.u8(..) & random.u8(..)).collect();
            while let Ok(Some(_)) = decode(&mut wire, MOST) {}
            assert!(wire.capacity() <= 2 * (MOST + HEAD));
        }
    }
}
