//! What is read from the spool, on its way to becoming a frame: measured, cut to fit, encoded.

use std::{iter, sync::Arc};

use bytes::Bytes;
use daemoneye_proto::v1::{self, link_request::Frame};

use crate::{
    event::{Event, Events, Origin, Relayed, Seq, StreamId},
    spool::{Chunk, GapReason},
    uplink::window::Load,
};

/// Consecutive numbers of a stream, in hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parcel {
    Events { first_seq: Seq, collector: Option<Arc<str>>, relayed: Option<Box<Relayed>>, events: Events },
    Gap { first_seq: Seq, last_seq: Seq, reason: v1::GapReason },
}

impl From<Chunk> for Parcel {
    fn from(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Events { first_seq, collector, relayed, events } => {
                // A gateway takes a batch with more topics than events for broken; what was cut off may leave some.
                let spare = events.topics.len() > events.len();
                let events = if spare { split(&events, usize::MAX).0 } else { events };
                Self::Events { first_seq, collector, relayed, events }
            }
            Chunk::Gap { first_seq, last_seq, reason } => {
                let reason = match reason {
                    GapReason::Corrupt => v1::GapReason::Corrupt,
                    GapReason::Evicted => v1::GapReason::Evicted,
                };
                Self::Gap { first_seq, last_seq, reason }
            }
        }
    }
}

impl Parcel {
    pub(super) const fn first_seq(&self) -> Seq {
        match self {
            Self::Events { first_seq, .. } | Self::Gap { first_seq, .. } => *first_seq,
        }
    }

    pub(super) const fn last_seq(&self) -> Seq {
        match self {
            Self::Events { first_seq, events, .. } => {
                first_seq.saturating_add((events.len() as u64).saturating_sub(1))
            }
            Self::Gap { last_seq, .. } => *last_seq,
        }
    }

    /// What it takes of the window. A gap holds no event and is not sent without credit either: a gateway keeps it until
    /// it is settled.
    pub(super) fn load(&self) -> Load {
        match self {
            Self::Events { events, .. } => {
                Load { events: events.len() as u64, bytes: events.payload_bytes() as u64, gaps: 0 }
            }
            Self::Gap { .. } => Load { gaps: 1, ..Load::default() },
        }
    }

    /// The number and size of its first event, if that fits in no message of `max_message` bytes.
    pub(super) fn too_large(&self, max_message: usize) -> Option<(Seq, usize)> {
        let Self::Events { first_seq, relayed, events, .. } = self else { return None };
        let first = events.events.first()?;
        let too_large = weight(events, first) > room(max_message, relayed.as_deref());
        too_large.then_some((*first_seq, first.payload.len()))
    }

    /// Keeps at most `most` events, and no more than surely fit in a message, but one at the least; returns the rest.
    pub(super) fn cut(&mut self, most: usize, max_message: usize) -> Option<Self> {
        let Self::Events { first_seq, collector, relayed, events } = self else { return None };
        let keep = fits(events, room(max_message, relayed.as_deref())).min(most).max(1);
        if keep >= events.len() {
            return None;
        }
        let (head, rest) = split(events, keep);
        *events = head;
        let first_seq = first_seq.saturating_add(keep as u64);
        let behind = relayed.as_mut().map(|relayed| Box::new(relayed.split_off(keep)));
        Some(Self::Events { first_seq, collector: collector.clone(), relayed: behind, events: rest })
    }

    pub(super) fn into_frame(self, stream: StreamId) -> Frame {
        match self {
            Self::Events { first_seq, collector, relayed, events } => {
                let (origin, seqs) = relayed.map_or((None, Vec::new()), |relayed| {
                    (Some(origin_on_wire(&relayed.origin)), relayed.seqs)
                });
                let seqs = seqs.into_iter().chain(iter::repeat(0));
                Frame::Batch(v1::Batch {
                    stream: stream.to_bytes(),
                    first_seq,
                    collector: collector.as_deref().unwrap_or_default().to_owned(),
                    topics: events.topics.iter().map(|topic| topic.dotted().to_owned()).collect(),
                    events: events.events.into_iter().zip(seqs).map(on_wire).collect(),
                    origin,
                })
            }
            Self::Gap { first_seq, last_seq, reason } => {
                Frame::Gap(v1::Gap { stream: stream.to_bytes(), first_seq, last_seq, reason: reason.into() })
            }
        }
    }
}

fn on_wire((event, origin_seq): (Event, Seq)) -> v1::Event {
    v1::Event { topic: event.topic, payload: event.payload, time_unix_nanos: event.time, origin_seq }
}

fn origin_on_wire(origin: &Origin) -> v1::Origin {
    v1::Origin {
        site: origin.site.as_ref().to_owned(),
        stream: origin.stream.map_or_else(Bytes::new, StreamId::to_bytes),
        hops: origin.hops.iter().map(|hop| hop.as_ref().to_owned()).collect(),
    }
}

/// Bytes of a message beside its events: stream, collector, tags, lengths.
const MESSAGE_OVERHEAD: usize = 256;

/// Bytes of an event beside its payload and topic: index, time, number at its origin, tags, lengths.
const EVENT_OVERHEAD: usize = 51;

/// Bytes that are left for the events of a message.
fn room(max_message: usize, relayed: Option<&Relayed>) -> usize {
    // Tags and lengths of an origin take at most two bytes each, those of the stream are in the overhead.
    let names = |origin: &Origin| {
        origin.hops.iter().chain([&origin.site]).map(|name| name.len() + 3).sum::<usize>() + 24
    };
    let origin = relayed.map_or(0, |relayed| names(&relayed.origin));
    max_message.saturating_sub(MESSAGE_OVERHEAD + origin)
}

