//! Carries events from the wire to the bus: sequence, rate, verdict, hand-over.
//!
//! What was read waits in a backlog while the peer is over its rate or the bus has no room, so that pings behind it are
//! still answered; the credit bounds the backlog. What is handed over is remembered by its stream until it is settled.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use daemoneye_bridge::event::Seq;
use daemoneye_proto::v1;
use tokio::time::Instant;

use crate::{
    bus::{Origin, Unsent, Voice},
    policy::{Meter, Rights},
    session::{
        credit::{Amount, Window},
        hello::Listed,
        http2::Cut,
        intake::{Bounds, Checked, Gathering, Rejection},
        live::Live,
        metrics::Tally,
        mouths::{Found, Mouths},
        status::Fault,
        stream::{Pending, Stream, Streams, Weight},
        waiting::Waiting,
    },
};

/// The data path of one session.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) streams: Streams,
    pub(super) window: Window,
    pub(super) rights: Arc<Rights>,
    pub(super) mouths: Mouths,
    listed: Vec<Listed>,
    meter: Arc<Meter>,
    tally: Tally,
    live: Arc<Live>,
    /// Whether the peer may still speak.
    cut: Cut,
    /// The most that the configuration allows, whatever the policy says.
    max_payload: usize,
    /// Read, and not judged yet.
    backlog: VecDeque<Read>,
    /// Being put together.
    gathered: Option<Gathered>,
    /// Found no room on the bus; nothing overtakes it.
    unsent: Option<Waiting>,
    /// Until when the peer's rate holds the backlog back.
    held_until: Option<Instant>,
}

/// A frame whose sequence numbers have been checked.
#[derive(Debug)]
enum Read {
    Batch { stream: usize, checked: Checked },
    Gap { stream: usize, duplicates: u64, first: Seq, last: Seq },
}

/// How long to wait for a collector's place while all have unsettled events.
const CROWDED: Duration = Duration::from_millis(100);

/// What a gap weighs.
const GAP: Weight = Weight { amount: Amount { events: 1, bytes: 0 }, batches: 1 };

#[derive(Debug)]
struct Gathered {
    stream: usize,
    mouth: usize,
    gathering: Gathering,
}

/// What a carrier is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) streams: Streams,
    pub(super) listed: Vec<Listed>,
    pub(super) window: Window,
    pub(super) rights: Arc<Rights>,
    pub(super) mouths: Mouths,
    pub(super) meter: Arc<Meter>,
    pub(super) tally: Tally,
    pub(super) live: Arc<Live>,
    pub(super) cut: Cut,
    pub(super) max_payload: usize,
}

