//! The first words: what a peer says of itself, and what it is told.
//!
//! Pure. Kept true: a [`Hello`] that exists lists distinct, well-formed streams, at most [`MAX_STREAMS`] of them.

use std::{collections::HashSet, time::Duration};

use daemoneye_bridge::event::{Class, Seq, StreamId};
use daemoneye_proto::{MAX_BATCH_EVENTS, MAX_MESSAGE, MAX_SEQ, MAX_STREAMS, PROTOCOL_VERSION, v1};

use crate::session::{credit::Amount, status::Fault};

/// Most bytes of a peer's name for its software.
const LONGEST_SOFTWARE: usize = 128;

/// What a peer has said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) software: String,
    pub(super) streams: Vec<Listed>,
}

/// A stream as its peer states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: StreamId,
    pub(super) class: Class,
    pub(super) acked: Seq,
    pub(super) next: Seq,
}

impl Hello {
    /// Reads the first frame of a session.
    pub(super) fn read(first: v1::LinkRequest) -> Result<Self, Fault> {
        let Some(v1::link_request::Frame::Hello(hello)) = first.frame else {
            return Err(Fault::broken("frame", "the first frame must be a Hello"));
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(Fault::Version { given: hello.protocol, ours: PROTOCOL_VERSION });
        }
        if hello.software.len() > LONGEST_SOFTWARE {
            return Err(Fault::broken("hello.software", format!("longer than {LONGEST_SOFTWARE} bytes")));
        }
        if hello.streams.len() > MAX_STREAMS {
            return Err(Fault::broken("hello.streams", format!("more than {MAX_STREAMS}")));
        }
        let streams = hello.streams.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        let mut seen = HashSet::new();
        if let Some(twice) = streams.iter().find(|stream| !seen.insert(stream.id)) {
            return Err(Fault::broken("hello.streams", format!("{} is listed twice", twice.id)));
        }
        Ok(Self { software: hello.software, streams })
    }
}

fn listed(state: &v1::StreamState) -> Result<Listed, Fault> {
    let id = stream_id("hello.streams.stream", &state.stream)?;
    // A later version may know more classes; what is not known to be critical is not.
    let class = match state.class() {
        v1::StreamClass::Critical => Class::Critical,
        v1::StreamClass::Telemetry | v1::StreamClass::Unspecified => Class::Telemetry,
    };
    if state.next > MAX_SEQ || state.next <= state.acked {
        let problem = format!("of {id}: must be above acked ({}) and at most 2^63 - 1", state.acked);
        return Err(Fault::broken("hello.streams.next", problem));
    }
    Ok(Listed { id, class, acked: state.acked, next: state.next })
}

/// Reads the name of a stream; `field` is named in complaints.
pub(super) fn stream_id(field: &'static str, bytes: &[u8]) -> Result<StreamId, Fault> {
    StreamId::from_slice(bytes).ok_or_else(|| Fault::broken(field, "must be the 16 bytes of a UUID, not nil"))
}

/// The bounds that hold on a session.
pub(super) fn limits(max_payload: usize, heartbeat: Duration) -> v1::Limits {
    let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    v1::Limits {
        max_payload: number(max_payload),
        max_batch_events: number(MAX_BATCH_EVENTS),
        max_message: number(MAX_MESSAGE),
        heartbeat: duration(heartbeat),
    }
}

/// A span of time, as the wire writes it.
pub(super) fn duration(span: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(span).ok()
}

/// An amount of credit, as the wire writes it.
pub(super) fn credit(amount: Amount) -> v1::Credit {
    v1::Credit { events: u32::try_from(amount.events).unwrap_or(u32::MAX), bytes: amount.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(byte: u8, acked: u64, next: u64) -> v1::StreamState {
        v1::StreamState { stream: vec![byte; 16].into(), class: 1, acked, next }
    }

    fn hello(protocol: u32, streams: Vec<v1::StreamState>) -> v1::LinkRequest {
        let hello = v1::Hello { protocol, software: "test/1".to_owned(), streams };
        v1::LinkRequest { frame: Some(v1::link_request::Frame::Hello(hello)) }
    }

    #[test]
    fn a_hello_is_read() {
        let read = Hello::read(hello(1, vec![state(1, 0, 1), state(2, 7, 9)])).unwrap();
        assert_eq!(read.streams.iter().map(|stream| stream.next).collect::<Vec<_>>(), [1, 9]);
    }

    #[test]
    fn a_hello_that_breaks_a_bound_is_refused() {
        let broken = |streams| matches!(Hello::read(hello(1, streams)), Err(Fault::Broken { .. }));
        assert!(broken(vec![state(1, 0, 1), state(1, 0, 1)]), "listed twice");
        assert!(broken((1..=65).map(|byte| state(byte, 0, 1)).collect()), "too many");
        assert!(broken(vec![state(0, 0, 1)]), "nil");
        assert!(broken(vec![v1::StreamState { stream: vec![1; 15].into(), ..state(1, 0, 1) }]));
        assert!(broken(vec![state(1, 5, 5)]));
        assert!(broken(vec![state(1, 0, 0)]));
        assert!(broken(vec![state(1, 0, 1 << 63)]));
        let long = v1::Hello { protocol: 1, software: "x".repeat(129), streams: Vec::new() };
        let long = v1::LinkRequest { frame: Some(v1::link_request::Frame::Hello(long)) };
        assert!(matches!(Hello::read(long), Err(Fault::Broken { field: "hello.software", .. })));
    }

    #[test]
    fn another_version_and_another_frame_are_refused_for_what_they_are() {
        assert!(matches!(Hello::read(hello(2, Vec::new())), Err(Fault::Version { given: 2, ours: 1 })));
        assert!(matches!(Hello::read(hello(0, Vec::new())), Err(Fault::Version { given: 0, .. })));
        let ping = v1::LinkRequest { frame: Some(v1::link_request::Frame::Ping(v1::Ping { nonce: 1 })) };
        assert!(matches!(Hello::read(ping), Err(Fault::Broken { field: "frame", .. })));
        assert!(Hello::read(v1::LinkRequest { frame: None }).is_err());
    }
}
