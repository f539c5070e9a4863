//! The unit of writing: consecutive events of one collector, checksummed.
//!
//! ```text
//!   marker 8 │ crc 4 │ head_bytes 4 │ body_bytes 4 │ events 4 │ first_seq 8 │ collector_bytes 2 │ topics 2
//!   then an entry an event:  topic 2 │ 0 2 │ payload_bytes 4 │ time 8 │ crc of the payload 4 │ relayed: number at its origin 8
//!   then the collector's name, relayed: the origin, then topics as length 2 and text; then, outside the head, the payloads
//! ```
//!
//! The highest bit of `topics` says that the events are relayed.
//!
//! Little endian. The crc of the head covers all of it but itself, the marker included, so a damaged head loses the block
//! and a damaged payload loses one event. The marker is random and of this spool: whoever crafts a payload cannot know it,
//! so what looks like a block after damage is one.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::{
    event::{Origin, Seq},
    spool::{Record, fields::Fields, origin},
    topic::Topic,
};

/// What a block begins with.
pub(super) type Marker = [u8; 8];

/// Bytes of the head before its entries.
const FIXED: usize = 36;

/// Bytes of an entry.
const ENTRY: usize = 20;

/// Bytes that the entry of a relayed event has more.
const ENTRY_RELAYED: usize = 8;

/// Says "relayed" where the number of topics stands.
const RELAYED: u16 = 1 << 15;

/// Most events of a block.
const MAX_EVENTS: usize = 512;

/// Most topics of a block: their search is linear.
const MAX_TOPICS: usize = 64;

/// Most bytes of a collector's name.
pub(super) const MAX_COLLECTOR: usize = 255;

/// Most bytes of a head that is well-formed, with room for later versions of these bounds.
const MAX_HEAD: usize = 256 * 1024;

/// Says "no collector" where the length of its name stands.
const NO_COLLECTOR: u16 = u16::MAX;

/// Appends to `into` a block of as many of `records` as belong into one; returns how many those are.
///
/// `body` bounds its payload bytes, but for a single larger record.
pub(super) fn encode(
    into: &mut Vec<u8>,
    marker: Marker,
    first_seq: Seq,
    records: &[Record],
    body: usize,
) -> usize {
    let Some(first) = records.first() else { return 0 };
    let mut topics: Vec<&Topic> = Vec::with_capacity(4);
    let mut indices = Vec::with_capacity(records.len().min(MAX_EVENTS));
    let mut body_bytes = 0;
    for record in records.iter().take(MAX_EVENTS) {
        let bytes = record.payload.len();
        let full = !indices.is_empty() && body_bytes + bytes > body;
        if full || record.collector != first.collector || !origin::is_shared(record, first) {
            break;
        }
        let known = topics.iter().rposition(|topic| **topic == record.topic);
        if known.is_none() {
            if topics.len() == MAX_TOPICS {
                break;
            }
            topics.push(&record.topic);
        }
        indices.push(as_u16(known.unwrap_or(topics.len() - 1)));
        body_bytes += bytes;
    }
    let taken = records.get(..indices.len()).unwrap_or_default();

    let collector = first.collector.as_deref();
    let start = into.len();
    into.extend_from_slice(&marker);
    into.extend_from_slice(&[0; 8]);
    into.extend_from_slice(&as_u32(body_bytes).to_le_bytes());
    into.extend_from_slice(&as_u32(taken.len()).to_le_bytes());
    into.extend_from_slice(&first_seq.to_le_bytes());
    into.extend_from_slice(&collector.map_or(NO_COLLECTOR, |name| as_u16(name.len())).to_le_bytes());
    let relayed = if first.origin.is_some() { RELAYED } else { 0 };
    into.extend_from_slice(&(as_u16(topics.len()) | relayed).to_le_bytes());
    for (record, topic) in taken.iter().zip(&indices) {
        into.extend_from_slice(&topic.to_le_bytes());
        into.extend_from_slice(&[0; 2]);
        into.extend_from_slice(&as_u32(record.payload.len()).to_le_bytes());
        into.extend_from_slice(&record.time.to_le_bytes());
        into.extend_from_slice(&crc32fast::hash(&record.payload).to_le_bytes());
        if let Some((_, seq)) = &record.origin {
            into.extend_from_slice(&seq.to_le_bytes());
        }
    }
    into.extend_from_slice(collector.unwrap_or_default().as_bytes());
    if let Some((origin, _)) = &first.origin {
        origin::put(into, origin);
    }
    for topic in topics {
        into.extend_from_slice(&as_u16(topic.dotted().len()).to_le_bytes());
        into.extend_from_slice(topic.dotted().as_bytes());
    }
    seal(into.get_mut(start..).unwrap_or_default());
    for record in taken {
        into.extend_from_slice(&record.payload);
    }
    taken.len()
}

