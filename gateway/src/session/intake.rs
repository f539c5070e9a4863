//! What a batch of the wire becomes: events that may be published, and rejections of the others.
//!
//! Consecutive batches of one stream and collector that are already here are put together, so that a peer which sends single
//! events costs the bus no more than one which sends many. Pure but for the verdicts that a [`Speaker`] remembers.
//!
//! Kept true: every event of a batch ends up published, rejected or a duplicate; an event that breaks the wire's own rules
//! takes no effect at all.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use daemoneye_bridge::{
    event::{Event, Origin, Seq},
    topic::MAX_BYTES,
};
use daemoneye_proto::{MAX_BATCH_EVENTS, v1};
use serde_json::value::RawValue;

use crate::{
    policy::{Denial, LONGEST_NAME, Payload, Place, PublishPermit, Speaker},
    session::{credit::Amount, relayed, status::Fault},
};

/// A batch that keeps the wire's own rules: at least one event, not too many, every topic index within bounds.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) batch: v1::Batch,
    /// What it weighs.
    pub(super) amount: Amount,
    /// How many of its first events have come before.
    pub(super) duplicates: u64,
    /// Where they come from, if the peer relays them.
    pub(super) origin: Option<Arc<Origin>>,
}

impl Checked {
    /// Checks a batch.
    pub(super) fn new(batch: v1::Batch) -> Result<Self, Fault> {
        let events = batch.events.len();
        if events == 0 || events > MAX_BATCH_EVENTS {
            let problem = format!("{events} events; must be 1 to {MAX_BATCH_EVENTS}");
            return Err(Fault::broken("batch.events", problem));
        }
        let topics = batch.topics.len();
        if topics > events {
            return Err(Fault::broken("batch.topics", format!("{topics} topics for {events} events")));
        }
        let index = batch.events.iter().map(|event| event.topic).max().unwrap_or_default();
        if usize::try_from(index).map_or(true, |index| index >= topics) {
            return Err(Fault::broken("batch.events.topic", format!("index {index} of {topics} topics")));
        }
        let amount = weigh(&batch);
        let origin = relayed::origin(&batch)?;
        Ok(Self { batch, amount, duplicates: 0, origin })
    }

    /// The collector that speaks, as the session knows it.
    pub(super) fn speaks_as(&self) -> Cow<'_, str> {
        relayed::speaks_as(&self.batch)
    }

    /// The last of its numbers.
    pub(super) const fn last(&self) -> Seq {
        self.batch.first_seq.saturating_add(self.amount.events).saturating_sub(1)
    }

    fn skip(&self) -> usize {
        usize::try_from(self.duplicates).unwrap_or(usize::MAX)
    }

    /// The rejections of a batch none of whose events may be published.
    pub(super) fn refuse(&self, rejection: &Rejection) -> Vec<v1::Rejected> {
        let seqs = (self.batch.first_seq..).take(self.batch.events.len()).skip(self.skip());
        seqs.map(|seq| rejection.clone().of(seq)).collect()
    }
}

/// What a batch weighs: its payloads, and whatever of its names is longer than any name may be. That is what it pins, beside
/// a little for each event, because [`daemoneye_proto::codec`] gives each message memory of its own.
fn weigh(batch: &v1::Batch) -> Amount {
    let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    let payloads: usize = batch.events.iter().map(|event| event.payload.len()).sum();
    let excess: usize = batch.topics.iter().map(|topic| topic.len().saturating_sub(MAX_BYTES)).sum();
    let collector = batch.collector.len().saturating_sub(LONGEST_NAME);
    Amount { events: number(batch.events.len()), bytes: number(payloads + excess + collector) }
}

/// Batches of one stream and collector that will go to the bus as one.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) permit: PublishPermit,
    pub(super) events: Vec<Event>,
    /// The number of each event, at its source if it is relayed; kept only where somebody is told of it.
    pub(super) seqs: Vec<Seq>,
    /// Where they come from, if the peer relays them.
    pub(super) origin: Option<Arc<Origin>>,
    pub(super) rejected: Vec<v1::Rejected>,
    /// The last number that was put in, published or not.
    pub(super) last: Seq,
    /// What it holds, rejected ones and duplicates included.
    pub(super) amount: Amount,
    pub(super) batches: u64,
    /// What was found about the topics of one batch; kept for its memory.
    places: Vec<Result<Place, Denial>>,
}

/// What holds for the events of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of one payload.
    pub(super) max_payload: usize,
    /// Whether sequence numbers must be kept, for envelopes, consumers and gateways above.
    pub(super) keep_seqs: bool,
}

impl Gathering {
    /// Most events that are put together.
    const FULL: usize = 512;

