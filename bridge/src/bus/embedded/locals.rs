//! Who is at the door, what each subscribes to, and whether it has got what was sent to it: for whoever speaks for local
//! clients elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::bus::embedded::{
    Embedded,
    barrier::{Barrier, Outcome},
};

/// A client of the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalClient {
    /// Number of its connection: a client that comes back is another.
    pub id: u64,
    /// Its bus name.
    pub name: Arc<str>,
    /// What it subscribes to: slashed filters, in order. Not judged by our grammar.
    pub filters: Vec<Box<str>>,
}

impl Embedded {
    /// Changes whenever a client of the door comes or goes, or subscribes to something else.
    #[must_use]
    pub fn local_changes(&self) -> watch::Receiver<u64> {
        self.core().table.local_changes()
    }

    /// Who is at the door now.
    #[must_use]
    pub fn local_clients(&self) -> Vec<LocalClient> {
        self.core().table.locals()
    }

    /// Waits until everything that was sent to a client so far is written to its socket; `false` if it went away first, or
    /// is not there.
    ///
    /// Cancel safe.
    pub async fn written(&self, name: &str) -> bool {
        let Some(member) = self.core().table.named(name) else { return false };
        let (tell, told) = oneshot::channel();
        let (_, own) = Barrier::raise(Told(Mutex::new(Some(tell))));
        member.post(own.of(member.id));
        drop(own);
        told.await.unwrap_or(false)
    }
}

/// Tells somebody who waits.
#[derive(Debug)]
struct Told(Mutex<Option<oneshot::Sender<bool>>>);

impl Outcome for Told {
    fn settle(&self, passed: &[u64]) {
        let tell = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tell) = tell {
            // Who no longer waits need not know.
            tell.send(!passed.is_empty()).unwrap_or_default();
        }
    }
}
