//! Who is here: looked up at the door, told to the gateway, and what it refuses of that.

use std::time::Duration;

use daemoneye_proto::v1::{self, RejectCode, link_request::Frame};
use tokio::time::Instant;

use crate::{
    bus::rpc::code,
    leaf::downlink::{Refusal, Shown, collectors::Change, relay::Relay},
};

impl Relay {
    /// Looks who is at the door.
    pub(super) async fn look(&mut self) {
        let Change { names, gone } = self.collectors.update(self.bus.local_clients());
        for (name, mut collector) in gone {
            tracing::debug!(%name, "local collector left");
            for (_, down) in collector.down.end_all() {
                self.fail_down(down.call, (code::CUT, "the collector left while the call was out")).await;
            }
            for (id, _) in collector.up.end_all() {
                self.say(Frame::Cancel(v1::Cancel { id })).await;
            }
        }
        let others = self.collectors.all().any(|(_, collector)| collector.wanted != collector.told);
        if let Some(session) = &mut self.session
            && (names || others)
        {
            session.names |= names;
            // Clients mostly come in a swarm, and each subscribes to several things.
            session.tell_at.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    /// Tells the gateway who is here, and what each wants to hear.
    pub(super) async fn tell(&mut self) {
        let Some(session) = &mut self.session else { return };
        session.tell_at = None;
        let mut frames = Vec::new();
        if std::mem::take(&mut session.names) {
            let collectors = self.collectors.names().map(|name| (**name).to_owned()).collect();
            frames.push(Frame::Attach(v1::Attach { collectors }));
        }
        for (name, collector) in self.collectors.all() {
            if collector.wanted != collector.told {
                collector.told.clone_from(&collector.wanted);
                let (collector, patterns) = ((**name).to_owned(), collector.wanted.clone());
                frames.push(Frame::Subscriptions(v1::Subscriptions { patterns, collector }));
            }
        }
        for frame in frames {
            if !self.say(frame).await {
                self.tell_again();
                break;
            }
        }
        self.show();
    }

    /// The gateway has not heard of everybody: all is said again.
    fn tell_again(&mut self) {
        for (_, collector) in self.collectors.all() {
            collector.told.clear();
        }
        if let Some(session) = &mut self.session {
            session.names = true;
            session.tell_at = Some(Instant::now() + AGAIN_SOON);
        }
    }

    pub(super) fn attached(&mut self, attached: v1::Attached) {
        self.refused.retain(|refusal| refusal.pattern.is_some());
        for refused in attached.refused {
            self.refuse((refused.name.clone(), None), &refused);
        }
        self.show();
    }

    pub(super) fn subscribed(&mut self, subscribed: v1::Subscribed) {
        let v1::Subscribed { collector, refused } = subscribed;
        self.refused.retain(|known| known.pattern.is_none() || known.collector != collector);
        for refused in &refused {
            self.refuse((collector.clone(), Some(refused.name.clone())), refused);
        }
        self.show();
    }

    /// Notes a refusal, and asks again later: a policy may change, an older session of ours may still hold the name.
    fn refuse(&mut self, (collector, pattern): (String, Option<String>), refused: &v1::RefusedName) {
        let passing = refused.code() == RejectCode::AlreadyConnected;
        let reason = refused.reason.escape_debug().take(MAX_REASON).collect();
        let refusal = Refusal { collector: collector.escape_debug().to_string(), pattern, reason };
        if self.refused.len() >= MOST_REFUSED {
            return;
        }
        tracing::warn!(
            collector = %refusal.collector, pattern = ?refusal.pattern, reason = %refusal.reason,
            "gateway refused a local collector, or what it wants to hear; look at the policy there"
        );
        self.refused.insert(refusal);
        if let Some(session) = &mut self.session {
            let again = Instant::now() + if passing { AGAIN_SOON } else { AGAIN };
            session.tell_at = Some(session.tell_at.map_or(again, |earlier| earlier.min(again)));
            session.names = true;
            if let Some(collector) = self.collectors.get(&collector) {
                collector.told.clear();
            }
        }
    }

    fn show(&self) {
        let collectors = self.collectors.names().map(|name| (**name).to_owned()).collect();
        let shown = Shown { collectors, refused: self.refused.iter().cloned().collect() };
        self.shown.send_if_modified(|before| {
            let changed = *before != shown;
            *before = shown;
            changed
        });
    }
}

/// How long local clients are left to come and to subscribe before the gateway is told.
const SETTLE: Duration = Duration::from_millis(20);

/// When a refused name is named again: one that somebody else has, and one that the policy refuses.
const AGAIN_SOON: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_mins(1);

/// Refusals that are remembered, and characters of a reason.
const MOST_REFUSED: usize = 256;
const MAX_REASON: usize = 256;