impl Carrier {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            streams: parts.streams,
            window: parts.window,
            rights: parts.rights,
            mouths: parts.mouths,
            listed: parts.listed,
            meter: parts.meter,
            tally: parts.tally,
            live: parts.live,
            cut: parts.cut,
            max_payload: parts.max_payload,
            backlog: VecDeque::new(),
            gathered: None,
            unsent: None,
            held_until: None,
        }
    }

    /// Bytes of one payload, as the policy stands.
    pub(super) fn max_payload(&self) -> usize {
        let granted = usize::try_from(self.rights.limits().max_message.get()).unwrap_or(usize::MAX);
        self.max_payload.min(granted)
    }

    /// Takes a batch in; answers with a new credit, if it should be raised.
    pub(super) fn receive(&mut self, batch: v1::Batch) -> Result<Option<Amount>, Fault> {
        let mut checked = Checked::new(batch)?;
        let stream = self.find("batch.stream", &checked.batch.stream)?;
        checked.duplicates = self.accept(stream, checked.batch.first_seq, checked.amount.events)?;
        self.live.bytes.fetch_add(checked.amount.bytes, Relaxed);
        let credit = self.window.received(checked.amount);
        self.backlog.push_back(Read::Batch { stream, checked });
        Ok(credit)
    }

    /// Takes a gap in; answers with a new credit, if it should be raised.
    pub(super) fn receive_gap(&mut self, gap: &v1::Gap) -> Result<Option<Amount>, Fault> {
        let stream = self.find("gap.stream", &gap.stream)?;
        let count = gap.last_seq.checked_sub(gap.first_seq).and_then(|count| count.checked_add(1));
        let count = count.ok_or_else(|| Fault::broken("gap.last_seq", "below first_seq"))?;
        let duplicates = self.accept(stream, gap.first_seq, count)?;
        let lost = count.saturating_sub(duplicates);
        if lost > 0 {
            self.tally.gaps.inc();
            self.tally.lost.inc_by(lost);
        }
        self.backlog.push_back(Read::Gap { stream, duplicates, first: gap.first_seq, last: gap.last_seq });
        // A gap holds no event, but it is kept until it is settled, and a flood of them must not be.
        Ok(self.window.received(GAP.amount))
    }

    fn find(&self, field: &'static str, id: &[u8]) -> Result<usize, Fault> {
        self.streams.find(id).ok_or_else(|| Fault::broken(field, "not listed in Hello"))
    }

    fn accept(&mut self, stream: usize, first: Seq, count: u64) -> Result<u64, Fault> {
        let stream = self.streams.all.get_mut(stream).ok_or(Fault::Lost)?;
        let duplicates = stream.cursor.accept(first, count)?;
        if duplicates > 0 {
            self.tally.duplicate.inc_by(duplicates);
            stream.counts.duplicates.fetch_add(duplicates, Relaxed);
        }
        stream.counts.received.store(stream.cursor.received(), Relaxed);
        Ok(duplicates)
    }

    /// Judges what was read and hands it over, until the peer's rate or the bus says wait.
    pub(super) fn pump(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        self.held_until = None;
        while self.unsent.is_none()
            && let Some(read) = self.backlog.pop_front()
        {
            let debt = self.meter.debt(now);
            if !debt.is_zero() {
                self.backlog.push_front(read);
                self.held_until = Some(now + debt);
                break;
            }
            if !self.fits(&read) {
                self.backlog.push_front(read);
                self.hand_over(now)?;
                continue;
            }
            match read {
                Read::Batch { stream, checked } => {
                    if let Some(waits) = self.judge(stream, checked, now)? {
                        self.backlog.push_front(Read::Batch { stream, checked: waits });
                        break;
                    }
                }
                Read::Gap { stream, duplicates, first, last } => {
                    self.pass(stream, (first, last), duplicates, now);
                }
            }
        }
        if self.unsent.is_none() { self.hand_over(now) } else { Ok(()) }
    }

    /// Whether `read` may be put to what is being gathered.
    fn fits(&self, read: &Read) -> bool {
        let Some(gathered) = &self.gathered else { return true };
        let Read::Batch { stream, checked } = read else { return false };
        *stream == gathered.stream
            && !gathered.gathering.is_full()
            && self.mouths.is(gathered.mouth, &checked.speaks_as())
            && gathered.gathering.origin == checked.origin
    }

    /// Judges a batch; gives it back if its collector has no voice yet.
    fn judge(&mut self, stream: usize, checked: Checked, now: Instant) -> Result<Option<Checked>, Fault> {
        let amount = checked.amount;
        let is_circle = checked.origin.as_ref().is_some_and(|origin| self.mouths.has_passed(origin));
        let found = if is_circle {
            Found::Refused(Rejection::circle())
        } else {
            self.mouths.find(&checked.speaks_as(), &self.rights, &self.streams)?
        };
        let mouth = match found {
            Found::At(mouth) => Ok(mouth),
            Found::Refused(rejection) => Err(rejection),
            Found::Opening => return Ok(Some(checked)),
            Found::Full => {
                self.held_until = Some(now + CROWDED);
                return Ok(Some(checked));
            }
        };
        self.meter.charge(now, amount.events, amount.bytes, self.rights.limits());
        let mouth = match mouth {
            Ok(mouth) => mouth,
            Err(rejection) => {
                let rejected = checked.refuse(&rejection);
                let weight = Weight { amount, batches: 1 };
                let last = checked.last();
                self.remember(stream, Pending { last, ticket: None, rejected, weight, since: now });
                return Ok(None);
            }
        };
        let max_payload = self.max_payload();
        let Some(found) = self.mouths.get(mouth) else { return Ok(None) };
        let Ok(speaker) = &mut found.speaker else { return Ok(None) };
        let bounds = Bounds { max_payload, keep_seqs: found.voice.numbers() };
        let gathered = self.gathered.get_or_insert_with(|| {
            let gathering = Gathering::new(speaker.permit(), checked.origin.clone());
            Gathered { stream, mouth, gathering }
        });
        gathered.gathering.add(checked, speaker, bounds);
        Ok(None)
    }

    /// Hands what was gathered to the bus.
    fn hand_over(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(Gathered { stream, mouth, gathering }) = self.gathered.take() else { return Ok(()) };
        let Gathering { permit, events, seqs, origin, rejected, last, amount, batches, .. } = gathering;
        let Some(found) = self.mouths.get(mouth) else { return Err(Fault::BusGone) };
        if let Ok(speaker) = &found.speaker {
            let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
            speaker.count(count(events.len()), count(rejected.len()));
        }
        let weight = Weight { amount, batches };
        let pending = Pending { last, ticket: None, rejected, weight, since: now };
        if events.is_empty() {
            drop(permit);
            self.remember(stream, pending);
            return Ok(());
        }
        let own = self.listed.get(stream).map(|listed| listed.id);
        let (stream_id, hops) =
            origin.as_ref().map_or((own, &[][..]), |origin| (origin.stream, origin.hops.as_slice()));
        let place = Origin { stream: stream_id, seqs: &seqs, hops };
        let batch = found.voice.seal(permit, events, &place);
        self.mouths.note(mouth, stream, last, now);
        self.send(Waiting { stream, mouth, pending, batch })
    }

    /// Hands a batch to the bus, unless its peer was cut since it was read.
    fn send(&mut self, waiting: Waiting) -> Result<(), Fault> {
        if let Some(reason) = self.cut.is_cut() {
            self.unsent = Some(waiting);
            return Err(Fault::Cut(reason));
        }
        let Waiting { stream, mouth, mut pending, batch } = waiting;
        let Some(voice) = self.mouths.voice(mouth) else { return Err(Fault::BusGone) };
        // A lane for each stream, so that one that waits does not hold up the others, and keeps its order through all voices.
        let lane = self.streams.all.get(stream).map_or_else(|| voice.lane(), Stream::lane);
        match voice.try_send(lane, batch) {
            Ok(ticket) => {
                pending.ticket = Some(ticket);
                self.remember(stream, pending);
                Ok(())
            }
            Err(Unsent::Full(batch)) => {
                self.unsent = Some(Waiting { stream, mouth, pending, batch });
                Ok(())
            }
            Err(Unsent::Closed) => Err(Fault::BusGone),
        }
    }

    /// A gap is settled when all before it is.
    fn pass(&mut self, stream: usize, range: (Seq, Seq), duplicates: u64, now: Instant) {
        let lost = range.1.saturating_sub(range.0).saturating_add(1).saturating_sub(duplicates);
        if let Some(stream) = self.streams.all.get(stream)
            && lost > 0
        {
            stream.counts.gaps.fetch_add(1, Relaxed);
            stream.counts.lost.fetch_add(lost, Relaxed);
        }
        let pending = Pending { last: range.1, ticket: None, rejected: Vec::new(), weight: GAP, since: now };
        self.remember(stream, pending);
    }

    fn remember(&mut self, stream: usize, pending: Pending) {
        if !pending.rejected.is_empty() {
            self.tally.rejected.inc_by(u64::try_from(pending.rejected.len()).unwrap_or(u64::MAX));
        }
        if let Some(stream) = self.streams.all.get_mut(stream) {
            stream.push(pending);
        }
    }

    /// The voice whose batch found no room on the bus.
    pub(super) fn stuck(&self) -> Option<Voice> {
        self.unsent.as_ref().and_then(|waiting| self.mouths.voice(waiting.mouth)).cloned()
    }

    /// Tries again what found no room, and goes on.
    pub(super) fn resume(&mut self) -> Result<(), Fault> {
        if let Some(waiting) = self.unsent.take() {
            self.send(waiting)?;
        }
        self.pump()
    }

    /// Takes new rights: what waits for room on the bus is judged by them too.
    pub(super) fn rejudge(&mut self, rights: Arc<Rights>) -> Result<(), Fault> {
        self.mouths.rejudge(&rights);
        self.rights = rights;
        let Some(mut waiting) = self.unsent.take() else { return Ok(()) };
        if let Some(mouth) = self.mouths.get(waiting.mouth) {
            waiting.withhold(&mut mouth.speaker);
        }
        if waiting.batch.is_empty() {
            self.remember(waiting.stream, waiting.pending);
            return self.pump();
        }
        self.unsent = Some(waiting);
        Ok(())
    }

    /// Lets go of names that nobody uses.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.mouths.sweep(&self.streams, now);
    }

    /// Until when the peer's rate holds it back.
    pub(super) const fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Something was settled: says how long the bus took.
    pub(super) fn note_settled(&mut self) {
        let now = Instant::now();
        for since in self.streams.since() {
            self.tally.confirmed(now.saturating_duration_since(since));
        }
    }

    /// The next ack that is due.
    pub(super) fn ack(&mut self) -> Option<v1::Ack> {
        let (ack, weight) = self.streams.ack()?;
        self.window.settled(weight.amount, weight.batches);
        self.tally.settled.inc_by(weight.amount.events);
        self.live.events.fetch_add(weight.amount.events, Relaxed);
        Some(ack)
    }

    /// Whether an ack is due.
    pub(super) fn is_due(&self) -> bool {
        self.streams.all.iter().any(Stream::is_due)
    }

    /// Whether everything that was read is settled and told.
    pub(super) fn is_idle(&self) -> bool {
        self.backlog.is_empty() && self.unsent.is_none() && self.streams.is_idle()
    }

    /// Drops what was read and not handed over, and says how many events that were: the peer has them still.
    pub(super) fn give_up(&mut self) -> u64 {
        let waiting = self.unsent.take().map(|waiting| waiting.pending.weight.amount.events);
        let gathered = self.gathered.take().map(|gathered| gathered.gathering.amount.events);
        let read = self.backlog.drain(..).map(|read| match read {
            Read::Batch { checked, .. } => checked.amount.events,
            Read::Gap { .. } => 0,
        });
        read.chain(waiting).chain(gathered).sum()
    }

    /// Counts events that were dropped because the right to say them was withdrawn.
    pub(super) fn withheld(&self, events: u64) {
        self.tally.withheld.inc_by(events);
    }

    /// Shows how much is in flight.
    pub(super) fn show(&self) {
        self.live.in_flight.store(self.window.in_flight().events, Relaxed);
        self.live.credit.store(self.window.credit().events, Relaxed);
    }
}
