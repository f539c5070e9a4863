//! Which routes keep batches back because nobody listens, or because their consumer does not take them, for whoever asks
//! what is wrong.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

use crate::{
    bus::{BusState, Held, Refusal},
    topic::Pattern,
};

/// The routes that are held.
#[derive(Debug)]
pub(super) struct Holds {
    kept: Mutex<Kept>,
    state: watch::Sender<BusState>,
}

/// Why routes are held.
#[derive(Debug, Default)]
struct Kept {
    /// Those that nobody hears, each with the number of lanes that wait there.
    unheard: BTreeMap<String, (usize, SystemTime)>,
    /// Those whose consumer does not take what it is sent.
    refused: BTreeMap<String, (Refusal, SystemTime)>,
}

impl Holds {
    pub(super) fn new(state: watch::Sender<BusState>) -> Self {
        Self { kept: Mutex::default(), state }
    }

    /// What is shown.
    pub(super) fn state(&self) -> watch::Receiver<BusState> {
        self.state.subscribe()
    }

    /// A lane begins to wait.
    pub(super) fn hold(&self, route: &Pattern) {
        self.change(|kept| {
            let (ports, since) =
                kept.unheard.entry(route.to_string()).or_insert_with(|| (0, SystemTime::now()));
            *ports += 1;
            if *ports == 1 {
                tracing::info!(%route, since = ?since, "route held: nobody subscribes to it");
            }
        });
    }

    /// A lane no longer waits.
    pub(super) fn release(&self, route: &Pattern) {
        self.change(|kept| {
            let name = route.to_string();
            let Some((ports, _)) = kept.unheard.get_mut(&name) else { return };
            *ports = ports.saturating_sub(1);
            if *ports == 0 {
                kept.unheard.remove(&name);
                tracing::info!(%route, "route resumed");
            }
        });
    }

    /// A route's consumer does not take what it is sent, and why.
    pub(super) fn refuse(&self, route: &Pattern, consumer: &str, cause: String) {
        self.change(|kept| {
            let refusal = Refusal { consumer: consumer.to_owned(), cause };
            if let Some((known, _)) = kept.refused.get_mut(&route.to_string()) {
                *known = refusal;
            } else {
                // Once an episode: the next causes are shown, but not said.
                tracing::warn!(%route, consumer, cause = refusal.cause, "route held: its consumer does not take it");
                kept.refused.insert(route.to_string(), (refusal, SystemTime::now()));
            }
        });
    }

    /// A route's consumer takes what it is sent again.
    pub(super) fn relent(&self, route: &Pattern) {
        self.change(|kept| {
            if let Some((Refusal { consumer, .. }, since)) = kept.refused.remove(&route.to_string()) {
                tracing::info!(%route, consumer, since = ?since, "route resumed: its consumer takes it again");
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut kept);
        let unheard = kept.unheard.iter().map(|(route, (_, since))| (route, *since, None));
        let refused =
            kept.refused.iter().map(|(route, (refusal, since))| (route, *since, Some(refusal.clone())));
        let now: Vec<Held> = unheard
            .chain(refused)
            .map(|(route, since, refusal)| Held { route: route.clone(), since, refusal })
            .collect();
        // Still under the lock: an older list must not be shown after a newer one.
        self.state.send_if_modified(|state| {
            let differs = state.held != now;
            if differs {
                state.held = now;
            }
            differs
        });
        drop(kept);
    }
}
