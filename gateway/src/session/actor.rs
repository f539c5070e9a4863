//! One session, from its Welcome to its end.
//!
//! The actor is the only owner of what a session is made of. Its loop waits for whatever comes first: an order, a settled
//! batch, room on the wire, room on the bus, a frame of the peer; it never waits for one of them alone.

use std::{pin::Pin, sync::Arc, time::Duration};

use daemoneye_proto::v1::{self, link_request, link_response::Frame};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::time::{self, Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    bus::Voice,
    policy::Judge,
    session::{
        Drain,
        bell::{Bell, Order, Orders},
        carrier::Carrier,
        credit::Amount,
        downlink::Downlink,
        hello,
        http2::CutReason,
        outbox::Outbox,
        registry::Seat,
        status::Fault,
    },
};

/// How a session ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The connection is old, and the peer comes back on another.
    Aged,
    /// The peer half-closed and has been told everything.
    Done,
    /// The gateway is going away.
    Drained,
}

/// One session.
pub(super) struct Actor<S> {
    pub(super) inbound: S,
    pub(super) outbox: Outbox,
    pub(super) carrier: Carrier,
    pub(super) downlink: Downlink,
    pub(super) seat: Seat,
    pub(super) judge: Judge,
    /// Ends when the connection is cut.
    pub(super) cut: BoxFuture<'static, CutReason>,
    pub(super) clocks: Clocks,
    pub(super) drain: Drain,
    /// Cancelled when the connection is old.
    pub(super) retiring: CancellationToken,
}

/// The times that a session keeps.
pub(super) struct Clocks {
    heartbeat: Duration,
    /// Ends at the next moment at which something is due.
    alarm: Pin<Box<Sleep>>,
    next_ping: Instant,
    /// The ping that is out.
    ping: Option<(u64, Instant)>,
    /// Since when the peer has not read what it is told.
    unread: Option<Instant>,
    next_tick: Instant,
    /// When a draining session ends, whatever the peer does.
    drained: Option<Instant>,
    /// Whether the peer has half-closed.
    ended: bool,
}

/// How often credit is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How many frames are read before looking up.
const BURST: usize = 64;

/// How long what was handed over may take to be taken, once a session is to end.
const GRACE: Duration = Duration::from_secs(1);

/// How long a bus may take to say what became of withdrawn batches.
const VERDICT: Duration = Duration::from_secs(5);

impl Clocks {
    pub(super) fn new(heartbeat: Duration) -> Self {
        let now = Instant::now();
        // Sessions that came together, as after a restart, need not be pinged together.
        let next_ping = now + heartbeat.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
        Self {
            heartbeat,
            alarm: Box::pin(time::sleep_until(next_ping)),
            next_ping,
            ping: None,
            unread: None,
            next_tick: now + TICK,
            drained: None,
            ended: false,
        }
    }

    const fn silence(&self) -> Duration {
        self.heartbeat.saturating_mul(3)
    }
}

