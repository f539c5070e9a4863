//! Calls through one client: those that it has open, and those that it owes an answer.
//!
//! BUS/RT sends them as messages, so that nobody but their ends knows of them; here they are counted and end in time, or a
//! client could hold up as many callers as it likes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::rpc::{Refused, Rpc, code},
    native::codec::{Code, server::Kind},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    bus::{Answer, Arrived, Return},
    policy::{CallPermit, Way},
    session::{
        downlink::{
            metrics::{self, CUT, DOWN, UP},
            open::{Ended, Gone, Incoming, Open, Outgoing},
        },
        native::{asks::code_of, hears::write, talk::Session, wire::Wire},
    },
};

/// The calls through one client.
pub(super) struct Ledger {
    pub(super) open: Open,
    /// Number of the last call to it: callers number theirs as they like.
    last: u64,
    budget: Duration,
}

impl Ledger {
    pub(super) fn new(most: usize, budget: Duration) -> Self {
        Self { open: Open::new(most), last: 0, budget }
    }
}

impl Session {
    /// The client calls whom `permit` names; its answer, or the lack of one, is told under `id`.
    pub(super) async fn ask(
        &mut self,
        (id, target): (u32, &str),
        permit: CallPermit,
        call: Bytes,
    ) -> Result<(), Code> {
        let (number, due) = (u64::from(id), Instant::now() + self.calls.budget);
        let open = Outgoing::to(&self.hall, target, number);
        if let Err(refused) = self.calls.open.outgoing.open(number, due, open) {
            if matches!(refused, Refused::TooMany(_)) {
                self.hall.metrics.downlink.ended(UP, metrics::outcome(code::TOO_MANY), 1);
            }
            return Err(Code::BUSY);
        }
        let sent = self.uplink.voice.send(permit, call).await;
        if let Err(error) = sent {
            drop(self.calls.open.outgoing.end(number));
            self.hall.metrics.downlink.ended(UP, metrics::outcome(error.code()), 1);
        }
        sent.map_err(code_of)
    }

    /// Whether this answers a call of the client, which ends then.
    pub(super) fn answered(&mut self, answer: &Answer) -> bool {
        let number = u64::from(answer.id);
        let calls = &mut self.calls.open.outgoing;
        // Of whom it has not called, or no longer waits for, it hears nothing.
        if calls.get(number).is_none_or(|call| call.target != answer.heard.sender) {
            return false;
        }
        drop(calls.end(number));
        self.hall.metrics.downlink.ended(UP, metrics::word(&answer.outcome), 1);
        true
    }

    /// The client is called, and owes an answer; the way back again, if it owes too many.
    pub(super) fn owe(&mut self, caller: &Arc<str>, back: Return) -> Result<(), Option<Return>> {
        self.calls.last += 1;
        let (due, call) = (Instant::now() + self.calls.budget, Incoming::of(&self.hall, caller, Some(back)));
        let opened = self.calls.open.incoming.open(self.calls.last, due, call);
        opened.map_err(|refused| match refused {
            Refused::Duplicate(call) | Refused::TooMany(call) => call.back,
        })
    }

    /// The client answers call `id` of `caller`, if it owes him that.
    pub(super) async fn pay(
        &mut self,
        (caller, id): (&str, u32),
        word: &'static str,
        answer: Bytes,
    ) -> Result<(), Code> {
        let is_it = |call: &Incoming| call.back.as_ref().is_some_and(|back| back.is(caller, id));
        let paid = self.calls.open.incoming.end_if(is_it);
        let back = paid.into_iter().find_map(|(_, call)| call.back).ok_or(Code::ACCESS)?;
        self.hall.metrics.downlink.ended(DOWN, word, 1);
        self.uplink.voice.pass(back, answer).await.map_err(code_of)
    }

    /// Ends the calls that took too long.
    pub(super) async fn expire<I>(&mut self, wire: &mut Wire<I>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let ended = self.calls.open.overdue(Instant::now());
        self.end(wire, ended, code::TIMED_OUT, "not answered in time").await;
    }

    /// Ends the calls that the policy no longer permits.
    pub(super) async fn rejudge_calls<I>(&mut self, wire: &mut Wire<I>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let ended = self.calls.open.unpermitted(&self.hall, &self.seat.live.peer, &self.rights);
        self.end(wire, ended, code::DENIED, "the policy no longer permits this call").await;
    }

    /// Ends the call whose other end is gone.
    pub(super) async fn departed<I>(&mut self, wire: &mut Wire<I>, gone: Gone)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let calls = &mut self.calls.open;
        match gone {
            // There is nobody to be answered.
            Gone::Caller(number) => {
                if calls.incoming.end(number).is_some() {
                    self.hall.metrics.downlink.ended(DOWN, metrics::outcome(code::CANCELLED), 1);
                }
            }
            Gone::Callee(number) => {
                let outgoing = calls.outgoing.end(number).map(|call| (number, call)).into_iter().collect();
                let ended = Ended { incoming: Vec::new(), outgoing };
                self.end(wire, ended, code::ABSENT, "the client has gone").await;
            }
        }
    }

    /// Tells both sides that there will be no answer.
    async fn end<I>(&mut self, wire: &mut Wire<I>, ended: Ended, code: i16, message: &str)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        for call in ended.outgoing.into_iter().filter_map(|(_, call)| self.no_answer(call, code)) {
            let (id, target) = call;
            write(wire, Kind::Message, (&target, ""), &Rpc::failure(id, code, message).encode());
        }
        for (_, call) in ended.incoming {
            self.fail(call.back, code, message).await;
        }
    }

    /// Counts a call of the client that has none; what it is told about.
    fn no_answer(&self, call: Outgoing, code: i16) -> Option<(u32, Arc<str>)> {
        self.hall.metrics.downlink.ended(UP, metrics::outcome(code), 1);
        Some((u32::try_from(call.id).ok()?, call.target))
    }

    /// Tells a caller that there will be no answer.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "a session is owned by one task, and cannot be shared"
    )]
    pub(super) async fn fail(&mut self, back: Option<Return>, code: i16, message: &str) {
        self.hall.metrics.downlink.ended(DOWN, metrics::outcome(code), 1);
        let Some(back) = back else { return };
        let call = back.to_string();
        if let Err(error) = self.uplink.voice.answer(back, Err((code, message.to_owned()))).await {
            tracing::debug!(call, %error, "caller was not told");
        }
    }

    /// The client is gone: ends all calls, and those that it has not even been told of.
    pub(super) async fn cut_calls(&mut self) {
        let Ended { incoming, outgoing } = self.calls.open.all();
        for (_, call) in outgoing {
            let _untold = self.no_answer(call, code::CUT);
        }
        let unread = self.hears.rest().into_iter().filter_map(|arrived| match arrived {
            Arrived::Letter(letter) if letter.way() == Way::Call => Some(letter.refuse()),
            Arrived::Letter(_) => {
                self.hall.metrics.downlink.dropped(CUT, 1);
                None
            }
            Arrived::Answer(_) | Arrived::Published(_) => None,
        });
        let unread: Vec<_> = unread.collect();
        for back in incoming.into_iter().map(|(_, call)| call.back).chain(unread) {
            self.fail(back, code::CUT, "the collector's connection ended").await;
        }
    }
}
