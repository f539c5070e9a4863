//! Keeps the roll: looks up what was taken away, and cuts at expiry.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use daemoneye_bridge::trust::Generation;
use tokio::{
    sync::watch,
    task,
    time::{self, Instant},
};

use crate::{
    deny::Denials,
    policy::Watch,
    session::{
        http2::CutReason,
        leash::{Grounds, Roll, clock::Reading, table::Found},
    },
};

/// The one who sweeps. What it has seen is what was in force when the roll began: what came since is still to be swept.
pub(super) struct Keeper {
    roll: Roll,
    material: watch::Receiver<Arc<Generation>>,
    denials: watch::Receiver<Arc<Denials>>,
    policy: Watch,
    swept: Arc<Generation>,
    denied: Arc<Denials>,
    read: Reading,
    /// When the clocks are compared next, however often the keeper is woken before.
    next_look: Instant,
}

/// How often the clocks are compared.
const TICK: Duration = Duration::from_secs(1);

impl Keeper {
    pub(super) fn new(roll: Roll, grounds: Grounds) -> Self {
        let Grounds { mut material, mut denials, policy, .. } = grounds;
        let swept = Arc::clone(&material.borrow_and_update());
        let denied = Arc::clone(&denials.borrow_and_update());
        Self {
            roll,
            material,
            denials,
            policy: policy.watch(),
            swept,
            denied,
            read: Reading::now(),
            next_look: Instant::now() + TICK,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = self.due();
            if due <= Instant::now() {
                // Whoever changes something again and again must not keep what has expired from being cut.
                self.look_at_clocks().await;
            }
            tokio::select! {
                biased;
                // What an authority or an operator withdrew, before the policy, which sessions look at themselves.
                () = changed(&mut self.material) => self.sweep_material().await,
                () = changed(&mut self.denials) => self.sweep_denials().await,
                () = self.policy.changed() => self.sweep_policy().await,
                () = self.roll.0.sooner.notified() => {}
                () = time::sleep_until(due) => self.look_at_clocks().await,
            }
        }
    }

    /// When the clocks are to be looked at: in a while, or when the first certificate expires.
    fn due(&self) -> Instant {
        let first = self.roll.lock().first_expiry();
        let left = first.map(|moment| moment.duration_since(SystemTime::now()).unwrap_or_default());
        let expiry = left.and_then(|left| Instant::now().checked_add(left));
        expiry.map_or(self.next_look, |expiry| expiry.min(self.next_look))
    }

    async fn sweep_material(&mut self) {
        let next = Arc::clone(&self.material.borrow_and_update());
        let before = std::mem::replace(&mut self.swept, Arc::clone(&next));
        self.sweep("material", move |roll| {
            let touched = roll.lock().touched(&next.difference(&before));
            let now = SystemTime::now();
            for found in &touched {
                roll.judge(found, next.material(), now);
            }
            touched.len()
        })
        .await;
    }

    async fn sweep_denials(&mut self) {
        let next = Arc::clone(&self.denials.borrow_and_update());
        let before = std::mem::replace(&mut self.denied, Arc::clone(&next));
        self.sweep("deny", move |roll| {
            let now = SystemTime::now();
            let mut touched = 0;
            for entry in next.since(&before).filter(|entry| entry.holds(now)) {
                let found: Vec<Found> = roll.lock().of(entry.target()).collect();
                touched += found.len();
                for (_, bond, _) in &found {
                    roll.cut(bond, CutReason::Denied);
                }
            }
            touched
        })
        .await;
    }

    /// A policy is rules, not a list: who has still a role is asked of everybody. Sessions ask for their rights themselves.
    async fn sweep_policy(&self) {
        self.sweep("policy", |roll| {
            let all = roll.lock().all();
            for (_, bond, _) in &all {
                let has_role = roll.0.grounds.policy.knows(&bond.peer);
                if bond.has_role.swap(has_role, Relaxed) && !has_role {
                    roll.cut(bond, CutReason::NoRole);
                }
            }
            all.len()
        })
        .await;
    }

    async fn look_at_clocks(&mut self) {
        let read = Reading::now();
        let step = read.step_since(&self.read);
        self.read = read;
        self.next_look = read.steady + TICK;
        let expired = self.roll.lock().expired(read.wall);
        for (_, bond, _) in &expired {
            self.roll.cut(bond, CutReason::Expired);
        }
        if let Some(step) = step {
            tracing::warn!(?step, "wall clock was set, connections are judged again");
            let generation = Arc::clone(&self.swept);
            self.sweep("clock", move |roll| {
                let all = roll.lock().all();
                for found in &all {
                    roll.judge(found, generation.material(), read.wall);
                }
                all.len()
            })
            .await;
        }
    }

    /// Runs a sweep where it holds up nobody, and tells how long it took.
    async fn sweep(&self, what: &'static str, work: impl FnOnce(&Roll) -> usize + Send + 'static) {
        let (roll, begun) = (self.roll.clone(), Instant::now());
        let swept = task::spawn_blocking(move || work(&roll)).await;
        let took = begun.elapsed();
        self.roll.0.metrics.swept(what, took);
        match swept {
            Ok(judged) => tracing::debug!(what, judged, ?took, "connections judged again"),
            Err(error) => tracing::error!(what, %error, "connections could not be judged again"),
        }
    }
}

/// Waits for the next value; never ends once nobody makes any.
async fn changed<T: Send + Sync>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