/// Fills in length and checksum of a head.
fn seal(head: &mut [u8]) {
    let bytes = as_u32(head.len()).to_le_bytes();
    if let Some(field) = head.get_mut(12..16) {
        field.copy_from_slice(&bytes);
    }
    let crc = head_crc(head).to_le_bytes();
    if let Some(field) = head.get_mut(8..12) {
        field.copy_from_slice(&crc);
    }
}

/// The crc of a head: everything but the crc.
fn head_crc(head: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(head.get(..8).unwrap_or_default());
    hasher.update(head.get(12..).unwrap_or_default());
    hasher.finalize()
}

/// Lengths that the writer has bounded; a bound that were broken would show as a damaged block, not as a wrong one.
fn as_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// As [`as_u32`].
pub(super) fn as_u16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// What stands at some place of a segment.
#[derive(Debug)]
pub(super) enum Parsed {
    /// No block, or a damaged head.
    Bad,
    /// The beginning of one, of which so many bytes are needed.
    Short(usize),
    /// A block with an intact head and all of its bytes.
    Whole(Block),
}

/// A block with an intact head.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Number of its first event.
    pub(super) first_seq: Seq,
    /// How many events; at least one.
    pub(super) events: u32,
    head_bytes: usize,
    collector_bytes: u16,
    topics: u16,
    is_relayed: bool,
    /// Head and body.
    bytes: Bytes,
}

/// What the names of a block's head say.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub(super) collector: Option<&'a str>,
    pub(super) origin: Option<Origin>,
    pub(super) topics: Vec<&'a str>,
}

impl Block {
    /// Reads what stands at `offset` of `window`.
    pub(super) fn parse(window: &Bytes, offset: usize, marker: Marker) -> Parsed {
        let rest = window.get(offset..).unwrap_or_default();
        let mut fields = Fields(rest);
        let Some(found) = fields.take::<8>() else { return Parsed::Short(FIXED) };
        if found != marker {
            return Parsed::Bad;
        }
        let Some(fixed) = Fixed::read(&mut fields) else { return Parsed::Short(FIXED) };
        let (head_bytes, body_bytes) = (fixed.head_bytes as usize, fixed.body_bytes as usize);
        if !(FIXED..=MAX_HEAD).contains(&head_bytes) {
            return Parsed::Bad;
        }
        let Some(head) = rest.get(..head_bytes) else { return Parsed::Short(head_bytes) };
        let last = fixed.first_seq.checked_add(u64::from(fixed.events));
        if head_crc(head) != fixed.crc || fixed.events == 0 || fixed.first_seq == 0 || last.is_none() {
            return Parsed::Bad;
        }
        let total = head_bytes.saturating_add(body_bytes);
        if rest.len() < total {
            return Parsed::Short(total);
        }
        Parsed::Whole(Self {
            first_seq: fixed.first_seq,
            events: fixed.events,
            head_bytes,
            collector_bytes: fixed.collector_bytes,
            topics: fixed.topics & !RELAYED,
            is_relayed: fixed.topics & RELAYED != 0,
            bytes: window.slice(offset..offset + total),
        })
    }

    /// Number of its last event.
    pub(super) const fn last_seq(&self) -> Seq {
        self.first_seq + self.events as u64 - 1
    }

