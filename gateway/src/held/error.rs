//! Why commands are not held.

use crate::{
    held::Handle,
    identity::PeerId,
    state::{StoreError, audit::AuditError},
};

/// Why commands could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// One makes no sense.
    #[error(
        "held command {number} cannot be read; was the state file written by a later version? run that version"
    )]
    Entry {
        /// Which.
        number: u64,
    },
    /// The state file cannot be read.
    #[error(transparent)]
    State(#[from] StoreError),
}

/// Why a command was not held, or is held still.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// There is no such command.
    #[error("no command {0} is held")]
    Absent(u64),
    /// The change could not be recorded.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The process is ending.
    #[error("the gateway is going away")]
    Ended,
    /// There are too many commands.
    #[error("as many commands are held as may be ({}); cancel some", Handle::MOST)]
    Full,
    /// There are too many of one collector.
    #[error("as many commands are held for {0} as may be ({most}); cancel some", most = Handle::MOST_OF_ONE)]
    FullOf(PeerId),
    /// The command could not be stored or removed.
    #[error("could not store the held commands, so nothing has changed")]
    State(#[source] StoreError),
    /// The time is too short or too long.
    #[error("hold_for must be 1s to 30days")]
    Time,
    /// The payload is too large.
    #[error("a payload of {bytes} bytes is too large to be held; at most {} are", Handle::MOST_PAYLOAD)]
    TooLarge {
        /// Of the payload.
        bytes: usize,
    },
}