    pub(super) fn new(permit: PublishPermit, origin: Option<Arc<Origin>>) -> Self {
        Self {
            permit,
            events: Vec::new(),
            seqs: Vec::new(),
            origin,
            rejected: Vec::new(),
            last: 0,
            amount: Amount::default(),
            batches: 0,
            places: Vec::new(),
        }
    }

    /// Whether it should go to the bus before more is put in.
    pub(super) const fn is_full(&self) -> bool {
        self.events.len() >= Self::FULL || self.rejected.len() >= Self::FULL
    }

    /// Puts in a batch. Who hands it over tells the speaker how many were allowed.
    pub(super) fn add(&mut self, checked: Checked, speaker: &mut Speaker, bounds: Bounds) {
        self.amount.events = self.amount.events.saturating_add(checked.amount.events);
        self.amount.bytes = self.amount.bytes.saturating_add(checked.amount.bytes);
        self.batches = self.batches.saturating_add(1);
        self.last = checked.last();
        let skip = checked.skip();
        let batch = checked.batch;
        self.places.clear();
        self.places.extend(batch.topics.iter().map(|topic| speaker.allow(&mut self.permit, topic)));
        self.events.reserve(batch.events.len().saturating_sub(skip));
        for (seq, event) in (batch.first_seq..).zip(batch.events).skip(skip) {
            let place = usize::try_from(event.topic).ok().and_then(|place| self.places.get(place));
            // Every index was checked to be within bounds.
            let Some(place) = place else { continue };
            match judge(place, &event.payload, bounds) {
                Ok(topic) => {
                    let time = event.time_unix_nanos;
                    let number = if self.origin.is_some() { event.origin_seq } else { seq };
                    self.events.push(Event { topic, payload: event.payload, time });
                    if bounds.keep_seqs {
                        self.seqs.push(number);
                    }
                }
                Err(rejection) => self.rejected.push(rejection.of(seq)),
            }
        }
    }
}

/// Why an event will not be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) code: v1::RejectCode,
    pub(super) reason: String,
}

impl Rejection {
    pub(super) fn of(self, seq: Seq) -> v1::Rejected {
        v1::Rejected { seq, code: self.code.into(), reason: self.reason }
    }

    /// The events have passed this gateway, or too many, before.
    pub(super) fn circle() -> Self {
        let reason =
            "the events have passed this gateway, or as many as may be; the gateways relay in a circle"
                .to_owned();
        Self { code: v1::RejectCode::Loop, reason }
    }

    /// Of a name or pattern, which is cut if it is longer than any may be.
    pub(super) fn of_name(self, name: &str) -> v1::RefusedName {
        let name = name.chars().take(MAX_BYTES).collect();
        v1::RefusedName { name, code: self.code.into(), reason: self.reason }
    }

    /// The collector's name is in use.
    pub(super) fn already_connected() -> Self {
        let reason = "another session holds this collector's name".to_owned();
        Self { code: v1::RejectCode::AlreadyConnected, reason }
    }
}

impl From<&Denial> for Rejection {
    fn from(denial: &Denial) -> Self {
        let code = match denial {
            Denial::Collector | Denial::Stranger => v1::RejectCode::CollectorDenied,
            Denial::Malformed(_) => v1::RejectCode::TopicMalformed,
            Denial::Client | Denial::Downlink | Denial::Pattern(_) | Denial::Topic => {
                v1::RejectCode::TopicDenied
            }
        };
        Self { code, reason: denial.to_string() }
    }
}

