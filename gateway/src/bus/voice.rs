//! A collector's voice on the bus, shared by the sessions and calls of the peer that speaks for it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use daemoneye_bridge::{
    bus::{self, Bus, BusName, Port, PortError, Ticket},
    event::{Event, Events},
    topic::Topic,
};
use tokio::sync::OnceCell;

use crate::{
    bus::{
        AuthorizedBus, Claims,
        envelope::{self, Origin},
    },
    identity::PeerId,
    policy::{Collector, PublishPermit},
};

/// A peer's claim to a name on the bus, and the port behind it.
#[derive(Debug)]
pub(super) struct Claim {
    name: BusName,
    owner: PeerId,
    collector: Box<str>,
    port: OnceCell<Port>,
    /// Where the claim is listed until it is dropped.
    claims: Claims,
}

impl Claim {
    pub(super) fn new(name: BusName, collector: &Collector, claims: Claims) -> Self {
        let owner = collector.owner().clone();
        Self { name, owner, collector: collector.name().into(), port: OnceCell::new(), claims }
    }

    pub(super) fn is_of(&self, collector: &Collector) -> bool {
        self.owner == *collector.owner() && *self.collector == *collector.name()
    }

    /// Opens the port, unless a sharer has.
    pub(super) async fn open(&self, bus: &dyn Bus) -> Result<(), PortError> {
        self.port.get_or_try_init(|| bus.port(&self.name)).await.map(|_| ())
    }

    /// Takes the claim off the list, if it is the one that is listed.
    fn withdraw(&self) {
        self.withdraw_from(&mut self.claims.lock());
    }

    /// Takes the claim off the list, unless somebody else shares it; nobody can join it meanwhile.
    fn withdraw_unless_shared(self: &Arc<Self>) -> bool {
        let mut claims = self.claims.lock();
        let alone = Arc::strong_count(self) == 1;
        if alone {
            self.withdraw_from(&mut claims);
        }
        alone
    }

    fn withdraw_from(&self, claims: &mut HashMap<BusName, Weak<Self>>) {
        let listed = claims.get(&self.name).map(Weak::as_ptr);
        if listed.is_some_and(|listed| std::ptr::eq(listed, self)) {
            claims.remove(&self.name);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// The mouth of one collector. Cheap to clone; the name is let go when the last clone is.
#[derive(Clone, Debug)]
pub struct Voice {
    claim: Arc<Claim>,
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
        if self.wraps() {
            envelope::wrap(&self.bus.0.routes, &collector, &topics, &mut events, origin);
        }
        Outgoing { collector, events: Events { topics, events } }
    }

    /// Whether some route wraps events, which then need their sequence numbers.
    #[must_use]
    pub fn wraps(&self) -> bool {
        self.bus.0.wraps
    }

    /// Hands over a batch, if the bus has room for it now. Batches of one lane keep their order and wait for each other only.
    ///
    /// # Errors
    ///
    /// [`Unsent`] gives the batch back, or says why it will never be taken.
    pub fn try_send(&self, lane: u64, batch: Outgoing) -> Result<Ticket, Unsent> {
        let Some(port) = self.claim.port.get().filter(|_| self.claim.is_of(&batch.collector)) else {
            return Err(Unsent::Closed);
        };
        let Outgoing { collector, events } = batch;
        port.try_submit(lane, events).map_err(|unsent| match unsent {
            bus::Unsent::Closed => Unsent::Closed,
            bus::Unsent::Full(events) => Unsent::Full(Outgoing { collector, events }),
        })
    }

    /// Waits until the bus may have room.
    ///
    /// Cancel safe.
    pub async fn ready(&self) {
        if let Some(port) = self.claim.port.get() {
            port.ready().await;
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
        if let Some(port) = self.claim.port.get() {
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
