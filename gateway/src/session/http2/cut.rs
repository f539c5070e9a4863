//! The end of a connection by decision, not by accident.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt, future::BoxFuture};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CutReason {
    /// The connection is old, and its peer was told so.
    Aged,
    /// It is on the deny-list.
    Denied,
    /// The gateway is going away, and has waited long enough.
    Draining,
    /// A certificate of its path expired.
    Expired,
    /// No role matches it any longer.
    NoRole,
    /// A certificate of its path was revoked.
    Revoked,
    /// Its path leads to no anchor any longer.
    Untrusted,
}

impl CutReason {
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::Aged,
        Self::Denied,
        Self::Draining,
        Self::Expired,
        Self::NoRole,
        Self::Revoked,
        Self::Untrusted,
    ];

    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aged => "aged",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Expired => "certificate_expired",
            Self::NoRole => "no_role",
            Self::Revoked => "revoked",
            Self::Untrusted => "untrusted",
        }
    }

    /// Whether the right to be connected was withdrawn: what such a peer had said and was not taken yet is dropped for good.
    #[must_use]
    pub const fn is_of_trust(self) -> bool {
        match self {
            Self::Aged | Self::Draining => false,
            Self::Denied | Self::Expired | Self::NoRole | Self::Revoked | Self::Untrusted => true,
        }
    }

    /// What each open request is answered. Who is no longer trusted is told no more than that.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Aged => Status::unavailable("the connection is old: come back on a new one"),
            Self::Draining => Status::unavailable("the gateway is going away"),
            Self::Expired => Status::unauthenticated("the certificate has expired"),
            Self::NoRole => Status::permission_denied("no role of the policy matches this peer any longer"),
            Self::Denied | Self::Revoked | Self::Untrusted => {
                Status::permission_denied("the right to be connected was withdrawn")
            }
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
    /// Whether the peer did not even take its last words.
    abandoned: AtomicBool,
}

impl Cut {
    /// Ends the connection: every open request is answered with the reason's status, then the socket is closed.
    ///
    /// Says whether this was the first to do so.
    #[must_use = "who is not the first has not cut it"]
    pub fn cut(&self, reason: CutReason) -> bool {
        let first = self.0.reason.set(reason).is_ok();
        self.0.token.cancel();
        first
    }

    /// Why it was cut, if it was. Costs next to nothing.
    #[must_use]
    pub fn is_cut(&self) -> Option<CutReason> {
        self.0.reason.get().copied()
    }

    /// The peer did not take its last words: what was sent need not reach it.
    pub fn abandon(&self) {
        self.0.abandoned.store(true, Relaxed);
    }

    /// Whether the peer did not take its last words.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Relaxed)
    }

    /// Waits until the connection is cut.
    ///
    /// Cancel safe: it holds no state.
    pub async fn wait(&self) -> CutReason {
        self.0.token.cancelled().await;
        self.reason()
    }

    /// [`Self::wait`] as a future of its own.
    #[must_use]
    pub fn waiting(&self) -> BoxFuture<'static, CutReason> {
        let cut = self.clone();
        async move { cut.wait().await }.boxed()
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
        assert_eq!(cut.is_cut(), None);
        assert!(cut.cut(CutReason::Expired));
        assert!(!cut.clone().cut(CutReason::Revoked));
        assert_eq!((cut.wait().await, cut.is_cut()), (CutReason::Expired, Some(CutReason::Expired)));
    }
}
