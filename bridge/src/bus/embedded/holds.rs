//! Which routes keep batches back because nobody listens, for whoever asks what is wrong.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

use crate::{
    bus::{BusState, Held},
    topic::Pattern,
};

/// The routes that are held, each with the number of lanes that wait there.
#[derive(Debug)]
pub(super) struct Holds {
    held: Mutex<BTreeMap<String, (usize, SystemTime)>>,
    state: watch::Sender<BusState>,
}

impl Holds {
    pub(super) const fn new(state: watch::Sender<BusState>) -> Self {
        Self { held: Mutex::new(BTreeMap::new()), state }
    }

    /// What is shown.
    pub(super) fn state(&self) -> watch::Receiver<BusState> {
        self.state.subscribe()
    }

    /// A lane begins to wait.
    pub(super) fn hold(&self, route: &Pattern) {
        self.change(|held| {
            let (ports, since) = held.entry(route.to_string()).or_insert_with(|| (0, SystemTime::now()));
            *ports += 1;
            if *ports == 1 {
                tracing::info!(%route, since = ?since, "route held: nobody subscribes to it");
            }
        });
    }

    /// A lane no longer waits.
    pub(super) fn release(&self, route: &Pattern) {
        self.change(|held| {
            let name = route.to_string();
            let Some((ports, _)) = held.get_mut(&name) else { return };
            *ports = ports.saturating_sub(1);
            if *ports == 0 {
                held.remove(&name);
                tracing::info!(%route, "route resumed");
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, (usize, SystemTime)>)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        let now: Vec<Held> =
            held.iter().map(|(route, (_, since))| Held { route: route.clone(), since: *since }).collect();
        // Still under the lock: an older list must not be shown after a newer one.
        self.state.send_if_modified(|state| {
            let differs = state.held != now;
            if differs {
                state.held = now;
            }
            differs
        });
        drop(held);
    }
}
