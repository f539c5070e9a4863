//! What a collector hears of what is published.

use daemoneye_bridge::topic::Pattern;
use daemoneye_proto::v1::{self, link_response::Frame};

use crate::{
    policy::Denial,
    session::{downlink::relay::Relay, intake::Rejection},
};

impl Relay {
    /// Hears what of the patterns asked for may be heard.
    pub(super) async fn subscribe(&mut self) {
        let mut patterns = Vec::new();
        self.refused.clear();
        for text in &self.asked {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => {
                    let denial = Denial::Malformed(error);
                    self.refused.push(Rejection::from(&denial).of_name(text));
                }
            }
        }
        let (permit, denied) = self.rights.hear(&self.collector, patterns.clone());
        for (pattern, denial) in &denied {
            self.refused.push(Rejection::from(denial).of_name(&pattern.to_string()));
        }
        if let Err(error) = self.voice.hear(permit, &mut self.heard).await {
            let code = v1::RejectCode::Unspecified;
            let allowed =
                patterns.iter().filter(|pattern| denied.iter().all(|(denied, _)| denied != *pattern));
            let reject = |pattern: &Pattern| {
                Rejection { code, reason: error.to_string() }.of_name(&pattern.to_string())
            };
            self.refused.extend(allowed.map(reject));
        }
    }

    pub(super) fn say_subscribed(&mut self) {
        let subscribed = v1::Subscribed { collector: self.wire.clone(), refused: self.refused.clone() };
        self.say(Frame::Subscribed(subscribed));
    }
}
