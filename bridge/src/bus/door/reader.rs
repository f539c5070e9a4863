//! What a client asks: its frames become calls of its in-process broker client.
//!
//! Frames are served in the order they came. All frames of one read make a turn: their acks leave together, those of
//! published frames behind one barrier that every consumer in this process must pass who heard any frame since the last
//! one. So `Processed` on the last frame of a batch speaks for the whole batch.

use std::{collections::HashMap, io, mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Semaphore,
};

use crate::{
    bus::{
        door::{
            Config, Leaving, guard,
            known::{Expected, Known},
            reply::{Acks, Replies},
        },
        embedded::{Core, barrier::Barrier, broker::Client, member::Member, put::let_owners_run},
    },
    native::codec::{
        Code, Qos,
        client::{self, ClientFrame, Request, Topics},
    },
};

/// Bytes read at once.
const READ: usize = 64 << 10;

/// Turns whose acks may be owed before no more is read.
pub(super) const WINDOW: usize = 256;

/// Topics remembered; beyond that all are looked up again.
const REMEMBERED: usize = 1024;

/// Frames published before looking whether a member's queue is filling up.
const PACE: usize = 16;

/// Reads and serves the frames of one client.
pub(super) struct Reader<R> {
    pub(super) source: R,
    pub(super) client: Client,
    pub(super) core: Arc<Core>,
    pub(super) member: Arc<Member>,
    pub(super) replies: Arc<Replies>,
    pub(super) window: Arc<Semaphore>,
    pub(super) config: Arc<Config>,
    pub(super) memory: Memory,
}

