//! One conversation with a gateway, from hello to goodbye.
//!
//! ```text
//!   spool ─► Lane (critical)  ─┐            ┌─► outbound ─► Batch, Gap, Ping, Pong
//!   spool ─► Lane (telemetry) ─┴─► Window ──┘
//!                                    ▲
//!   Ack, Credit, Ping, Pong, Drain ◄─┴──────── inbound
//! ```
//!
//! Kept true: what was sent is forgotten only when the gateway has acknowledged it; a rejected event is in the dead-letter
//! file before the acknowledgement that covers it removes it from the spool.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use daemoneye_proto::v1::{
    self, LinkRequest, LinkResponse, link_request::Frame, link_response::Frame as Heard,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::{
    event::Seq,
    spool::{Chunk, Spool},
    uplink::{
        Gateway, Status,
        downlink::{Outlet, Wire},
        failure::Failure,
        farewell::Phase,
        hello::{self, Limits},
        lane::{self, Accepted, Cut, Lane, rejections},
        pulse::{Beat, Pulse},
        window::Window,
    },
};

/// How a session ended that did not fail.
#[derive(Debug)]
pub(super) enum End {
    /// The gateway is going away.
    Drained { after: Duration, alternatives: Vec<String> },
    /// We wanted to go, and everything is settled.
    Finished,
    /// The next connection stands, and everything is settled, or was not in time.
    Moved,
}

/// What a session is given by the uplink.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) gateway: Gateway,
    pub(super) spool: Spool,
    pub(super) status: Arc<watch::Sender<Status>>,
    /// Holds a deadline once the uplink is to finish.
    pub(super) finish: watch::Receiver<Option<Instant>>,
    pub(super) batch_events: usize,
    pub(super) batch_bytes: usize,
    pub(super) linger: Duration,
    pub(super) drain_timeout: Duration,
    /// Where what comes down is left.
    pub(super) outlet: Option<Outlet>,
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) terms: Terms,
    limits: Limits,
    window: Window,
    /// Critical first.
    pub(super) lanes: [Lane; 2],
    /// Batches of the first lane sent since the second had its turn.
    turn: u32,
    pub(super) pulse: Pulse,
    /// Pings and pongs that wait to be sent; the oldest go when there are too many.
    control: VecDeque<Frame>,
    /// What is carried besides events, if somebody relays it.
    pub(super) wire: Option<Wire>,
    /// Whether the last frame was of the wire, so that events have their turn.
    wire_had_turn: bool,
    /// Gone once half-closed.
    pub(super) outbound: Option<mpsc::Sender<LinkRequest>>,
    inbound: Streaming<LinkResponse>,
    pub(super) phase: Phase,
    /// Cancelled by the keeper once the next connection stands.
    pub(super) departure: CancellationToken,
    /// Cancelled when the gateway wants us on another connection at once.
    pub(super) retired: CancellationToken,
}

/// What happened next.
enum Happened {
    Depart,
    Finish,
    Heard(Result<Option<LinkResponse>, tonic::Status>),
    Read(usize, Option<Chunk>, Cut),
    Relayed,
    Room(bool),
    Tick,
}

impl Session {
    pub(super) fn new(
        terms: Terms,
        welcomed: &hello::Welcomed,
        lanes: [Lane; 2],
        (outbound, inbound): (mpsc::Sender<LinkRequest>, Streaming<LinkResponse>),
    ) -> Self {
        let wire = terms.outlet.as_ref().map(|outlet| outlet.begin(terms.gateway.to_string()));
        Self {
            terms,
            limits: welcomed.limits,
            window: Window::new(welcomed.credit),
            lanes,
            turn: 0,
            pulse: Pulse::new(welcomed.limits.heartbeat, Instant::now()),
            control: VecDeque::new(),
            wire,
            wire_had_turn: false,
            outbound: Some(outbound),
            inbound,
            phase: Phase::Carrying,
            departure: CancellationToken::new(),
            retired: CancellationToken::new(),
        }
    }

