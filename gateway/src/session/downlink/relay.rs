//! One collector that can be reached: what it hears, and what it is asked.
//!
//! The one owner of the collector's calls. It waits for whatever comes first, so that no peer who does not read and no client
//! who does not answer holds up anything else.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use daemoneye_bridge::bus::Filter;
use daemoneye_proto::{
    MAX_MESSAGE,
    v1::{self, link_response::Frame},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use crate::{
    bus::{Arrived, Listening, OpenError, Undelivered, Voice},
    identity::PeerId,
    policy::{Collector, Denial, Rights},
    session::{
        Hall,
        downlink::{
            commands::Commands,
            metrics::{self, Counted},
            open::Open,
            room::Place,
        },
        intake::Rejection,
    },
};

/// What the peer says to one of its collectors' relays.
pub(super) enum Said {
    /// With the room that it takes until it is looked at.
    Call(v1::Call, Place),
    Cancel(u64),
    Received(Vec<u64>),
    Reply(v1::Reply),
    /// With the room that it takes until it is looked at.
    Send(v1::Send, Place),
    Subscriptions(Vec<String>),
}

/// What a relay tells.
pub(super) enum Told {
    /// It is attached.
    Attached(u32),
    Frame(Frame),
    /// It is not attached, or not any longer.
    Refused(u32, v1::RefusedName),
}

/// What a relay begins with.
pub(super) struct Begun {
    pub(super) collector: Arc<Collector>,
    /// The collector's name on the wire; empty for the peer itself.
    pub(super) wire: String,
    pub(super) rights: Arc<Rights>,
}

/// Bytes of the largest message that is passed on; the rest of a frame is for its names.
pub(super) const LARGEST: usize = MAX_MESSAGE - (16 << 10);

/// Most messages taken from the ear at once.
const MOST: usize = 16;

/// With so many words to tell nothing more is heard of the bus.
const WORDS: usize = 16;

/// With so many words to tell nothing more is heard of the peer.
const MOST_WORDS: usize = 256;

/// Most messages that are being handed to the bus.
const MOST_JOBS: usize = 64;

/// How long callers may take to be told that a relay ends.
const GRACE: Duration = Duration::from_secs(1);

/// What became of a message that was handed to the bus.
#[derive(Clone, Copy)]
pub(super) enum Done {
    Answered,
    Called(u64, Result<(), Undelivered>),
    Sent(u64, Result<(), Undelivered>),
}

/// One collector that can be reached.
pub(super) struct Relay {
    pub(super) hall: Arc<Hall>,
    /// Numbers its calls, too.
    pub(super) number: u32,
    pub(super) wire: String,
    pub(super) collector: Arc<Collector>,
    /// As the downlink is judged.
    pub(super) id: PeerId,
    pub(super) rights: Arc<Rights>,
    said: mpsc::Receiver<Said>,
    renewed: watch::Receiver<Arc<Rights>>,
    told: mpsc::Sender<Told>,
    pub(super) voice: Voice,
    listening: Listening,
    pub(super) open: Open,
    /// Number of the next call of either kind.
    pub(super) next: u32,
    pub(super) commands: Commands,
    words: VecDeque<Frame>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Patterns as the peer asked for them last.
    pub(super) asked: Vec<String>,
    /// Those of them that it may not hear.
    pub(super) refused: Vec<v1::RefusedName>,
    pub(super) heard: BTreeSet<Filter>,
    _attached: Counted,
}

/// Attaches a collector and serves it until it is detached, its session ends, or it loses its name or its right to it.
pub(super) async fn run(
    hall: Arc<Hall>,
    number: u32,
    begun: Begun,
    (said, renewed, told): (mpsc::Receiver<Said>, watch::Receiver<Arc<Rights>>, mpsc::Sender<Told>),
) {
    let Begun { collector, wire, rights } = begun;
    let config = &hall.config.downlink;
    let (voice, listening) = match hall.bus.attach(&collector, config.outbox).await {
        Ok(attached) => attached,
        Err(error) => {
            let refused = unattached(error).of_name(collector.name());
            // An error means that the session has ended.
            told.send(Told::Refused(number, refused)).await.unwrap_or_default();
            return;
        }
    };
    if told.send(Told::Attached(number)).await.is_err() {
        return voice.release().await;
    }
    let calls = config.max_calls;
    let relay = Relay {
        _attached: hall.metrics.downlink.attach(),
        commands: Commands::new(hall.held.clone(), collector.id()),
        id: collector.id(),
        number,
        wire,
        collector,
        rights,
        said,
        renewed,
        told,
        voice,
        listening,
        open: Open::new(calls),
        next: 1,
        words: VecDeque::new(),
        jobs: FuturesUnordered::new(),
        asked: Vec::new(),
        refused: Vec::new(),
        heard: BTreeSet::new(),
        hall,
    };
    relay.run().await;
}

fn unattached(error: OpenError) -> Rejection {
    match error {
        OpenError::AlreadyConnected => Rejection::already_connected(),
        error => Rejection { code: v1::RejectCode::Unspecified, reason: error.to_string() },
    }
}

/// Why a relay ends.
enum Ending {
    /// It is detached, or the session ends.
    Detached,
    /// It may not be any longer.
    Denied(Denial),
    /// Another session of the peer has the name.
    Taken,
}

impl Relay {
    async fn run(mut self) {
        let ending = self.serve().await;
        let rejection = match ending {
            Ending::Detached => None,
            Ending::Denied(denial) => Some(Rejection::from(&denial)),
            Ending::Taken => Some(Rejection::already_connected()),
        };
        self.wind_up().await;
        if let Some(rejection) = rejection {
            let refused = rejection.of_name(self.collector.name());
            self.told.send(Told::Refused(self.number, refused)).await.unwrap_or_default();
        }
    }

    async fn serve(&mut self) -> Ending {
        let told = self.told.clone();
        loop {
            let (speaks, due) = (!self.words.is_empty(), self.open.due());
            tokio::select! {
                biased;
                // First, whatever waits: what the peer may not do any longer is not done.
                Ok(()) = self.renewed.changed() => if let Err(denial) = self.renew().await {
                    return Ending::Denied(denial);
                },
                // What the peer says ends calls, so that it makes room.
                said = self.said.recv(), if self.words.len() < MOST_WORDS => match said {
                    None => return Ending::Detached,
                    Some(said) => self.heed(said).await,
                },
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.done(done),
                () = until(due) => self.expire(),
                gone = self.open.gone() => self.departed(gone),
                room = told.reserve(), if speaks => match (room, self.words.pop_front()) {
                    (Ok(room), Some(word)) => room.send(Told::Frame(word)),
                    (Err(_), _) => return Ending::Detached,
                    (Ok(_), None) => {}
                },
                entry = self.commands.next(), if self.words.len() < WORDS => self.command(&entry),
                // Last: what waits there has its own rule for too much.
                alive = hear(&mut self.listening, MOST), if self.words.len() < WORDS => {
                    let (arrived, alive) = alive;
                    self.tell_dropped();
                    for arrived in arrived {
                        self.arrive(arrived);
                    }
                    if !alive {
                        return Ending::Taken;
                    }
                }
            }
        }
    }

    /// Takes new rights.
    async fn renew(&mut self) -> Result<(), Denial> {
        let rights = Arc::clone(&self.renewed.borrow_and_update());
        rights.collector(self.collector.name())?;
        self.rights = rights;
        self.rejudge_calls();
        if !self.asked.is_empty() {
            let before = self.refused.clone();
            self.subscribe().await;
            if before != self.refused {
                self.say_subscribed();
            }
        }
        Ok(())
    }

    async fn heed(&mut self, said: Said) {
        match said {
            Said::Call(call, _place) => self.call(call),
            Said::Cancel(id) => self.give_up(id),
            Said::Received(numbers) => self.received(&numbers),
            Said::Reply(reply) => self.replied(reply),
            Said::Send(send, _place) => self.send(send),
            Said::Subscriptions(patterns) => {
                self.asked = patterns;
                self.subscribe().await;
                self.say_subscribed();
            }
        }
    }

    /// Passes on what was heard of the bus.
    fn arrive(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Answer(answer) => self.answered(answer),
            Arrived::Letter(letter) => self.take_in(letter),
            Arrived::Published(heard) => {
                self.deliver(heard.topic.dotted().to_owned(), &heard.sender, heard.payload);
            }
        }
    }

    pub(super) fn deliver(&mut self, topic: String, sender: &str, payload: bytes::Bytes) {
        if payload.len() > LARGEST {
            return self.hall.metrics.downlink.dropped(metrics::SLOW, 1);
        }
        self.hall.metrics.downlink.delivered();
        self.say(Frame::Deliver(v1::Deliver {
            topic,
            payload,
            sender: sender.to_owned(),
            collector: self.wire.clone(),
            command: 0,
        }));
    }

    fn tell_dropped(&mut self) {
        let count = self.listening.dropped();
        if count > 0 {
            self.hall.metrics.downlink.dropped(metrics::SLOW, count);
            self.say(Frame::Dropped(v1::Dropped { collector: self.wire.clone(), count }));
        }
    }

    pub(super) fn say(&mut self, word: Frame) {
        self.words.push_back(word);
    }

    /// Hands something to the bus; says whether there was room for it. What is handed over first arrives first.
    pub(super) fn hand_over(&mut self, job: impl Future<Output = Done> + Send + 'static) -> bool {
        if self.jobs.len() >= MOST_JOBS {
            return false;
        }
        let mut job = job.boxed();
        match (&mut job).now_or_never() {
            Some(done) => self.done(done),
            None => self.jobs.push(job),
        }
        true
    }

    /// Ends all calls and lets go of the name.
    async fn wind_up(&mut self) {
        self.cut_calls();
        let mut left = Vec::new();
        // Calls that nobody has looked at get their answer too.
        while self.listening.next(MOST, |arrived| left.push(arrived)).now_or_never() == Some(true) {}
        for arrived in left {
            if let Arrived::Letter(letter) = arrived {
                self.cut_off(letter);
            }
        }
        let told = async { while self.jobs.next().await.is_some() {} };
        if time::timeout(GRACE, told).await.is_err() {
            tracing::debug!(collector = self.collector.name(), "callers were not told of the end in time");
        }
        // Answers to the peer's own calls, if it is still there.
        for word in self.words.drain(..).filter(|word| matches!(word, Frame::Reply(_) | Frame::Cancel(_))) {
            if self.told.try_send(Told::Frame(word)).is_err() {
                break;
            }
        }
        self.voice.clone().release().await;
    }
}

/// Waits for something to be heard.
///
/// Cancel safe: nothing is taken before it is returned.
async fn hear(listening: &mut Listening, most: usize) -> (Vec<Arrived>, bool) {
    let mut arrived = Vec::new();
    let alive = listening.next(most, |heard| arrived.push(heard)).await;
    (arrived, alive)
}

/// Ends at `due`; never, if there is nothing.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
