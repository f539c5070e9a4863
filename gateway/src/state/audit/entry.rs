//! One entry: how it is written, and what is hashed.
//!
//! Hashed is what the line says, each part behind its length, so that nothing can be moved from one part to another. The
//! payload is hashed by itself, so that it may be removed from a copy without breaking the chain.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{snapshot::Timestamp, state::audit::Flaw};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// An entry that a crash had cut short was removed.
    AuditRecovered,
    /// Entries can be written again, and so many could not be.
    AuditResumed,
    /// A command is no longer held for its collector: received, cancelled, or over.
    CommandEnded,
    /// What was recorded before it of a command could not be done.
    CommandFailed,
    /// A command is held for a collector.
    CommandHeld,
    /// Somebody was put on the deny-list.
    DenyAdded,
    /// What was recorded before it could not be done.
    DenyFailed,
    /// Somebody was taken off the deny-list.
    DenyRemoved,
    /// New certificates, anchors or revocation lists are in force.
    MaterialReloaded,
    /// A new policy is in force.
    PolicyApplied,
    /// A reload was put through against what would have held it back.
    ReloadForced,
}

impl Action {
    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuditRecovered => "audit_recovered",
            Self::AuditResumed => "audit_resumed",
            Self::CommandEnded => "command_ended",
            Self::CommandFailed => "command_failed",
            Self::CommandHeld => "command_held",
            Self::DenyAdded => "deny_added",
            Self::DenyFailed => "deny_failed",
            Self::DenyRemoved => "deny_removed",
            Self::MaterialReloaded => "material_reloaded",
            Self::PolicyApplied => "policy_applied",
            Self::ReloadForced => "reload_forced",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of the chain: how many entries there are, and the hash of the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of the last entry; 0 before the first.
    pub sequence: u64,
    /// Its hash; zeros before the first.
    pub hash: [u8; 32],
}

impl Head {
    /// The hash in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }
}

/// An entry as the file has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the fields of DaemonEye's ledger")]
struct Entry<'a> {
    sequence: u64,
    timestamp: String,
    actor: String,
    action: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    payload_hash: String,
    previous_hash: String,
    entry_hash: String,
}

/// An entry that is to be written.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    /// The end of the chain once it is.
    pub(super) head: Head,
}

impl Line {
    pub(super) fn new(
        after: Head,
        at: Timestamp,
        actor: &str,
        action: Action,
        payload: &impl Serialize,
    ) -> Result<Self, PayloadError> {
        let payload = to_raw_value(payload)?;
        if payload.get().len() > MOST_PAYLOAD || actor.len() > MOST_ACTOR {
            return Err(PayloadError::TooLong);
        }
        let mut entry = Entry {
            sequence: after.sequence.saturating_add(1),
            timestamp: at.to_string(),
            actor: actor.to_owned(),
            action: action.as_str().to_owned(),
            payload: &payload,
            payload_hash: hex(blake3::hash(payload.get().as_bytes()).as_bytes()),
            previous_hash: after.hex(),
            entry_hash: String::new(),
        };
        let hash = hash(&entry);
        entry.entry_hash = hex(&hash);
        let mut bytes = serde_json::to_vec(&entry)?;
        bytes.push(b'\n');
        Ok(Self { bytes, head: Head { sequence: entry.sequence, hash } })
    }
}

/// Most bytes of a payload; with everything else a line stays below twice of it, however it is escaped.
const MOST_PAYLOAD: usize = 48 << 10;

/// Most bytes of a name of who did it.
const MOST_ACTOR: usize = 512;

/// What cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is too long.
    #[error("it is longer than an entry may be")]
    TooLong,
}

/// An entry that agrees with itself.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) head: Head,
    /// The hash that the entry before it must have, in hexadecimal.
    pub(super) previous: String,
}

impl Read {
    /// Whether the chain goes on from `before` with it.
    pub(super) fn follows(&self, before: Head) -> bool {
        self.head.sequence == before.sequence.saturating_add(1) && self.previous == before.hex()
    }
}

/// Reads a line and holds it against its own hashes.
pub(super) fn read(line: &[u8]) -> Result<Read, Flaw> {
    let entry: Entry<'_> = serde_json::from_slice(line).map_err(|_| Flaw::Unreadable)?;
    if hex(blake3::hash(entry.payload.get().as_bytes()).as_bytes()) != entry.payload_hash {
        return Err(Flaw::Payload);
    }
    let hash = hash(&entry);
    if hex(&hash) != entry.entry_hash {
        return Err(Flaw::Entry);
    }
    Ok(Read { head: Head { sequence: entry.sequence, hash }, previous: entry.previous_hash })
}

fn hash(entry: &Entry<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&entry.sequence.to_le_bytes());
    for part in [&entry.timestamp, &entry.actor, &entry.action, &entry.payload_hash, &entry.previous_hash] {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}
