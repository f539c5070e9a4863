//! A load of collectors: `Link` sessions that send as fast as credit lets them, or at a pace, and time every ack.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use daemoneye_gateway::demo::latencies::Latencies;
use daemoneye_proto::v1::{
    Ack, Batch, Credit, Event, LinkRequest, LinkResponse, Pong, link_request, link_response,
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
    time::{self, Instant},
};
use tonic::Status;
use uuid::Uuid;

use crate::peer::{Credentials, Session, new_stream, request};

/// What each session sends.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Events of a batch.
    pub batch: usize,
    /// Bytes of a payload.
    pub payload: usize,
    /// Batches a second over all sessions; none: as fast as credit lets.
    pub rate: Option<u32>,
}

/// Sessions under load. They end when this is dropped.
#[derive(Debug)]
pub struct Load {
    gauges: Vec<Arc<Gauge>>,
    sessions: JoinSet<Result<(), Status>>,
}

/// What is measured of one session.
#[derive(Debug, Default)]
struct Gauge {
    acked: AtomicU64,
    /// Events that may be in flight, as the gateway last said.
    credit: AtomicU64,
    latencies: Mutex<Latencies>,
}

impl Load {
    /// Opens a session for each of the credentials, and begins to send when all are open.
    ///
    /// # Panics
    ///
    /// If the gateway does not admit one.
    pub async fn begin(address: std::net::SocketAddr, peers: &[Credentials], plan: Plan) -> Self {
        let mut open = Vec::new();
        for peer in peers {
            let channel = peer.channel(address).await.expect("the gateway is reached");
            let stream = Uuid::new_v4();
            let (session, welcome) =
                Session::open(channel, vec![new_stream(stream)]).await.expect("the gateway admits a peer");
            open.push((session, stream, welcome.credit.expect("a welcome grants credit")));
        }
        let mut load = Self { gauges: Vec::new(), sessions: JoinSet::new() };
        let mut clocks = Vec::new();
        for (session, stream, credit) in open {
            let gauge = Arc::new(Gauge::default());
            let mut sender = Sender::new(session, stream, plan, Arc::clone(&gauge));
            if plan.rate.is_some() {
                let (clock, ticks) = mpsc::channel(LATE);
                clocks.push(clock);
                sender.ticks = Some(ticks);
            }
            load.gauges.push(gauge);
            load.sessions.spawn(sender.run(credit));
        }
        if let Some(rate) = plan.rate {
            thread::spawn(move || tick(&clocks, rate));
        }
        load
    }

