//! The relay: one task, the owner of all that is open.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use daemoneye_proto::v1::{self, link_request::Frame, link_response::Frame as Said, reply::Outcome};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use crate::{
    bus::{
        Ear, Heard,
        embedded::Embedded,
        rpc::{Rpc, code},
    },
    leaf::downlink::{Config, Counts, Downlink, Mouth, Refusal, Shown, collectors::Collectors, count},
    lifecycle::Leash,
    uplink::{self, Conversation, Conversations},
};

/// One task that relays both ways.
pub(super) struct Relay {
    pub(super) config: Config,
    pub(super) bus: Arc<Embedded>,
    pub(super) mouths: Vec<Mouth>,
    /// Places in `mouths`.
    pub(super) stand_ins: HashMap<Arc<str>, usize>,
    pub(super) collectors: Collectors,
    pub(super) counts: Arc<Counts>,
    conversations: Conversations,
    listening: FuturesUnordered<BoxFuture<'static, Listened>>,
    /// Commands on their way through the door, with the session that they came by. Bounded by [`MOST_COMMANDS`].
    pub(super) commands: FuturesUnordered<BoxFuture<'static, (u64, u64, bool)>>,
    pub(super) session: Option<Session>,
    /// Number of the last session, of the last call down and of the last call up.
    pub(super) numbers: [u64; 3],
    pub(super) refused: BTreeSet<Refusal>,
    pub(super) shown: watch::Sender<Shown>,
}

/// What one ear has heard.
struct Listened {
    mouth: usize,
    ear: Ear,
    heard: Vec<Heard>,
    open: bool,
}

/// The session that is there.
pub(super) struct Session {
    pub(super) number: u64,
    conversation: Conversation,
    /// When the gateway is to be told of collectors; none: it knows.
    pub(super) tell_at: Option<Instant>,
    /// Whether the names that it was told are others.
    pub(super) names: bool,
}

/// What happened next.
enum Happened {
    Began(Conversation),
    Changed,
    Commanded((u64, u64, bool)),
    Draining,
    Due,
    Heard(Listened),
    Said(Option<uplink::Heard>),
    Tell,
}

impl Relay {
    pub(super) fn new(parts: Downlink) -> Self {
        let Downlink { config, bus, mouths, ears, conversations, counts, shown } = parts;
        let stand_ins = mouths.iter().enumerate().skip(1);
        let mut listening = FuturesUnordered::new();
        listening.extend(ears.into_iter().enumerate().map(|(mouth, ear)| listen(mouth, ear)));
        Self {
            stand_ins: stand_ins.map(|(at, mouth)| (mouth.name.as_str().into(), at)).collect(),
            collectors: Collectors::new(config.clone(), counts.open.clone()),
            config,
            bus,
            mouths,
            counts,
            conversations,
            listening,
            commands: FuturesUnordered::new(),
            session: None,
            numbers: [0; 3],
            refused: BTreeSet::new(),
            shown,
        }
    }

    /// Relays until the process drains.
    pub(super) async fn run(mut self, leash: Leash) {
        let mut changes = self.bus.local_changes();
        changes.mark_changed();
        loop {
            self.note_open();
            match self.next(&leash, &mut changes).await {
                Happened::Began(conversation) => self.begin(conversation).await,
                Happened::Changed => self.look().await,
                Happened::Commanded((session, command, safe)) => self.commanded(session, command, safe).await,
                Happened::Draining => return self.farewell().await,
                Happened::Due => self.overdue().await,
                Happened::Heard(listened) => self.listened(listened).await,
                Happened::Said(Some(heard)) => self.obey(heard.frame).await,
                Happened::Said(None) => self.end("the link was cut").await,
                Happened::Tell => self.tell().await,
            }
        }
    }

