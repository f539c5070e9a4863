//! What a client publishes: judged, put together, handed to the bus, acknowledged when the bus has taken it.
//!
//! All that one turn of reading brought goes to the bus as one batch, so that single frames cost no more than batches do. Kept
//! true: acks of what is published leave in the order of their frames; what is read is bounded by what is settled.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::Taken,
    event::Event,
    native::codec::{Code, Text},
};
use daemoneye_proto::v1::RejectCode;
use tokio::time::Instant;

use crate::{
    bus::{Origin, Outgoing, Ticket, Unsent, Voice},
    policy::{Denial, Limits, Meter, Place, PublishPermit, Speaker},
    session::{
        credit::{Amount, Window},
        http2::Cut,
        intake::{self, Bounds},
        live::Live,
        metrics::Tally,
        status::Fault,
    },
};

/// Events that go to the bus as one.
pub(super) const FULL: usize = 512;

/// Topics that are put together: they are searched one by one.
const MOST_TOPICS: usize = 64;

/// Topics whose dotted form is remembered.
const REMEMBERED: usize = 1024;

/// What is acknowledged: the id of a frame, and its place among the events of its batch.
type Wanted = (usize, u32);

/// The way up of one client.
pub(super) struct Uplink {
    pub(super) speaker: Speaker,
    pub(super) limits: Limits,
    pub(super) max_payload: usize,
    pub(super) meter: Arc<Meter>,
    pub(super) window: Window,
    pub(super) voice: Voice,
    pub(super) tally: Tally,
    pub(super) live: Arc<Live>,
    /// Whether the client may still speak.
    pub(super) cut: Cut,
    /// Dotted forms of topics that came before.
    dotted: HashMap<Box<str>, Box<str>>,
    turn: Option<Turn>,
    /// Found no room on the bus; nothing overtakes it.
    unsent: Option<(Outgoing, Pending)>,
    pending: VecDeque<Pending>,
    /// Bytes of the wire since the last batch, which its events keep in memory.
    weight: u64,
    /// Events of it that were dropped because the right to say them was withdrawn.
    withheld: u64,
}

/// What one turn of reading has brought so far.
struct Turn {
    permit: PublishPermit,
    events: Vec<Event>,
    wanted: Vec<Wanted>,
    /// Topics of this turn; there are few.
    places: Vec<(Text, Result<Place, Denial>)>,
    denied: u64,
}

/// A batch that the bus has.
struct Pending {
    ticket: Option<Ticket>,
    wanted: Vec<Wanted>,
    amount: Amount,
    since: Instant,
}

/// What an uplink is made of.
pub(super) struct Parts {
    pub(super) speaker: Speaker,
    pub(super) limits: Limits,
    pub(super) max_payload: usize,
    pub(super) meter: Arc<Meter>,
    pub(super) window: Window,
    pub(super) voice: Voice,
    pub(super) tally: Tally,
    pub(super) live: Arc<Live>,
    pub(super) cut: Cut,
}

