//! The end of a connection by decision, not by accident.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CutReason {
    /// The connection is old, and its peer was told so.
    Aged,
    /// The gateway is going away, and has waited long enough.
    Draining,
    /// A certificate of its path expired.
    Expired,
    /// It may not be here any longer.
    Revoked,
}

impl CutReason {
    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aged => "aged",
            Self::Draining => "draining",
            Self::Expired => "certificate_expired",
            Self::Revoked => "revoked",
        }
    }

    /// What each open request is answered.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Aged => Status::unavailable("the connection is old: come back on a new one"),
            Self::Draining => Status::unavailable("the gateway is going away"),
            Self::Expired => Status::unauthenticated("the certificate has expired"),
            Self::Revoked => Status::permission_denied("the right to be connected was withdrawn"),
        }
    }
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Cuts one connection. Cheap to clone; the first reason stands.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Set before the token is cancelled, so that whoever is woken finds it.
    reason: OnceLock<CutReason>,
    token: CancellationToken,
}

impl Cut {
    /// Ends the connection: every open request is answered with the reason's status, then the socket is closed.
    pub fn cut(&self, reason: CutReason) {
        let _first = self.0.reason.get_or_init(|| reason);
        self.0.token.cancel();
    }

    /// Waits until the connection is cut.
    ///
    /// Cancel safe: it holds no state.
    pub async fn wait(&self) -> CutReason {
        self.0.token.cancelled().await;
        self.reason()
    }

    /// Why it was cut; of use only after it was.
    pub(super) fn reason(&self) -> CutReason {
        self.0.reason.get().copied().unwrap_or(CutReason::Revoked)
    }

    /// The same as [`Self::wait`], for who is polled.
    pub(super) fn cancelled(&self) -> WaitForCancellationFutureOwned {
        self.0.token.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stands() {
        let cut = Cut::default();
        cut.cut(CutReason::Expired);
        cut.clone().cut(CutReason::Revoked);
        assert_eq!(cut.wait().await, CutReason::Expired);
    }
}
