//! Reloading: the generation in force, and what replaces it.
//!
//! Kept true: what is in force was loaded whole; a failed reload changes nothing but the status, and says so there; a
//! generation replaces the one that its revocation lists were held against, and no other; while anchors are held back,
//! revocations are not.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task, time};

use crate::trust::{
    Files, LoadError, Material, Part, Plan, Role, Veto,
    follow::{Again, Hangup, Marks},
    revocation::{self, Difference, FetchError, Order},
};

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reload {
    /// A new generation is in force.
    Changed {
        /// Its number.
        generation: u64,
        /// What is new in it.
        what: Vec<Part>,
    },
    /// The files hold what is in force already.
    Unchanged,
}

/// What became of the last reload.
#[derive(Clone, Debug)]
pub struct Status {
    /// Counts up with each change.
    pub generation: u64,
    /// When the material in force was loaded.
    pub loaded: SystemTime,
    /// Why the last reload was refused, and since when reloads are; `None` once one has succeeded.
    pub refused: Option<(String, SystemTime)>,
    /// URLs whose last fetch failed: why, and since when they do.
    pub unfetched: BTreeMap<String, (String, SystemTime)>,
}

/// Material, and what it takes away that the material before it gave.
#[derive(Clone, Debug)]
pub struct Generation {
    number: u64,
    material: Arc<Material>,
    /// Who or what asked for it.
    by: Arc<str>,
    /// To the generation before; empty in the first.
    step: Arc<Difference>,
}

impl Generation {
    /// Its number: 1 is the first, each further one is one more.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The material.
    #[must_use]
    pub const fn material(&self) -> &Arc<Material> {
        &self.material
    }

    /// Who or what asked for it.
    #[must_use]
    pub fn by(&self) -> &str {
        &self.by
    }

    /// What it takes away that `older` gave. Cheap if `older` is the one before; else the lists are compared.
    #[must_use]
    pub fn difference(&self, older: &Self) -> Arc<Difference> {
        if older.number.checked_add(1) == Some(self.number) {
            Arc::clone(&self.step)
        } else if older.number == self.number {
            Arc::default()
        } else {
            Arc::new(self.material.difference(&older.material))
        }
    }
}

/// The generation in force. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plan: Plan,
    /// What the files looked like before the first load, so that a change since then is seen.
    marks: Marks,
    current: watch::Sender<Arc<Generation>>,
    status: watch::Sender<Status>,
    /// Asked before anchors are taken away; nobody is, if it was never set.
    veto: OnceLock<Arc<dyn Veto>>,
}

/// What a reload may put in force next.
struct Step {
    next: Material,
    what: Vec<Part>,
    difference: Difference,
    /// Whether anchors are still to be asked about.
    more: bool,
}

impl Inner {
    /// Loads what comes after `older`. Blocking: it reads files, and asks about anchors that go.
    fn step(&self, older: &Material, wanted: Order) -> Result<Step, LoadError> {
        let step = |next: Material, difference, more| {
            let what = next.changed_from(older);
            Step { next, what, difference, more }
        };
        let next = Material::load_after(&self.plan, older.lists(), wanted)?;
        let difference = next.difference(older);
        let asked = wanted == Order::Forward && !difference.anchors().is_empty();
        let Some(veto) = self.veto.get().filter(|_| asked) else {
            return Ok(step(next, difference, false));
        };
        // To judge everybody anew takes a while; who is revoked must not have it.
        let kept = Material::load_beside(&self.plan, older, wanted)?;
        if kept != *older {
            let difference = kept.difference(older);
            return Ok(step(kept, difference, true));
        }
        veto.ask(&next, &difference)?;
        Ok(step(next, difference, false))
    }
}

impl Store {
    /// Loads the first generation, without revocation lists. Blocking: it reads files.
    ///
    /// # Errors
    ///
    /// [`LoadError`], as [`Material::load`].
    pub fn open(files: Files, role: Role) -> Result<Self, LoadError> {
        Self::open_all(Plan::new(files, role))
    }

