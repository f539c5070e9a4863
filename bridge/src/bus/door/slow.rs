//! Rules for local clients that read more slowly than they are written to.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{
    bus::embedded::member::Kind,
    native::codec::server::{self, Envelope},
};

/// What happens when more waits for a client than it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowReader {
    /// Whoever publishes what it hears waits for it, for as long as `slow_reader_timeout` says.
    Block,
    /// Whoever publishes what it must confirm waits for it; it is sent away when it takes nothing for too long, or when more
    /// than its outbox holds piles up.
    #[default]
    Disconnect,
    /// The oldest of what waits goes, and it is told. Nobody waits for such a client, and it is no audience: no route is
    /// heard, and no batch confirmed, because of it.
    DropOldest,
}

impl SlowReader {
    /// What its member of the bus is.
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Block => Kind::Blocks,
            Self::Disconnect => Kind::Door,
            Self::DropOldest => Kind::Overhears,
        }
    }
}

/// The rule for some clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientRule {
    /// Which: their name, in which `*` stands for any characters.
    pub name: String,
    /// What happens to them.
    pub slow_reader: SlowReader,
}

impl ClientRule {
    /// Whether it is about a client of this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.name.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(found) = rest.find(part) else { return false };
            rest = rest.get(found + part.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

/// The sender of what the bus itself tells a client; nobody else may have such a name.
const SELF: &str = "daemoneye";

/// The topic of gap records.
pub(super) const GAP: &str = "daemoneye/gap";

/// A hole in what a client hears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Messages that were dropped.
    pub(super) dropped: u64,
    /// When the first of them was.
    pub(super) since: SystemTime,
}

impl Gap {
    /// Appends the record that tells the client.
    pub(super) fn tell(&self, into: &mut bytes::BytesMut) {
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let payload = format!("{{\"dropped\":{},\"since_unix_ms\":{}}}", self.dropped, since.as_millis());
        let envelope = Envelope { kind: server::Kind::Publish, realtime: false, sender: SELF, topic: GAP };
        // Far shorter than a frame may be.
        server::deliver(into, &envelope, &[payload.as_bytes()]).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let matches = |mask: &str, name| {
            ClientRule { name: mask.to_owned(), slow_reader: SlowReader::Block }.matches(name)
        };
        assert!(
            matches("engine", "engine") && !matches("engine", "engine-2") && !matches("engine", "an.engine")
        );
        assert!(matches("dashboard-*", "dashboard-") && matches("dashboard-*", "dashboard-7"));
        assert!(!matches("dashboard-*", "dash"));
        assert!(matches("*", "x") && matches("*.cli", "a.cli") && !matches("*.cli", "cli"));
        assert!(matches("a*b*c", "a-b-c") && matches("a*b*c", "abc") && !matches("a*b*c", "acb"));
        assert!(!matches("ab*ba", "aba"), "what was matched is not matched again");
    }
}
