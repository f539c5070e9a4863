//! What the uplink shows of itself.

use std::time::{Duration, SystemTime};

use serde::Serialize;

/// What the uplink shows of itself. The counts are since it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether a gateway is there.
    pub link: Link,
    /// Events sent, those sent again included.
    pub sent: u64,
    /// Events acknowledged; rejected ones are among them.
    pub acked: u64,
    /// Events that a gateway will never publish.
    pub rejected: u64,
    /// Ranges reported as lost.
    pub gaps: u64,
    /// Events sent and not yet acknowledged.
    pub in_flight: u64,
    /// Sessions that were welcomed.
    pub sessions: u64,
    /// Attempts and sessions that failed.
    pub failures: u64,
    /// Gateways that are left out for a while, because they failed again and again.
    pub left_out: Vec<String>,
    /// The last ping's way there and back.
    pub round_trip: Option<Duration>,
    /// What last went wrong.
    pub last_error: Option<Trouble>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            link: Link::Connecting { since: SystemTime::now() },
            sent: 0,
            acked: 0,
            rejected: 0,
            gaps: 0,
            in_flight: 0,
            sessions: 0,
            failures: 0,
            left_out: Vec::new(),
            round_trip: None,
            last_error: None,
        }
    }
}

/// Whether a gateway is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "link")]
pub enum Link {
    /// Being sought.
    Connecting {
        /// Since when.
        since: SystemTime,
    },
    /// The uplink has ended.
    Ended,
    /// There.
    Up {
        /// Which, as host and port.
        gateway: String,
        /// Name of the session, for logs at both ends.
        session: String,
        /// Who we are there.
        peer: String,
        /// Since when.
        since: SystemTime,
    },
    /// Not reached; the next attempt comes later.
    Waiting {
        /// Since when no gateway is there.
        since: SystemTime,
        /// When the next attempt is due.
        until: SystemTime,
    },
}

impl Link {
    /// Whether a gateway is there.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// The word used in logs, labels and answers.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Ended => "ended",
            Self::Up { .. } => "up",
            Self::Waiting { .. } => "waiting",
        }
    }

    /// Since when it is so; for `Ended`, nobody asks.
    #[must_use]
    pub const fn since(&self) -> Option<SystemTime> {
        match self {
            Self::Connecting { since } | Self::Up { since, .. } | Self::Waiting { since, .. } => Some(*since),
            Self::Ended => None,
        }
    }
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What, with its causes, on one line.
    pub what: String,
    /// When.
    pub at: SystemTime,
    /// Whether somebody has to change something before it can get better.
    pub lasting: bool,
}
