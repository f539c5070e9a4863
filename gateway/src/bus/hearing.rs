//! What a remote peer hears of the bus.

use daemoneye_bridge::{
    bus::{Message, Subscription},
    topic::Topic,
};

/// A permitted subscription. No acknowledgement waits for it; what it does not read in time is dropped and counted.
#[derive(Debug)]
pub struct Hearing {
    subscription: Subscription,
    /// Kept between calls for its memory.
    batch: Vec<Message>,
}

/// A message of the bus.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What it is about.
    pub topic: Topic,
    /// Bus name of the sender.
    pub sender: std::sync::Arc<str>,
    /// The payload.
    pub payload: bytes::Bytes,
}

impl Hearing {
    /// Most messages taken from the bus at once.
    const MOST: usize = 256;

    pub(super) const fn new(subscription: Subscription) -> Self {
        Self { subscription, batch: Vec::new() }
    }

    /// Waits for messages and gives each to `take`; `false` when the bus has ended. A message whose topic is not of our
    /// grammar, which a local client may publish, is passed over: no policy has judged such a topic.
    ///
    /// Cancel safe.
    pub async fn next(&mut self, mut take: impl FnMut(Heard) + Send) -> bool {
        let alive = self.subscription.next(&mut self.batch, Self::MOST).await;
        for message in self.batch.drain(..) {
            if let Ok(topic) = Topic::parse_slashed(&message.topic) {
                take(Heard { topic, sender: message.sender, payload: message.payload });
            }
        }
        // What could not be passed on was dropped and counted: nobody needs to wait for it, on a foreign broker either.
        self.subscription.taken();
        alive
    }
}
