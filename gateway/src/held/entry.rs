//! One command that is held.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

use crate::{held::Order, identity::PeerId, snapshot::Timestamp};

/// One command that is held. Shown without its payload, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    number: u64,
    collector: PeerId,
    payload: Bytes,
    actor: String,
    since: SystemTime,
    until: SystemTime,
}

/// An entry in the state file, beside its payload. Times in milliseconds since the UNIX epoch.
#[derive(Deserialize, Serialize)]
struct Row {
    site: String,
    name: String,
    actor: String,
    since: u64,
    until: u64,
}

impl Entry {
    pub(super) fn new(number: u64, order: Order, actor: String) -> Self {
        let Order { collector, payload, hold_for } = order;
        let since = SystemTime::now();
        Self { number, collector, payload, actor, since, until: since + hold_for }
    }

    /// Reads a row of the state file.
    pub(super) fn read(number: u64, about: &str, payload: Bytes) -> Option<Self> {
        let Row { site, name, actor, since, until } = serde_json::from_str(about).ok()?;
        let time = |millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        let collector = PeerId::new(&site, &name).ok()?;
        Some(Self { number, collector, payload, actor, since: time(since)?, until: time(until)? })
    }

    /// What is written to the state file beside the payload.
    pub(super) fn about(&self) -> String {
        let millis = |time: SystemTime| {
            u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
        };
        let row = Row {
            site: self.collector.site().to_owned(),
            name: self.collector.name().to_owned(),
            actor: self.actor.clone(),
            since: millis(self.since),
            until: millis(self.until),
        };
        serde_json::to_string(&row).unwrap_or_default()
    }

    /// Its number; none comes twice.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whose it is.
    #[must_use]
    pub const fn collector(&self) -> &PeerId {
        &self.collector
    }

    /// What the collector is to have.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Who asked for it.
    #[must_use]
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Whether its time is over at `now`.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.until <= now
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("Entry", 6)?;
        shown.serialize_field("number", &self.number)?;
        shown.serialize_field("collector", &self.collector.to_string())?;
        shown.serialize_field("bytes", &self.payload.len())?;
        shown.serialize_field("actor", &self.actor)?;
        shown.serialize_field("since", &Timestamp::from(self.since))?;
        shown.serialize_field("until", &Timestamp::from(self.until))?;
        shown.end()
    }
}
