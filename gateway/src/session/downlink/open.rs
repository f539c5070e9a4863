//! Calls that are open through one collector, each way, whichever protocol it speaks.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use daemoneye_bridge::bus::rpc::{Calls, Gauge};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    bus::Return,
    identity::PeerId,
    policy::{Rights, Way},
    session::{
        Hall,
        downlink::metrics::{Counted, DOWN, UP},
    },
};

/// The open calls of one collector.
pub(in crate::session) struct Open {
    /// From clients of the bus.
    pub(in crate::session) incoming: Calls<Incoming>,
    /// To clients of the bus.
    pub(in crate::session) outgoing: Calls<Outgoing>,
}

/// A call from a client of the bus.
pub(in crate::session) struct Incoming {
    pub(in crate::session) back: Option<Return>,
    caller: Arc<str>,
    /// Ends when the caller is gone.
    gone: Option<BoxFuture<'static, ()>>,
    _open: Counted,
}

impl Incoming {
    pub(in crate::session) fn of(hall: &Hall, caller: &Arc<str>, back: Option<Return>) -> Self {
        let gone = hall.bus.departure(caller);
        Self { back, caller: Arc::clone(caller), gone, _open: hall.metrics.downlink.open(DOWN) }
    }
}

/// A call to a client of the bus.
pub(in crate::session) struct Outgoing {
    /// As the peer numbered it.
    pub(in crate::session) id: u64,
    pub(in crate::session) target: Arc<str>,
    /// Ends when the callee is gone.
    gone: Option<BoxFuture<'static, ()>>,
    _open: Counted,
}

impl Outgoing {
    pub(in crate::session) fn to(hall: &Hall, target: &str, id: u64) -> Self {
        let gone = hall.bus.departure(target);
        Self { id, target: target.into(), gone, _open: hall.metrics.downlink.open(UP) }
    }
}

/// Whose client is gone.
#[derive(Clone, Copy)]
pub(in crate::session) enum Gone {
    /// That of an outgoing call.
    Callee(u64),
    /// That of an incoming call.
    Caller(u64),
}

/// Calls that are open no longer, and nobody has answered.
pub(in crate::session) struct Ended {
    pub(in crate::session) incoming: Vec<(u64, Incoming)>,
    pub(in crate::session) outgoing: Vec<(u64, Outgoing)>,
}

impl Open {
    /// Room for `most` calls each way.
    pub(in crate::session) fn new(most: usize) -> Self {
        // They are counted by direction, and each counts itself.
        let (incoming, outgoing) = (Calls::new(most, Gauge::default()), Calls::new(most, Gauge::default()));
        Self { incoming, outgoing }
    }

    /// When the first call is due.
    pub(in crate::session) fn due(&self) -> Option<Instant> {
        self.incoming.due().into_iter().chain(self.outgoing.due()).min()
    }

    /// Ends the calls that are due at `now`.
    pub(in crate::session) fn overdue(&mut self, now: Instant) -> Ended {
        Ended { incoming: self.incoming.end_due(now), outgoing: self.outgoing.end_due(now) }
    }

    /// Ends the calls that the policy no longer permits: those to `collector`, and those of it under `rights`.
    pub(in crate::session) fn unpermitted(
        &mut self,
        hall: &Hall,
        collector: &PeerId,
        rights: &Rights,
    ) -> Ended {
        let is_lost = |call: &Incoming| {
            hall.judge.downlink(hall.bus.client(&call.caller), Way::Call, collector).is_err()
        };
        let incoming = self.incoming.end_if(is_lost);
        let name = collector.name();
        let outgoing = self.outgoing.end_if(|call| rights.call(name, &call.target).is_err());
        Ended { incoming, outgoing }
    }

    /// Ends all calls.
    pub(in crate::session) fn all(&mut self) -> Ended {
        Ended { incoming: self.incoming.end_all(), outgoing: self.outgoing.end_all() }
    }

    /// Ends when the client of a call is gone; says which call.
    ///
    /// Cancel safe.
    pub(in crate::session) async fn gone(&mut self) -> Gone {
        poll_fn(|cx| {
            let mut from = self.incoming.iter_mut();
            let mut to = self.outgoing.iter_mut();
            let from = from.find_map(|(id, call)| is_gone(&mut call.gone, cx).then_some(Gone::Caller(id)));
            let gone = from.or_else(|| {
                to.find_map(|(id, call)| is_gone(&mut call.gone, cx).then_some(Gone::Callee(id)))
            });
            gone.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Whether the client is gone; what is not known is not waited for.
fn is_gone(gone: &mut Option<BoxFuture<'static, ()>>, cx: &mut Context<'_>) -> bool {
    let is_gone = gone.as_mut().is_some_and(|gone| matches!(gone.poll_unpin(cx), Poll::Ready(())));
    if is_gone {
        *gone = None;
    }
    is_gone
}
