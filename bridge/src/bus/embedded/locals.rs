//! Who is at the door, what each subscribes to, and whether it has got what was sent to it: for whoever speaks for local
//! clients elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::bus::embedded::{
    Embedded,
    barrier::{Barrier, Outcome},
    member::Member,
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

    /// The client of the door that has this name now.
    #[must_use]
    pub fn addressee(&self, name: &str) -> Option<Addressee> {
        self.core().table.named(name).filter(|member| member.is_local()).map(Addressee)
    }
}

/// A client of the door, by its connection: who has its name later is another.
#[derive(Debug)]
pub struct Addressee(Arc<Member>);

impl Addressee {
    /// Waits until everything that was sent to it so far is written to its socket; `false` if it went away first.
    ///
    /// Cancel safe.
    pub async fn written(self) -> bool {
        let (tell, told) = oneshot::channel();
        let (_, own) = Barrier::raise(Told(Mutex::new(Some(tell))));
        self.0.post(own.of(self.0.id));
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
