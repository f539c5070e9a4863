//! From a local client: answers to calls of the datacentre, and calls and messages to it, through a stand-in.

use std::sync::Arc;

use bytes::Bytes;
use daemoneye_proto::v1::{self, link_request::Frame, reply::Outcome};
use tokio::time::Instant;

use crate::{
    bus::{
        Heard, HeardAs,
        rpc::{Refused, Rpc, code},
    },
    leaf::downlink::{collectors::Up, count, relay::Relay},
};

/// Longest payload that the federation carries.
const MAX_PAYLOAD: usize = daemoneye_proto::MAX_PAYLOAD;

/// What is said of a payload that is longer.
const TOO_LARGE: &str = "over the federation's limit of 1 MiB";

impl Relay {
    /// Takes what was sent to one of the relay's names.
    pub(super) async fn heard(&mut self, mouth: usize, heard: Heard) {
        if heard.kind != HeardAs::Message {
            return;
        }
        let Heard { sender, payload, .. } = heard;
        match Rpc::decode(&payload) {
            Ok(Rpc::Reply { id, result }) if result.len() > MAX_PAYLOAD => {
                let failed =
                    v1::CallError { code: INTERNAL.into(), message: format!("the result is {TOO_LARGE}") };
                self.answer(mouth, &sender, (id, Outcome::Error(failed))).await;
            }
            Ok(Rpc::Reply { id, result }) => {
                self.answer(mouth, &sender, (id, Outcome::Result(result))).await;
            }
            Ok(Rpc::Error { id, code, message }) => {
                let message = String::from_utf8_lossy(&message).chars().take(MAX_MESSAGE).collect();
                let error = v1::CallError { code: code.into(), message };
                self.answer(mouth, &sender, (id, Outcome::Error(error))).await;
            }
            Ok(Rpc::Request { id, method, params }) => {
                self.call_up(mouth, &sender, (id, method, params)).await;
            }
            Ok(Rpc::Notification(_)) | Err(_) => self.send_up(mouth, &sender, payload),
        }
    }

    /// Passes the answer of a local collector on, if it was asked.
    async fn answer(&mut self, mouth: usize, sender: &Arc<str>, (id, outcome): (u32, Outcome)) {
        let Some(collector) = self.collectors.get(sender) else { return };
        // Late, or to a call of somebody else: nobody waits for it.
        if collector.down.get(id.into()).is_none_or(|down| down.mouth != mouth) {
            return;
        }
        if let Some(down) = collector.down.end(id.into()) {
            self.say(Frame::Reply(v1::Reply { id: down.call, outcome: Some(outcome) })).await;
        }
    }

    /// Makes a call of a local collector on whom the stand-in stands for.
    async fn call_up(
        &mut self,
        mouth: usize,
        sender: &Arc<str>,
        (id, method, params): (u32, Box<str>, Bytes),
    ) {
        count(&self.counts.calls_up);
        let up = Up { call: id, mouth };
        let Some(target) = self.stood_for(mouth) else {
            return self.fail_up(sender, &up, (code::METHOD, "the leaf's relay has no methods")).await;
        };
        if params.len() > MAX_PAYLOAD {
            return self.fail_up(sender, &up, (INVALID, TOO_LARGE)).await;
        }
        if self.session.is_none() {
            return self.fail_up(sender, &up, (code::ABSENT, "no gateway is connected")).await;
        }
        let [.., number] = &mut self.numbers;
        *number += 1;
        let number = *number;
        let budget = self.config.call_budget;
        // The gateway keeps the budget as well; its answer is on its way when ours ends.
        let due = Instant::now() + budget + GRACE;
        let Some(collector) = self.collectors.get(sender) else {
            let why =
                "only clients whose name is one segment of a-z, 0-9, _ and - call across the federation";
            return self.fail_up(sender, &up, (code::DENIED, why)).await;
        };
        if let Err(Refused::TooMany(up) | Refused::Duplicate(up)) = collector.up.open(number, due, up) {
            return self.fail_up(sender, &up, (code::TOO_MANY, "too many calls at once")).await;
        }
        self.say(Frame::Call(v1::Call {
            id: number,
            target,
            method: method.into(),
            params,
            budget: budget.try_into().ok(),
            caller: (**sender).to_owned(),
        }))
        .await;
    }

    /// Passes the answer of the datacentre on to the collector that called.
    pub(super) async fn replied(&mut self, reply: v1::Reply) {
        let Some((name, up)) = self.collectors.answered(reply.id) else { return };
        let id = up.call;
        let answer = match reply.outcome {
            Some(Outcome::Result(result)) => Rpc::Reply { id, result },
            Some(Outcome::Error(v1::CallError { code, message })) => {
                let code = i16::try_from(code).unwrap_or(INTERNAL);
                Rpc::failure(id, code, &message)
            }
            None => Rpc::failure(id, INTERNAL, "the gateway's answer is empty"),
        };
        self.answer_up(&name, &up, &answer).await;
    }

    /// Fails a call of a local client.
    pub(super) async fn fail_up(&mut self, name: &str, up: &Up, (code, why): (i16, &str)) {
        count(&self.counts.calls_failed);
        self.answer_up(name, up, &Rpc::failure(up.call, code, why)).await;
    }

    async fn answer_up(&mut self, name: &str, up: &Up, answer: &Rpc) {
        if up.call == 0 {
            return;
        }
        if let Err((_, why)) = self.send(up.mouth, name, answer).await {
            tracing::debug!(name, why, "local client not told what became of its call");
        }
    }

    /// Sends what a local collector sent to a stand-in; at most once.
    fn send_up(&mut self, mouth: usize, sender: &Arc<str>, payload: Bytes) {
        let known = self.collectors.get(sender).is_some();
        let (target, outbound) = (self.stood_for(mouth), self.outbound());
        let sent = match (target, outbound) {
            (Some(target), Some(outbound)) if known && payload.len() <= MAX_PAYLOAD => {
                let collector = (**sender).to_owned();
                outbound.try_send(Frame::Send(v1::Send { id: 0, target, payload, collector })).is_ok()
            }
            _ => false,
        };
        count(if sent { &self.counts.sent } else { &self.counts.unsent });
    }

    /// Whom a stand-in stands for; nobody: it is the relay itself.
    fn stood_for(&self, mouth: usize) -> Option<String> {
        (mouth != 0).then(|| self.mouths.get(mouth).map(|mouth| mouth.name.as_str().to_owned())).flatten()
    }
}

/// Codes of the RPC layer: parameters that cannot be used, and everything else.
const INVALID: i16 = -32602;
const INTERNAL: i16 = -32603;

/// Characters of an error's message.
const MAX_MESSAGE: usize = 1024;

/// How much later than the gateway's the leaf's own deadline of a call is.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);