/// Whether an event may be published, and on which topic of the permit.
pub(super) fn judge(
    place: &Result<Place, Denial>,
    payload: &Bytes,
    bounds: Bounds,
) -> Result<u32, Rejection> {
    let place = place.as_ref().map_err(Rejection::from)?;
    if payload.len() > bounds.max_payload {
        let reason = format!("{} bytes; at most {} are allowed", payload.len(), bounds.max_payload);
        return Err(Rejection { code: v1::RejectCode::PayloadTooLarge, reason });
    }
    if place.payload == Payload::Json && serde_json::from_slice::<&RawValue>(payload).is_err() {
        let reason = "the payload must be well-formed JSON".to_owned();
        return Err(Rejection { code: v1::RejectCode::PayloadMalformed, reason });
    }
    Ok(place.index)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{
        identity::PeerId,
        policy::{self, Policy, Rights},
    };

    const BOUNDS: Bounds = Bounds { max_payload: 16, keep_seqs: true };

    fn speaker() -> Speaker {
        let text = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\npublish = [\"a.#\", \"json\"]\njson = [\"json\"]";
        let policy = Policy::parse(text, Path::new("p.toml")).unwrap();
        let metrics = Arc::new(policy::Metrics::default());
        let peer = PeerId::new("site-a", "x").unwrap();
        Rights::of(&peer, policy.rules(), 1, &metrics).unwrap().speaker("").unwrap()
    }

    fn batch(first_seq: u64, topics: &[&str], events: &[(u32, &'static [u8])]) -> v1::Batch {
        let event = |(topic, payload): &(u32, &'static [u8])| v1::Event {
            topic: *topic,
            payload: Bytes::from_static(payload),
            ..v1::Event::default()
        };
        v1::Batch {
            first_seq,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            events: events.iter().map(event).collect(),
            ..v1::Batch::default()
        }
    }

    fn checked(batch: v1::Batch, duplicates: u64) -> Checked {
        Checked { duplicates, ..Checked::new(batch).unwrap() }
    }

    #[test]
    fn each_bad_event_gets_its_own_code_and_the_good_ones_go() {
        let mut speaker = speaker();
        let mut gathering = Gathering::new(speaker.permit(), None);
        let topics = ["a.b", "A", "b", "json"];
        let events: &[(u32, &[u8])] = &[
            (0, b"fine"),
            (1, b"malformed"),
            (2, b"denied"),
            (0, b"0123456789abcdef+"),
            (3, b"{"),
            (3, b"\"\xff\""),
            (3, b"{}"),
            (0, b""),
        ];
        gathering.add(checked(batch(10, &topics, events), 0), &mut speaker, BOUNDS);
        let codes: Vec<_> = gathering.rejected.iter().map(|event| (event.seq, event.code())).collect();
        assert_eq!(
            codes,
            [
                (11, v1::RejectCode::TopicMalformed),
                (12, v1::RejectCode::TopicDenied),
                (13, v1::RejectCode::PayloadTooLarge),
                (14, v1::RejectCode::PayloadMalformed),
                (15, v1::RejectCode::PayloadMalformed),
            ]
        );
        assert_eq!(gathering.seqs, [10, 16, 17]);
        let topics = gathering.permit.spend();
        let published: Vec<_> =
            gathering.events.iter().map(|event| topics[event.topic as usize].dotted()).collect();
        assert_eq!(published, ["a.b", "json", "a.b"]);
    }

    #[test]
    fn batches_are_put_together_and_duplicates_passed_over() {
        let mut speaker = speaker();
        let mut gathering = Gathering::new(speaker.permit(), None);
        gathering.add(
            checked(batch(1, &["a.x"], &[(0, b"1"), (0, b"2"), (0, b"3")]), 2),
            &mut speaker,
            BOUNDS,
        );
        gathering.add(checked(batch(4, &["a.y", "a.x"], &[(1, b"4"), (0, b"5")]), 0), &mut speaker, BOUNDS);
        assert_eq!(gathering.seqs, [3, 4, 5]);
        assert_eq!((gathering.last, gathering.batches), (5, 2));
        assert_eq!(gathering.amount, Amount { events: 5, bytes: 5 });
        let topics = gathering.permit.spend();
        assert_eq!(topics.len(), 2);
        assert_eq!(topics[gathering.events[2].topic as usize].dotted(), "a.y");
    }

    #[test]
    fn a_batch_that_breaks_the_wires_rules_takes_no_effect() {
        assert!(Checked::new(batch(1, &[], &[])).is_err(), "empty");
        assert!(Checked::new(batch(1, &["a"], &[(1, b"")])).is_err(), "index past the end");
        assert!(Checked::new(batch(1, &[], &[(0, b"")])).is_err(), "no topic");
        assert!(Checked::new(batch(1, &["a", "b"], &[(0, b"")])).is_err(), "more topics than events");
        assert!(Checked::new(batch(1, &["a"], &[(u32::MAX, b"")])).is_err());
        let most = vec![(0, b"".as_slice()); MAX_BATCH_EVENTS];
        assert!(Checked::new(batch(1, &["a"], &most)).is_ok());
        let more = vec![(0, b"".as_slice()); MAX_BATCH_EVENTS + 1];
        assert!(Checked::new(batch(1, &["a"], &more)).is_err());
    }

    #[test]
    fn a_collector_that_is_denied_has_all_of_its_events_rejected() {
        let sent = batch(5, &["a.b"], &[(0, b"1"), (0, b"2"), (0, b"3")]);
        let rejected = checked(sent, 1).refuse(&Rejection::from(&Denial::Collector));
        let seqs: Vec<_> = rejected.iter().map(|event| (event.seq, event.code())).collect();
        let denied = v1::RejectCode::CollectorDenied;
        assert_eq!(seqs, [(6, denied), (7, denied)]);
    }
}