impl<S> Actor<S>
where
    S: Stream<Item = Result<v1::LinkRequest, Status>> + Send + Unpin,
{
    /// Carries on the conversation to its end, and ends it.
    pub(super) async fn run(mut self) {
        tracing::info!("peer joined");
        let ended = self.converse().await;
        // On the heap: what it takes to leave is no weight on those who stay.
        Box::pin(self.leave(ended)).await;
    }

    /// Sets the alarm to what is due first. What is heard later only makes the silence shorter than it thinks.
    fn arm(&mut self) {
        let now = Instant::now();
        let patience = self.clocks.silence().saturating_sub(self.seat.live.silence(now));
        let tick = self.carrier.window.is_grown().then_some(self.clocks.next_tick);
        let dues = [tick, self.clocks.drained, Some(now + patience)];
        let due = dues.into_iter().flatten().fold(self.clocks.next_ping, Instant::min);
        self.clocks.alarm.as_mut().reset(due);
    }

    async fn converse(&mut self) -> Result<Farewell, Fault> {
        let bell: Arc<Bell> = Arc::clone(&self.seat.bell);
        loop {
            if let Some(farewell) = self.farewell() {
                return Ok(farewell);
            }
            let speaks = self.speaks();
            let reads = self.may_read();
            let (stuck, held) = (self.carrier.stuck(), self.carrier.held_until());
            let is_stuck = stuck.is_some();
            tokio::select! {
                biased;
                // Trust before anything that the peer sends.
                reason = &mut self.cut => return Err(Fault::Cut(reason)),
                () = self.retiring.cancelled(), if self.clocks.drained.is_none() => self.retire(),
                orders = bell.rung() => self.obey(orders)?,
                () = self.clocks.alarm.as_mut() => self.look_at_clock()?,
                // What is settled makes room before more is read.
                settled = self.carrier.streams.settled() => {
                    settled?;
                    self.carrier.note_settled();
                }
                () = self.downlink.turn(speaks) => {}
                room = self.outbox.room(), if speaks => {
                    room?;
                    self.speak();
                }
                () = room(stuck), if is_stuck => self.carrier.resume()?,
                () = until(held) => self.carrier.pump()?,
                () = self.carrier.mouths.opened() => self.carrier.pump()?,
                frame = self.inbound.next(), if reads => self.read(frame)?,
            }
        }
    }

    /// Whether there is something to tell.
    fn speaks(&self) -> bool {
        !self.outbox.is_empty() || self.carrier.is_due() || self.downlink.has_word()
    }

    /// How the session ends, if it is time.
    fn farewell(&self) -> Option<Farewell> {
        let over = self.clocks.drained.is_some_and(|until| Instant::now() >= until);
        let idle = self.clocks.ended && self.carrier.is_idle() && self.outbox.is_empty();
        match (self.clocks.drained.is_some(), over || idle) {
            (_, false) => None,
            (true, true) if self.retiring.is_cancelled() => Some(Farewell::Aged),
            (true, true) => Some(Farewell::Drained),
            (false, true) => Some(Farewell::Done),
        }
    }

    /// Not while the peer is over its credit, or so many words wait that it would be told more than it reads.
    fn may_read(&self) -> bool {
        !self.clocks.ended
            && !self.carrier.window.is_over()
            && !self.outbox.is_full()
            && !self.downlink.is_full()
    }

    fn obey(&mut self, orders: Orders) -> Result<(), Fault> {
        if orders.has(Order::Fence) {
            return Err(Fault::Superseded);
        }
        if orders.has(Order::Rejudge) {
            let rights = Arc::new(self.judge.renew(&self.carrier.rights)?);
            self.seat.live.set_roles(rights.roles());
            self.downlink.rejudge(&rights);
            self.carrier.rejudge(rights)?;
        }
        if orders.has(Order::Drain) && self.clocks.drained.is_none() {
            self.send_away(self.drain.reconnect_after(), self.drain.alternatives.clone());
        }
        Ok(())
    }

    /// The connection is old, the gateway stays: the peer may come back at once, and before it leaves.
    fn retire(&mut self) {
        self.send_away(Duration::ZERO, Vec::new());
    }

    fn send_away(&mut self, reconnect_after: Duration, alternatives: Vec<String>) {
        let reconnect_after = hello::duration(reconnect_after);
        self.outbox.say(Frame::Drain(v1::Drain { reconnect_after, alternatives }));
        self.clocks.drained = Some(Instant::now() + self.drain.grace);
        self.arm();
    }

    fn look_at_clock(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        let silence = self.clocks.silence();
        if !self.may_read() && !self.clocks.ended {
            // It is not the peer's silence if nobody listens.
            self.seat.live.hear(now);
        }
        if self.seat.live.silence(now) >= silence {
            return Err(Fault::Silent);
        }
        if !self.speaks() {
            self.clocks.unread = None;
        } else if now.duration_since(*self.clocks.unread.get_or_insert(now)) >= silence {
            return Err(Fault::Silent);
        }
        if now >= self.clocks.next_ping {
            let nonce = fastrand::u64(..);
            self.clocks.ping = Some((nonce, now));
            self.clocks.next_ping = now + self.clocks.heartbeat;
            self.outbox.say(Frame::Ping(v1::Ping { nonce }));
        }
        if now >= self.clocks.next_tick {
            self.clocks.next_tick = now + TICK;
            let credit = self.carrier.window.tick();
            self.grant(credit);
        }
        self.carrier.sweep(now);
        self.carrier.show();
        self.arm();
        Ok(())
    }

    fn speak(&mut self) {
        self.clocks.unread = None;
        let (carrier, downlink) = (&mut self.carrier, &mut self.downlink);
        self.outbox.send(|| carrier.ack().map(Frame::Ack).or_else(|| downlink.word()));
    }

    fn grant(&mut self, credit: Option<Amount>) {
        if let Some(credit) = credit {
            self.outbox.say(Frame::Credit(hello::credit(credit)));
        }
    }

    /// Reads a frame and those that are already here, then hands over what they brought.
    fn read(&mut self, first: Option<Result<v1::LinkRequest, Status>>) -> Result<(), Fault> {
        let now = Instant::now();
        self.seat.live.hear(now);
        let was_grown = self.carrier.window.is_grown();
        let mut next = first;
        let mut left = BURST;
        loop {
            match next {
                Some(Ok(frame)) => self.hear(frame, now)?,
                Some(Err(status)) => return Err(Fault::unreadable(&status)),
                None => {
                    self.clocks.ended = true;
                    break;
                }
            }
            left -= 1;
            if left == 0 || !self.may_read() {
                break;
            }
            // What is not here yet is waited for by the loop, which looks at everything else first.
            match self.inbound.next().now_or_never() {
                Some(here) => next = here,
                None => break,
            }
        }
        self.carrier.pump()?;
        self.carrier.show();
        if self.carrier.window.is_grown() && !was_grown {
            self.clocks.next_tick = now + TICK;
            self.arm();
        }
        Ok(())
    }

    fn hear(&mut self, request: v1::LinkRequest, now: Instant) -> Result<(), Fault> {
        match request.frame {
            Some(link_request::Frame::Batch(batch)) => {
                let credit = self.carrier.receive(batch)?;
                self.grant(credit);
            }
            Some(link_request::Frame::Gap(gap)) => {
                let credit = self.carrier.receive_gap(&gap)?;
                self.grant(credit);
            }
            Some(link_request::Frame::Ping(ping)) => {
                self.outbox.say(Frame::Pong(v1::Pong { nonce: ping.nonce }));
            }
            Some(link_request::Frame::Pong(pong)) => {
                if let Some((_, sent)) = self.clocks.ping.take_if(|(nonce, _)| *nonce == pong.nonce) {
                    self.seat.round_trip(now.saturating_duration_since(sent));
                }
            }
            Some(link_request::Frame::Hello(_)) => {
                return Err(Fault::broken("hello", "said once already"));
            }
            Some(frame) => self.downlink.hear(frame, &self.carrier.rights, &mut self.outbox)?,
            // A frame of a later version that this one may ignore.
            None => {}
        }
        Ok(())
    }

    /// Settles what can be, withdraws the rest, gives up the seat, and says why.
    async fn leave(mut self, ended: Result<Farewell, Fault>) {
        let is_cut = matches!(ended, Err(Fault::Cut(_) | Fault::Denied(_)));
        // Who is cut because the connection is old, or the gateway goes away, says it again elsewhere.
        let has_lost_its_right = match &ended {
            Err(Fault::Cut(reason)) => reason.is_of_trust(),
            other => matches!(other, Err(Fault::Denied(_))),
        };
        let mut dropped = self.carrier.give_up();
        // Callers first: they wait for somebody who will not answer.
        if time::timeout(VERDICT, self.downlink.end()).await.is_err() {
            tracing::error!("the bus did not let go of a name");
        }
        self.carrier.mouths.retire();
        let grace = if is_cut { Duration::ZERO } else { GRACE };
        if time::timeout(grace, self.carrier.streams.all_settled()).await.is_err() {
            let closing = self.carrier.mouths.close();
            let withdrawn = async {
                closing.await;
                self.carrier.streams.all_settled().await;
            };
            if time::timeout(VERDICT, withdrawn).await.is_err() {
                tracing::error!("the bus did not say what became of withdrawn batches");
            }
        }
        if has_lost_its_right {
            dropped = dropped.saturating_add(self.carrier.streams.withdrawn());
            self.carrier.withheld(dropped);
        }
        if time::timeout(VERDICT, self.carrier.mouths.release()).await.is_err() {
            tracing::error!("the bus did not let go of a name");
        }
        let (reason, detail) = match &ended {
            Ok(Farewell::Aged) => ("aged", "the connection was old".to_owned()),
            Ok(Farewell::Done) => ("done", "the peer half-closed".to_owned()),
            Ok(Farewell::Drained) => ("drained", "the gateway is going away".to_owned()),
            Err(fault) => (fault.reason(), fault.to_string()),
        };
        tracing::info!(reason, detail, "peer left");
        self.seat.leave(reason, detail);
        let last = async {
            while self.carrier.streams.all.iter().any(crate::session::stream::Stream::is_due) {
                self.outbox.room().await?;
                let streams = &mut self.carrier.streams;
                self.outbox.send(|| streams.ack().map(|(ack, _)| Frame::Ack(ack)));
            }
            if let Err(fault) = &ended {
                self.outbox.wire().send(Box::new(Err(fault.into()))).await.map_err(|_| Fault::Lost)?;
            }
            Ok::<(), Fault>(())
        };
        // A peer that does not read is not waited for.
        let _told = time::timeout(GRACE, last).await;
    }
}

/// Ends at `moment`; never, if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits until the bus may have room for what found none.
async fn room(stuck: Option<Voice>) {
    if let Some(voice) = stuck {
        voice.ready().await;
    }
}