    /// Bytes of head and body.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the head before its names.
    const fn entries_end(&self) -> usize {
        FIXED + self.events as usize * self.entry()
    }

    const fn entry(&self) -> usize {
        if self.is_relayed { ENTRY + ENTRY_RELAYED } else { ENTRY }
    }

    /// The names of its head; `None` if they are not what a head must hold.
    pub(super) fn names(&self) -> Option<Names<'_>> {
        let names = self.bytes.get(self.entries_end()..self.head_bytes)?;
        let mut fields = Fields(names);
        let collector = match self.collector_bytes {
            NO_COLLECTOR => None,
            bytes => Some(fields.text(bytes)?),
        };
        let origin = if self.is_relayed { Some(origin::take(&mut fields)?) } else { None };
        let mut topics = Vec::with_capacity(usize::from(self.topics).min(MAX_TOPICS));
        for _ in 0..self.topics {
            let bytes = u16::from_le_bytes(fields.take()?);
            topics.push(fields.text(bytes)?);
        }
        Some(Names { collector, origin, topics })
    }

    /// Its events, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let table = self.bytes.get(FIXED..self.entries_end()).unwrap_or_default();
        let mut at = self.head_bytes;
        table.chunks_exact(self.entry()).filter_map(move |entry| {
            let mut fields = Fields(entry);
            let topic = u16::from_le_bytes(fields.take()?);
            let _reserved: [u8; 2] = fields.take()?;
            let bytes = u32::from_le_bytes(fields.take()?) as usize;
            let time = u64::from_le_bytes(fields.take()?);
            let crc = u32::from_le_bytes(fields.take()?);
            let origin_seq = fields.take().map_or(0, u64::from_le_bytes);
            let from = at;
            at = at.saturating_add(bytes);
            // A sum of lengths beyond the body cannot pass the head's crc; if it did, the event counts as damaged.
            let payload = if at <= self.bytes.len() { self.bytes.slice(from..at) } else { Bytes::new() };
            let intact = payload.len() == bytes && crc32fast::hash(&payload) == crc;
            Some(Entry { topic, time, payload, origin_seq, intact })
        })
    }
}

/// One event of a block.
#[derive(Debug)]
pub(super) struct Entry {
    /// Index into the block's topics.
    pub(super) topic: u16,
    /// As in [`Record::time`].
    pub(super) time: u64,
    /// A part of the window that was read.
    pub(super) payload: Bytes,
    /// Its number at its origin; 0 if it is not relayed.
    pub(super) origin_seq: Seq,
    /// Whether the payload is what was written.
    pub(super) intact: bool,
}

/// The head before its entries.
struct Fixed {
    crc: u32,
    head_bytes: u32,
    body_bytes: u32,
    events: u32,
    first_seq: Seq,
    collector_bytes: u16,
    topics: u16,
}

