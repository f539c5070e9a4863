//! A session driven by hand, by which a gateway is measured.
//!
//! It dials, says hello and speaks as an [`Uplink`](crate::uplink::Uplink) does, but has no spool: what it sends is gone when
//! it ends, and nothing is tried twice. So each step can be timed, and each failure told at once.
//!
//! Kept true: what is in flight stays within the gateway's credit; every step has a deadline.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use daemoneye_proto::v1::{
    self, LinkRequest, LinkResponse, link_request::Frame, link_response::Frame as Heard,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    event::{Class, Events, Seq, StreamId},
    spool::StreamState,
    topic::Pattern,
    trust::{LoadError, Role, Store},
    uplink::{
        Config, Failure, Gateway,
        dial::{ALPN, Dialled, Dialler},
        failure::for_people,
        hello,
        window::Credit,
    },
};

/// A session with one gateway. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Probe {
    gateway: Gateway,
    dialled: Dialled,
    outbound: mpsc::Sender<LinkRequest>,
    inbound: Streaming<LinkResponse>,
    patience: Duration,
    peer: String,
    credit: Credit,
    stream: StreamId,
    next: Seq,
    acked: Seq,
    in_flight: VecDeque<Flight>,
    set_up: SetUp,
}

/// What it took until the gateway said welcome.
#[derive(Clone, Copy, Debug)]
pub struct SetUp {
    /// Resolving, TCP, TLS with both certificates, HTTP/2.
    pub connect: Duration,
    /// From hello to welcome.
    pub welcome: Duration,
}

/// A batch to be sent.
#[derive(Debug)]
pub struct Parcel {
    /// What is in it.
    pub events: Events,
    /// Told once the gateway has acknowledged it.
    pub done: oneshot::Sender<Verdict>,
}

/// What the gateway said of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is on the bus, as its route promises.
    Taken,
    /// Some of it, or all, never will be; why, in the gateway's words.
    Rejected(String),
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    last: Seq,
    bytes: u64,
    rejected: Option<String>,
    done: oneshot::Sender<Verdict>,
}

impl Probe {
    /// Dials the first of the gateways, and waits for its welcome.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] says which file, or what of the connection.
    pub async fn open(config: &Config) -> Result<Self, ProbeError> {
        let store = Store::open(config.files.clone(), Role::Client)?;
        let gateway = config.gateways.first().ok_or(ProbeError::NoGateway)?.clone();
        Ok(Self::dial(config, &store, gateway).await?)
    }

    async fn dial(config: &Config, store: &Store, gateway: Gateway) -> Result<Self, Failure> {
        let patience = config.connect_timeout;
        let tls = store.current().client_config(&[ALPN], config.floor, &config.server_names);
        let begun = Instant::now();
        let mut dialled = Dialler { tls: Arc::new(tls), patience }.dial(&gateway).await?;
        let connect = begun.elapsed();
        let stream = StreamId::random();
        let states = [StreamState { stream, class: Class::Telemetry, acked: 0, next: 1, opened: 1 }];
        let (outbound, requests) = mpsc::channel(OUTBOUND);
        // There is room in a new channel.
        let _sent = outbound.try_send(request(Frame::Hello(hello::hello(&states))));
        let mut client = dialled.client.clone();
        let begun = Instant::now();
        let calling = async {
            let mut inbound = client.link(ReceiverStream::new(requests)).await?.into_inner();
            inbound.message().await.map(|first| (first, inbound))
        };
        let called = time::timeout(patience, dialled.nursery.beside(calling)).await;
        let late =
            |_| Failure::TimedOut { gateway: gateway.clone(), doing: "waiting for its welcome", patience };
        let called = called.map_err(late)?.map_err(|status| Failure::of_status(&gateway, &status))?;
        let broken = |what| Failure::Protocol { gateway: gateway.clone(), what };
        let (Some(LinkResponse { frame: Some(Heard::Welcome(welcome)) }), inbound) = called else {
            return Err(broken("its first message was no welcome"));
        };
        let welcomed = hello::read(welcome, &states, |_| 0).map_err(broken)?;
        Ok(Self {
            set_up: SetUp { connect, welcome: begun.elapsed() },
            peer: for_people(&welcomed.peer),
            credit: welcomed.credit,
            gateway,
            dialled,
            outbound,
            inbound,
            patience,
            stream,
            next: 1,
            acked: 0,
            in_flight: VecDeque::new(),
        })
    }

