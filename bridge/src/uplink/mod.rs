//! The other end of the bridge: from the spool to a gateway, across every outage of either.
//!
//! ```text
//!   Uplink::open ─► round: each gateway in turn ─► dial (DNS, TCP, TLS, HTTP/2) ─► hello ─► session ─┐
//!                     ▲                                                                              │
//!                     └── backoff with full jitter, or what the gateway asked for ◄──────────────────┘
//! ```
//!
//! A renewed certificate, or a connection that has become old, is a reason to dial anew before the session ends.
//!
//! Kept true: an event leaves the spool only when a gateway has acknowledged it; one uplink has one session at a time;
//! dropping the uplink's future drops its connection.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, time::Instant};

use crate::{
    spool::Spool,
    trust::{LoadError, Plan, Role, Store},
};

mod address;
mod backoff;
mod breaker;
mod choice;
mod config;
mod dial;
mod downlink;
mod failure;
mod farewell;
mod handover;
mod hello;
mod keeper;
mod lane;
mod nursery;
mod parcel;
pub mod probe;
mod pulse;
mod session;
mod status;
mod window;

pub use address::{AddressError, Alternative, Gateway};
pub use choice::Spread;
pub use config::{Config, ConfigError};
pub use downlink::{Conversation, Conversations, Heard, Outlet, outlet};
pub use failure::Failure;
pub use status::{Link, Status, Trouble};

use keeper::Keeper;

#[cfg(test)]
pub(crate) mod tests;

/// What the rest of the process holds of an uplink. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uplink {
    status: watch::Receiver<Status>,
    finish: Arc<watch::Sender<Option<Instant>>>,
    store: Store,
}

impl Uplink {
    /// Loads the certificates and makes an uplink of `spool`; reads files.
    ///
    /// The futures are the uplink: one carries events, one follows changes of the certificates. They end after
    /// [`Self::finish`].
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which file cannot be used, why, and what to do.
    pub fn open(config: Config, spool: Spool) -> Result<(Self, Vec<BoxFuture<'static, ()>>), LoadError> {
        Self::open_both_ways(config, spool, None)
    }

    /// Does the same, and leaves what comes down at `outlet`, if there is one.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which file cannot be used, why, and what to do.
    pub fn open_both_ways(
        config: Config,
        spool: Spool,
        outlet: Option<Outlet>,
    ) -> Result<(Self, Vec<BoxFuture<'static, ()>>), LoadError> {
        let plan = Plan {
            files: config.files.clone(),
            anchors: Vec::new(),
            role: Role::Client,
            revocation: config.revocation.clone(),
        };
        let store = Store::open_all(plan)?;
        let (status, seen) = watch::channel(Status::default());
        let (finish, finishing) = watch::channel(None);
        let reload = config.reload;
        let keeper = Keeper::new(config, (spool, outlet), store.clone(), status, finishing);
        let uplink = Self { status: seen, finish: Arc::new(finish), store };
        let followed = uplink.clone();
        let follow = async move {
            tokio::select! {
                biased;
                () = followed.ended() => {}
                () = followed.store.follow(reload, |_| {}) => {}
            }
        };
        Ok((uplink, vec![Box::pin(keeper.run()), Box::pin(follow)]))
    }

    /// What it shows of itself.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The certificates in force.
    #[must_use]
    pub const fn certificates(&self) -> &Store {
        &self.store
    }

    /// Asks it to deliver what the spool holds, and to end then, or when `patience` ends.
    pub fn finish(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.finish.send_if_modified(|finish| {
            let earlier = finish.is_none_or(|known| deadline < known);
            if earlier {
                *finish = Some(deadline);
            }
            earlier
        });
    }

    /// Waits until the uplink has ended.
    ///
    /// Cancel safe.
    pub async fn ended(&self) {
        let mut status = self.status.clone();
        // An error means that its future was dropped, which is an end too.
        let _dropped = status.wait_for(|status| status.link == Link::Ended).await;
    }
}

/// Notes what went wrong; says whether it is news.
fn note(status: &watch::Sender<Status>, failure: &Failure) -> bool {
    let what = crate::settings::Chain(failure).to_string();
    let lasting = failure.severity() == backoff::Severity::Lasting;
    let mut news = true;
    status.send_modify(|status| {
        news = status.link.is_up() || status.last_error.as_ref().is_none_or(|trouble| trouble.what != what);
        status.failures += 1;
        status.last_error = Some(Trouble { what, at: SystemTime::now(), lasting });
    });
    news
}