impl Uplink {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { speaker, limits, max_payload, meter, window, voice, tally, live, cut } = parts;
        Self {
            speaker,
            limits,
            max_payload,
            meter,
            window,
            voice,
            tally,
            live,
            cut,
            dotted: HashMap::new(),
            turn: None,
            unsent: None,
            pending: VecDeque::new(),
            weight: 0,
            withheld: 0,
        }
    }

    /// Whether more may be read.
    pub(super) const fn may_read(&self) -> bool {
        self.unsent.is_none() && !self.window.is_over()
    }

    /// How long its rate holds the client back.
    pub(super) fn debt(&self, now: Instant) -> Duration {
        self.meter.debt(now)
    }

    /// Takes note of so many bytes of the wire.
    pub(super) fn weigh(&mut self, bytes: usize) {
        self.weight = self.weight.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Whether what was gathered should go to the bus before more is put to it: many events, or so many topics, denied ones among
    /// them, that looking for one costs too much.
    pub(super) fn is_full(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.events.len() >= FULL || turn.places.len() >= MOST_TOPICS)
    }

    /// The dotted form of a slashed topic. A dot in it would read as a slash.
    fn dotted(&mut self, slashed: &str) -> Option<&str> {
        if slashed.contains('.') {
            return None;
        }
        if !self.dotted.contains_key(slashed) {
            if self.dotted.len() >= REMEMBERED {
                self.dotted.clear();
            }
            self.dotted.insert(slashed.into(), slashed.replace('/', ".").into());
        }
        self.dotted.get(slashed).map(|dotted| &**dotted)
    }

    /// Judges one event and puts it to the others; the ack of `wanted` follows when the bus has taken it.
    ///
    /// # Errors
    ///
    /// The code of a refusal.
    pub(super) fn publish(&mut self, topic: &Text, payload: Bytes, wanted: Option<u32>) -> Result<(), Code> {
        let bounds = Bounds { max_payload: self.max_payload, keep_seqs: false };
        let mut turn = self.turn.take().unwrap_or_else(|| Turn {
            permit: self.speaker.permit(),
            events: Vec::new(),
            wanted: Vec::new(),
            places: Vec::new(),
            denied: 0,
        });
        let known = turn.places.iter().rposition(|(known, _)| known == topic);
        let at = known.unwrap_or_else(|| {
            let place = match self.dotted(topic.as_str()).map(str::to_owned) {
                Some(dotted) => self.speaker.allow(&mut turn.permit, &dotted),
                None => Err(Denial::Malformed(daemoneye_bridge::topic::TopicError::Character('.'))),
            };
            turn.places.push((topic.clone(), place));
            turn.places.len() - 1
        });
        let judged = turn.places.get(at).map(|(_, place)| intake::judge(place, &payload, bounds));
        let outcome = match judged {
            Some(Ok(topic)) => {
                if let Some(id) = wanted {
                    turn.wanted.push((turn.events.len(), id));
                }
                turn.events.push(Event { topic, payload, time: 0 });
                Ok(())
            }
            Some(Err(rejection)) => {
                turn.denied += 1;
                Err(code(rejection.code))
            }
            None => Err(Code::OTHER),
        };
        self.turn = Some(turn);
        outcome
    }

    /// Hands what was gathered to the bus.
    ///
    /// # Errors
    ///
    /// [`Fault`], if the bus is gone or the client was cut.
    pub(super) fn hand_over(&mut self, now: Instant) -> Result<(), Fault> {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let bytes = std::mem::take(&mut self.weight);
        self.live.bytes.fetch_add(bytes, Relaxed);
        let Some(turn) = self.turn.take() else {
            self.meter.charge(now, 0, bytes, &self.limits);
            return Ok(());
        };
        let Turn { permit, events, wanted, denied, .. } = turn;
        self.speaker.count(number(events.len()), denied);
        self.tally.rejected.inc_by(denied);
        self.meter.charge(now, number(events.len()).saturating_add(denied), bytes, &self.limits);
        if events.is_empty() {
            drop(permit);
            return Ok(());
        }
        let amount = Amount { events: number(events.len()), bytes };
        // Nobody is told a credit here: that it is used up shows as not being read.
        let _credit = self.window.received(amount);
        // BUS/RT numbers nothing.
        let batch = self.voice.seal(permit, events, &Origin { stream: None, seqs: &[], hops: &[] });
        self.send(batch, Pending { ticket: None, wanted, amount, since: now })
    }

    fn send(&mut self, batch: Outgoing, mut pending: Pending) -> Result<(), Fault> {
        if let Some(reason) = self.cut.is_cut() {
            self.withheld = self.withheld.saturating_add(pending.amount.events);
            return Err(Fault::Cut(reason));
        }
        match self.voice.try_send(self.voice.lane(), batch) {
            Ok(ticket) => {
                pending.ticket = Some(ticket);
                self.pending.push_back(pending);
                Ok(())
            }
            Err(Unsent::Full(batch)) => {
                self.unsent = Some((batch, pending));
                Ok(())
            }
            Err(Unsent::Closed) => Err(Fault::BusGone),
        }
    }

    /// The voice, if a batch waits for room on the bus.
    pub(super) fn stuck(&self) -> Option<Voice> {
        self.unsent.as_ref().map(|_| self.voice.clone())
    }

    /// Tries again what found no room.
    ///
    /// # Errors
    ///
    /// [`Fault`], if the bus is gone or the client was cut.
    pub(super) fn resume(&mut self) -> Result<(), Fault> {
        match self.unsent.take() {
            Some((batch, pending)) => self.send(batch, pending),
            None => Ok(()),
        }
    }

    /// Takes a new speaker, by whom what waits for room is judged too; the acks of what may not be said any longer.
    pub(super) fn rejudge(&mut self, speaker: Speaker, limits: Limits, max_payload: usize) -> Vec<u32> {
        (self.speaker, self.limits, self.max_payload) = (speaker, limits, max_payload);
        let Some((batch, pending)) = &mut self.unsent else { return Vec::new() };
        let mut permit = self.speaker.permit();
        let allowed: Vec<bool> = batch
            .topics()
            .iter()
            .map(|topic| self.speaker.allow(&mut permit, topic.dotted()).is_ok())
            .collect();
        let withheld = batch.withhold(|place| allowed.get(place) == Some(&true));
        let gone: Vec<usize> = withheld.into_iter().map(|(place, _)| place).collect();
        let refused = take_back(&mut pending.wanted, &gone);
        self.tally.withheld.inc_by(u64::try_from(gone.len()).unwrap_or(u64::MAX));
        if batch.is_empty()
            && let Some((_, pending)) = self.unsent.take()
        {
            self.window.settled(pending.amount, 1);
        }
        refused
    }

    /// Waits for the oldest batches; the acks that are due, each with its code.
    ///
    /// Cancel safe: what has ended is told when this is asked again. Never ends while the bus has nothing.
    pub(super) async fn settled(&mut self, into: &mut Vec<(u32, Code)>) {
        poll_fn(|cx| {
            let mut any = Poll::Pending;
            while let Some(front) = self.pending.front_mut() {
                let code = match front.ticket.as_mut().map(|ticket| Pin::new(ticket).poll(cx)) {
                    Some(Poll::Pending) => break,
                    Some(Poll::Ready(Taken::All)) => Code::OK,
                    Some(Poll::Ready(Taken::Withdrawn)) | None => Code::NOT_DELIVERED,
                };
                if let Some(settled) = self.pending.pop_front() {
                    self.window.settled(settled.amount, 1);
                    if code == Code::OK {
                        self.tally.settled.inc_by(settled.amount.events);
                        self.live.events.fetch_add(settled.amount.events, Relaxed);
                        self.tally.confirmed(settled.since.elapsed());
                    }
                    into.extend(settled.wanted.into_iter().map(|(_, id)| (id, code)));
                }
                any = Poll::Ready(());
            }
            any
        })
        .await;
    }

    /// Whether the bus has answered for all that it was given.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.unsent.is_none()
    }

    /// Shows what is in flight.
    pub(super) fn show(&self) {
        let (in_flight, credit) = (self.window.in_flight(), self.window.credit());
        self.live.in_flight.store(in_flight.events, Relaxed);
        self.live.credit.store(credit.events, Relaxed);
    }

    /// Counts what was read and not published because the client lost the right to it.
    pub(super) fn give_up(&mut self) {
        let unsent = self.unsent.take().map_or(0, |(_, pending)| pending.amount.events);
        let turn = self.turn.take().map_or(0, |turn| u64::try_from(turn.events.len()).unwrap_or(u64::MAX));
        self.tally.withheld.inc_by(unsent.saturating_add(turn).saturating_add(self.withheld));
    }
}