    /// What it took to get here.
    #[must_use]
    pub const fn set_up(&self) -> SetUp {
        self.set_up
    }

    /// Who this end is, as the gateway reads its certificate: `site/name`.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Times a ping: the network, TLS and both ends' tasks, but no policy and no bus.
    ///
    /// # Errors
    ///
    /// [`Failure`], if the session ended or the answer did not come in time.
    pub async fn ping(&mut self) -> Result<Duration, Failure> {
        let nonce = fastrand::u64(..);
        let begun = Instant::now();
        self.say(Frame::Ping(v1::Ping { nonce })).await?;
        let deadline = begun + self.patience;
        loop {
            let heard = self.hear(deadline, "waiting for the answer to a ping").await?;
            if matches!(heard, Heard::Pong(v1::Pong { nonce: given }) if given == nonce) {
                return Ok(begun.elapsed());
            }
            self.obey(heard).await?;
        }
    }

    /// Hears `patterns` from the gateway's bus, for as long as what is returned lives, or the probe.
    ///
    /// # Errors
    ///
    /// [`Failure`] holds the gateway's words, such as that its policy does not allow it.
    pub async fn subscribe(&mut self, patterns: &[Pattern]) -> Result<Listener, Failure> {
        let patterns = patterns.iter().map(ToString::to_string).collect();
        let mut client = self.dialled.client.clone();
        let call = client.subscribe(v1::SubscribeRequest { patterns });
        let called = time::timeout(self.patience, self.dialled.nursery.beside(call)).await;
        let (gateway, patience) = (&self.gateway, self.patience);
        let late = |_| Failure::TimedOut { gateway: gateway.clone(), doing: "subscribing", patience };
        let called = called.map_err(late)?.map_err(|status| Failure::of_status(gateway, &status))?;
        Ok(Listener { messages: called.into_inner() })
    }

    /// Sends what comes in through `parcels` as far as credit goes, until their last sender is gone and all is acknowledged.
    ///
    /// # Errors
    ///
    /// [`Failure`], if the session ended or an acknowledgement did not come in time. Parcels that wait are dropped.
    pub async fn carry(&mut self, mut parcels: mpsc::Receiver<Parcel>) -> Result<(), Failure> {
        let mut waiting: Option<Parcel> = None;
        let mut open = true;
        let mut heard_of = Instant::now();
        loop {
            if let Some(parcel) = waiting.take_if(|parcel| self.fits(&parcel.events)) {
                if self.in_flight.is_empty() {
                    heard_of = Instant::now();
                }
                self.send(parcel).await?;
                continue;
            }
            if !open && waiting.is_none() && self.in_flight.is_empty() {
                return Ok(());
            }
            let deadline = heard_of + self.patience;
            let idle = self.in_flight.is_empty();
            let heard = {
                let Self { dialled, inbound, .. } = self;
                tokio::select! {
                    biased;
                    parcel = parcels.recv(), if open && waiting.is_none() => {
                        open = parcel.is_some();
                        waiting = parcel;
                        continue;
                    }
                    heard = dialled.nursery.beside(inbound.message()) => heard,
                    () = time::sleep_until(deadline), if !idle => {
                        return Err(self.late("acknowledging events: is somebody subscribed to their topic? see `daemoneye-cli health`"));
                    }
                }
            };
            let heard = self.judge(heard)?;
            if matches!(heard, Heard::Ack(_)) {
                heard_of = Instant::now();
            }
            self.obey(heard).await?;
        }
    }

    /// Hangs up, with a moment to say goodbye.
    pub async fn close(self) {
        drop((self.outbound, self.inbound));
        self.dialled.wind_up().await;
    }

    fn fits(&self, events: &Events) -> bool {
        let flying = self.next.saturating_sub(1).saturating_sub(self.acked);
        let more = flying.saturating_add(events.len() as u64);
        let bytes: u64 = self.in_flight.iter().map(|flight| flight.bytes).sum();
        let bytes = bytes.saturating_add(events.payload_bytes() as u64);
        flying == 0 || (more <= self.credit.events && bytes <= self.credit.bytes)
    }