    async fn next(&mut self, leash: &Leash, changes: &mut watch::Receiver<u64>) -> Happened {
        let due = self.collectors.due();
        let tell_at = self.session.as_ref().and_then(|session| session.tell_at);
        let Self { conversations, listening, commands, session, .. } = self;
        let said = async {
            match session {
                Some(session) => session.conversation.inbound.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = leash.draining() => Happened::Draining,
            Some(conversation) = conversations.recv() => Happened::Began(conversation),
            // Who is there, before what is for them.
            Ok(()) = changes.changed() => Happened::Changed,
            () = until(tell_at) => Happened::Tell,
            () = until(due) => Happened::Due,
            Some(commanded) = commands.next(), if !commands.is_empty() => Happened::Commanded(commanded),
            // In turn with what follows: each is bounded, but not both together.
            Some(listened) = listening.next(), if !listening.is_empty() => Happened::Heard(listened),
            said = said => Happened::Said(said),
        }
    }

    async fn begin(&mut self, conversation: Conversation) {
        self.end("another session has taken over").await;
        let [number, ..] = &mut self.numbers;
        *number += 1;
        let number = *number;
        for (_, collector) in self.collectors.all() {
            collector.told.clear();
        }
        self.refused.clear();
        let tell_at = self.collectors.names().next().map(|_| Instant::now());
        self.session = Some(Session { number, conversation, tell_at, names: true });
    }

    /// Ends the session: who called through it is told, whom it called has nobody to answer.
    async fn end(&mut self, why: &str) {
        if self.session.take().is_none() {
            return;
        }
        let mut cut = Vec::new();
        for (name, collector) in self.collectors.all() {
            collector.down.end_all();
            cut.extend(collector.up.end_all().into_iter().map(|(_, up)| (Arc::clone(name), up)));
        }
        for (name, up) in cut {
            self.fail_up(&name, &up, (code::CUT, why)).await;
        }
    }

    async fn obey(&mut self, frame: Said) {
        match frame {
            Said::Attached(attached) => {
                self.attached(attached);
            }
            Said::Subscribed(subscribed) => {
                self.subscribed(subscribed);
            }
            Said::Call(call) => self.call(call).await,
            Said::Cancel(cancel) => {
                self.collectors.cancel(cancel.id);
            }
            Said::Deliver(deliver) => self.deliver(deliver).await,
            Said::Dropped(dropped) => {
                self.counts.dropped.fetch_add(dropped.count, std::sync::atomic::Ordering::Relaxed);
            }
            Said::Reply(reply) => self.replied(reply).await,
            // The session's own.
            _ => {}
        }
    }

    async fn listened(&mut self, listened: Listened) {
        let Listened { mouth, ear, heard, open } = listened;
        for heard in heard {
            self.heard(mouth, heard).await;
        }
        if open {
            self.listening.push(listen(mouth, ear));
        }
    }

    async fn commanded(&mut self, session: u64, command: u64, safe: bool) {
        // Of an older session it comes again.
        if safe && self.session.as_ref().is_some_and(|present| present.number == session) {
            count(&self.counts.commands);
            self.say(Frame::Received(v1::Received { commands: vec![command] })).await;
        }
    }

    /// Ends the calls whose budget is used up.
    async fn overdue(&mut self) {
        let now = Instant::now();
        let (mut down, mut up) = (Vec::new(), Vec::new());
        for (name, collector) in self.collectors.all() {
            down.extend(collector.down.end_due(now).into_iter().map(|(_, down)| down.call));
            let ended = collector.up.end_due(now).into_iter();
            up.extend(ended.map(|(id, up)| (Arc::clone(name), id, up)));
        }
        for call in down {
            self.fail_down(call, (code::TIMED_OUT, "the collector did not answer in time")).await;
        }
        for (name, id, call) in up {
            self.say(Frame::Cancel(v1::Cancel { id })).await;
            self.fail_up(&name, &call, (code::TIMED_OUT, "no answer in time")).await;
        }
    }

    /// Lets the gateway know that nobody is reached here any more.
    async fn farewell(mut self) {
        let mut calls = Vec::new();
        for (_, collector) in self.collectors.all() {
            calls.extend(collector.down.end_all().into_iter().map(|(_, down)| down.call));
        }
        for call in calls {
            self.fail_down(call, (code::CUT, "the leaf is going away")).await;
        }
        if self.collectors.names().next().is_some() {
            self.say(Frame::Attach(v1::Attach::default())).await;
        }
        self.end("the leaf is going away").await;
    }

    /// Fails a call of the datacentre.
    pub(super) async fn fail_down(&mut self, id: u64, (code, message): (i16, &str)) {
        count(&self.counts.calls_failed);
        let error = v1::CallError { code: code.into(), message: message.to_owned() };
        self.say(Frame::Reply(v1::Reply { id, outcome: Some(Outcome::Error(error)) })).await;
    }

    /// Says something to the gateway; whether it was said. Without a session, or if the gateway takes nothing for long, it is lost: calls and
    /// their answers have a deadline there.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "the relay is Send, but its futures make it not Sync"
    )]
    pub(super) async fn say(&mut self, frame: Frame) -> bool {
        self.note_open();
        let Some(outbound) = self.outbound() else { return false };
        let said = time::timeout(PATIENCE, outbound.send(frame)).await;
        if said.is_err() {
            tracing::debug!("gateway takes nothing, a word of the downlink is lost");
        }
        matches!(said, Ok(Ok(())))
    }

    pub(super) fn outbound(&self) -> Option<&mpsc::Sender<Frame>> {
        self.session.as_ref().map(|session| &session.conversation.outbound)
    }

    /// Sends a local client an answer, or a call.
    pub(super) async fn send(
        &mut self,
        mouth: usize,
        target: &str,
        rpc: &Rpc,
    ) -> Result<(), (i16, &'static str)> {
        self.send_raw(mouth, target, rpc.encode()).await
    }

    fn note_open(&self) {
        if let Some(session) = &self.session {
            let open = usize::try_from(self.counts.open.get()).unwrap_or(usize::MAX);
            session.conversation.open_calls.store(open, std::sync::atomic::Ordering::Release);
        }
    }
}

fn listen(mouth: usize, mut ear: Ear) -> BoxFuture<'static, Listened> {
    async move {
        let mut heard = Vec::new();
        let open = ear.next(&mut heard, AT_ONCE).await;
        Listened { mouth, ear, heard, open }
    }
    .boxed()
}

/// Ends at that time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Messages of one ear before the others have their turn.
const AT_ONCE: usize = 64;

/// How long the gateway, or the bus, may take nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Commands on their way through the door; further ones are not said to be safe, and come again.
pub(super) const MOST_COMMANDS: usize = 1024;
