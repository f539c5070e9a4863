//! How a session comes to its end in order: what is in flight is settled, open calls get a moment, then it half-closes.

use std::time::Duration;

use tokio::time::Instant;

use crate::uplink::{
    downlink::Wire,
    lane::{Lane, is_delivered},
    session::{End, Session},
};

/// Where a conversation is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Everything goes.
    Carrying,
    /// No more events are sent; the last acks are awaited until the deadline, and open calls for a moment.
    Leaving { end: End, deadline: Instant, calls_until: Instant },
}

impl Session {
    pub(super) fn due(&self) -> Instant {
        let pulse = self.pulse.due();
        match &self.phase {
            Phase::Carrying => pulse,
            Phase::Leaving { deadline, calls_until, .. } => {
                let calls =
                    (self.outbound.is_some() && *calls_until > Instant::now()).then_some(*calls_until);
                pulse.min(*deadline).min(calls.unwrap_or(*deadline))
            }
        }
    }

    pub(super) fn begin_to_leave(&mut self, end: End) {
        match &mut self.phase {
            Phase::Carrying => {
                let now = Instant::now();
                let deadline = now + self.terms.drain_timeout;
                self.phase = Phase::Leaving { end, deadline, calls_until: now + CALLS };
            }
            // The next connection is to the same gateway, which is going away.
            Phase::Leaving { end: moved @ End::Moved, .. } if matches!(end, End::Drained { .. }) => {
                *moved = end;
            }
            Phase::Leaving { .. } => {}
        }
    }

    /// Moves on towards the end where nothing is left to wait for.
    pub(super) fn turn_to_leave(&mut self) {
        if !self.lanes.iter().all(Lane::is_settled) {
            return;
        }
        let finishing = self.terms.finish.borrow().is_some();
        if finishing && is_delivered(&self.terms.spool) {
            self.begin_to_leave(End::Finished);
        }
        let idle = self.wire.as_ref().is_none_or(Wire::is_idle);
        if let Phase::Leaving { deadline, calls_until, .. } = &mut self.phase
            && (idle || *calls_until <= Instant::now())
            && self.outbound.take().is_some()
        {
            // Half-closed; the gateway has nothing to wait for either.
            *deadline = (*deadline).min(Instant::now() + FAREWELL);
            self.wire = None;
        }
    }

    /// How the session ends, if it is leaving.
    pub(super) fn leave(&mut self) -> Option<End> {
        match std::mem::replace(&mut self.phase, Phase::Carrying) {
            Phase::Carrying => None,
            Phase::Leaving { end, .. } => Some(end),
        }
    }
}

/// Deadline of the end of a call that was half-closed with everything settled.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long open calls may hold up a session that leaves: its events wait meanwhile.
const CALLS: Duration = Duration::from_secs(1);
