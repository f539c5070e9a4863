//! How calls end that nobody answers: overdue, given up, cut, no longer permitted.

use daemoneye_bridge::bus::rpc::code;
use daemoneye_proto::v1::{self, link_response::Frame};
use tokio::time::Instant;

use crate::{
    bus::{Letter, Return},
    policy::Way,
    session::downlink::{
        metrics::{self, DOWN},
        open::{Ended, Gone},
        relay::{Done, Relay},
    },
};

impl Relay {
    /// Ends the calls that are due.
    pub(super) fn expire(&mut self) {
        let Ended { incoming, outgoing } = self.open.overdue(Instant::now());
        for (id, call) in incoming {
            self.end_incoming(id, call.back, code::TIMED_OUT, "the collector did not answer in time");
        }
        for (_, call) in outgoing {
            self.fail(call.id, code::TIMED_OUT, "the client did not answer in time");
        }
    }

    /// Ends the calls that the policy no longer permits.
    pub(super) fn rejudge_calls(&mut self) {
        let Ended { incoming, outgoing } = self.open.unpermitted(&self.hall, &self.id, &self.rights);
        for (id, call) in incoming {
            self.end_incoming(id, call.back, code::DENIED, "the policy no longer permits this call");
        }
        for (_, call) in outgoing {
            self.fail(call.id, code::DENIED, "the policy no longer permits this call");
        }
    }

    /// Ends the call whose client is gone.
    pub(super) fn departed(&mut self, gone: Gone) {
        match gone {
            Gone::Caller(id) => {
                if self.open.incoming.end(id).is_some() {
                    // There is nobody to be answered.
                    self.end_incoming(id, None, code::CANCELLED, "");
                }
            }
            Gone::Callee(number) => self.end_outgoing(number, code::ABSENT, "the client has gone"),
        }
    }

    /// Ends all calls, since the collector cannot be reached any more.
    pub(super) fn cut_calls(&mut self) {
        let Ended { incoming, outgoing } = self.open.all();
        for (id, call) in incoming {
            self.end_incoming(id, call.back, code::CUT, "the link to the collector was cut");
        }
        for (_, call) in outgoing {
            self.fail(call.id, code::CUT, "the collector is no longer attached");
        }
    }

    /// Answers a call that was never looked at.
    pub(super) fn cut_off(&mut self, letter: Letter) {
        if letter.way() == Way::Send {
            return self.hall.metrics.downlink.dropped(metrics::CUT, 1);
        }
        self.hall.metrics.downlink.ended(DOWN, "cut", 1);
        if let Some(back) = letter.refuse() {
            self.answer(back, Err((code::CUT, "the link to the collector was cut".to_owned())));
        }
    }

    /// Tells the caller why there is no answer, and the collector that none is wanted.
    fn end_incoming(&mut self, id: u64, back: Option<Return>, code: i16, message: &str) {
        self.hall.metrics.downlink.ended(DOWN, metrics::outcome(code), 1);
        if let Some(back) = back {
            self.answer(back, Err((code, message.to_owned())));
        }
        self.say(Frame::Cancel(v1::Cancel { id }));
    }

    /// Answers a caller. One that takes no answers, though it asks and asks, goes without.
    pub(super) fn answer(&mut self, back: Return, outcome: Result<bytes::Bytes, (i16, String)>) {
        let voice = self.voice.clone();
        let handed = self.hand_over(async move {
            if let Err(error) = voice.answer(back, outcome).await {
                tracing::debug!(%error, "a caller does not have its answer");
            }
            Done::Answered
        });
        if !handed {
            tracing::debug!("a caller goes without an answer: too many are on their way");
        }
    }
}
