//! One stream of a session: read from the spool, sent as far as the window admits, settled by acks.
//!
//! Kept true: the frames of a lane follow each other without a hole; an event that no message can hold becomes a gap, so
//! that it never wedges the stream.

use std::time::Duration;

use daemoneye_proto::v1::{self, link_request::Frame};
use tokio::time::{self, Instant};

use crate::{
    event::{Class, Seq, StreamId},
    spool::{Chunk, Reader, Spool},
    uplink::{
        failure::for_people,
        parcel::Parcel,
        window::{Flight, Load, Window},
    },
};

/// One stream of a session.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) class: Class,
    pub(super) stream: StreamId,
    reader: Reader,
    /// Read and not yet sent.
    pending: Option<Parcel>,
    /// Number of the next event to be read.
    next: Seq,
    /// Sent and not yet settled.
    flight: Flight,
    /// Highest number settled.
    acked: Seq,
    /// The spool is not asked before, so that a small batch is followed by a larger one.
    not_before: Option<Instant>,
}

/// How long a spool that has nothing more to give is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// How large a batch may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) max_message: usize,
}

/// What became of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It waits to be sent.
    Pending,
    /// It does not follow what was read before.
    Hole,
    /// It is an event of so many bytes, which no message can hold; a gap in its place waits to be sent.
    TooLarge(Seq, usize),
}

impl Lane {
    pub(super) fn new(class: Class, stream: StreamId, reader: Reader, from: Seq) -> Self {
        Self {
            class,
            stream,
            reader,
            pending: None,
            next: from,
            flight: Flight::default(),
            acked: from.saturating_sub(1),
            not_before: None,
        }
    }

    /// Whether more should be read.
    pub(super) const fn is_hungry(&self) -> bool {
        self.pending.is_none()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_settled(&self) -> bool {
        self.flight.is_empty()
    }

    /// The highest number sent on this session, or settled before it.
    pub(super) fn sent(&self) -> Seq {
        self.flight.last().unwrap_or(self.acked)
    }

    /// Waits for events; `None` when the spool is closed and read to its end.
    ///
    /// Cancel safe: what was not handed out comes with the next call.
    pub(super) async fn read(&mut self, cut: Cut) -> Option<Chunk> {
        if let Some(at) = self.not_before {
            time::sleep_until(at).await;
        }
        self.reader.next(cut.events, cut.bytes).await
    }

    /// Takes in what was read. A batch smaller than `cut` makes the next read wait for `linger`.
    pub(super) fn accept(&mut self, chunk: Option<Chunk>, cut: Cut, linger: Duration) -> Accepted {
        let Some(parcel) = chunk.map(Parcel::from) else {
            // Closed, or the reading was cut: the one goes with this process, the other is worth another try.
            self.not_before = Some(Instant::now() + PAUSE);
            return Accepted::Pending;
        };
        let seq = parcel.first_seq();
        if seq != self.next {
            return Accepted::Hole;
        }
        self.next = parcel.last_seq().saturating_add(1);
        let small = parcel.load().events < cut.events as u64;
        self.not_before = (small && !linger.is_zero()).then(|| Instant::now() + linger);
        // A chunk whose first event is larger than `cut.bytes`, which is less than a message, holds no other.
        let too_large = parcel.too_large(cut.max_message);
        let reason = v1::GapReason::Unspecified;
        self.pending = Some(match too_large {
            None => parcel,
            Some(_) => Parcel::Gap { first_seq: seq, last_seq: parcel.last_seq(), reason },
        });
        too_large.map_or(Accepted::Pending, |(seq, bytes)| Accepted::TooLarge(seq, bytes))
    }

    /// How many of the events in hand the window admits now.
    pub(super) fn admitted(&self, window: &Window) -> u64 {
        self.pending.as_ref().map_or(0, |parcel| window.admits(self.flight.load(), parcel.load()))
    }

    /// Takes what is in hand, or as much of it as is admitted, as the frame to send.
    pub(super) fn send(&mut self, window: &mut Window, cut: Cut) -> Option<(Frame, Load)> {
        let admitted = usize::try_from(self.admitted(window)).unwrap_or(usize::MAX);
        if admitted == 0 {
            return None;
        }
        let mut parcel = self.pending.take()?;
        self.pending = parcel.cut(admitted, cut.max_message);
        let load = parcel.load();
        window.sent(load);
        self.flight.push(parcel.last_seq(), load);
        Some((parcel.into_frame(self.stream), load))
    }

    /// Whether an acknowledgement up to `acked` is about something that was sent.
    pub(super) fn may_settle(&self, acked: Seq) -> bool {
        acked <= self.sent()
    }

    /// Settles everything up to `acked`; returns what that was, and the highest number settled before.
    pub(super) fn settle(&mut self, acked: Seq, window: &mut Window) -> (Load, Seq) {
        let before = self.acked;
        self.acked = before.max(acked);
        let settled = self.flight.settle(acked);
        window.settled(settled);
        (settled, before)
    }
}

/// The lane whose turn it is, of those that may send; the first has sent `turn` batches since the second had its turn.
pub(super) fn pick(lanes: &[Lane; 2], window: &Window, turn: u32) -> Option<usize> {
    match lanes.each_ref().map(|lane| lane.admitted(window) > 0) {
        [true, true] => Some(usize::from(turn >= CRITICAL_TURNS)),
        [true, false] => Some(0),
        [false, true] => Some(1),
        [false, false] => None,
    }
}

/// Batches of critical events for each of telemetry, while both have some.
const CRITICAL_TURNS: u32 = 4;

/// Whether every event of the spool is settled.
pub(super) fn is_delivered(spool: &Spool) -> bool {
    spool.streams().iter().all(|state| state.acked.saturating_add(1) >= state.next)
}

/// The rejections that are about events settled just now, fit to be kept.
pub(super) fn rejections(rejected: Vec<v1::Rejected>, before: Seq, acked: Seq) -> Vec<(Seq, i32, String)> {
    let settled = rejected.into_iter().filter(|rejected| before < rejected.seq && rejected.seq <= acked);
    settled.map(|rejected| (rejected.seq, rejected.code, for_people(&rejected.reason))).collect()
}