    /// Events acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.gauges.iter().map(|gauge| gauge.acked.load(Ordering::Relaxed)).sum()
    }

    /// The least credit of any session, in events.
    pub fn credit(&self) -> u64 {
        self.gauges.iter().map(|gauge| gauge.credit.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// The times from sending to ack since the last call.
    pub fn take_latencies(&self) -> Latencies {
        let mut all = Latencies::default();
        for gauge in &self.gauges {
            all.merge(&std::mem::take(&mut *gauge.latencies()));
        }
        all
    }

    /// Panics with the cause if a session has ended.
    ///
    /// # Panics
    ///
    /// See above.
    pub fn check(&mut self) {
        if let Some(ended) = self.sessions.try_join_next() {
            panic!("a session under load ended: {ended:?}");
        }
    }

    /// Stops sending and waits until everything sent is acknowledged; returns how much that was in all.
    ///
    /// # Panics
    ///
    /// If a session ends badly or acks do not come.
    pub async fn finish(mut self) -> u64 {
        for gauge in &self.gauges {
            gauge.credit.store(STOP, Ordering::Relaxed);
        }
        let all = async {
            while let Some(ended) = self.sessions.join_next().await {
                ended.expect("no session panics").expect("no session fails");
            }
        };
        time::timeout(Duration::from_secs(30), all).await.expect("acks come");
        self.acked()
    }
}

/// Batches that a session may be behind its schedule.
const LATE: usize = 1 << 16;

/// Tells sessions in turn when to send, at instants that depend on nothing that they do, until one has ended.
///
/// A thread of its own: the executor's timer is a millisecond coarse.
fn tick(clocks: &[mpsc::Sender<Instant>], rate: u32) {
    let begun = Instant::now();
    for (count, clock) in (0_u32..).zip(clocks.iter().cycle()) {
        let due = begun + Duration::from_secs(1).mul_f64(f64::from(count) / f64::from(rate));
        let pause = due.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        match clock.try_send(due) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => panic!("the gateway is far behind {rate} batches a second"),
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

/// In place of a credit: send no more.
const STOP: u64 = u64::MAX;

impl Gauge {
    fn latencies(&self) -> MutexGuard<'_, Latencies> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session.
struct Sender {
    session: Session,
    stream: Bytes,
    plan: Plan,
    gauge: Arc<Gauge>,
    payload: Bytes,
    /// Says when to send, if there is a pace.
    ticks: Option<mpsc::Receiver<Instant>>,
    /// When what was not sent yet should have been.
    due: VecDeque<Instant>,
    /// Number of the next event.
    next: u64,
    acked: u64,
    /// Last number of each batch in flight, and when it was or should have been sent.
    in_flight: VecDeque<(u64, Instant)>,
}

impl Sender {
    fn new(session: Session, stream: Uuid, plan: Plan, gauge: Arc<Gauge>) -> Self {
        let stream = Bytes::copy_from_slice(stream.as_bytes());
        let payload = Bytes::from(vec![b'x'; plan.payload]);
        let (ticks, due, in_flight) = (None, VecDeque::new(), VecDeque::new());
        Self { session, stream, plan, gauge, payload, ticks, due, next: 1, acked: 0, in_flight }
    }

    /// Sends within credit until told to stop, then waits for what is in flight.
    async fn run(mut self, mut credit: Credit) -> Result<(), Status> {
        self.gauge.credit.store(credit.events.into(), Ordering::Relaxed);
        // When nothing comes and nothing may be sent, it still looks whether it shall stop.
        let mut look = time::interval(Duration::from_millis(50));
        let say = self.session.say.clone();
        loop {
            let stop = self.gauge.credit.load(Ordering::Relaxed) == STOP;
            if stop && self.in_flight.is_empty() {
                return Ok(());
            }
            let may = !stop && self.fits(credit) && (self.ticks.is_none() || !self.due.is_empty());
            tokio::select! {
                biased;
                slot = say.reserve(), if may => {
                    let slot = slot.map_err(|_| Status::aborted("the session has ended"))?;
                    slot.send(Self::batch(&self.stream, self.next, &self.payload, self.plan.batch));
                    self.next += self.plan.batch as u64;
                    // From the instant at which it should have been sent, however late that was.
                    let sent = self.due.pop_front().unwrap_or_else(Instant::now);
                    self.in_flight.push_back((self.next - 1, sent));
                }
                response = self.session.hear.message() => match response? {
                    Some(LinkResponse { frame: Some(frame) }) => self.hear(frame, &mut credit).await?,
                    _ => return Err(Status::aborted("the gateway ended the session")),
                },
                Some(due) = tick_of(&mut self.ticks) => self.due.push_back(due),
                _ = look.tick() => {}
            }
        }
    }

    async fn hear(&mut self, frame: link_response::Frame, credit: &mut Credit) -> Result<(), Status> {
        match frame {
            link_response::Frame::Ack(ack) => self.settle(&ack),
            link_response::Frame::Credit(new) => {
                *credit = new;
                let known = self.gauge.credit.load(Ordering::Relaxed);
                // Lost only if the end was asked for meanwhile.
                let _kept = self.gauge.credit.compare_exchange(
                    known.min(STOP - 1),
                    new.events.into(),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            link_response::Frame::Ping(ping) => {
                let answer = request(link_request::Frame::Pong(Pong { nonce: ping.nonce }));
                self.session.say.send(answer).await.map_err(|_| Status::aborted("the session has ended"))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn fits(&self, credit: Credit) -> bool {
        let flying = self.next - 1 - self.acked;
        let more = flying + self.plan.batch as u64;
        flying == 0 || (more <= credit.events.into() && more * self.plan.payload as u64 <= credit.bytes)
    }

    fn settle(&mut self, ack: &Ack) {
        assert!(ack.rejected.is_empty(), "events were rejected: {:?}", ack.rejected.first());
        let now = Instant::now();
        let mut latencies = self.gauge.latencies();
        while let Some((last, sent)) = self.in_flight.front() {
            if *last > ack.acked {
                break;
            }
            latencies.note(now - *sent);
            self.in_flight.pop_front();
        }
        self.gauge.acked.fetch_add(ack.acked - self.acked, Ordering::Relaxed);
        self.acked = ack.acked;
    }

    fn batch(stream: &Bytes, first_seq: u64, payload: &Bytes, events: usize) -> LinkRequest {
        let event = Event { topic: 0, payload: payload.clone(), time_unix_nanos: 0, origin_seq: 0 };
        request(link_request::Frame::Batch(Batch {
            stream: stream.clone(),
            first_seq,
            collector: String::new(),
            topics: vec!["events.process.metadata".to_owned()],
            events: vec![event; events],
            origin: None,
        }))
    }
}

/// The next tick; never, if there is no pace.
async fn tick_of(ticks: &mut Option<mpsc::Receiver<Instant>>) -> Option<Instant> {
    match ticks {
        Some(ticks) => ticks.recv().await,
        None => std::future::pending().await,
    }
}
