//! The leash: every admitted connection, and what it may be cut for.
//!
//! Trust is not a gate that is passed once. The roll knows each connection by all that may be withdrawn from it: the
//! certificates and keys of its path, its name, its site. When revocation lists, anchors, deny-list or policy change, what
//! was taken away is looked up, and those whose verdict is another now are cut; the others do not notice. A certificate that
//! expires cuts its connections by the wall clock.
//!
//! Kept true: a connection is put on the roll first and judged by what is in force then, so that none falls between a
//! handshake under one generation and the sweep of the next; [`crate::session::http2`] serves none that is not on it.

mod clock;
mod keeper;
mod table;
mod veto;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use daemoneye_bridge::trust::{Claim, Generation, Material, RefusalReason, Role, Terms, VerifiedChain};
use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::{Notify, watch};

use self::table::{Found, Table};
use crate::{
    deny::Denials,
    identity::VerifiedPeer,
    policy::Judge,
    session::{
        Metrics,
        http2::{Caller, Cut, CutReason},
    },
};

/// What a connection was admitted on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Papers {
    /// Who it is.
    pub peer: VerifiedPeer,
    /// The path that was verified.
    pub chain: Arc<VerifiedChain>,
    /// What was presented, leaf first: another path may lead elsewhere.
    pub presented: Arc<[CertificateDer<'static>]>,
}

/// What connections are judged by.
#[derive(Clone, Debug)]
pub struct Grounds {
    /// Anchors and revocation lists.
    pub material: watch::Receiver<Arc<Generation>>,
    /// The deny-list.
    pub denials: watch::Receiver<Arc<Denials>>,
    /// Who has a role.
    pub policy: Judge,
    /// On which terms a path is verified again whose anchor is gone.
    pub terms: Terms,
}

/// Every admitted connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Roll(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Taken when somebody comes or goes and in a sweep, never for an event.
    table: Mutex<Table>,
    grounds: Grounds,
    metrics: Metrics,
    /// Told when somebody came who expires before all others.
    sooner: Notify,
}

/// One connection.
#[derive(Debug)]
struct Bond {
    peer: VerifiedPeer,
    presented: Arc<[CertificateDer<'static>]>,
    cut: Cut,
    /// Whether some role matched when that was last asked: who never had one is told so, not cut.
    has_role: AtomicBool,
}

impl Roll {
    /// Begins a roll, and returns the future that keeps it: it never ends.
    #[must_use]
    pub fn new(grounds: Grounds, metrics: Metrics) -> (Self, BoxFuture<'static, ()>) {
        let roll = Self(Arc::new(Shared {
            table: Mutex::default(),
            grounds: grounds.clone(),
            metrics,
            sooner: Notify::new(),
        }));
        let keeper = keeper::Keeper::new(roll.clone(), grounds);
        (roll, Box::pin(keeper.run()))
    }

    /// Puts a connection on the roll, and judges it again by what is in force then. It may be cut when this returns.
    pub fn enrol(&self, papers: Papers, remote: SocketAddr) -> Enrolled {
        let Papers { peer, chain, presented } = papers;
        let caller = Caller::new(peer.clone(), remote);
        let bond = Bond { peer, presented, cut: caller.cut().clone(), has_role: AtomicBool::new(true) };
        let bond = Arc::new(bond);
        let (number, is_first) = self.lock().insert(Arc::clone(&bond), Arc::clone(&chain));
        self.0.metrics.enrolled();
        if is_first {
            self.0.sooner.notify_one();
        }
        // Not before it can be found: what changes from here on finds it, what changed before is seen here.
        let found = (number, bond, chain);
        loop {
            let generation = Arc::clone(&self.0.grounds.material.borrow());
            self.judge(&found, generation.material(), SystemTime::now());
            // If another path was found, the sweep of what changed meanwhile has looked for the old one.
            if Arc::ptr_eq(&generation, &self.0.grounds.material.borrow()) {
                break;
            }
        }
        let (_, bond, _) = found;
        if !self.0.grounds.policy.knows(&bond.peer) {
            bond.has_role.store(false, Relaxed);
            // A policy that came in between has been swept for already, and the sweep's word is the newer one.
            bond.has_role.store(self.0.grounds.policy.knows(&bond.peer), Relaxed);
        }
        Enrolled { roll: self.clone(), number, caller }
    }

    /// How many are on the roll.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a connection as if it came now, and cuts it if it would be refused.
    fn judge(&self, (number, bond, chain): &Found, material: &Material, now: SystemTime) {
        if self.0.grounds.denials.borrow().find(bond.peer.id(), chain, now).is_some() {
            return self.cut(bond, CutReason::Denied);
        }
        match self.rejudge(bond, chain, material, now) {
            Ok(Standing::Same) => {}
            Ok(Standing::Elsewhere(chain)) => self.lock().replace(*number, chain),
            Err(reason) => self.cut(bond, reason),
        }
    }

    /// Judges a path by other material than it was verified with. Signatures are checked again only if its anchor is gone.
    fn rejudge(
        &self,
        bond: &Bond,
        chain: &VerifiedChain,
        material: &Material,
        now: SystemTime,
    ) -> Result<Standing, CutReason> {
        if chain.not_after() <= now {
            return Err(CutReason::Expired);
        }
        let anchor = chain.anchor();
        let is_anchored =
            material.anchors().iter().any(|known| Arc::ptr_eq(known, anchor) || **known == **anchor);
        if is_anchored {
            return material.judge_links(chain.links(), now).map(|()| Standing::Same).map_err(reason);
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (leaf, between) = bond.presented.split_first().ok_or(CutReason::Untrusted)?;
        let now = UnixTime::since_unix_epoch(since);
        let claim = Claim { role: Role::Client, leaf, intermediates: between, now };
        let Terms { profile, judge, .. } = &self.0.grounds.terms;
        let found = material.verify(&claim, profile, Some(&**judge));
        found.map(|chain| Standing::Elsewhere(Arc::new(chain))).map_err(|finding| reason(finding.reason()))
    }

    fn cut(&self, bond: &Bond, reason: CutReason) {
        if bond.cut.cut(reason) {
            self.0.metrics.cut(reason);
        }
    }
}

/// How a path stands that is still good.
enum Standing {
    /// Another path leads to an anchor.
    Elsewhere(Arc<VerifiedChain>),
    /// As it was.
    Same,
}

const fn reason(refused: RefusalReason) -> CutReason {
    match refused {
        RefusalReason::AnchorExpired
        | RefusalReason::CertificateExpired
        | RefusalReason::IntermediateExpired => CutReason::Expired,
        RefusalReason::CertificateRevoked | RefusalReason::IntermediateRevoked => CutReason::Revoked,
        _ => CutReason::Untrusted,
    }
}

/// A connection is on the roll, until this is dropped.
#[derive(Debug)]
#[must_use = "a connection that is not on the roll cannot be cut"]
pub struct Enrolled {
    roll: Roll,
    number: u64,
    caller: Caller,
}

impl Enrolled {
    /// Who makes requests on the connection.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.roll.lock().remove(self.number);
        self.roll.0.metrics.struck();
    }
}