    /// Loads the first generation. Blocking: it reads files.
    ///
    /// # Errors
    ///
    /// [`LoadError`], as [`Material::load_all`].
    pub fn open_all(plan: Plan) -> Result<Self, LoadError> {
        let marks = Marks::of(&plan);
        let material = Arc::new(Material::load_all(&plan)?);
        let first = Generation { number: 1, material, by: "start-up".into(), step: Arc::default() };
        let status =
            Status { generation: 1, loaded: SystemTime::now(), refused: None, unfetched: BTreeMap::new() };
        Ok(Self(Arc::new(Inner {
            plan,
            marks,
            current: watch::Sender::new(Arc::new(first)),
            status: watch::Sender::new(status),
            veto: OnceLock::new(),
        })))
    }

    /// Asks `veto` before anchors are taken away from now on. Who was set first stays.
    pub fn ask_first(&self, veto: Arc<dyn Veto>) {
        self.0.veto.get_or_init(|| veto);
    }

    /// The material in force.
    #[must_use]
    pub fn current(&self) -> Arc<Material> {
        Arc::clone(self.0.current.borrow().material())
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.0.current.borrow())
    }

    /// The generation in force, and each that replaces it. Whoever misses one still gets the whole difference, by
    /// [`Generation::difference`] to the one that it knows.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Generation>> {
        self.0.current.subscribe()
    }

    /// What became of the last reload.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Replaces the material if the files hold something new; on error the material in force stays.
    ///
    /// With [`Order::Any`] revocation lists that go back, or come from the future, are put in force too, and nobody is asked
    /// about anchors that go: whoever asks for it writes down who did.
    ///
    /// # Errors
    ///
    /// [`LoadError`], as [`Material::load_all`]; [`LoadError::Held`], if only the anchors stay as they were.
    pub async fn reload(&self, wanted: Order) -> Result<Reload, LoadError> {
        self.reload_for(wanted, "the process itself").await
    }

    /// The same for `by`, whose name the generation bears.
    ///
    /// # Errors
    ///
    /// As [`Self::reload`].
    pub async fn reload_for(&self, wanted: Order, by: &str) -> Result<Reload, LoadError> {
        let (by, mut earlier) = (Arc::from(by), Vec::new());
        loop {
            let (inner, before) = (Arc::clone(&self.0), self.generation());
            let older = Arc::clone(before.material());
            let loaded = task::spawn_blocking(move || inner.step(&older, wanted));
            let Step { next, what, difference, more } = match loaded.await {
                Ok(Ok(step)) => step,
                Ok(Err(error)) => {
                    self.refuse(&error);
                    return Err(error);
                }
                // The runtime is shutting down: there is nothing to reload for.
                Err(_gone) => return Ok(Reload::Unchanged),
            };
            let step = Arc::new(difference);
            let next = Generation {
                number: before.number.saturating_add(1),
                material: Arc::new(next),
                by: Arc::clone(&by),
                step,
            };
            // Somebody else may have reloaded meanwhile: then these were held against the wrong lists.
            match self.replace(&before, next, what) {
                Some(Reload::Changed { what, .. }) if more => earlier = what,
                Some(Reload::Changed { generation, mut what }) => {
                    what.extend(earlier);
                    return Ok(Reload::Changed { generation, what });
                }
                Some(Reload::Unchanged) => return Ok(Reload::Unchanged),
                None => {}
            }
        }
    }

    /// Puts `next` in the place of `before`; `None` if that is not in force any more.
    fn replace(&self, before: &Arc<Generation>, next: Generation, what: Vec<Part>) -> Option<Reload> {
        let number = next.number;
        let changed = !what.is_empty();
        let mut next = Some(next);
        let mut in_force = true;
        self.0.current.send_if_modified(|current| {
            in_force = Arc::ptr_eq(current, before);
            match next.take().filter(|_| in_force && changed) {
                Some(next) => *current = Arc::new(next),
                None => return false,
            }
            true
        });
        if !in_force {
            return None;
        }
        self.0.status.send_modify(|status| {
            status.refused = None;
            if changed {
                status.generation = number;
                status.loaded = SystemTime::now();
            }
        });
        Some(if changed { Reload::Changed { generation: number, what } } else { Reload::Unchanged })
    }

    fn refuse(&self, error: &LoadError) {
        self.0.status.send_modify(|status| {
            let since = status.refused.as_ref().map_or_else(SystemTime::now, |(_, since)| *since);
            status.refused = Some((explain(error), since));
        });
    }

    /// Reloads on SIGHUP and when a file changes, and fetches what lies behind URLs; `observe` is told what became of each reload. Never ends.
    ///
    /// Cancel safe: dropping it stops the watching and nothing else.
    pub async fn follow(&self, every: Duration, observe: impl FnMut(&Result<Reload, LoadError>) + Send) {
        // What is fetched becomes a file, and is found as any other.
        let fetching = revocation::keep(
            &self.0.plan.revocation,
            || self.current(),
            |url, outcome| {
                self.fetched(url.to_string(), outcome);
            },
        );
        tokio::join!(self.look(every, observe), fetching);
    }

    fn fetched(&self, url: String, outcome: Result<(), FetchError>) {
        self.0.status.send_if_modified(|status| match outcome {
            Ok(()) => status.unfetched.remove(&url).is_some(),
            Err(error) => {
                tracing::warn!(
                    url,
                    error = &error as &dyn Error,
                    "revocation list not fetched, the last copy stays"
                );
                let since = status.unfetched.get(&url).map_or_else(SystemTime::now, |(_, since)| *since);
                status.unfetched.insert(url, (explain(&error), since));
                true
            }
        });
    }

    async fn look(&self, every: Duration, mut observe: impl FnMut(&Result<Reload, LoadError>) + Send) {
        let mut hangup = Hangup::listen();
        let mut seen = self.0.marks.clone();
        let mut tick = time::interval(every.max(SHORTEST));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut again = Again::default();
        loop {
            let asked = tokio::select! {
                biased;
                // An operator's word before our own clock.
                () = hangup.heard() => true,
                _ = tick.tick() => false,
            };
            let now = self.marks().await;
            if asked || now != seen || again.is_due() {
                let by = if asked { "SIGHUP" } else { "change of the files" };
                let outcome = self.reload_settled(by).await;
                log(&outcome);
                observe(&outcome);
                seen = now;
                again.after(&outcome);
            }
        }
    }

    /// Reloads, and once more a moment later if the files may have been caught in the middle of a change.
    async fn reload_settled(&self, by: &str) -> Result<Reload, LoadError> {
        match self.reload_for(Order::Forward, by).await {
            Err(error) if error.may_be_torn() => {
                time::sleep(SETTLE).await;
                self.reload_for(Order::Forward, by).await
            }
            outcome => outcome,
        }
    }

    async fn marks(&self) -> Marks {
        let inner = Arc::clone(&self.0);
        task::spawn_blocking(move || Marks::of(&inner.plan)).await.unwrap_or_default()
    }
}

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(50);

/// How long whoever writes chain and key one after the other is given. A revocation that comes meanwhile waits as long.
const SETTLE: Duration = Duration::from_millis(250);

/// The error with its causes, for a status that outlives it.
fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

fn log(outcome: &Result<Reload, LoadError>) {
    match outcome {
        Ok(Reload::Changed { generation, what }) => {
            let what = what.iter().map(|part| part.as_str()).collect::<Vec<_>>().join(", ");
            tracing::info!(generation, what, "certificates reloaded");
        }
        Ok(Reload::Unchanged) => tracing::debug!("certificates unchanged"),
        Err(error) => {
            let error: &dyn Error = error;
            tracing::error!(error, "certificates not reloaded, the old ones stay in force");
        }
    }
}
