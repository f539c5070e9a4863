//! How each way that messages take does.

use std::time::Duration;

use daemoneye_bridge::transport::{Kind, Mishap, Rates, Sum, Totals};
use serde::{Serialize, Serializer};

use crate::snapshot::{Timestamp, Trouble, Word};

/// Every transport of this gateway.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Transports {
    /// When this was put together; `None` before the first time.
    pub as_of: Option<Timestamp>,
    /// Since when the totals count: they begin at 0 with the process, so that who adds up knows when they began anew.
    pub since: Option<Timestamp>,
    /// Over how long rates and means are taken.
    pub window_seconds: u64,
    /// Each of them, those that are not there included.
    pub transports: Vec<TransportHealth>,
}

/// The health of one transport.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TransportHealth {
    /// `in-process`, `unix-socket`, `tcp-mtls`, `named-pipe`.
    #[serde(serialize_with = "word")]
    pub transport: Kind,
    /// Whether it is in use here.
    pub enabled: bool,
    /// How it is; none if it is not in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Word>,
    /// Why it is not healthy, or not in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Where it is found: an address or a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Connections now.
    pub connection_count: u64,
    /// Most connections; none: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u64>,
    /// Messages a second, both ways, within the window.
    pub message_rate: f64,
    /// Errors a second, within the window.
    pub error_rate: f64,
    /// Mean time that a message took within the window, in milliseconds; none if none was timed.
    pub average_latency_ms: Option<f64>,
    /// From where to where latency is measured.
    pub latency_of: &'static str,
    /// The last error, and when.
    pub last_error: Option<Trouble>,
    /// Sums since the process began; they only grow.
    pub totals: TransportTotals,
}

/// Sums since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TransportTotals {
    /// Connections that began.
    pub connections_opened: u64,
    /// Those of them that have ended.
    pub connections_closed: u64,
    /// Strangers turned away; no errors of the transport.
    pub connections_refused: u64,
    /// Messages that came in.
    pub messages_received: u64,
    /// Messages that went out.
    pub messages_sent: u64,
    /// Connections that ended badly, and messages that had to be dropped.
    pub errors: u64,
    /// How many messages, or batches of them, were timed.
    pub latency_count: u64,
    /// How long they took in all.
    pub latency_seconds: f64,
    /// Pings that were answered; none where there are no pings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_count: Option<u64>,
    /// How long they took in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_seconds: Option<f64>,
}

impl TransportHealth {
    /// One that is not in use, and why.
    #[must_use]
    pub fn absent(transport: Kind, cause: impl Into<String>) -> Self {
        Self { enabled: false, status: None, cause: Some(cause.into()), ..Self::of(transport) }
    }

    /// One of which nothing is known yet.
    #[must_use]
    pub fn of(transport: Kind) -> Self {
        Self {
            transport,
            enabled: true,
            status: Some(Word::Healthy),
            cause: None,
            endpoint: None,
            connection_count: 0,
            max_connections: None,
            message_rate: 0.0,
            error_rate: 0.0,
            average_latency_ms: None,
            latency_of: "",
            last_error: None,
            totals: TransportTotals::default(),
        }
    }

    /// Fills in what was counted.
    #[must_use]
    pub fn counted(self, totals: &Totals, rates: &Rates) -> Self {
        Self {
            connection_count: totals.connections(),
            message_rate: rates.messages,
            error_rate: rates.errors,
            average_latency_ms: rates.latency.map(millis),
            totals: totals.into(),
            ..self
        }
    }

    /// Adds the round trips of pings.
    #[must_use]
    pub const fn pinged(mut self, pings: Sum) -> Self {
        self.totals.round_trip_count = Some(pings.count);
        self.totals.round_trip_seconds = Some(pings.time.as_secs_f64());
        self
    }
}

impl From<&Totals> for TransportTotals {
    fn from(totals: &Totals) -> Self {
        Self {
            connections_opened: totals.opened,
            connections_closed: totals.closed,
            connections_refused: totals.refused,
            messages_received: totals.received,
            messages_sent: totals.sent,
            errors: totals.errors,
            latency_count: totals.latency.count,
            latency_seconds: totals.latency.time.as_secs_f64(),
            round_trip_count: None,
            round_trip_seconds: None,
        }
    }
}

impl From<Mishap> for Trouble {
    fn from(mishap: Mishap) -> Self {
        Self { cause: mishap.cause, since: mishap.at.into() }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn word<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}
