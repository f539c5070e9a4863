//! Sessions as their peers see them: real registry, policy and state, a bus that the test answers for.

mod busrt;
mod calls;
mod endings;
mod flow;
mod names;
mod wire;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{Broker, Bus, Command, Routes, Taken},
    event::Events,
    lifecycle::Lifecycle,
};
use daemoneye_proto::v1::{self, link_request, link_response::Frame};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    http2::{Caller, Cut, CutReason},
    link::Visitor,
    outbox::Answer,
    registry::Guest,
    *,
};
use crate::{
    bus::tests::Shelf,
    identity::{PeerId, VerifiedPeer},
    policy::{self, Policy, Rights},
    state::{self, State},
};

const POLICY: &str = r#"
[[role]]
name = "r"
match = { identity = "*" }
speaks_for = ["other", "leaf"]
publish = ["a.#"]
events_per_second = 1000000
bytes_per_second = "1 GiB"
connections = 3
[[role]]
name = "slow"
match = { identity = "slow" }
publish = ["slow"]
"#;

/// A session stage and all that it stands on.
struct Stage {
    sessions: Sessions,
    judge: Judge,
    life: Lifecycle,
    /// What the bus was given, in order.
    taken: Arc<Mutex<Vec<Events>>>,
    /// Whether the bus takes what it is given.
    open: watch::Sender<bool>,
    _folder: TempDir,
}

fn policy(text: &str) -> Policy {
    Policy::parse(text, Path::new("policy.toml")).unwrap()
}

impl Stage {
    fn new() -> Self {
        Self::configured("", POLICY)
    }

    fn configured(session: &str, rules: &str) -> Self {
        let (shelf, asked) = Shelf::new(64);
        let stage = Self::on(shelf, Lifecycle::new(), session, rules);
        stage.serve(asked);
        stage
    }

    /// Begins to answer what is asked of the bus.
    fn serve(&self, asked: mpsc::Receiver<Command>) {
        self.life.leash().spawn(broker(asked, self.open.subscribe(), Arc::clone(&self.taken)));
    }

    fn on(bus: Arc<dyn Bus>, life: Lifecycle, session: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let leash = life.leash();
        let config = state::Config { directory: folder.path().to_path_buf(), ..state::Config::default() };
        let (state, flusher) = State::open(config, state::Metrics::default()).unwrap();
        leash.spawn(flusher);
        let judge = Judge::new(policy(rules), policy::Metrics::default());
        let routes = Routes::new(Vec::new(), Broker::Embedded).unwrap();
        let drain = Drain {
            spread: Duration::from_secs(12),
            grace: Duration::from_secs(10),
            alternatives: Vec::new(),
        };
        let stages = Stages {
            judge: judge.clone(),
            bus: AuthorizedBus::new(bus, routes),
            held: held::Handle::open(
                state.clone(),
                state::audit::Audit::open(folder.path()).unwrap(),
                held::Metrics::default(),
            )
            .unwrap(),
            state,
            leash: leash.clone(),
            drain,
            metrics: Metrics::default(),
        };
        let (sessions, run) = Sessions::new(toml::from_str(session).unwrap(), stages);
        leash.spawn(run);
        let (taken, (open, _)) = (Arc::default(), watch::channel(true));
        Self { sessions, judge, life, taken, open, _folder: folder }
    }

    /// A peer that has opened a `Link` and said nothing.
    fn dial(&self, name: &str) -> Peer {
        let hall = Arc::clone(&self.sessions.0);
        let peer = VerifiedPeer::assume(PeerId::new("site-a", name).unwrap());
        let (frames, inbound) = mpsc::channel(256);
        let (wire, answers) = mpsc::channel::<Answer>(8);
        let cut = Cut::default();
        let rights: Rights = self.judge.rights(&peer).unwrap();
        let visitor = Visitor {
            retiring: CancellationToken::new(),
            rights,
            remote: "127.0.0.1:4444".parse().unwrap(),
            presence: hall.registry.admit(Guest::Greeting, peer.id()).unwrap(),
            peer,
            cut: cut.clone(),
        };
        let leash = hall.leash.clone();
        leash.spawn(link::run(hall, visitor, ReceiverStream::new(inbound), wire));
        Peer { frames, answers, cut }
    }

    /// A peer that has been welcomed.
    async fn join(&self, name: &str, streams: Vec<v1::StreamState>) -> (Peer, v1::Welcome) {
        let mut peer = self.dial(name);
        peer.hello(streams).await;
        let welcome = peer.welcome().await;
        (peer, welcome)
    }

