//! The streams of one session: what has come, what has been settled, what has been told.
//!
//! Events go through three stations in order: received (counted by the [`Cursor`]), settled (the bus has taken them: the
//! mark advances), told (the ack is on its way). What is not told counts against the peer's credit, so a peer that does not
//! read its acks cannot make them pile up.
//!
//! Kept true: the mark never passes an event that was not taken, rejected or a gap; what was rejected is kept beside the
//! mark before the mark passes it.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use daemoneye_bridge::{
    bus::{LaneId, Taken},
    event::{Seq, StreamId},
};
use daemoneye_proto::v1;
use tokio::time::Instant;

use crate::{
    bus::Ticket,
    session::{credit::Amount, cursor::Cursor, hello::Listed, live::StreamCounts, status::Fault},
    state::Mark,
};

/// One stream of a session.
#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    lane: LaneId,
    pub(super) cursor: Cursor,
    mark: Arc<Mark>,
    /// What was handed over and is not settled, oldest first. Bounded by the credit.
    pending: VecDeque<Pending>,
    /// What was settled and is not told.
    untold: Untold,
    pub(super) counts: Arc<StreamCounts>,
    /// When the events settled last were handed over, until somebody asks.
    since: Option<Instant>,
    /// Events that the bus has withdrawn.
    withdrawn: u64,
}

/// Events that were handed over together.
#[derive(Debug)]
pub(super) struct Pending {
    /// The last of their numbers.
    pub(super) last: Seq,
    /// Ends when the bus has taken them; `None` if there was nothing to publish.
    pub(super) ticket: Option<Ticket>,
    /// Those of them that were not published.
    pub(super) rejected: Vec<v1::Rejected>,
    pub(super) weight: Weight,
    /// When they were handed over.
    pub(super) since: Instant,
}

/// What events count against the credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) amount: Amount,
    pub(super) batches: u64,
}

impl Weight {
    const fn add(&mut self, other: Self) {
        self.amount.events = self.amount.events.saturating_add(other.amount.events);
        self.amount.bytes = self.amount.bytes.saturating_add(other.amount.bytes);
        self.batches = self.batches.saturating_add(other.batches);
    }
}

/// What the next ack will say.
#[derive(Debug, Default)]
struct Untold {
    due: bool,
    rejected: Vec<v1::Rejected>,
    weight: Weight,
}

impl Stream {
    pub(super) fn new(listed: Listed, mark: Arc<Mark>, counts: Arc<StreamCounts>) -> Self {
        let cursor = Cursor::new(listed.acked, listed.next, mark.hwm());
        let stream = Self {
            id: listed.id,
            lane: LaneId::new(),
            cursor,
            mark,
            pending: VecDeque::new(),
            untold: Untold::default(),
            counts,
            since: None,
            withdrawn: 0,
        };
        stream.show();
        stream
    }

    /// What keeps its order on the bus.
    pub(super) const fn lane(&self) -> LaneId {
        self.lane
    }

    /// What the peer is told in its Welcome.
    pub(super) fn resume(&self) -> v1::Resume {
        let rejected = self.mark.rejections().into_iter().map(|kept| v1::Rejected {
            seq: kept.seq,
            code: kept.code,
            reason: kept.reason.into(),
        });
        let resume = self.cursor.resume();
        let rejected = rejected.filter(|event| event.seq < resume).collect();
        v1::Resume { stream: self.id.to_bytes(), resume, rejected }
    }

    /// Takes note of what was handed over.
    pub(super) fn push(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// Whether nothing is left to settle or to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.untold.due
    }

    /// Whether nothing is left to settle.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// The highest number settled.
    pub(super) fn hwm(&self) -> Seq {
        self.mark.hwm()
    }

    /// Whether an ack is due.
    pub(super) const fn is_due(&self) -> bool {
        self.untold.due
    }

    /// The ack that is due, and what it frees.
    pub(super) fn ack(&mut self) -> (v1::Ack, Weight) {
        let untold = mem::take(&mut self.untold);
        let ack = v1::Ack { stream: self.id.to_bytes(), acked: self.mark.hwm(), rejected: untold.rejected };
        (ack, untold.weight)
    }

