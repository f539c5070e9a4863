//! What all parts of the bus share, and what keeps the bus alive.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::bus::{
    Counters, PortError, Routes,
    embedded::{
        Config,
        broker::{Client, Queue},
        consumer::Hands,
        holds::Holds,
        registrar::Registration,
        table::Table,
    },
};

/// What all parts of the bus share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) table: Table,
    pub(crate) counters: Arc<Counters>,
    pub(crate) config: Config,
    pub(super) routes: Routes,
    pub(super) holds: Holds,
    pub(super) hands: Hands,
    pub(super) registrar: mpsc::Sender<Registration>,
    pub(super) ids: AtomicU64,
    pub(super) census: Mutex<Census>,
    /// Calls to the broker itself that may be under way.
    pub(crate) inquiries: Semaphore,
    /// Set when [`Embedded::close`] was called and the last port is gone.
    pub(super) closing: CancellationToken,
    /// Set a moment later, when clients have been told.
    pub(crate) ended: CancellationToken,
}

/// Who keeps the bus alive.
#[derive(Debug, Default)]
pub(super) struct Census {
    ports: usize,
    closing: bool,
}

impl Core {
    /// Registers a client with the broker. Dropping it frees the name.
    pub(crate) async fn register(&self, name: &str, queue: usize) -> Result<(Client, u64), PortError> {
        if self.closing.is_cancelled() {
            return Err(PortError::Closed);
        }
        let (done, registered) = oneshot::channel();
        let ask = Registration::Register { name: name.to_owned(), queue, done };
        self.registrar.send(ask).await.map_err(|_| PortError::Closed)?;
        let client = registered.await.unwrap_or(Err(PortError::Closed))?;
        Ok((client, self.ids.fetch_add(1, Ordering::Relaxed)))
    }

    /// Frees the name of a client, then tells `done`.
    pub(crate) async fn unregister(&self, client: Client, done: Option<oneshot::Sender<()>>) {
        // When the registrar has ended, the client that comes back is dropped, which frees the name too.
        drop(self.registrar.send(Registration::Unregister { client, done }).await);
    }

    /// Frees the name of a client and registers it again, for one whose queue is read.
    pub(super) async fn exchange(
        &self,
        client: Client,
        queue: usize,
    ) -> Result<(Client, Queue, u64), PortError> {
        let name = client.name().to_owned();
        let (freed, free) = oneshot::channel();
        self.unregister(client, Some(freed)).await;
        free.await.map_err(|_| PortError::Closed)?;
        let (mut client, id) = self.register(&name, queue).await?;
        let queue = client.take_queue().ok_or(PortError::Closed)?;
        Ok((client, queue, id))
    }

    pub(super) fn enter(&self) -> Result<(), PortError> {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        if census.closing {
            return Err(PortError::Closed);
        }
        census.ports += 1;
        drop(census);
        self.counters.ports_opened.add(1);
        Ok(())
    }

    pub(super) fn leave(&self) {
        self.counters.ports_closed.add(1);
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        census.ports = census.ports.saturating_sub(1);
        if census.closing && census.ports == 0 {
            self.closing.cancel();
        }
    }

    pub(super) fn close(&self) {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        census.closing = true;
        if census.ports == 0 {
            self.closing.cancel();
        }
    }
}