impl Fixed {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            crc: u32::from_le_bytes(fields.take()?),
            head_bytes: u32::from_le_bytes(fields.take()?),
            body_bytes: u32::from_le_bytes(fields.take()?),
            events: u32::from_le_bytes(fields.take()?),
            first_seq: u64::from_le_bytes(fields.take()?),
            collector_bytes: u16::from_le_bytes(fields.take()?),
            topics: u16::from_le_bytes(fields.take()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::StreamId;

    const MARKER: Marker = *b"\x01\xff mark ";

    fn record(collector: Option<&str>, topic: &str, payload: &str) -> Record {
        Record {
            collector: collector.map(Into::into),
            origin: None,
            topic: Topic::parse(topic).unwrap(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            time: payload.len() as u64,
        }
    }

    fn block(records: &[Record]) -> (Bytes, usize) {
        let mut bytes = Vec::new();
        let taken = encode(&mut bytes, MARKER, 7, records, 1000);
        (bytes.into(), taken)
    }

    fn whole(bytes: &Bytes) -> Block {
        match Block::parse(bytes, 0, MARKER) {
            Parsed::Whole(block) => block,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_gives_back_what_was_put_in() {
        let records = [
            record(Some("procmond"), "a.b", "one"),
            record(Some("procmond"), "c", ""),
            record(Some("procmond"), "a.b", "three"),
        ];
        let (bytes, taken) = block(&records);
        assert_eq!(taken, 3);
        let block = whole(&bytes);
        assert_eq!((block.first_seq, block.last_seq(), block.len()), (7, 9, bytes.len()));
        let names = block.names().unwrap();
        assert_eq!((names.collector, names.topics), (Some("procmond"), vec!["a.b", "c"]));
        assert_eq!(names.origin, None);
        let entries: Vec<_> = block.entries().collect();
        assert!(entries.iter().all(|entry| entry.intact));
        let read: Vec<_> =
            entries.iter().map(|entry| (entry.topic, entry.time, &entry.payload[..])).collect();
        assert_eq!(read, [(0, 3, &b"one"[..]), (1, 0, b""), (0, 5, b"three")]);
    }

    #[test]
    fn a_block_ends_where_the_collector_changes_or_it_is_full() {
        let (bytes, taken) = block(&[record(None, "a", "x"), record(Some("p"), "a", "y")]);
        assert_eq!(taken, 1);
        let large = whole(&bytes);
        let names = large.names().unwrap();
        assert_eq!((names.collector, names.topics), (None, vec!["a"]));
        let large = "x".repeat(600);
        assert_eq!(block(&[record(None, "a", &large), record(None, "a", &large)]).1, 1);
        assert_eq!(block(&vec![record(None, "a", ""); MAX_EVENTS + 1]).1, MAX_EVENTS);
        let topics: Vec<_> = (0..=MAX_TOPICS).map(|n| record(None, &format!("a.t{n}"), "")).collect();
        assert_eq!(block(&topics).1, MAX_TOPICS);
        assert_eq!(block(&[]).1, 0);
    }

    #[test]
    fn no_flipped_bit_goes_unseen() {
        let (bytes, _) =
            block(&[record(Some("p"), "a.b", "payload one"), record(Some("p"), "a.c", "payload two")]);
        let head = whole(&bytes).head_bytes;
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            let flipped = Bytes::from(flipped);
            match Block::parse(&flipped, 0, MARKER) {
                Parsed::Whole(block) => {
                    assert!(at / 8 >= head, "bit {at} of the head");
                    assert_eq!(block.entries().filter(|entry| entry.intact).count(), 1, "bit {at}");
                }
                Parsed::Bad | Parsed::Short(_) => assert!(at / 8 < head, "bit {at} of the body"),
            }
        }
    }

    #[test]
    fn a_relayed_event_keeps_its_origin_and_its_number_there() {
        let origin = Arc::new(Origin {
            site: "site-b".into(),
            stream: Some(StreamId::random()),
            hops: vec!["region-1".into(), "region-2".into()],
        });
        let relayed = |seq, payload| Record {
            origin: Some((Arc::clone(&origin), seq)),
            ..record(Some("procmond"), "a.b", payload)
        };
        let own = record(Some("procmond"), "a.b", "own");
        let (bytes, taken) = block(&[relayed(7, "one"), relayed(9, "two"), own]);
        assert_eq!(taken, 2, "what is our own stands in a block of its own");
        let block = whole(&bytes);
        let names = block.names().unwrap();
        assert_eq!((names.collector, names.topics), (Some("procmond"), vec!["a.b"]));
        assert_eq!(names.origin.as_ref(), Some(&*origin));
        let entries: Vec<_> = block.entries().map(|entry| (entry.origin_seq, entry.payload)).collect();
        assert_eq!(entries, [(7, "one".into()), (9, "two".into())]);
        assert!(block.entries().all(|entry| entry.intact));
    }

    #[test]
    fn a_cut_block_is_short_at_every_byte() {
        let (bytes, _) = block(&[record(Some("p"), "a.b", "payload")]);
        for cut in 0..bytes.len() {
            let parsed = Block::parse(&bytes.slice(..cut), 0, MARKER);
            assert!(
                matches!(parsed, Parsed::Short(need) if need > cut && need <= bytes.len()),
                "{cut}: {parsed:?}"
            );
        }
    }
}
