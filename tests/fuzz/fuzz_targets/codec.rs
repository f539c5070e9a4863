//! Bytes of a stranger through the BUS/RT codec, both ways, cut as the network might cut them.
//!
//! No panic, no allocation over the bound, the same frames however the bytes are cut, and what decodes encodes to something
//! that decodes to the same.

#![no_main]

use bytes::BytesMut;
use daemoneye_bridge::native::codec::{
    CodecError,
    client::{self, ClientFrame, Head, Request, Topics, TopicsOf},
    server::{self, Delivery, Envelope, ServerFrame},
};
use libfuzzer_sys::fuzz_target;

const MOST: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((&[side, step], wire)) = input.split_first_chunk::<2>() else { return };
    let step = usize::from(step).max(1);
    if side & 1 == 0 {
        let whole = frames(wire, wire.len().max(1), client::decode);
        assert_eq!(whole, frames(wire, step, client::decode), "cutting changes nothing");
        for frame in &whole.0 {
            let mut again = BytesMut::new();
            encode(frame, &mut again);
            let decoded = client::decode(&mut again, 2 * MOST).expect("what was encoded decodes");
            let decoded = decoded.expect("and is whole");
            assert_eq!(decoded.request, frame.request);
            if frame.request != Request::Ping {
                assert_eq!((decoded.id, decoded.qos), (frame.id, frame.qos));
            }
            assert!(again.is_empty());
        }
    } else {
        let whole = frames(wire, wire.len().max(1), server::decode);
        assert_eq!(whole, frames(wire, step, server::decode), "cutting changes nothing");
        for frame in whole.0 {
            let mut again = BytesMut::new();
            match &frame {
                ServerFrame::Ack { id, code } => server::ack(&mut again, *id, *code),
                ServerFrame::Ping => server::ping(&mut again),
                ServerFrame::Delivery(Delivery { kind, realtime, sender, topic, payload }) => {
                    let (sender, topic) = (sender.as_str(), topic.as_str());
                    let envelope = Envelope { kind: *kind, realtime: *realtime, sender, topic };
                    server::deliver(&mut again, &envelope, &[payload]).expect("it came in a frame");
                }
            }
            assert_eq!(server::decode(&mut again, 2 * MOST), Ok(Some(frame)));
        }
    }
});

type Decode<F> = fn(&mut BytesMut, usize) -> Result<Option<F>, CodecError>;

/// The frames of `wire`, read `step` bytes at a time, and how it ended.
fn frames<F>(wire: &[u8], step: usize, decode: Decode<F>) -> (Vec<F>, Option<CodecError>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in wire.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.capacity();
            match decode(&mut buffer, MOST) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
            assert!(buffer.capacity() <= before, "taking a frame takes no memory");
        }
        assert!(buffer.capacity() <= 4 * (MOST + wire.len() + 64), "memory is bounded");
    }
    (frames, None)
}

fn encode(frame: &ClientFrame, into: &mut BytesMut) {
    let head = Head { id: frame.id, qos: frame.qos };
    let list = |into: &mut BytesMut, of, list: &Topics| {
        client::topics(into, head, of, &list.iter().collect::<Vec<_>>())
    };
    let encoded = match &frame.request {
        Request::Broadcast { mask, payload } => client::broadcast(into, head, mask.as_str(), payload),
        Request::Exclude(topics) => list(into, TopicsOf::Exclude, topics),
        Request::Message { target, payload } => client::message(into, head, target.as_str(), payload),
        Request::Ping => {
            client::ping(into);
            Ok(())
        }
        Request::Publish { topic, payload } => client::publish(into, head, topic.as_str(), payload),
        Request::PublishFor { topic, receiver, payload } => {
            client::publish_for(into, head, topic.as_str(), receiver.as_str(), payload)
        }
        Request::Subscribe(topics) => list(into, TopicsOf::Subscribe, topics),
        Request::Unexclude(topics) => list(into, TopicsOf::Unexclude, topics),
        Request::Unsubscribe(topics) => list(into, TopicsOf::Unsubscribe, topics),
    };
    encoded.expect("it came in a frame");
}
