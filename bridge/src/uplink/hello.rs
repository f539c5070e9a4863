//! The beginning of a session: what we have, what the gateway has, and where each stream goes on.
//!
//! Kept true: a stream goes on only if the gateway has seen nothing of it that this spool has not sent; otherwise new events
//! would be taken for old ones, and be dropped as duplicates.

use std::time::Duration;

use daemoneye_proto::{MAX_BATCH_EVENTS, MAX_MESSAGE, PROTOCOL_VERSION, v1};

use crate::{
    event::{Class, Seq, StreamId},
    spool::StreamState,
    uplink::window::Credit,
};

/// What to say first.
pub(super) fn hello(streams: &[StreamState]) -> v1::Hello {
    let state = |state: &StreamState| v1::StreamState {
        stream: state.stream.to_bytes(),
        class: match state.class {
            Class::Critical => v1::StreamClass::Critical.into(),
            Class::Telemetry => v1::StreamClass::Telemetry.into(),
        },
        acked: state.acked,
        next: state.next,
    };
    v1::Hello {
        protocol: PROTOCOL_VERSION,
        software: concat!("daemoneye-bridge ", env!("CARGO_PKG_VERSION")).to_owned(),
        streams: streams.iter().map(state).collect(),
    }
}

/// The bounds of a session, each usable as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) batch_events: usize,
    pub(super) message: usize,
    pub(super) heartbeat: Duration,
}

/// What the gateway answered.
#[derive(Debug)]
pub(super) struct Welcomed {
    /// Its name of the session.
    pub(super) session: String,
    /// Who we are there.
    pub(super) peer: String,
    pub(super) limits: Limits,
    pub(super) credit: Credit,
    pub(super) resume: Vec<Resume>,
}

/// Where one stream goes on.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) state: StreamState,
    pub(super) place: Place,
    pub(super) rejected: Vec<v1::Rejected>,
}

/// Where one stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// With this number; what is below is settled.
    From(Seq),
    /// Nowhere: the gateway has seen events that this spool does not know. What is up to here is settled; the rest needs a
    /// new stream.
    Strange(Seq),
}

/// Reads the gateway's answer to a hello about `streams`, of which `sent` tells what this process has sent.
pub(super) fn read(
    welcome: v1::Welcome,
    streams: &[StreamState],
    sent: impl Fn(StreamId) -> Seq,
) -> Result<Welcomed, &'static str> {
    if welcome.protocol != PROTOCOL_VERSION {
        return Err("it chose a protocol version that was not offered");
    }
    if welcome.resume.len() != streams.len() {
        return Err("it did not answer for each stream");
    }
    let answer = |(state, resume): (&StreamState, v1::Resume)| {
        if resume.stream != state.stream.to_bytes() {
            return Err("it answered for another stream");
        }
        let place = place(state, sent(state.stream), resume.resume)?;
        Ok(Resume { state: *state, place, rejected: resume.rejected })
    };
    Ok(Welcomed {
        session: welcome.session,
        peer: welcome.peer,
        limits: limits(welcome.limits.unwrap_or_default()),
        credit: credit(welcome.credit.unwrap_or_default()),
        resume: streams.iter().zip(welcome.resume).map(answer).collect::<Result<_, _>>()?,
    })
}

/// Where a stream goes on whose gateway expects `resume`, and of which this process has sent up to `sent`.
fn place(state: &StreamState, sent: Seq, resume: Seq) -> Result<Place, &'static str> {
    if resume <= state.acked {
        return Err("it wants events again that it has acknowledged");
    }
    let kept = state.opened.saturating_sub(1);
    if resume.saturating_sub(1) <= kept.max(sent) {
        return Ok(Place::From(resume));
    }
    // What was there when the spool was opened is what the gateway has seen under these numbers: an older copy of a disk
    // is a beginning of the newer one. What this process has sent since may have been taken for something else.
    Ok(Place::Strange(if sent < state.opened { kept.max(state.acked) } else { state.acked }))
}

fn limits(limits: v1::Limits) -> Limits {
    let or = |value: u32, most: usize| {
        let value = usize::try_from(value).unwrap_or(usize::MAX);
        if value == 0 { most } else { value.min(most) }
    };
    let heartbeat = limits.heartbeat.and_then(|heartbeat| Duration::try_from(heartbeat).ok());
    Limits {
        batch_events: or(limits.max_batch_events, MAX_BATCH_EVENTS),
        message: or(limits.max_message, MAX_MESSAGE),
        heartbeat: heartbeat
            .filter(|heartbeat| !heartbeat.is_zero())
            .unwrap_or(HEARTBEAT)
            .clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT),
    }
}

pub(super) fn credit(credit: v1::Credit) -> Credit {
    Credit { events: credit.events.into(), bytes: credit.bytes }
}

/// If the gateway does not say.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Whatever the gateway says: pings must not become a load, nor a dead gateway go unnoticed.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
const LONGEST_HEARTBEAT: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn state(acked: Seq, opened: Seq, next: Seq) -> StreamState {
        StreamState { stream: StreamId::random(), class: Class::Critical, acked, next, opened }
    }

    #[test]
    fn a_stream_goes_on_where_the_gateway_is() {
        assert_eq!(place(&state(10, 50, 60), 0, 11), Ok(Place::From(11)));
        assert_eq!(place(&state(10, 50, 60), 0, 50), Ok(Place::From(50)), "an ack was lost");
        assert_eq!(place(&state(10, 50, 60), 55, 56), Ok(Place::From(56)));
        assert_eq!(place(&state(0, 1, 1), 0, 1), Ok(Place::From(1)), "a new stream");
    }

    #[test]
    fn a_gateway_that_has_seen_more_than_was_sent_gets_a_new_stream() {
        // The disk was restored: 50 and on were lost, and are given to new events now.
        assert_eq!(place(&state(10, 50, 50), 0, 51), Ok(Place::Strange(49)));
        assert_eq!(place(&state(10, 50, 90), 0, 61), Ok(Place::Strange(49)), "below next, and yet");
        // A clone of the disk is at work elsewhere: what was taken from whom is not known.
        assert_eq!(place(&state(52, 50, 90), 55, 57), Ok(Place::Strange(52)));
        assert_eq!(place(&state(10, 50, 90), 0, 1 << 63), Ok(Place::Strange(49)));
    }

    #[test]
    fn a_gateway_that_goes_back_behind_its_ack_is_refused() {
        assert!(place(&state(10, 50, 60), 0, 10).is_err());
        assert!(place(&state(0, 1, 1), 0, 0).is_err());
    }

    #[test]
    fn an_answer_must_be_about_what_was_asked() {
        let streams = [state(0, 1, 1), state(0, 1, 1)];
        let resume = |state: &StreamState| v1::Resume {
            stream: state.stream.to_bytes(),
            resume: 1,
            rejected: Vec::new(),
        };
        let welcome = |protocol, resume| v1::Welcome { protocol, resume, ..v1::Welcome::default() };
        let [first, second] = &streams;
        let read = |welcome| read(welcome, &streams, |_| 0).map(|welcomed| welcomed.limits);
        assert!(read(welcome(2, vec![resume(first), resume(second)])).is_err());
        assert!(read(welcome(1, vec![resume(first)])).is_err());
        assert!(read(welcome(1, vec![resume(second), resume(first)])).is_err());
        let limits = read(welcome(1, vec![resume(first), resume(second)])).unwrap();
        assert_eq!(
            limits,
            Limits { batch_events: MAX_BATCH_EVENTS, message: MAX_MESSAGE, heartbeat: HEARTBEAT }
        );
    }
}
