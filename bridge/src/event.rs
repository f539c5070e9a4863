//! Events, the batches they travel in, and the streams that number them.
//!
//! A stream is made with a spool and numbers its events from 1 without holes, so that a single cumulative number says how
//! far both ends are. A batch keeps its topics apart from its events: a few topics are parsed, judged and looked up once
//! each, however many events name them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use crate::topic::Topic;

/// Position of an event in its stream, from 1.
pub type Seq = u64;

/// The name of a stream: a random UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Uuid);

impl StreamId {
    /// Makes a new random name.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads the 16 bytes of the wire; anything else, and the nil UUID, is none.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().filter(|uuid| !uuid.is_nil()).map(Self)
    }

    /// The 16 bytes of the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The 16 bytes of the wire, as a message field.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.0)
    }
}

/// Whether a loss can be repaired by a later event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Must be replayed until acknowledged.
    Critical,
    /// The next scan repairs a loss; evicted first.
    Telemetry,
}

impl Class {
    /// Every class, most precious first.
    pub const ALL: [Self; 2] = [Self::Critical, Self::Telemetry];

    /// The word used in files, logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Telemetry => "telemetry",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event of an [`Events`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Index into [`Events::topics`].
    pub topic: u32,
    /// The payload, opaque.
    pub payload: Bytes,
    /// When it happened at its source, nanoseconds since the UNIX epoch; 0: not said.
    pub time: u64,
}

/// Where events come from that are relayed from one gateway to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Site of the collector.
    pub site: Arc<str>,
    /// The stream that numbered the events at their source; none: they were never numbered.
    pub stream: Option<StreamId>,
    /// Names of the gateways that have relayed them, oldest first.
    pub hops: Vec<Arc<str>>,
}

impl Origin {
    /// Most gateways that relay an event.
    pub const MOST_HOPS: usize = 8;
}

/// What relayed events keep of where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The same for all of them.
    pub origin: Arc<Origin>,
    /// The number of each in the origin's stream, in their order; 0 without a stream.
    pub seqs: Vec<Seq>,
}

impl Relayed {
    /// Keeps what belongs to the first `keep` events; returns what belongs to the others.
    #[must_use]
    pub fn split_off(&mut self, keep: usize) -> Self {
        let seqs = self.seqs.split_off(keep.min(self.seqs.len()));
        Self { origin: Arc::clone(&self.origin), seqs }
    }

    /// The id of the event at place `at`, as it was given at its source: `<stream>/<number>`; none, if it was not numbered.
    #[must_use]
    pub fn id(&self, at: usize) -> Option<String> {
        let stream = self.origin.stream?;
        self.seqs.get(at).map(|seq| format!("{stream}/{seq}"))
    }

    /// Whether both are the same gateway's relay of the same stream, or neither is relayed.
    #[must_use]
    pub fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(&one.origin, &other.origin) || one.origin == other.origin,
            _ => false,
        }
    }
}

/// Consecutive events of one collector, oldest first.
///
/// Who makes one keeps every [`Event::topic`] within `topics`; who reads one treats an index outside as "no such topic"
/// rather than panic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The topics used, each once.
    pub topics: Vec<Topic>,
    /// The events.
    pub events: Vec<Event>,
    /// Where each event stands in its stream; kept only where somebody is shown it.
    pub numbers: Option<Numbers>,
}

/// Where the events of a batch stand in their stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The stream.
    pub stream: StreamId,
    /// The number of each event, in their order.
    pub seqs: Vec<Seq>,
}

impl Events {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes of all payloads.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.events.iter().map(|event| event.payload.len()).sum()
    }

    /// The topic of `event`, if its index is within bounds.
    #[must_use]
    pub fn topic_of(&self, event: &Event) -> Option<&Topic> {
        self.topics.get(usize::try_from(event.topic).ok()?)
    }

    /// Adds an event; a topic already present is shared. Meant for the few topics of a batch: the search is linear.
    pub fn push(&mut self, topic: &Topic, payload: Bytes, time: u64) {
        let known = self.topics.iter().rposition(|known| known == topic);
        let index = known.unwrap_or_else(|| {
            self.topics.push(topic.clone());
            self.topics.len() - 1
        });
        let topic = u32::try_from(index).unwrap_or(u32::MAX);
        self.events.push(Event { topic, payload, time });
    }
}
