//! Who speaks under which name.
//!
//! Kept true: a name belongs to one peer at a time; the ports that one peer opens are near each other on the bus, for its
//! streams speak through all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use daemoneye_bridge::bus::{Bus, BusName, Port, PortError};
use tokio::sync::OnceCell;

use crate::{bus::OpenError, identity::PeerId, policy::Collector};

/// Who speaks under which name. Locked when a voice is opened or dropped, never for a batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<Listed>>);

#[derive(Debug, Default)]
struct Listed {
    names: HashMap<BusName, Weak<Claim>>,
    /// Peers that opened one of them.
    peers: HashMap<PeerId, Weak<Near>>,
    /// Number of the last of these.
    last: u64,
}

/// What the ports of one peer have in common.
#[derive(Debug)]
struct Near {
    number: u64,
    peer: PeerId,
    claims: Claims,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the claim that the peer has to `name`, or makes one.
    pub(super) fn claim(&self, name: &BusName, collector: &Collector) -> Result<Arc<Claim>, OpenError> {
        let mut listed = self.lock();
        if let Some(claim) = listed.names.get(name).and_then(Weak::upgrade) {
            // Dropped after the lock, which it may take.
            drop(listed);
            return if claim.is_of(collector) { Ok(claim) } else { Err(OpenError::AlreadyConnected) };
        }
        let near = listed.near(collector.owner(), self);
        let claim = Arc::new(Claim::new(name.clone(), collector, near, self.clone()));
        listed.names.insert(name.clone(), Arc::downgrade(&claim));
        drop(listed);
        Ok(claim)
    }
}

impl Listed {
    fn near(&mut self, peer: &PeerId, claims: &Claims) -> Arc<Near> {
        if let Some(near) = self.peers.get(peer).and_then(Weak::upgrade) {
            return near;
        }
        // In turn, so that peers are spread evenly.
        self.last = self.last.wrapping_add(1);
        let near = Arc::new(Near { number: self.last, peer: peer.clone(), claims: claims.clone() });
        self.peers.insert(peer.clone(), Arc::downgrade(&near));
        near
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut listed = self.claims.lock();
        let other = listed.peers.get(&self.peer).is_some_and(|near| near.strong_count() > 0);
        if !other {
            listed.peers.remove(&self.peer);
        }
    }
}

/// A peer's claim to a name on the bus, and the port behind it.
#[derive(Debug)]
pub(super) struct Claim {
    name: BusName,
    owner: PeerId,
    collector: Box<str>,
    port: OnceCell<Port>,
    near: Arc<Near>,
    /// Where the claim is listed until it is dropped.
    claims: Claims,
}

impl Claim {
    fn new(name: BusName, collector: &Collector, near: Arc<Near>, claims: Claims) -> Self {
        let owner = owner(collector);
        Self { name, owner, collector: collector.name().into(), port: OnceCell::new(), near, claims }
    }

    pub(super) fn is_of(&self, collector: &Collector) -> bool {
        self.owner == owner(collector) && *self.collector == *collector.name()
    }

    /// Opens the port, unless a sharer has.
    pub(super) async fn open(&self, bus: &dyn Bus) -> Result<(), PortError> {
        self.port.get_or_try_init(|| bus.port_near(&self.name, self.near.number)).await.map(|_| ())
    }

    /// Whether it is the name of `collector`, whoever owns it.
    pub(super) fn is_named(&self, collector: &PeerId) -> bool {
        *self.collector == *collector.name() && self.owner.site() == collector.site()
    }

    /// Its port, once it is open.
    pub(super) fn port(&self) -> Option<&Port> {
        self.port.get()
    }

    /// Takes the claim off the list, if it is the one that is listed.
    pub(super) fn withdraw(&self) {
        self.withdraw_from(&mut self.claims.lock());
    }

    /// Takes the claim off the list, unless somebody else shares it; nobody can join it meanwhile.
    pub(super) fn withdraw_unless_shared(self: &Arc<Self>) -> bool {
        let mut claims = self.claims.lock();
        let alone = Arc::strong_count(self) == 1;
        if alone {
            self.withdraw_from(&mut claims);
        }
        alone
    }

    fn withdraw_from(&self, claims: &mut Listed) {
        let listed = claims.names.get(&self.name).map(Weak::as_ptr);
        if listed.is_some_and(|listed| std::ptr::eq(listed, self)) {
            claims.names.remove(&self.name);
        }
    }
}

/// Whose a name is: the peer's that vouches for it. A relayed collector's is its own, for several gateways may relay it.
fn owner(collector: &Collector) -> PeerId {
    let own = collector.is_relayed().then(|| PeerId::new(collector.site(), collector.name()).ok());
    own.flatten().unwrap_or_else(|| collector.owner().clone())
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.withdraw();
    }
}
