//! Calls of one collector: what is known of each until it has its answer, and how each may end.

use std::sync::Arc;

use daemoneye_bridge::bus::rpc::{Refused, Rpc, RpcError, code};
use daemoneye_proto::v1::{self, link_response::Frame};
use tokio::time::Instant;

use crate::{
    bus::{self, Answer, Letter, Opened, Return},
    policy::Way,
    session::{
        downlink::{
            failure,
            metrics::{self, DOWN, UP},
            open::{Incoming, Outgoing},
            relay::{Done, LARGEST, Relay},
        },
        hello,
    },
};

impl Relay {
    /// Takes in what a client of the bus sent, if it may.
    pub(super) fn take_in(&mut self, letter: Letter) {
        let sender = Arc::clone(letter.sender());
        let client = self.hall.bus.client(&sender);
        let opened = self.hall.judge.downlink(client, letter.way(), &self.id);
        match opened {
            Err(denial) => {
                let metrics = &self.hall.metrics.downlink;
                tracing::debug!(client = %sender, collector = self.collector.name(), %denial, "letter not opened");
                if letter.way() == Way::Send {
                    metrics.dropped(metrics::DENIED, 1);
                } else {
                    metrics.ended(DOWN, "denied", 1);
                }
                if let Some(back) = letter.refuse() {
                    self.answer(back, Err((code::DENIED, denial.to_string())));
                }
            }
            Ok(permit) => match letter.open(permit) {
                Some(Opened { call: Some(call), back, .. }) => self.ask(&sender, back, call),
                Some(Opened { heard, .. }) => self.deliver(String::new(), &sender, heard.payload),
                None => {}
            },
        }
    }

    /// Asks the collector what a client of the bus wants to know.
    fn ask(&mut self, caller: &Arc<str>, back: Option<Return>, call: bus::Call) {
        let bus::Call { method, params, .. } = call;
        if method.len().saturating_add(params.len()) > LARGEST {
            return self.refuse(back, code::DENIED, "the call is larger than a message may be");
        }
        let budget = self.hall.config.downlink.budget.of(None);
        let id = u64::from(self.number) << 32 | u64::from(self.number_next());
        let call = Incoming::of(&self.hall, caller, back);
        if let Err(Refused::Duplicate(call) | Refused::TooMany(call)) =
            self.open.incoming.open(id, Instant::now() + budget, call)
        {
            let most = self.hall.config.downlink.max_calls;
            return self.refuse(
                call.back,
                code::TOO_MANY,
                &format!("{most} calls to this collector are open"),
            );
        }
        self.say(Frame::Call(v1::Call {
            id,
            target: self.wire.clone(),
            method: method.into(),
            params,
            budget: hello::duration(budget),
            caller: caller.as_ref().to_owned(),
        }));
    }

    fn refuse(&mut self, back: Option<Return>, code: i16, message: &str) {
        self.hall.metrics.downlink.ended(DOWN, metrics::outcome(code), 1);
        if let Some(back) = back {
            self.answer(back, Err((code, message.to_owned())));
        }
    }

    /// The collector has answered.
    pub(super) fn replied(&mut self, reply: v1::Reply) {
        let Some(call) = self.open.incoming.end(reply.id) else { return };
        let outcome = match reply.outcome {
            Some(v1::reply::Outcome::Result(result)) => Ok(result),
            Some(v1::reply::Outcome::Error(error)) => {
                Err((i16::try_from(error.code).unwrap_or(code::INTERNAL), error.message))
            }
            // A Send is answered so, and a call whose result is empty may be.
            None => Ok(bytes::Bytes::new()),
        };
        self.hall.metrics.downlink.ended(DOWN, metrics::word(&outcome), 1);
        if let Some(back) = call.back {
            self.answer(back, outcome);
        }
    }

    /// A call of the collector.
    pub(super) fn call(&mut self, call: v1::Call) {
        let v1::Call { id, target, method, params, budget, .. } = call;
        let size = method.len().saturating_add(params.len());
        let permit = match self.may_send(&target, size) {
            Ok(permit) => permit,
            Err((code, message)) => return self.fail(id, code, &message),
        };
        if method.contains('\0') {
            return self.fail(id, code::METHOD, "a method has no NUL");
        }
        if self.open.outgoing.find(|open| open.id == id).is_some() {
            return self.fail(id, code::INVALID, "a call of this number is open");
        }
        let budget = budget.and_then(|budget| budget.try_into().ok());
        let due = Instant::now() + self.hall.config.downlink.budget.of(budget);
        let number = self.number_next();
        let open = Outgoing::to(&self.hall, &target, id);
        if self.open.outgoing.open(number.into(), due, open).is_err() {
            let most = self.hall.config.downlink.max_calls;
            return self.fail(id, code::TOO_MANY, &format!("{most} calls of this collector are open"));
        }
        let voice = self.voice.clone();
        let handed = self.hand_over(async move {
            Done::Called(number.into(), voice.call(permit, number, &method, params).await)
        });
        if !handed && self.open.outgoing.end(number.into()).is_some() {
            self.fail(id, code::TOO_MANY, "too much of this collector is on its way to the bus");
        }
    }