    async fn send(&mut self, Parcel { events, done }: Parcel) -> Result<(), Failure> {
        let (first_seq, bytes) = (self.next, events.payload_bytes() as u64);
        self.next = first_seq.saturating_add(events.len() as u64);
        let event = |event: crate::event::Event| v1::Event {
            topic: event.topic,
            payload: event.payload,
            time_unix_nanos: event.time,
            origin_seq: 0,
        };
        self.in_flight.push_back(Flight { last: self.next.saturating_sub(1), bytes, rejected: None, done });
        self.say(Frame::Batch(v1::Batch {
            stream: self.stream.to_bytes(),
            first_seq,
            collector: String::new(),
            origin: None,
            topics: events.topics.iter().map(|topic| topic.dotted().to_owned()).collect(),
            events: events.events.into_iter().map(event).collect(),
        }))
        .await
    }

    async fn say(&mut self, frame: Frame) -> Result<(), Failure> {
        let (outbound, patience) = (self.outbound.clone(), self.patience);
        let sent = time::timeout(patience, self.dialled.nursery.beside(outbound.send(request(frame)))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            // Why the session has ended stands at the end of what the gateway says.
            Ok(Err(_closed)) => {
                let deadline = Instant::now() + patience;
                loop {
                    self.hear(deadline, "ending the session").await?;
                }
            }
            Err(_) => Err(self.late("taking what was sent")),
        }
    }

    async fn hear(&mut self, deadline: Instant, doing: &'static str) -> Result<Heard, Failure> {
        let Self { dialled, inbound, .. } = self;
        let heard = time::timeout_at(deadline, dialled.nursery.beside(inbound.message())).await;
        heard.map_err(|_| self.late(doing)).and_then(|heard| self.judge(heard))
    }

    fn judge(&self, heard: Result<Option<LinkResponse>, Status>) -> Result<Heard, Failure> {
        match heard.map_err(|status| Failure::of_status(&self.gateway, &status))? {
            Some(LinkResponse { frame: Some(frame) }) => Ok(frame),
            Some(LinkResponse { frame: None }) => Ok(Heard::Pong(v1::Pong::default())),
            None => Err(Failure::Protocol { gateway: self.gateway.clone(), what: "it ended the session" }),
        }
    }

    /// Does what the gateway says.
    async fn obey(&mut self, heard: Heard) -> Result<(), Failure> {
        match heard {
            Heard::Ack(ack) => self.settle(&ack),
            Heard::Credit(credit) => self.credit = hello::credit(credit),
            Heard::Ping(ping) => self.say(Frame::Pong(v1::Pong { nonce: ping.nonce })).await?,
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self, ack: &v1::Ack) {
        for rejected in &ack.rejected {
            if let Some(flight) = self.in_flight.iter_mut().find(|flight| flight.last >= rejected.seq) {
                flight.rejected.get_or_insert_with(|| for_people(&rejected.reason));
            }
        }
        self.acked = self.acked.max(ack.acked);
        while let Some(flight) = self.in_flight.pop_front_if(|flight| flight.last <= ack.acked) {
            let verdict = flight.rejected.map_or(Verdict::Taken, Verdict::Rejected);
            // Who does not want to know any more is not told.
            flight.done.send(verdict).unwrap_or_default();
        }
    }

    fn late(&self, doing: &'static str) -> Failure {
        Failure::TimedOut { gateway: self.gateway.clone(), doing, patience: self.patience }
    }
}

/// Hears from a gateway's bus. The probe whose connection it uses must be carried on for it to hear anything.
#[derive(Debug)]
pub struct Listener {
    messages: Streaming<v1::SubscribeResponse>,
}

impl Listener {
    /// Waits for a message: its payload, or how many the gateway dropped because they were read too slowly. None at the end.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, u64>> {
        loop {
            match self.messages.message().await.ok()??.frame {
                Some(v1::subscribe_response::Frame::Deliver(deliver)) => return Some(Ok(deliver.payload)),
                Some(v1::subscribe_response::Frame::Dropped(count)) => return Some(Err(count)),
                None => {}
            }
        }
    }
}

const fn request(frame: Frame) -> LinkRequest {
    LinkRequest { frame: Some(frame) }
}

/// Frames that wait for HTTP/2 to take them.
const OUTBOUND: usize = 8;

/// Why a gateway could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The connection.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A certificate or key.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nowhere to go.
    #[error("no gateway is named; name one as host:port")]
    NoGateway,
}
