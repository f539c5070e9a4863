//! The conversation with one client, from its seat to its end.
//!
//! One task: it reads, writes, settles and hears, whichever is ready. Who is not read because the bus holds something back is not
//! taken for silent; who takes nothing of what is written is cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use daemoneye_bridge::{
    bus::Filter,
    native::codec::{
        Code,
        client::{self, ClientFrame},
        server,
    },
    topic::{Pattern, Topic},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Narrow,
    policy::Rights,
    session::{
        Hall,
        bell::{Order, Orders},
        http2::{Caller, CutReason},
        metrics::Who,
        native::{
            admit::max_payload,
            calls::Ledger,
            clocks::{Clocks, Farewell, GRACE},
            config::Config,
            hears::Hears,
            uplink::Uplink,
            wire::{Moved, Wire},
        },
        registry::Seat,
        status::Fault,
    },
};

/// Bytes that are read and served before anything else is looked at.
const BURST: usize = 256 << 10;

/// Names beside the payload of a frame.
const NAMES: usize = 4 << 10;

/// How long a client that is sent away is given to take its last words.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the bus may take to let go of a name.
const VERDICT: Duration = Duration::from_secs(5);

/// One client that has its seat.
pub(super) struct Session {
    pub(super) hall: Arc<Hall>,
    pub(super) config: Arc<Config>,
    pub(super) rights: Rights,
    pub(super) uplink: Uplink,
    pub(super) hears: Hears,
    pub(super) calls: Ledger,
    pub(super) subscriptions: Subscriptions,
    pub(super) seat: Seat,
    pub(super) who: Who,
    /// Acks that are due; kept for its memory.
    pub(super) settled: Vec<(u32, Code)>,
    /// Read, and behind what has no room on the bus yet.
    pub(super) held: Option<ClientFrame>,
    /// Whether frames were read that are behind it.
    pub(super) interrupted: bool,
}

/// What a client hears, and does not.
#[derive(Default)]
pub(super) struct Subscriptions {
    /// Each filter with the pattern that it was judged by.
    pub(super) heard: BTreeMap<Filter, Pattern>,
    pub(super) excluded: BTreeSet<Filter>,
    /// Whether a policy took some away, so that what is on its way is looked at again.
    pub(super) narrowed: bool,
}

impl Subscriptions {
    /// Whether what was published on a topic may still be heard.
    pub(super) fn admit(&self, topic: &Topic) -> bool {
        !self.narrowed || self.heard.values().any(|pattern| pattern.matches(topic))
    }
}

impl Session {
    /// Carries on the conversation to its end.
    pub(super) async fn run<I>(mut self, mut wire: Wire<I>, caller: &Caller, last_call: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let ended = tokio::select! {
            biased;
            // Whoever must go goes before anything else of his is looked at, also in the middle of a frame.
            reason = caller.cut().wait() => Err(Fault::Cut(reason)),
            () = last_call.cancelled() => {
                let _first = caller.cut().cut(CutReason::Draining);
                Err(Fault::Cut(CutReason::Draining))
            }
            ended = self.talk(&mut wire) => ended,
        };
        // Who is cut because the connection is old, or the gateway goes away, says it again elsewhere.
        let lost_its_right = match &ended {
            Err(Fault::Cut(reason)) => reason.is_of_trust(),
            other => matches!(other, Err(Fault::Denied(_))),
        };
        let told = match &ended {
            Ok(_) => time::timeout(GRACE, wire.finish()).await.is_ok_and(|done| done.is_ok()),
            Err(Fault::Broken { .. }) => {
                time::timeout(LAST_WORDS, wire.finish()).await.is_ok_and(|done| done.is_ok())
            }
            // BUS/RT has no word for it, and what waits to be written would keep the connection open at its end.
            Err(_) => false,
        };
        if !told {
            caller.cut().abandon();
        }
        drop(wire);
        self.leave(&ended, lost_its_right).await;
    }