/// Takes from `wanted` what stood at the places that are `gone`, and says whose acks these are; the rest moves up with its
/// events.
fn take_back(wanted: &mut Vec<Wanted>, gone: &[usize]) -> Vec<u32> {
    let refused = wanted.extract_if(.., |(place, _)| gone.contains(place)).map(|(_, id)| id).collect();
    for (place, _) in wanted {
        *place -= gone.iter().filter(|gone| **gone < *place).count();
    }
    refused
}

/// How BUS/RT says why an event is not published.
const fn code(rejected: RejectCode) -> Code {
    match rejected {
        RejectCode::TopicDenied | RejectCode::CollectorDenied => Code::ACCESS,
        RejectCode::AlreadyConnected => Code::BUSY,
        _ => Code::DATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_twice_takes_back_the_acks_of_its_own_events() {
        // Events 0 to 4; that at place 1 wants no ack.
        let mut wanted = vec![(0, 10), (2, 12), (3, 13), (4, 14)];
        assert_eq!(take_back(&mut wanted, &[0, 1]), [10]);
        assert_eq!(wanted, [(0, 12), (1, 13), (2, 14)]);
        assert_eq!(take_back(&mut wanted, &[0, 2]), [12, 14]);
        assert_eq!(wanted, [(0, 13)]);
    }
}