    /// A message of the collector to a client of the bus.
    pub(super) fn send(&mut self, send: v1::Send) {
        let v1::Send { id, target, payload, .. } = send;
        let permit = match self.may_send(&target, payload.len()) {
            Ok(permit) => permit,
            Err((code, message)) => return self.sent(id, Err((code, &message))),
        };
        // An answer goes by Reply to whom it is owed, a question by Call, where it is counted.
        if !matches!(Rpc::decode(&payload), Ok(Rpc::Notification(_)) | Err(RpcError::NotRpc)) {
            return self.sent(id, Err((code::DENIED, "a message must not look like a call or an answer")));
        }
        let voice = self.voice.clone();
        if !self.hand_over(async move { Done::Sent(id, voice.send(permit, payload).await) }) {
            self.sent(id, Err((code::TOO_MANY, "too much of this collector is on its way to the bus")));
        }
    }

    fn sent(&mut self, id: u64, outcome: Result<(), (i16, &str)>) {
        if id == 0 {
            return;
        }
        match outcome {
            Ok(()) => self.say(Frame::Reply(v1::Reply { id, outcome: None })),
            Err((code, message)) => self.say(failure(id, code, message)),
        }
    }

    fn may_send(&self, target: &str, size: usize) -> Result<crate::policy::CallPermit, (i16, String)> {
        let granted = usize::try_from(self.rights.limits().max_message.get()).unwrap_or(usize::MAX);
        let most = self.hall.config.max_payload.min(granted);
        if size > most {
            return Err((code::DENIED, format!("{size} bytes; at most {most} are allowed")));
        }
        let permit = self.rights.call(self.collector.name(), target);
        let permit = permit.map_err(|denial| (code::DENIED, denial.to_string()))?;
        let (meter, now) = (self.hall.judge.meter(self.rights.peer()), Instant::now());
        if !meter.debt(now).is_zero() {
            return Err((code::TOO_MANY, "over the rate that the policy grants".to_owned()));
        }
        meter.charge(now, 1, u64::try_from(size).unwrap_or(u64::MAX), self.rights.limits());
        Ok(permit)
    }

    /// A client of the bus has answered.
    pub(super) fn answered(&mut self, answer: Answer) {
        let number = u64::from(answer.id);
        // Nobody else answers in its place.
        if self.open.outgoing.get(number).is_none_or(|call| call.target != answer.heard.sender) {
            return;
        }
        match answer.outcome {
            Ok(result) if result.len() <= LARGEST => {
                let Some(call) = self.open.outgoing.end(number) else { return };
                self.hall.metrics.downlink.ended(UP, "answered", 1);
                let outcome = Some(v1::reply::Outcome::Result(result));
                self.say(Frame::Reply(v1::Reply { id: call.id, outcome }));
            }
            Ok(_) => self.end_outgoing(number, code::INTERNAL, "the result is larger than a message may be"),
            Err((code, message)) => {
                let shown: String = String::from_utf8_lossy(&message).chars().take(1024).collect();
                self.end_outgoing(number, code, &shown);
            }
        }
    }

    /// The peer gives up a call.
    pub(super) fn give_up(&mut self, id: u64) {
        if let Some(number) = self.open.outgoing.find(|call| call.id == id) {
            self.end_outgoing(number, code::CANCELLED, "cancelled");
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Answered | Done::Called(_, Ok(())) => {}
            Done::Called(number, Err(error)) => {
                self.end_outgoing(number, error.code(), &error.to_string());
            }
            Done::Sent(id, Ok(())) => self.sent(id, Ok(())),
            Done::Sent(id, Err(error)) => self.sent(id, Err((error.code(), &error.to_string()))),
        }
    }

    /// Ends a call of the collector with an error.
    pub(super) fn end_outgoing(&mut self, number: u64, code: i16, message: &str) {
        if let Some(call) = self.open.outgoing.end(number) {
            self.fail(call.id, code, message);
        }
    }

    pub(super) fn fail(&mut self, id: u64, code: i16, message: &str) {
        self.hall.metrics.downlink.ended(UP, metrics::outcome(code), 1);
        self.say(failure(id, code, message));
    }

    fn number_next(&mut self) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        number
    }
}
