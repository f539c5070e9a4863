//! What a client asks, beside publishing to all: each frame judged, then done by the bus at once.

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{
        Filter,
        rpc::{Rpc, RpcError, code},
    },
    native::codec::{
        Code, Text,
        client::{ClientFrame, Request, Topics},
    },
    topic::Pattern,
};
use tokio::time::Instant;

use crate::{
    bus::{Narrow, Undelivered},
    policy::Denial,
    session::{
        downlink::metrics::{self, UP},
        intake::{self, Bounds},
        native::talk::Session,
        status::Fault,
    },
};

impl Session {
    /// Serves one frame; its ack, unless it follows when the bus has taken what was published. If that found no room, the frame waits
    /// with it.
    ///
    /// # Errors
    ///
    /// [`Fault`], if the session cannot go on.
    pub(super) async fn serve(&mut self, frame: ClientFrame) -> Result<Option<(u32, Code)>, Fault> {
        let ClientFrame { id, qos, request } = frame;
        let wanted = qos.needs_ack().then_some(id);
        if let Request::Publish { topic, payload } = request {
            let refused = self.uplink.publish(&topic, payload, wanted).err();
            if self.uplink.is_full() {
                self.uplink.hand_over(Instant::now())?;
            }
            return Ok(wanted.zip(refused));
        }
        if request == Request::Ping {
            return Ok(None);
        }
        // What was published before is before this on the bus too.
        self.uplink.hand_over(Instant::now())?;
        if self.uplink.stuck().is_some() {
            self.held = Some(ClientFrame { id, qos, request });
            return Ok(None);
        }
        let done = match request {
            Request::Broadcast { mask, payload } => self.broadcast(mask.as_str(), payload).await,
            Request::Exclude(topics) => self.exclude(&topics).await,
            Request::Message { target, payload } => self.message(target.as_str(), payload).await,
            Request::PublishFor { topic, receiver, payload } => {
                self.publish_for(&topic, receiver.as_str(), payload).await
            }
            Request::Subscribe(topics) => self.subscribe(&topics).await,
            Request::Unexclude(topics) => self.unexclude(&topics).await,
            Request::Unsubscribe(topics) => self.unsubscribe(&topics).await,
            Request::Ping | Request::Publish { .. } => Ok(()),
        };
        if done.is_err() {
            self.uplink.tally.rejected.inc();
        }
        Ok(wanted.map(|id| (id, done.err().unwrap_or(Code::OK))))
    }

    async fn subscribe(&mut self, topics: &Topics) -> Result<(), Code> {
        if !self.hears.can() {
            return Err(Code::NOT_SUPPORTED);
        }
        let wanted = self.filters(topics)?;
        let patterns: Vec<Pattern> = topics.iter().map(pattern).collect::<Result<_, _>>()?;
        if wanted.is_empty() {
            return Ok(());
        }
        let new = wanted.iter().filter(|filter| !self.subscriptions.heard.contains_key(*filter)).count();
        if self.subscriptions.heard.len().saturating_add(new) > self.config.max_subscriptions {
            return Err(Code::BUSY);
        }
        let (permit, refused) = self.rights.hear(self.uplink.speaker.collector(), patterns.clone());
        if let Some((_, denial)) = refused.first() {
            return Err(refusal(denial));
        }
        self.uplink.voice.subscribe(permit, wanted.clone()).await.map_err(code_of)?;
        self.subscriptions.heard.extend(wanted.into_iter().zip(patterns));
        Ok(())
    }

    /// The topics of one frame, of which there may be no more than of subscriptions: each costs whoever publishes for all.
    fn filters(&self, topics: &Topics) -> Result<Vec<Filter>, Code> {
        if topics.iter().nth(self.config.max_subscriptions).is_some() {
            return Err(Code::BUSY);
        }
        topics.iter().map(|topic| Filter::parse(topic).map_err(|_| Code::DATA)).collect()
    }

    async fn unsubscribe(&mut self, topics: &Topics) -> Result<(), Code> {
        let fewer = self.filters(topics)?;
        self.subscriptions.heard.retain(|filter, _| !fewer.contains(filter));
        self.uplink.voice.narrow(Narrow::Unsubscribe, fewer).await.map_err(code_of)
    }

    async fn exclude(&mut self, topics: &Topics) -> Result<(), Code> {
        let excluded = self.filters(topics)?;
        let new = excluded.iter().filter(|filter| !self.subscriptions.excluded.contains(*filter)).count();
        if self.subscriptions.excluded.len().saturating_add(new) > self.config.max_subscriptions {
            return Err(Code::BUSY);
        }
        self.uplink.voice.narrow(Narrow::Exclude, excluded.clone()).await.map_err(code_of)?;
        self.subscriptions.excluded.extend(excluded);
        Ok(())
    }

