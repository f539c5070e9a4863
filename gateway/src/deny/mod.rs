//! The deny-list: who may not be here, whatever his certificate says.
//!
//! An operator's word that acts at once: on handshakes, which ask [`Denials::find`], and on live connections, which are
//! looked up by what was added. Separate from revocation, because it needs no authority's signature, and from the policy,
//! because it is lifted as easily as it is made.
//!
//! Kept true: an entry is in the audit and on the disk before it is in force; the list in force is whole, never half of a
//! change.

mod denials;
mod target;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;
use tokio::{sync::watch, task};

pub use self::{
    denials::{Denials, Entry, targets},
    target::{Target, TargetError},
};
use crate::state::{
    State, StoreError,
    audit::{Action, Audit, AuditError},
};

/// What shall be denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who.
    pub target: Target,
    /// Why, for people: 1 to 256 characters, none of them a control character.
    pub reason: String,
    /// Until when; for good without it.
    pub until: Option<SystemTime>,
}

/// The deny-list in force, and the way to change it. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    audit: Audit,
    current: watch::Sender<Arc<Denials>>,
    /// Held for a whole change, so that audit, disk and list tell the same order.
    changing: Mutex<()>,
}

impl Handle {
    /// Most entries.
    pub const MOST: usize = 100_000;

    /// Most characters of a reason.
    pub const MOST_REASON: usize = 256;

    /// Reads the list as it was left, and puts it in force on `current`: nobody may be let in before. Blocking.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: without the whole list, whoever is denied would come in.
    pub fn open(state: State, audit: Audit, current: watch::Sender<Arc<Denials>>) -> Result<Self, OpenError> {
        let mut denials = Denials::default();
        for (target, row) in state.denials()? {
            let entry = Entry::read(&target, &row).ok_or(OpenError::Entry { target })?;
            denials.insert(entry);
        }
        current.send_replace(Arc::new(denials));
        Ok(Self(Arc::new(Inner { state, audit, current, changing: Mutex::default() })))
    }

    /// The list in force.
    #[must_use]
    pub fn list(&self) -> Arc<Denials> {
        Arc::clone(&self.0.current.borrow())
    }

    /// The list in force, and each that replaces it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Denials>> {
        self.0.current.subscribe()
    }

    /// Puts somebody on the list, in the name of `actor`; in place of the entry that is there for the same target. When this
    /// returns, handshakes are refused, and live connections are being cut.
    ///
    /// A dropped call may still take effect.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: nothing has changed.
    pub async fn add(&self, denial: Denial, actor: &str) -> Result<Arc<Entry>, ChangeError> {
        let Denial { target, reason, until } = denial;
        let length = reason.chars().count();
        if !(1..=Self::MOST_REASON).contains(&length) || reason.chars().any(char::is_control) {
            return Err(ChangeError::Reason);
        }
        if until.is_some_and(|until| until <= SystemTime::now()) {
            return Err(ChangeError::Over);
        }
        let entry = Arc::new(Entry::new(target, reason, actor, until));
        self.change(move |inner| inner.add(entry)).await
    }

    /// Takes somebody off the list, in the name of `actor`, and returns what was said of him.
    ///
    /// A dropped call may still take effect.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: nothing has changed.
    pub async fn remove(&self, target: &Target, actor: &str) -> Result<Arc<Entry>, ChangeError> {
        let (target, actor) = (target.clone(), actor.to_owned());
        self.change(move |inner| inner.remove(&target, &actor)).await
    }

    async fn change(
        &self,
        work: impl FnOnce(&Inner) -> Result<Arc<Entry>, ChangeError> + Send + 'static,
    ) -> Result<Arc<Entry>, ChangeError> {
        let inner = Arc::clone(&self.0);
        // Audit and list are flushed to the disk.
        task::spawn_blocking(move || work(&inner)).await.unwrap_or(Err(ChangeError::Ended))
    }
}

impl Inner {
    fn add(&self, entry: Arc<Entry>) -> Result<Arc<Entry>, ChangeError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut denials = Denials::clone(&self.current.borrow());
        if denials.len() >= Handle::MOST && denials.get(entry.target()).is_none() {
            return Err(ChangeError::Full);
        }
        self.audit.append(entry.actor(), Action::DenyAdded, &*entry)?;
        let row = entry.row();
        self.write(entry.target(), Some(&row), entry.actor())?;
        denials.insert_shared(Arc::clone(&entry));
        self.current.send_replace(Arc::new(denials));
        tracing::info!(target = %entry.target(), actor = entry.actor(), "denied");
        Ok(entry)
    }

    fn remove(&self, target: &Target, actor: &str) -> Result<Arc<Entry>, ChangeError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut denials = Denials::clone(&self.current.borrow());
        let entry = denials.remove(target).ok_or_else(|| ChangeError::Absent(target.clone()))?;
        self.audit.append(actor, Action::DenyRemoved, &Removed { target, entry: &entry })?;
        self.write(target, None, actor)?;
        self.current.send_replace(Arc::new(denials));
        tracing::info!(%target, actor, "no longer denied");
        Ok(entry)
    }

    /// Writes or removes a row; if that fails, the audit is told that what it recorded was not done.
    fn write(&self, target: &Target, row: Option<&str>, actor: &str) -> Result<(), ChangeError> {
        let name = target.to_string();
        self.state.set_denial(&name, row).map_err(|error| {
            if let Err(untold) = self.audit.append(actor, Action::DenyFailed, &Failed { target }) {
                tracing::error!(
                    error = &untold as &dyn std::error::Error,
                    "audit not told of a failed change"
                );
            }
            ChangeError::State(error)
        })
    }
}

/// What is recorded of a removal.
#[derive(Serialize)]
struct Removed<'a> {
    target: &'a Target,
    entry: &'a Entry,
}

/// What is recorded of a change that could not be made.
#[derive(Serialize)]
struct Failed<'a> {
    target: &'a Target,
}

/// Why the deny-list could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An entry makes no sense.
    #[error(
        "deny-list entry `{target}` cannot be read; was the state file written by a later version? run that version"
    )]
    Entry {
        /// As it is stored.
        target: String,
    },
    /// The state file cannot be read.
    #[error(transparent)]
    State(#[from] StoreError),
}

/// Why the deny-list was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is no such entry.
    #[error("`{0}` is not on the deny-list")]
    Absent(Target),
    /// The change could not be recorded.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The process is ending.
    #[error("the gateway is going away")]
    Ended,
    /// There are too many entries.
    #[error("the deny-list is full; remove entries that are over, or revoke at the authority")]
    Full,
    /// It would end before it begins.
    #[error("the end of the entry lies in the past")]
    Over,
    /// The reason is no reason.
    #[error("a reason of 1 to 256 characters without control characters is needed")]
    Reason,
    /// The entry could not be stored.
    #[error("could not store the deny-list, so nothing has changed")]
    State(#[source] StoreError),
}

#[cfg(test)]
mod tests;