    /// Carries events until the session ends.
    ///
    /// Not cancel safe: a session whose carrying was dropped is to be dropped too.
    pub(super) async fn carry(&mut self) -> Result<End, Failure> {
        loop {
            self.turn_to_leave();
            let end = match self.next().await {
                Happened::Depart => {
                    self.begin_to_leave(End::Moved);
                    None
                }
                Happened::Finish | Happened::Relayed => None,
                Happened::Heard(heard) => self.hear(heard).await?,
                Happened::Read(lane, chunk, cut) => self.take_in(lane, chunk, cut).await?,
                Happened::Room(room) => self.send(room),
                Happened::Tick => self.tick()?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// The highest number sent, per lane.
    pub(super) fn sent(&self) -> [(crate::event::StreamId, Seq); 2] {
        self.lanes.each_ref().map(|lane| (lane.stream, lane.sent()))
    }

    /// Waits for whatever comes first.
    async fn next(&mut self) -> Happened {
        let carrying = matches!(self.phase, Phase::Carrying);
        let cut = self.cut();
        let to_send = !self.control.is_empty()
            || self.wire.as_ref().is_some_and(Wire::is_ready)
            || (carrying && lane::pick(&self.lanes, &self.window, self.turn).is_some());
        let due = self.due();
        let Self { inbound, outbound, lanes: [first, second], terms, departure, wire, .. } = self;
        let finishing = terms.finish.borrow().is_some();
        tokio::select! {
            biased;
            // Acks make room, and a drain stops us: first.
            heard = inbound.message() => Happened::Heard(heard),
            () = time::sleep_until(due) => Happened::Tick,
            () = departure.cancelled(), if carrying => Happened::Depart,
            Ok(_) = terms.finish.wait_for(Option::is_some), if !finishing => Happened::Finish,
            room = room(outbound.as_ref()), if to_send && outbound.is_some() => Happened::Room(room),
            () = relayed(wire.as_mut()), if outbound.is_some() => Happened::Relayed,
            chunk = first.read(cut), if carrying && first.is_hungry() => Happened::Read(0, chunk, cut),
            chunk = second.read(cut), if carrying && second.is_hungry() => Happened::Read(1, chunk, cut),
        }
    }

    fn cut(&self) -> Cut {
        let events = self.terms.batch_events.min(self.limits.batch_events);
        // Half of a message leaves room for what is not payload, so that only a lone event can be too large.
        let bytes = self.terms.batch_bytes.min(self.limits.message / 2);
        Cut {
            events: self.window.batch_events(events),
            bytes: self.window.batch_bytes(bytes),
            max_message: self.limits.message,
        }
    }

    fn send(&mut self, room: bool) -> Option<End> {
        if !room {
            // The call has ended; its status says why, and comes next.
            self.outbound = None;
            return None;
        }
        let frame = self.control.pop_front().or_else(|| self.next_frame());
        if let (Some(frame), Some(outbound)) = (frame, &self.outbound) {
            // There was room a moment ago, and nobody else sends.
            let _closed = outbound.try_send(LinkRequest { frame: Some(frame) });
        }
        None
    }

    /// A frame of the wire and a batch in turn, while there are both.
    fn next_frame(&mut self) -> Option<Frame> {
        let carrying = matches!(self.phase, Phase::Carrying);
        let batch = if carrying && self.wire_had_turn { self.next_batch() } else { None };
        self.wire_had_turn = batch.is_none();
        batch
            .or_else(|| self.wire.as_mut().and_then(Wire::take))
            .or_else(|| carrying.then(|| self.next_batch()).flatten())
    }

    fn next_batch(&mut self) -> Option<Frame> {
        let picked = lane::pick(&self.lanes, &self.window, self.turn)?;
        let cut = self.cut();
        self.turn = if picked == 0 { self.turn.saturating_add(1) } else { 0 };
        let lane = self.lanes.get_mut(picked)?;
        let (frame, load) = lane.send(&mut self.window, cut)?;
        let in_flight = self.window.in_flight().events;
        self.terms.status.send_modify(|status| {
            status.sent += load.events;
            status.in_flight = in_flight;
            status.gaps += u64::from(matches!(frame, Frame::Gap(_)));
        });
        Some(frame)
    }

    async fn take_in(&mut self, lane: usize, chunk: Option<Chunk>, cut: Cut) -> Result<Option<End>, Failure> {
        let linger = self.terms.linger;
        let Some(lane) = self.lanes.get_mut(lane) else { return Ok(None) };
        match lane.accept(chunk, cut, linger) {
            Accepted::Pending => Ok(None),
            Accepted::Hole => Err(Failure::Hole { class: lane.class }),
            Accepted::TooLarge(seq, bytes) => {
                let reason = format!("{bytes} bytes are over the {} of a message", cut.max_message);
                let code = v1::RejectCode::PayloadTooLarge.into();
                self.terms.spool.reject(lane.class, vec![(seq, code, reason)]).await;
                self.terms.status.send_modify(|status| status.rejected += 1);
                Ok(None)
            }
        }
    }

    fn tick(&mut self) -> Result<Option<End>, Failure> {
        let now = Instant::now();
        if let Phase::Leaving { deadline, .. } = &self.phase
            && *deadline <= now
        {
            // What is not acknowledged by now is sent again to the next gateway.
            return Ok(self.leave());
        }
        match self.pulse.beat(now) {
            Beat::Ping(nonce) => self.say(Frame::Ping(v1::Ping { nonce })),
            Beat::Silent(silence) => {
                return Err(Failure::Silent { gateway: self.terms.gateway.clone(), silence });
            }
            Beat::Wait => {}
        }
        Ok(None)
    }

    /// Queues a ping or pong; a gateway that does not read what it asks for loses the oldest.
    fn say(&mut self, frame: Frame) {
        if self.control.len() >= MAX_CONTROL {
            self.control.pop_front();
        }
        self.control.push_back(frame);
    }

    async fn hear(
        &mut self,
        heard: Result<Option<LinkResponse>, tonic::Status>,
    ) -> Result<Option<End>, Failure> {
        let ended = match heard {
            Ok(Some(response)) => {
                self.pulse.heard(Instant::now());
                return self.obey(response).await.map(|()| None);
            }
            Ok(None) => tonic::Status::ok(""),
            Err(status) => status,
        };
        // A gateway that drains may end the call itself, once everything is settled or its patience is at an end.
        match self.leave() {
            Some(end) => Ok(Some(end)),
            None => Err(Failure::of_status(&self.terms.gateway, &ended)),
        }
    }

    async fn obey(&mut self, response: LinkResponse) -> Result<(), Failure> {
        match response.frame {
            Some(Heard::Ack(ack)) => self.settle(ack).await?,
            Some(Heard::Credit(credit)) => self.window.replace(hello::credit(credit)),
            Some(Heard::Ping(ping)) => self.say(Frame::Pong(v1::Pong { nonce: ping.nonce })),
            Some(Heard::Pong(pong)) => {
                if let Some(round_trip) = self.pulse.answered(pong.nonce, Instant::now()) {
                    self.terms.status.send_modify(|status| status.round_trip = Some(round_trip));
                }
            }
            Some(Heard::Drain(drain)) => {
                let after = drain.reconnect_after.and_then(|after| Duration::try_from(after).ok());
                if after.is_none_or(|after| after.is_zero()) {
                    // It stays, this connection does not: another one is made first.
                    tracing::debug!(gateway = %self.terms.gateway, "connection is old");
                    self.retired.cancel();
                    return Ok(());
                }
                tracing::info!(gateway = %self.terms.gateway, ?after, "gateway is going away");
                let end = End::Drained {
                    after: after.unwrap_or_default(),
                    alternatives: drain.alternatives.into_iter().take(MAX_ALTERNATIVES).collect(),
                };
                self.begin_to_leave(end);
            }
            Some(Heard::Welcome(_)) => return Err(self.broken("it welcomed us twice")),
            Some(
                frame @ (Heard::Attached(_)
                | Heard::Call(_)
                | Heard::Cancel(_)
                | Heard::Deliver(_)
                | Heard::Dropped(_)
                | Heard::Reply(_)
                | Heard::Subscribed(_)),
            ) => {
                if let Some(wire) = &self.wire {
                    wire.hear(frame);
                }
            }
            // Of a newer version.
            None => {}
        }
        Ok(())
    }

    async fn settle(&mut self, ack: v1::Ack) -> Result<(), Failure> {
        let lane = self.lanes.iter_mut().find(|lane| ack.stream == lane.stream.as_bytes().as_slice());
        let Some(lane) = lane else { return Err(self.broken("it acknowledged an unknown stream")) };
        if !lane.may_settle(ack.acked) {
            return Err(self.broken("it acknowledged what was not sent"));
        }
        let (settled, before) = lane.settle(ack.acked, &mut self.window);
        let rejected = rejections(ack.rejected, before, ack.acked);
        let count = rejected.len() as u64;
        let class = lane.class;
        self.terms.spool.reject(class, rejected).await;
        self.terms.spool.ack(class, ack.acked).await;
        let in_flight = self.window.in_flight().events;
        self.terms.status.send_modify(|status| {
            status.acked += settled.events;
            status.rejected += count;
            status.in_flight = in_flight;
        });
        Ok(())
    }

    fn broken(&self, what: &'static str) -> Failure {
        Failure::Protocol { gateway: self.terms.gateway.clone(), what }
    }
}

/// Waits until a frame can be sent; `false` if none ever can again. Cancel safe.
async fn room(outbound: Option<&mpsc::Sender<LinkRequest>>) -> bool {
    match outbound {
        Some(outbound) => outbound.reserve().await.is_ok(),
        None => false,
    }
}

/// Waits until the relay has something to say. Cancel safe.
async fn relayed(wire: Option<&mut Wire>) {
    match wire {
        Some(wire) => wire.fill().await,
        None => std::future::pending().await,
    }
}

/// Pings and pongs that may wait to be sent.
const MAX_CONTROL: usize = 16;

/// Gateways that a draining one may name.
const MAX_ALTERNATIVES: usize = 16;