/// The most that an event can add to a message: as if no other shared its topic.
fn weight(events: &Events, event: &Event) -> usize {
    let topic = events.topic_of(event).map_or(0, |topic| topic.dotted().len());
    event.payload.len().saturating_add(topic + EVENT_OVERHEAD)
}

fn fits(events: &Events, room: usize) -> usize {
    let mut left = room;
    let fitting = events.events.iter().take_while(|event| {
        let weight = weight(events, event);
        let fits = weight <= left;
        left = left.saturating_sub(weight);
        fits
    });
    fitting.count()
}

/// Parts events in two, each with the topics that it uses.
fn split(events: &Events, keep: usize) -> (Events, Events) {
    let (mut head, mut rest) = (Events::default(), Events::default());
    for (place, event) in events.events.iter().enumerate() {
        let half = if place < keep { &mut head } else { &mut rest };
        if let Some(topic) = events.topic_of(event) {
            half.push(topic, event.payload.clone(), event.time);
        }
    }
    (head, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    fn parcel(first_seq: Seq, events: &[(&str, usize)]) -> Parcel {
        let mut made = Events::default();
        for (topic, bytes) in events {
            made.push(&Topic::parse(topic).unwrap(), vec![0; *bytes].into(), 0);
        }
        Parcel::Events { first_seq, collector: Some("x".into()), relayed: None, events: made }
    }

    fn encoded_len(parcel: Parcel) -> usize {
        use prost::Message;
        v1::LinkRequest { frame: Some(parcel.into_frame(StreamId::random())) }.encoded_len()
    }

    #[test]
    fn the_halves_of_a_cut_follow_each_other_and_carry_their_own_topics() {
        let mut head = parcel(5, &[("a", 1), ("b", 2), ("a", 3), ("c", 4)]);
        let rest = head.cut(2, 1 << 20).unwrap();
        assert_eq!(head, parcel(5, &[("a", 1), ("b", 2)]));
        assert_eq!(rest, parcel(7, &[("a", 3), ("c", 4)]));
        assert_eq!((head.last_seq(), rest.last_seq()), (6, 8));
        assert_eq!(head.cut(2, 1 << 20), None);
    }

    #[test]
    fn topics_that_no_event_uses_are_left_out() {
        let mut events = Events::default();
        for name in ["a", "b", "c"] {
            events.push(&Topic::parse(name).unwrap(), Bytes::new(), 0);
        }
        events.events.drain(..2);
        let parcel = Parcel::from(Chunk::Events { first_seq: 3, collector: None, relayed: None, events });
        let Frame::Batch(batch) = parcel.into_frame(StreamId::random()) else { panic!("no batch") };
        assert_eq!((batch.topics, batch.events.len()), (vec!["c".to_owned()], 1));
    }

    #[test]
    fn what_is_cut_to_a_message_fits_in_it() {
        let topic = "x".repeat(250);
        let sizes: Vec<(&str, usize)> = (0..50).map(|n| (topic.as_str(), n * 37)).collect();
        for max in [1024, 5000, 20_000] {
            let mut head = parcel(1, &sizes);
            while let Some(rest) = head.cut(usize::MAX, max) {
                let (too_large, len) = (head.too_large(max).is_some(), encoded_len(head));
                assert!(len <= max || too_large, "{len} of {max}");
                head = rest;
            }
        }
        let longest: Vec<(String, usize)> = (0..100).map(|n| (format!("{n}{topic}"), 1)).collect();
        let longest: Vec<(&str, usize)> =
            longest.iter().map(|(topic, bytes)| (topic.as_str(), *bytes)).collect();
        let mut head = parcel(1, &longest);
        assert!(head.cut(usize::MAX, 4096).is_some());
        assert!(encoded_len(head) <= 4096);
    }

    #[test]
    fn relayed_events_keep_their_numbers_when_they_are_cut_and_fit_in_a_message() {
        let name = "n".repeat(63);
        let hops = vec![name.as_str().into(); Origin::MOST_HOPS];
        let origin = Arc::new(Origin { site: name.as_str().into(), stream: Some(StreamId::random()), hops });
        let Parcel::Events { first_seq, collector, events, .. } = parcel(1, &[("a", 300); 40]) else {
            panic!("no events")
        };
        let relayed = Relayed { origin, seqs: (u64::MAX - 40..u64::MAX).collect() };
        let mut head = Parcel::Events { first_seq, collector, relayed: Some(Box::new(relayed)), events };
        let mut seqs = Vec::new();
        loop {
            let rest = head.cut(usize::MAX, 2048);
            let Frame::Batch(batch) = head.into_frame(StreamId::random()) else { panic!("no batch") };
            assert!(prost::Message::encoded_len(&batch) <= 2048 - 8);
            assert_eq!(batch.origin.as_ref().map(|origin| origin.hops.len()), Some(8));
            seqs.extend(batch.events.iter().map(|event| event.origin_seq));
            match rest {
                Some(more) => head = more,
                None => break,
            }
        }
        assert!(seqs.iter().copied().eq(u64::MAX - 40..u64::MAX), "{seqs:?}");
    }

    #[test]
    fn an_event_over_the_wire_is_seen_before_it_is_sent() {
        assert_eq!(parcel(9, &[("a", 5000)]).too_large(4096), Some((9, 5000)));
        assert_eq!(parcel(9, &[("a", 3000)]).too_large(4096), None);
        assert!(encoded_len(parcel(9, &[("a", 3000)])) <= 4096);
    }
}
