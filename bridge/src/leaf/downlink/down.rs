//! From the datacentre to a local collector: calls, messages, publications, held commands.

use std::time::Duration;

use bytes::Bytes;
use daemoneye_proto::v1;
use futures_util::FutureExt;
use tokio::time::{self, Instant};

use crate::{
    bus::{
        SendError,
        rpc::{Budget, Refused, Rpc, code},
    },
    leaf::downlink::{
        collectors::Down,
        count,
        relay::{MOST_COMMANDS, PATIENCE, Relay},
    },
    topic::Topic,
};

impl Relay {
    /// Makes a call on a local collector.
    pub(super) async fn call(&mut self, call: v1::Call) {
        count(&self.counts.calls_down);
        let v1::Call { id, target, method, params, budget, caller } = call;
        let mouth = self.mouth_for(&caller);
        let [_, number, _] = &mut self.numbers;
        // The bus numbers calls with 32 bits, and 0 is for those that nobody waits for.
        *number = if *number >= u64::from(u32::MAX) { 1 } else { *number + 1 };
        let (number, local) = (*number, u32::try_from(*number).unwrap_or(1));
        let budget = Budget::default().of(budget.and_then(|budget| Duration::try_from(budget).ok()));
        let Some(collector) = self.collectors.get(&target) else {
            return self
                .fail_down(id, (code::ABSENT, "no collector of that name is connected to the leaf"))
                .await;
        };
        match collector.down.open(number, Instant::now() + budget, Down { call: id, mouth }) {
            Ok(()) => {}
            Err(Refused::TooMany(_) | Refused::Duplicate(_)) => {
                return self
                    .fail_down(id, (code::TOO_MANY, "too many calls to this collector at once"))
                    .await;
            }
        }
        let request = Rpc::Request { id: local, method: method.into(), params };
        if let Err(why) = self.send(mouth, &target, &request).await
            && self.collectors.get(&target).and_then(|collector| collector.down.end(number)).is_some()
        {
            self.fail_down(id, why).await;
        }
    }

    /// Hands a message to a local collector.
    pub(super) async fn deliver(&mut self, deliver: v1::Deliver) {
        let v1::Deliver { topic, payload, sender, collector, command } = deliver;
        let mouth = self.mouth_for(&sender);
        // Before it is sent: whoever takes the name over meanwhile does not answer for this one.
        let addressee = self.bus.addressee(&collector);
        let handed = if self.collectors.get(&collector).is_none() {
            false
        } else if topic.is_empty() {
            self.send_raw(mouth, &collector, payload).await.is_ok()
        } else {
            self.publish(mouth, (&topic, &collector), payload).await
        };
        if !handed {
            count(&self.counts.undelivered);
            tracing::debug!(collector = %collector.escape_debug(), command, "message for a local collector not delivered");
            return;
        }
        count(&self.counts.delivered);
        if command != 0
            && self.commands.len() < MOST_COMMANDS
            && let (Some(session), Some(addressee)) = (&self.session, addressee)
        {
            let number = session.number;
            let safe = async move {
                // A client that reads nothing for so long is sent away, or gets the command again.
                let written = time::timeout(COMMAND, addressee.written()).await;
                (number, command, written.unwrap_or(false))
            };
            self.commands.push(safe.boxed());
        }
    }

    /// Publishes to the one collector that it is for: others have asked for themselves, and the intake must not hear it.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "the relay is Send, but its futures make it not Sync"
    )]
    async fn publish(&mut self, mouth: usize, (topic, collector): (&str, &str), payload: Bytes) -> bool {
        let (Ok(topic), Some(mouth)) = (Topic::parse(topic), self.mouths.get(mouth)) else { return false };
        let published = mouth.port.publish_for(&topic, collector, payload);
        time::timeout(PATIENCE, published).await.is_ok_and(|published| published.is_ok())
    }

    /// Sends a local client a message.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "the relay is Send, but its futures make it not Sync"
    )]
    pub(super) async fn send_raw(
        &mut self,
        mouth: usize,
        target: &str,
        payload: Bytes,
    ) -> Result<(), (i16, &'static str)> {
        let Some(mouth) = self.mouths.get(mouth) else { return Err((code::ABSENT, "no such name")) };
        match time::timeout(PATIENCE, mouth.port.send(target, payload)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SendError::NoClient | SendError::Undelivered | SendError::Name)) => {
                Err((code::ABSENT, "the collector is not connected to the leaf any more"))
            }
            Ok(Err(SendError::Busy)) => Err((code::TOO_MANY, "the collector has too much to read as it is")),
            Ok(Err(_)) | Err(_) => Err((code::CUT, "the leaf's bus is going away")),
        }
    }

    /// Under which name the relay speaks for somebody of the datacentre.
    fn mouth_for(&self, name: &str) -> usize {
        self.stand_ins.get(name).copied().unwrap_or(0)
    }
}

/// How long a command may take through the door.
const COMMAND: Duration = Duration::from_mins(1);
