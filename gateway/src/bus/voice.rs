//! A collector's voice on the bus, shared by the sessions and calls of the peer that speaks for it.

use std::{iter, sync::Arc};

use daemoneye_bridge::{
    bus::{self, LaneId, Port},
    event::{Event, Events, Numbers, Seq},
    spool::Record,
    topic::Topic,
};

use crate::{
    bus::{
        AuthorizedBus, Ticket,
        claim::Claim,
        envelope::{self, Origin},
    },
    policy::{Collector, PublishPermit},
    upstream,
};

/// The mouth of one collector. Cheap to clone; the name is let go when the last clone is.
#[derive(Clone, Debug)]
pub struct Voice {
    pub(super) claim: Arc<Claim>,
    bus: AuthorizedBus,
}

impl Voice {
    pub(super) const fn new(claim: Arc<Claim>, bus: AuthorizedBus) -> Self {
        Self { claim, bus }
    }

    /// Spends a permit on a batch, whose events name topics by their place in it, and wraps those whose route asks for it.
    pub fn seal(&self, permit: PublishPermit, mut events: Vec<Event>, origin: &Origin<'_>) -> Outgoing {
        let collector = Arc::clone(permit.collector());
        let topics = permit.spend();
        let records = self.records(&collector, &topics, &events, origin);
        if self.bus.0.wraps {
            envelope::wrap(&self.bus.0.routes, &collector, &topics, &mut events, origin);
        }
        let numbers = origin.stream.filter(|_| self.bus.0.numbers).map(|stream| {
            let seqs = origin.seqs.to_vec();
            Numbers { stream, seqs }
        });
        Outgoing { collector, events: Events { topics, events, numbers }, records }
    }

    /// What of a batch goes to the gateway above, an entry for each event; empty if nothing does.
    fn records(
        &self,
        collector: &Collector,
        topics: &[Topic],
        events: &[Event],
        place: &Origin<'_>,
    ) -> Vec<Option<Record>> {
        let Some(relay) = &self.bus.0.relay else { return Vec::new() };
        let taken: Vec<bool> = topics.iter().map(|topic| relay.takes(topic)).collect();
        if !taken.contains(&true) {
            return Vec::new();
        }
        let origin = relay.origin(collector.site(), place.stream, place.hops);
        let name: Arc<str> = collector.name().into();
        let seqs = place.seqs.iter().copied().chain(iter::repeat(upstream::UNNUMBERED));
        let record = |(event, seq): (&Event, Seq)| {
            let at = usize::try_from(event.topic).ok()?;
            let topic = topics.get(at).filter(|_| taken.get(at) == Some(&true))?.clone();
            let origin = Some((Arc::clone(&origin), seq));
            let payload = event.payload.clone();
            Some(Record { collector: Some(Arc::clone(&name)), origin, topic, payload, time: event.time })
        };
        events.iter().zip(seqs).map(record).collect()
    }

    /// Whether somebody is told the numbers of events.
    #[must_use]
    pub fn numbers(&self) -> bool {
        self.bus.0.numbers || self.bus.0.relay.is_some()
    }

    /// The lane of what is said through this voice alone.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.claim.port().map_or_else(LaneId::new, Port::lane)
    }

    /// Hands over a batch, if the bus has room for it now. Batches of one lane keep their order and wait for each other only.
    ///
    /// # Errors
    ///
    /// [`Unsent`] gives the batch back, or says why it will never be taken.
    pub fn try_send(&self, lane: LaneId, batch: Outgoing) -> Result<Ticket, Unsent> {
        let Some(port) = self.claim.port().filter(|_| self.claim.is_of(&batch.collector)) else {
            return Err(Unsent::Closed);
        };
        // Room for both is found before either is given anything.
        let relay = self.bus.0.relay.as_ref().filter(|_| !batch.records.is_empty());
        let slot = relay.map(|relay| relay.try_reserve().ok_or(()));
        let Ok(slot) = slot.transpose() else { return Err(Unsent::Full(batch)) };
        let Outgoing { collector, events, records } = batch;
        match port.try_submit(lane, events) {
            Ok(ticket) => {
                let stored = slot.map(|slot| slot.send(records.into_iter().flatten().collect()));
                Ok(Ticket::new(ticket, stored))
            }
            Err(bus::Unsent::Closed) => Err(Unsent::Closed),
            Err(bus::Unsent::Full(events)) => Err(Unsent::Full(Outgoing { collector, events, records })),
        }
    }

    /// Waits until the bus may have room.
    ///
    /// Cancel safe.
    pub async fn ready(&self) {
        if let Some(port) = self.claim.port() {
            port.ready().await;
        }
        if let Some(relay) = &self.bus.0.relay {
            relay.ready().await;
        }
    }

    /// Whether other sessions or calls of the peer speak through it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.claim) > 1
    }

    /// Withdraws what has not been taken, of every sharer, and lets go of the name. When this returns every ticket has its
    /// answer.
    pub async fn close(&self) {
        // First, so that whoever comes now opens a port of his own rather than this one.
        self.claim.withdraw();
        if let Some(port) = self.claim.port() {
            port.close().await;
        }
    }

    /// Lets go of it; if nobody shares it, waits until the bus has let go of the name.
    pub async fn release(self) {
        if self.claim.withdraw_unless_shared() {
            self.close().await;
        }
    }

    /// Lets others claim the name, unless it is shared. They have to wait until the bus has let go of it.
    pub fn retire(&self) {
        self.claim.withdraw_unless_shared();
    }
}

/// A permitted batch. Made only from a permit.
#[derive(Debug)]
#[must_use = "a batch that is not sent was permitted for nothing"]
pub struct Outgoing {
    collector: Arc<Collector>,
    events: Events,
    /// What goes to the gateway above, an entry for each event; or none.
    records: Vec<Option<Record>>,
}

impl Outgoing {
    /// The topics that its events name.
    #[must_use]
    pub fn topics(&self) -> &[Topic] {
        &self.events.topics
    }

    /// How many events it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.events.events.len()
    }

    /// Whether it holds no event.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events.events.is_empty()
    }

    /// Keeps the events whose topic's place is allowed; returns where the others stood, each with its topic's place.
    pub fn withhold(&mut self, is_allowed: impl Fn(usize) -> bool) -> Vec<(usize, usize)> {
        let mut withheld = Vec::new();
        let mut places = self.events.events.iter();
        self.records.retain(|_| {
            let event = places.next().and_then(|event| usize::try_from(event.topic).ok());
            event.is_some_and(&is_allowed)
        });
        let mut place = 0;
        self.events.events.retain(|event| {
            let topic = usize::try_from(event.topic).unwrap_or(usize::MAX);
            let keeps = is_allowed(topic);
            if !keeps {
                withheld.push((place, topic));
            }
            place += 1;
            keeps
        });
        if let Some(numbers) = &mut self.events.numbers {
            let mut gone = withheld.iter().map(|(place, _)| *place).peekable();
            let mut place = 0;
            numbers.seqs.retain(|_| {
                let goes = gone.next_if_eq(&place).is_some();
                place += 1;
                !goes
            });
        }
        withheld
    }
}

/// Why a batch was not handed over.
#[derive(Debug)]
pub enum Unsent {
    /// The voice is closed, or is not the batch's.
    Closed,
    /// The bus has no room now; here is the batch again.
    Full(Outgoing),
}