    async fn talk<I>(&mut self, wire: &mut Wire<I>) -> Result<Farewell, Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let config = Arc::clone(&self.config);
        let mut clocks = Clocks::new(&config, Instant::now());
        loop {
            if self.interrupted && self.uplink.stuck().is_none() {
                self.turn(wire).await?;
            }
            let now = Instant::now();
            if let Some((_, farewell)) = clocks.leaving
                && self.uplink.is_settled()
                && wire.is_idle()
            {
                return Ok(farewell);
            }
            let debt = self.uplink.debt(now);
            let has_room = wire.waiting() < config.outbox_bytes;
            let may_read = clocks.leaving.is_none() && self.uplink.may_read() && has_room && debt.is_zero();
            clocks.note(now, may_read, !wire.is_idle());
            let alarm =
                if debt.is_zero() { clocks.alarm(&config) } else { clocks.alarm(&config).min(now + debt) };
            let may_hear = wire.waiting() < config.outbox_bytes / 2;
            let stuck = self.uplink.stuck();
            let calls_due = self.calls.open.due();
            tokio::select! {
                biased;
                orders = self.seat.bell.rung() => self.obey(orders, wire, &mut clocks).await?,
                () = self.uplink.settled(&mut self.settled) => {
                    for (id, code) in self.settled.drain(..) {
                        wire.append(|into| server::ack(into, id, code));
                    }
                    self.uplink.show();
                }
                () = room(stuck) => self.uplink.resume()?,
                () = until(calls_due) => self.expire(wire).await,
                gone = self.calls.open.gone() => self.departed(wire, gone).await,
                () = time::sleep_until(alarm) => self.look(wire, &mut clocks)?,
                // Before the wire, for that is ready as long as the client sends; bounded by what waits to be written.
                alive = self.hears.next(), if may_hear => {
                    self.hear(wire).await;
                    if !alive {
                        self.hears = Hears::new(None);
                        clocks.leave(Instant::now(), Farewell::Superseded);
                    }
                }
                moved = wire.moved(may_read) => match moved {
                    Ok(Moved::Read) => {
                        clocks.heard = Instant::now();
                        self.turn(wire).await?;
                    }
                    Ok(Moved::Written) => clocks.took = Instant::now(),
                    Ok(Moved::End) => clocks.leave(Instant::now(), Farewell::Done),
                    Err(_) => return Err(Fault::Lost),
                },
            }
        }
    }

    /// Serves what has been read, and what is already there behind it, until the bus has no room for something: the session goes on
    /// hearing orders, and its client.
    async fn turn<I>(&mut self, wire: &mut Wire<I>) -> Result<(), Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let most = self.hall.config.max_payload.saturating_add(NAMES);
        let mut served = 0;
        self.interrupted = false;
        if let Some(held) = self.held.take()
            && let Some((id, code)) = self.serve(held).await?
        {
            wire.append(|into| server::ack(into, id, code));
        }
        'turn: loop {
            loop {
                if self.uplink.stuck().is_some() {
                    self.interrupted = true;
                    break 'turn;
                }
                let before = wire.read.len();
                let frame = client::decode(&mut wire.read, most)
                    .map_err(|error| Fault::broken("frame", error.to_string()))?;
                let Some(frame) = frame else { break };
                let bytes = before - wire.read.len();
                served += bytes;
                self.uplink.weigh(bytes);
                if let Some((id, code)) = self.serve(frame).await? {
                    wire.append(|into| server::ack(into, id, code));
                }
            }
            if served >= BURST || !wire.more().await {
                break;
            }
        }
        let now = Instant::now();
        self.seat.live.hear(now);
        self.uplink.hand_over(now)?;
        self.uplink.show();
        Ok(())
    }

    /// Does what is due.
    fn look<I>(&mut self, wire: &mut Wire<I>, clocks: &mut Clocks) -> Result<(), Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let now = Instant::now();
        if clocks.reading && now >= clocks.heard + self.config.timeout.mul_f64(1.25) {
            return Err(Fault::Silent);
        }
        if clocks.writing && now >= clocks.took + self.config.slow_reader_timeout {
            return Err(Fault::SlowReader);
        }
        match clocks.leaving {
            Some((until, _)) if now >= until => return Err(Fault::Unconfirmed),
            None if now >= clocks.retire.0 => clocks.leave(now, clocks.retire.1),
            _ => {}
        }
        if now >= clocks.ping {
            clocks.ping = now + self.config.timeout / 2;
            self.count_dropped();
            if wire.waiting() == 0 {
                wire.append(server::ping);
            }
            let _credit = self.uplink.window.tick();
        }
        Ok(())
    }

    async fn obey<I>(&mut self, orders: Orders, wire: &mut Wire<I>, clocks: &mut Clocks) -> Result<(), Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let now = Instant::now();
        if orders.has(Order::Fence) {
            clocks.leave(now, Farewell::Superseded);
        }
        if orders.has(Order::Drain) && clocks.retire.1 != Farewell::Drained {
            // BUS/RT cannot be told when to come back, so that clients are let go one after the other.
            clocks.retire = (now + self.hall.drain.reconnect_after(), Farewell::Drained);
        }
        if orders.has(Order::Rejudge) {
            self.rejudge(wire).await?;
        }
        Ok(())
    }

    /// Looks at the client's rights again.
    async fn rejudge<I>(&mut self, wire: &mut Wire<I>) -> Result<(), Fault>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let rights = self.hall.judge.renew(&self.rights)?;
        let speaker = rights.speaker("")?;
        let max_payload = max_payload(self.hall.config.max_payload, &rights);
        for id in self.uplink.rejudge(speaker, *rights.limits(), max_payload) {
            wire.append(|into| server::ack(into, id, Code::ACCESS));
        }
        let heard = self.subscriptions.heard.values().cloned().collect();
        let (_, lost) = rights.hear(self.uplink.speaker.collector(), heard);
        let is_lost = |pattern: &Pattern| lost.iter().any(|(lost, _)| lost == pattern);
        let gone: Vec<Filter> = self
            .subscriptions
            .heard
            .extract_if(.., |_, pattern| is_lost(pattern))
            .map(|(filter, _)| filter)
            .collect();
        self.seat.live.set_roles(rights.roles());
        self.rights = rights;
        self.rejudge_calls(wire).await;
        if gone.is_empty() {
            return Ok(());
        }
        self.subscriptions.narrowed = true;
        // Whatever the bus says: what it still delivers is looked at again.
        if let Err(error) = self.uplink.voice.narrow(Narrow::Unsubscribe, gone).await {
            tracing::debug!(%error, "subscriptions were not taken back");
        }
        Ok(())
    }

    /// Answers for what is open, lets go of the name, gives up the seat, and says why.
    async fn leave(mut self, ended: &Result<Farewell, Fault>, lost_its_right: bool) {
        self.count_dropped();
        self.cut_calls().await;
        // Whoever shares the name: it is not published any more.
        if lost_its_right && time::timeout(VERDICT, self.uplink.voice.close()).await.is_err() {
            tracing::error!("the bus did not say what became of withdrawn batches");
        }
        if lost_its_right {
            self.uplink.give_up();
        } else {
            let settled = async {
                while !self.uplink.is_settled() && self.uplink.stuck().is_none() {
                    self.uplink.settled(&mut self.settled).await;
                }
            };
            // What is not settled by then is withdrawn; the client has no ack of it.
            let _settled = time::timeout(GRACE, settled).await;
        }
        let (reason, detail) = match ended {
            Ok(farewell) => {
                let (reason, detail) = farewell.words();
                (reason, detail.to_owned())
            }
            Err(fault) => (fault.reason(), fault.to_string()),
        };
        let Self { seat, uplink, hears, .. } = self;
        let peer = &seat.live.peer;
        tracing::info!(%peer, session = %seat.live.session, reason, detail, "client left");
        let voice = uplink.voice.clone();
        drop((uplink, hears));
        if time::timeout(VERDICT, voice.release()).await.is_err() {
            tracing::error!(%peer, "the bus did not let go of a name");
        }
        seat.leave(reason, detail);
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
async fn room(stuck: Option<crate::bus::Voice>) {
    match stuck {
        Some(voice) => voice.ready().await,
        None => std::future::pending().await,
    }
}
