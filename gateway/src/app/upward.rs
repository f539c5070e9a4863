//! The way to a gateway above: when it begins, and how it ends.
//!
//! It ends after everything that relays, so that what collectors were told to be safe is in the spool; what is left there
//! waits for the next start.

use std::{future::Future, sync::Arc, time::Duration};

use daemoneye_bridge::{bus::Bus, lifecycle::Lifecycle};
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    app::{LAST, spawn_endless, views},
    snapshot::{Part, UpstreamView},
    telemetry::metrics::Metrics,
    upstream::{Config, OpenError, Tasks, Upstream},
};

/// The way up and its tasks, which do not move yet.
#[derive(Debug)]
pub(super) struct Upward {
    upstream: Upstream,
    tasks: Tasks,
}

impl Upward {
    /// Opens it.
    pub(super) fn open(config: Config, bus: Arc<dyn Bus>) -> Result<Self, OpenError> {
        let (upstream, tasks) = Upstream::open(config, bus)?;
        Ok(Self { upstream, tasks })
    }

    pub(super) const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The way up in snapshot and metrics, and the future that keeps the snapshot so.
    pub(super) fn show(&self, metrics: &mut Metrics) -> (Part<UpstreamView>, BoxFuture<'static, ()>) {
        let (part, follow) = views::upstream(&self.upstream);
        self.upstream.register(metrics.registry());
        (part, follow.boxed())
    }

    /// Begins to relay.
    pub(super) fn begin(self) -> Risen {
        let Tasks { feed, owner, uplink, hear, end } = self.tasks;
        let life = Lifecycle::new();
        life.leash().spawn(feed);
        life.leash().spawn(owner);
        for task in uplink.into_iter().chain(hear) {
            spawn_endless(&life.leash(), task);
        }
        Risen { life, end }
    }
}

/// The way up, at work.
pub(super) struct Risen {
    life: Lifecycle,
    end: Box<dyn FnOnce(Duration) -> BoxFuture<'static, ()> + Send>,
}

impl Risen {
    /// Sends what the spool holds as far as `patience` goes, and ends. Everybody who relays must have ended.
    pub(super) async fn end(self, patience: Duration, hurry: impl Future<Output = ()> + Send) {
        let Self { life, end } = self;
        tokio::select! {
            biased;
            () = hurry => {}
            () = end(patience) => {}
        }
        life.drain(LAST, std::future::ready(())).await;
    }
}