/// What a reader remembers between frames.
#[derive(Default)]
pub(super) struct Memory {
    topics: HashMap<Box<str>, Arc<Known>>,
    /// Consumers in this process that heard something since the last barrier.
    touched: Vec<Arc<Member>>,
    /// Acks of this turn in the order of their frames; without a code, those of published frames.
    acks: Vec<(u32, Option<Code>)>,
    /// Frames published, for the pace.
    count: usize,
    /// Whether a frame of this turn is timed on its way to other clients of the door.
    timed: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Serves until the client goes, or breaks the wire.
    pub(super) async fn run(&mut self) -> Leaving {
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            buffer.reserve(READ);
            match self.source.read_buf(&mut buffer).await {
                Ok(0) => return Leaving::Gone,
                Ok(_) => {}
                Err(error) => return Leaving::from(error),
            }
            let mut frames = 0;
            loop {
                match client::decode(&mut buffer, self.config.max_frame) {
                    Ok(Some(frame)) => {
                        frames += 1;
                        self.serve(frame).await;
                    }
                    Ok(None) => break,
                    Err(error) => return Leaving::Wire(error),
                }
            }
            self.core.counters.door_read.add(frames);
            self.finish_turn().await;
        }
    }

    async fn serve(&mut self, frame: ClientFrame) {
        let qos = frame.qos;
        let verdict = match frame.request {
            Request::Ping => return,
            Request::Publish { topic, payload } => self.publish(topic.as_str(), None, &payload, qos).await,
            Request::PublishFor { topic, receiver, payload } => {
                self.publish(topic.as_str(), Some(receiver.as_str()), &payload, qos).await
            }
            Request::Message { target, payload } => self.message(target.as_str(), &payload, qos).await,
            Request::Broadcast { mask, payload } => self.broadcast(mask.as_str(), &payload, qos).await,
            Request::Subscribe(topics) => self.subscribe(&topics).await,
            Request::Unsubscribe(topics) => self.unsubscribe(&topics).await,
            Request::Exclude(topics) => self.exclude(&topics).await,
            Request::Unexclude(topics) => self.unexclude(&topics).await,
        };
        if !qos.needs_ack() {
            return;
        }
        let code = match verdict {
            Ok(Served::Done) => Some(Code::OK),
            Ok(Served::Published) => None,
            Err(code) => Some(code),
        };
        self.memory.acks.push((frame.id, code));
    }

    /// Publishes to a topic: to all, or to one receiver.
    async fn publish(
        &mut self,
        topic: &str,
        receiver: Option<&str>,
        payload: &Bytes,
        qos: Qos,
    ) -> Result<Served, Code> {
        let known = self.room(topic).await;
        known.verdict?;
        if self.memory.count.is_multiple_of(PACE) {
            let_owners_run(&known.audience).await;
            let_owners_run(&known.overhearers).await;
        }
        self.memory.count = self.memory.count.wrapping_add(1);
        for member in known.hearing(receiver) {
            if !self.memory.touched.iter().any(|touched| touched.id == member.id) {
                self.memory.touched.push(Arc::clone(member));
            }
        }
        let mut expected = Expected::announce(&self.core, &known, receiver, payload.len());
        match receiver {
            Some(receiver) => self.client.publish_for(topic, receiver, payload, qos.is_realtime()).await,
            None => self.client.publish(topic, payload, qos.is_realtime()).await,
        }?;
        expected.published = true;
        if !mem::replace(&mut self.memory.timed, true) {
            known.time(receiver);
        }
        Ok(Served::Published)
    }

    /// Waits until nobody who hears `topic` and may hold others up is full. Only this client waits.
    async fn room(&mut self, topic: &str) -> Arc<Known> {
        let mut stirred = None;
        loop {
            let known = self.known(topic);
            if !known.held_up(None).any(|member| member.is_full()) {
                return known;
            }
            match &mut stirred {
                None => {
                    // What was served before need not wait with this frame. Then look again: there may be room by now.
                    self.finish_turn().await;
                    stirred = Some(self.core.table.stirred());
                }
                // The sender lives in the table, so this ends by a change only.
                Some(stirred) => stirred.changed().await.unwrap_or_default(),
            }
        }
    }

    fn known(&mut self, topic: &str) -> Arc<Known> {
        let generation = self.core.table.generation();
        if let Some(known) = self.memory.topics.get(topic)
            && known.generation == generation
        {
            return Arc::clone(known);
        }
        let verdict = guard::topic(topic);
        let (mut audience, mut overhearers) = (Box::default(), Box::default());
        if verdict.is_ok() {
            audience = self.core.table.audience(topic);
            overhearers = self.core.table.overhearers(topic);
        }
        let known = Arc::new(Known { generation, verdict, audience, overhearers });
        if self.memory.topics.len() >= REMEMBERED {
            self.memory.topics.clear();
        }
        self.memory.topics.insert(topic.into(), Arc::clone(&known));
        known
    }

    async fn message(&mut self, target: &str, payload: &Bytes, qos: Qos) -> Result<Served, Code> {
        // Not guarded: it is looked up as it stands, and what nobody is called is answered so.
        if self.core.table.named(target).is_some_and(|member| member.is_full()) {
            return Err(Code::BUSY);
        }
        let inquires = self.replies.inquiries.begin(target, payload)?;
        let sent = self.client.send(target, payload, qos.is_realtime()).await;
        if inquires && sent.is_err() {
            self.replies.inquiries.end();
        }
        sent.map(|()| Served::Done)
    }

    async fn broadcast(&mut self, mask: &str, payload: &Bytes, qos: Qos) -> Result<Served, Code> {
        guard::mask(mask)?;
        self.client.broadcast(mask, payload, qos.is_realtime()).await?;
        Ok(Served::Done)
    }

    /// Subscribes to all of `topics`, or to none.
    async fn subscribe(&mut self, topics: &Topics) -> Result<Served, Code> {
        topics.iter().try_for_each(guard::filter)?;
        let more = topics.iter().count();
        if self.core.table.filters(self.member.id).saturating_add(more) > self.config.max_subscriptions {
            return Err(Code::BUSY);
        }
        for topic in topics.iter() {
            self.client.subscribe(&[topic]).await?;
        }
        // After the broker: our table must not promise what the broker does not deliver yet.
        self.core.table.subscribe(self.member.id, topics.iter());
        Ok(Served::Done)
    }

    async fn unsubscribe(&mut self, topics: &Topics) -> Result<Served, Code> {
        topics.iter().try_for_each(guard::filter)?;
        self.core.table.unsubscribe(self.member.id, topics.iter());
        for topic in topics.iter() {
            self.client.unsubscribe(&[topic]).await?;
        }
        Ok(Served::Done)
    }

    async fn exclude(&mut self, topics: &Topics) -> Result<Served, Code> {
        topics.iter().try_for_each(guard::filter)?;
        for topic in topics.iter() {
            let excluded = self.member.exclude(topic);
            if excluded > self.config.max_subscriptions {
                self.member.unexclude(topic);
            }
            // Before the broker: our table must not promise what the broker no longer delivers.
            self.core.table.changed();
            if excluded > self.config.max_subscriptions {
                return Err(Code::BUSY);
            }
            self.client.exclude(&[topic]).await?;
        }
        Ok(Served::Done)
    }

    async fn unexclude(&mut self, topics: &Topics) -> Result<Served, Code> {
        topics.iter().try_for_each(guard::filter)?;
        for topic in topics.iter() {
            self.client.unexclude(&[topic]).await?;
            self.member.unexclude(topic);
        }
        self.core.table.changed();
        Ok(Served::Done)
    }

    /// Sends the acks of this turn, or sees to it that they will be.
    async fn finish_turn(&mut self) {
        self.memory.timed = false;
        let mut due = Vec::new();
        let mut owed = Vec::new();
        // The table may have shown consumers gone who went with the bus: that nobody heard it says nothing then.
        let ended = self.core.ended.is_cancelled();
        for (id, code) in self.memory.acks.drain(..) {
            match code {
                None if ended => due.push((id, Code::NOT_DELIVERED)),
                // Some consumer here heard something: what was published is acknowledged when he has taken it.
                None if !self.memory.touched.is_empty() => owed.push(id),
                code => due.push((id, code.unwrap_or(Code::OK))),
            }
        }
        if !due.is_empty() {
            self.replies.push(due);
        }
        if owed.is_empty() {
            return;
        }
        // The window is closed only when the client is gone.
        let Ok(place) = Arc::clone(&self.window).acquire_owned().await else { return };
        let takers = self.memory.touched.iter().filter(|member| member.is_in_process());
        let (_, own) = Barrier::raise(Acks {
            ids: owed,
            replies: Arc::clone(&self.replies),
            takers: takers.map(|member| member.id).collect(),
            ended: self.core.ended.clone(),
            _place: place,
        });
        for member in mem::take(&mut self.memory.touched) {
            member.post(own.of(member.id));
        }
    }
}

/// What became of a frame that was served.
enum Served {
    /// All that it asked.
    Done,
    /// It was published; consumers may still have to take it.
    Published,
}

impl From<io::Error> for Leaving {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "local client lost");
        Self::Gone
    }
}