    fn taken(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let texts = |events: &Events| {
            events
                .events
                .iter()
                .map(|event| String::from_utf8_lossy(&event.payload).into_owned())
                .collect::<Vec<_>>()
        };
        taken.iter().flat_map(texts).collect()
    }
}

/// Answers for the bus: takes what it is given while it is open, and withdraws what waits for a port that closes.
async fn broker(
    mut asked: mpsc::Receiver<Command>,
    mut open: watch::Receiver<bool>,
    taken: Arc<Mutex<Vec<Events>>>,
) {
    let mut waiting: Vec<(u64, Events, oneshot::Sender<Taken>)> = Vec::new();
    let mut closed = Vec::new();
    loop {
        if *open.borrow_and_update() {
            for (_, events, done) in std::mem::take(&mut waiting) {
                taken.lock().unwrap().push(events);
                done.send(Taken::All).unwrap_or_default();
            }
        }
        tokio::select! {
            command = asked.recv() => match command {
                Some(Command::Submit { port, events, done, .. }) if !closed.contains(&port) => {
                    waiting.push((port, events, done));
                }
                Some(Command::Submit { .. } | Command::Ask { .. } | Command::Attach { .. }) => {}
                Some(Command::Close { port, done }) => {
                    closed.push(port);
                    waiting.retain(|(waiting, ..)| *waiting != port);
                    done.send(()).unwrap_or_default();
                }
                None => return,
            },
            changed = open.changed() => if changed.is_err() { return },
        }
    }
}

/// The far end of a session.
struct Peer {
    frames: mpsc::Sender<Result<v1::LinkRequest, Status>>,
    answers: mpsc::Receiver<Answer>,
    cut: Cut,
}

fn stream(byte: u8) -> Bytes {
    vec![byte; 16].into()
}

fn state_of(byte: u8, acked: u64, next: u64) -> v1::StreamState {
    v1::StreamState { stream: stream(byte), class: 1, acked, next }
}

fn batch(byte: u8, first_seq: u64, payloads: &[&'static str]) -> v1::Batch {
    let event = |payload: &&'static str| v1::Event {
        topic: 0,
        payload: Bytes::from_static(payload.as_bytes()),
        ..v1::Event::default()
    };
    v1::Batch {
        stream: stream(byte),
        first_seq,
        collector: String::new(),
        topics: vec!["a.b".to_owned()],
        events: payloads.iter().map(event).collect(),
        origin: None,
    }
}

impl Peer {
    async fn send(&self, frame: link_request::Frame) {
        self.frames.send(Ok(v1::LinkRequest { frame: Some(frame) })).await.unwrap();
    }

    async fn hello(&self, streams: Vec<v1::StreamState>) {
        let hello = v1::Hello { protocol: 1, software: "test".to_owned(), streams };
        self.send(link_request::Frame::Hello(hello)).await;
    }

    async fn batch(&self, batch: v1::Batch) {
        self.send(link_request::Frame::Batch(batch)).await;
    }

    /// The next frame, or how the session ended: `None` is OK.
    async fn next(&mut self) -> Result<Option<Frame>, Status> {
        let answer =
            time::timeout(Duration::from_mins(10), self.answers.recv()).await.expect("an answer in time");
        answer.map(|answer| *answer).transpose().map(|answer| answer.and_then(|answer| answer.frame))
    }

    async fn welcome(&mut self) -> v1::Welcome {
        match self.next().await {
            Ok(Some(Frame::Welcome(welcome))) => welcome,
            other => panic!("expected a Welcome: {other:?}"),
        }
    }

    /// The next ack, passing over credits and pings.
    async fn ack(&mut self) -> v1::Ack {
        loop {
            match self.next().await {
                Ok(Some(Frame::Ack(ack))) => return ack,
                Ok(Some(Frame::Credit(_) | Frame::Ping(_))) => {}
                other => panic!("expected an Ack: {other:?}"),
            }
        }
    }

    /// Waits until `seq` is acknowledged.
    async fn acked(&mut self, seq: u64) {
        while self.ack().await.acked < seq {}
    }

    /// Waits until everything sent has been heard.
    async fn heard(&mut self) {
        self.send(link_request::Frame::Ping(v1::Ping { nonce: 77 })).await;
        while !matches!(self.next().await, Ok(Some(Frame::Pong(v1::Pong { nonce: 77 })))) {}
    }

    /// How the session ends, passing over everything before.
    async fn end(&mut self) -> (Code, String) {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return (Code::Ok, String::new()),
                Err(status) => return (status.code(), status.message().to_owned()),
            }
        }
    }
}