    async fn unexclude(&mut self, topics: &Topics) -> Result<(), Code> {
        let included = self.filters(topics)?;
        self.subscriptions.excluded.retain(|filter| !included.contains(filter));
        self.uplink.voice.narrow(Narrow::Unexclude, included).await.map_err(code_of)
    }

    async fn message(&mut self, target: &str, payload: Bytes) -> Result<(), Code> {
        self.fits(&payload)?;
        self.charge();
        let call = match Rpc::decode(&payload) {
            // Whoever is owed an answer gets it; nobody else gets one.
            Ok(Rpc::Reply { id, .. }) => return self.pay((target, id), "answered", payload).await,
            Ok(Rpc::Error { id, code, .. }) => {
                return self.pay((target, id), metrics::outcome(code), payload).await;
            }
            Err(RpcError::Short | RpcError::Method) => return Err(Code::DATA),
            Ok(Rpc::Request { id, .. }) if id != 0 => Some(id),
            _ => None,
        };
        match (call, self.rights.call("", target)) {
            (Some(id), Ok(permit)) => self.ask((id, target), permit, payload).await,
            (None, Ok(permit)) => self.uplink.voice.send(permit, payload).await.map_err(code_of),
            (call, Err(denial)) => {
                let calls = u64::from(call.is_some());
                self.hall.metrics.downlink.ended(UP, metrics::outcome(code::DENIED), calls);
                Err(refusal(&denial))
            }
        }
    }

    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "a session is owned by one task, and cannot be shared"
    )]
    async fn broadcast(&mut self, mask: &str, payload: Bytes) -> Result<(), Code> {
        self.fits(&payload)?;
        self.charge();
        let permit = self.rights.broadcast(mask).map_err(|denial| refusal(&denial))?;
        self.uplink.voice.broadcast(permit, payload).await.map_err(code_of)
    }

    async fn publish_for(&mut self, topic: &Text, receiver: &str, payload: Bytes) -> Result<(), Code> {
        self.fits(&payload)?;
        self.charge();
        let to = self.rights.call("", receiver).map_err(|denial| refusal(&denial))?;
        let dotted = pattern(topic.as_str()).map(|_| topic.as_str().replace('/', "."))?;
        let speaker = &mut self.uplink.speaker;
        let mut permit = speaker.permit();
        let place = speaker.allow(&mut permit, &dotted);
        let bounds = Bounds { max_payload: self.uplink.max_payload, keep_seqs: false };
        let judged = intake::judge(&place, &payload, bounds);
        speaker.count(u64::from(judged.is_ok()), u64::from(judged.is_err()));
        if judged.is_err() {
            // The policy's word is a denial; what is wrong with the payload is the client's mistake.
            return Err(place.map_or_else(|denial| refusal(&denial), |_| Code::DATA));
        }
        self.uplink.voice.publish_for(permit, to, payload).await.map_err(code_of)
    }

    const fn fits(&self, payload: &Bytes) -> Result<(), Code> {
        if payload.len() > self.uplink.max_payload { Err(Code::DATA) } else { Ok(()) }
    }

    /// What is sent by name counts towards the client's rates as what is published does; its bytes are counted as they come.
    fn charge(&self) {
        self.uplink.meter.charge(Instant::now(), 1, 0, &self.uplink.limits);
    }
}

/// The pattern as the policy writes it, which covers what the filter hears.
fn pattern(filter: &str) -> Result<Pattern, Code> {
    // A dot in a filter would read as a slash.
    if filter.contains('.') {
        return Err(Code::DATA);
    }
    Pattern::parse(&filter.replace('/', ".")).map_err(|_| Code::DATA)
}

/// How BUS/RT says what the policy denies.
const fn refusal(denial: &Denial) -> Code {
    match denial {
        Denial::Malformed(_) => Code::DATA,
        _ => Code::ACCESS,
    }
}

/// How it says what the bus does not do.
pub(super) const fn code_of(error: Undelivered) -> Code {
    match error {
        Undelivered::Absent => Code::NOT_REGISTERED,
        Undelivered::Busy => Code::BUSY,
        Undelivered::BusGone => Code::IO,
        Undelivered::Deaf => Code::NOT_DELIVERED,
        Undelivered::Denied => Code::ACCESS,
        Undelivered::TimedOut => Code::TIMEOUT,
    }
}
