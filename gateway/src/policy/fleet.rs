//! Who has rights now: what a new policy is tried against before it is applied.
//!
//! Rights that a session or a subscription holds keep a [`Tenure`] alive, so that nobody has to tell this list who is there.
//! The lock is taken when somebody comes or goes and when a policy is tried, never for an event.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use daemoneye_bridge::topic::Pattern;

use crate::policy::subject::Subject;

/// All tenures. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Fleet(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    tenures: HashMap<u64, Weak<Tenure>>,
}

/// Somebody has rights, until the last of them is dropped.
#[derive(Debug)]
pub(super) struct Tenure {
    subject: Subject,
    /// What it hears, if it is a subscription: a policy that takes that away ends it.
    heard: OnceLock<Vec<Pattern>>,
    number: u64,
    fleet: Fleet,
}

impl Fleet {
    /// Lists somebody who is given rights.
    pub(super) fn enter(&self, subject: Subject) -> Arc<Tenure> {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        let tenure = Tenure { subject, heard: OnceLock::new(), number, fleet: self.clone() };
        let tenure = Arc::new(tenure);
        table.tenures.insert(number, Arc::downgrade(&tenure));
        drop(table);
        tenure
    }

    /// Everybody who has rights now, in the order in which they came.
    pub(super) fn members(&self) -> Vec<Arc<Tenure>> {
        let mut members: Vec<_> = self.lock().tenures.values().filter_map(Weak::upgrade).collect();
        members.sort_by_key(|tenure| tenure.number);
        members
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tenure {
    pub(super) const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Patterns that it hears; none for a session.
    pub(super) fn heard(&self) -> &[Pattern] {
        self.heard.get().map_or(&[], Vec::as_slice)
    }

    /// It begins to hear `patterns`. A subscription keeps its patterns for life, so that only the first word counts.
    pub(super) fn hears(&self, patterns: &[Pattern]) {
        self.heard.get_or_init(|| patterns.to_vec());
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.fleet.lock().tenures.remove(&self.number);
    }
}