    /// Settles what can be settled; ready when something was, or when the bus has withdrawn a batch.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut settled = false;
        while let Some(front) = self.pending.front_mut() {
            if let Some(ticket) = &mut front.ticket {
                match Pin::new(ticket).poll(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Taken::Withdrawn) => {
                        // What follows may have been taken, but a mark must not pass what was not.
                        let events = self.pending.drain(..).map(|pending| pending.weight.amount.events);
                        self.withdrawn = self.withdrawn.saturating_add(events.sum());
                        return Poll::Ready(Err(Fault::Withdrawn));
                    }
                    Poll::Ready(Taken::All) => {}
                }
            }
            if let Some(front) = self.pending.pop_front() {
                self.settle(front);
                settled = true;
            }
        }
        if settled {
            self.show();
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn settle(&mut self, settled: Pending) {
        // A batch may have more rejections than are kept: only the newest are worth the lock.
        let skip = settled.rejected.len().saturating_sub(Mark::MAX_REJECTIONS);
        for event in settled.rejected.iter().skip(skip) {
            self.mark.reject(event.seq, event.code, &event.reason);
        }
        self.mark.advance(settled.last);
        let rejected = u64::try_from(settled.rejected.len()).unwrap_or(u64::MAX);
        self.counts.rejected.fetch_add(rejected, Relaxed);
        self.since = settled.ticket.map(|_| settled.since);
        self.untold.due = true;
        self.untold.rejected.extend(settled.rejected);
        self.untold.weight.add(settled.weight);
    }

    fn show(&self) {
        self.counts.acked.store(self.mark.hwm(), Relaxed);
        self.counts.received.store(self.cursor.received(), Relaxed);
    }
}

/// All streams of a session, in the order of its Hello.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) all: Vec<Stream>,
    /// Whose turn it is to be acknowledged.
    turn: usize,
}

impl Streams {
    pub(super) const fn new(streams: Vec<Stream>) -> Self {
        Self { all: streams, turn: 0 }
    }

    /// The next ack that is due, and what it frees. Streams take turns, or a busy one could keep the others waiting.
    pub(super) fn ack(&mut self) -> Option<(v1::Ack, Weight)> {
        let many = self.all.len();
        let turn = (0..many).map(|step| (self.turn + step) % many);
        let due = turn.into_iter().find(|place| self.all.get(*place).is_some_and(Stream::is_due))?;
        self.turn = (due + 1) % many;
        self.all.get_mut(due).map(Stream::ack)
    }

    /// Where the stream of this name stands.
    pub(super) fn find(&self, id: &[u8]) -> Option<usize> {
        self.all.iter().position(|stream| stream.id.as_bytes().as_slice() == id)
    }

    /// Waits until something is settled, and settles all that can be.
    ///
    /// Cancel safe: what was settled stays so.
    pub(super) fn settled(&mut self) -> impl Future<Output = Result<(), Fault>> {
        std::future::poll_fn(|cx| {
            let mut any = Poll::Pending;
            for stream in &mut self.all {
                if let Poll::Ready(outcome) = stream.poll_settled(cx) {
                    outcome?;
                    any = Poll::Ready(Ok(()));
                }
            }
            any
        })
    }

    /// Waits until everything is settled, or given up because the bus has withdrawn it.
    ///
    /// Cancel safe: what was settled stays so.
    pub(super) fn all_settled(&mut self) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            for stream in &mut self.all {
                while !stream.is_settled() {
                    // A withdrawn batch has emptied its stream, which is all that is waited for here.
                    ready!(stream.poll_settled(cx)).unwrap_or_default();
                }
            }
            Poll::Ready(())
        })
    }

    /// When events that were settled since the last time had been handed over: of each stream the newest.
    pub(super) fn since(&mut self) -> impl Iterator<Item = Instant> {
        self.all.iter_mut().filter_map(|stream| stream.since.take())
    }

    /// Events that the bus has withdrawn.
    pub(super) fn withdrawn(&self) -> u64 {
        self.all.iter().map(|stream| stream.withdrawn).sum()
    }

    /// Whether nothing is left to settle or to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.all.iter().all(Stream::is_idle)
    }
}
