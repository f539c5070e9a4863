//! Who is in, for whoever asks.
//!
//! Each writer counts into its own [`Tally`]; the door puts them together once a second, so that who looks holds nobody up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::Serialize;
use tokio::sync::watch;

use crate::bus::door::slow::SlowReader;

/// The user and the process behind a connection, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visitor {
    #[cfg(unix)]
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
}

impl Visitor {
    /// Number of its user, where users have numbers.
    #[cfg_attr(unix, expect(clippy::unnecessary_wraps, reason = "elsewhere users have no numbers"))]
    #[cfg_attr(not(unix), expect(clippy::unused_self, reason = "it knows none"))]
    pub(crate) const fn user(&self) -> Option<u32> {
        #[cfg(unix)]
        return Some(self.uid);
        #[cfg(not(unix))]
        return None;
    }
}

/// A local client of the bus, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalClient {
    /// Its name on the bus; its own choice, within what the door allows.
    pub name: String,
    /// Number of its user.
    #[cfg(unix)]
    pub uid: u32,
    /// Number of its process, where the kernel tells.
    pub pid: Option<i32>,
    /// When it came in.
    pub since: SystemTime,
    /// What happens when it reads too slowly.
    pub slow_reader: SlowReader,
    /// Bytes that wait for it.
    pub waiting_bytes: u64,
    /// Messages written to it.
    pub delivered: u64,
    /// Messages dropped because it read too slowly.
    pub dropped: u64,
    /// How often its rule took hold of it.
    pub slow_episodes: u64,
    /// Whether it has hold of it now.
    pub is_slow: bool,
}

/// What a writer counts of its client.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) waiting: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) dropped: AtomicU64,
    /// Twice the episodes, and one more while one lasts.
    pub(super) episodes: AtomicU64,
}

/// A client, as it is listed.
#[derive(Debug)]
struct Guest {
    name: Arc<str>,
    visitor: Visitor,
    since: SystemTime,
    rule: SlowReader,
    tally: Arc<Tally>,
}

/// Who is in.
#[derive(Debug)]
pub(crate) struct Guests {
    list: Mutex<BTreeMap<u64, Guest>>,
    shown: watch::Sender<Arc<Vec<LocalClient>>>,
}

impl Guests {
    pub(crate) fn new() -> Self {
        Self { list: Mutex::default(), shown: watch::Sender::default() }
    }

    /// What is shown.
    pub(crate) fn shown(&self) -> watch::Receiver<Arc<Vec<LocalClient>>> {
        self.shown.subscribe()
    }

    /// Lists a client until what is returned is dropped.
    pub(super) fn enter(
        self: &Arc<Self>,
        (id, name): (u64, &Arc<str>),
        visitor: Visitor,
        rule: SlowReader,
    ) -> Listed {
        let tally = Arc::<Tally>::default();
        let since = SystemTime::now();
        let guest = Guest { name: Arc::clone(name), visitor, since, rule, tally: Arc::clone(&tally) };
        self.list.lock().unwrap_or_else(PoisonError::into_inner).insert(id, guest);
        self.show();
        Listed { guests: Arc::clone(self), id, tally }
    }

    /// Shows how things stand.
    pub(crate) fn show(&self) {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<LocalClient> = list.values().map(Guest::show).collect();
        // Under the lock: an older list must not be shown after a newer one.
        self.shown.send_if_modified(|shown| {
            let differs = **shown != now;
            if differs {
                *shown = Arc::new(now);
            }
            differs
        });
        drop(list);
    }
}

impl Guest {
    fn show(&self) -> LocalClient {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let episodes = read(&self.tally.episodes);
        LocalClient {
            name: self.name.as_ref().to_owned(),
            #[cfg(unix)]
            uid: self.visitor.uid,
            pid: self.visitor.pid,
            since: self.since,
            slow_reader: self.rule,
            waiting_bytes: read(&self.tally.waiting),
            delivered: read(&self.tally.delivered),
            dropped: read(&self.tally.dropped),
            slow_episodes: episodes.div_ceil(2),
            is_slow: episodes % 2 == 1,
        }
    }
}

/// A client's place in the list.
#[derive(Debug)]
pub(super) struct Listed {
    guests: Arc<Guests>,
    id: u64,
    pub(super) tally: Arc<Tally>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.guests.list.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.guests.show();
    }
}
