//! Why a session or call ends, and what the peer is told of it.
//!
//! The one place where a cause becomes a gRPC status. Kept true: what crosses the wire is said here in full; no source and
//! no path of ours is in it.

use std::time::Duration;

use daemoneye_bridge::event::Seq;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{bus::OpenError, policy::Denial, session::http2::CutReason, state::StreamError};

/// Why a session or call ended otherwise than well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Fault {
    /// The protocol was broken.
    #[error("{field}: {problem}")]
    Broken { field: &'static str, problem: String },
    /// The bus has ended or does not answer.
    #[error("the bus is not there")]
    BusGone,
    /// The peer is no longer trusted.
    #[error("the peer is no longer admitted: {0}")]
    Cut(CutReason),
    /// The policy does not allow it.
    #[error("{0}")]
    Denied(Denial),
    /// The gateway is going away.
    #[error("the gateway is going away")]
    Draining { reconnect_after: Duration },
    /// A cap was met.
    #[error("too many {what}")]
    Full { what: &'static str },
    /// A name on the bus, or a stream, is in use elsewhere.
    #[error("{what} is in use by another session or call")]
    InUse { what: &'static str },
    /// The connection ended.
    #[error("the connection was lost")]
    Lost,
    /// Over the peer's rate.
    #[error("over the rate that the policy grants")]
    OverRate { wait: Duration },
    /// A sequence number that does not follow.
    #[error("first_seq: expected {expected}, got {got}")]
    Sequence { expected: Seq, got: Seq },
    /// Nothing was heard for too long.
    #[error("nothing was heard for too long")]
    Silent,
    /// What was written to it was not taken for too long.
    #[error("the peer does not read what is written to it")]
    SlowReader,
    /// A plain call's sequence number is ahead of its stream.
    #[error("seq: expected {expected} at most, got {got}")]
    SkippedAhead { expected: Seq, got: Seq },
    /// The marks cannot be read.
    #[error("the gateway's state is not available")]
    State,
    /// A newer session has taken over.
    #[error("a newer session of the same stream or peer has taken over")]
    Superseded,
    /// The bus did not confirm in time.
    #[error("the bus did not confirm in time")]
    Unconfirmed,
    /// The protocol version is not spoken here.
    #[error("protocol version {given} is not spoken here; version {ours} is")]
    Version { given: u32, ours: u32 },
    /// The batch was withdrawn before it was confirmed.
    #[error("the bus withdrew a batch before it was confirmed")]
    Withdrawn,
}

impl Fault {
    /// A field that breaks the protocol.
    pub(crate) fn broken(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Broken { field, problem: problem.into() }
    }

    /// Why the next message could not be read: the connection is gone, or it was no message.
    pub(crate) fn unreadable(status: &Status) -> Self {
        match status.code() {
            Code::Internal
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented
                if std::error::Error::source(status).is_none() =>
            {
                Self::broken("message", "could not be decoded, or is larger than a message may be")
            }
            _ => Self::Lost,
        }
    }

    /// The word in metrics and in the list of those who left.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Broken { .. } | Self::Sequence { .. } | Self::SkippedAhead { .. } => "protocol",
            Self::BusGone | Self::Unconfirmed | Self::Withdrawn => "bus",
            Self::Cut(reason) => reason.as_str(),
            Self::Denied(_) => "denied",
            Self::Draining { .. } => "drained",
            Self::Full { .. } | Self::OverRate { .. } => "limit",
            Self::InUse { .. } => "in_use",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::SlowReader => "slow_reader",
            Self::State => "state",
            Self::Superseded => "superseded",
            Self::Version { .. } => "version",
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Broken { .. } | Self::Sequence { .. } | Self::Denied(Denial::Malformed(_)) => {
                Code::InvalidArgument
            }
            Self::BusGone
            | Self::Draining { .. }
            | Self::InUse { .. }
            | Self::Silent
            | Self::SlowReader
            | Self::State
            | Self::Unconfirmed
            | Self::Withdrawn => Code::Unavailable,
            Self::Cut(_) | Self::Denied(_) => Code::PermissionDenied,
            Self::Full { .. } | Self::OverRate { .. } => Code::ResourceExhausted,
            Self::Lost => Code::Cancelled,
            Self::SkippedAhead { .. } => Code::OutOfRange,
            Self::Superseded => Code::Aborted,
            Self::Version { .. } => Code::FailedPrecondition,
        }
    }

    /// When it is worth coming back; `None` where it is of no use, or the peer's own backoff knows best.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BusGone | Self::InUse { .. } | Self::State | Self::Unconfirmed | Self::Withdrawn => {
                Some(Duration::from_secs(1))
            }
            Self::Draining { reconnect_after } => Some(*reconnect_after),
            Self::Full { .. } => Some(Duration::from_secs(5)),
            Self::OverRate { wait } => Some(*wait),
            _ => None,
        }
    }
}

impl From<&Fault> for Status {
    fn from(fault: &Fault) -> Self {
        if let Fault::Cut(reason) = fault {
            return reason.status();
        }
        let (code, message) = (fault.code(), fault.to_string());
        match fault.retry_after() {
            Some(wait) => Self::with_error_details(code, message, ErrorDetails::with_retry_info(Some(wait))),
            None => Self::new(code, message),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Self::from(&fault)
    }
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::AlreadyConnected => Self::InUse { what: "the collector's name" },
            OpenError::Closed | OpenError::Nameless | OpenError::TimedOut => Self::BusGone,
        }
    }
}

impl From<StreamError> for Fault {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::TooMany { .. } => Self::Full { what: "streams in use by this peer" },
            StreamError::Ended => Self::State,
            error => {
                // The peer is told no more than that; the operator needs the whole.
                tracing::error!(error = &error as &dyn std::error::Error, "could not open a stream's mark");
                Self::State
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_met_a_cap_is_told_when_to_come_back() {
        let status = Status::from(Fault::Full { what: "sessions" });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_broken_sequence_names_what_was_expected_and_what_came() {
        let status = Status::from(Fault::Sequence { expected: 7, got: 9 });
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "first_seq: expected 7, got 9")
        );
    }
}
