//! The one owner of the broker: it registers and unregisters clients, and lets the broker speak for itself.
//!
//! Ordinary clients of BUS/RT ask their broker things under the name `.broker`, and hear from it who comes and goes. The crate
//! brings both, so that the answers are those of its own server; our own broker answers alike.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Frames that wait for the broker itself: calls of local clients, of which [`crate::bus::door`] lets few wait.
const OWN_QUEUE: usize = 1024;

use crate::bus::{
    PortError,
    embedded::broker::{Broker, Client, Engine},
};

/// What is asked of the [`Registrar`].
pub(super) enum Registration {
    /// Register a client.
    Register {
        name: String,
        /// How many frames its queue takes. The broker allocates it at once, so it is small for those who only speak.
        queue: usize,
        done: oneshot::Sender<Result<Client, PortError>>,
    },
    /// Unregister it.
    Unregister {
        client: Client,
        /// Told when the name is free.
        done: Option<oneshot::Sender<()>>,
    },
}

/// The one owner of the broker.
pub(super) struct Registrar {
    broker: Broker,
    asked: mpsc::Receiver<Registration>,
    /// Cancelled when the last port is gone.
    closing: CancellationToken,
    /// Ends the bus, also if this is dropped without having run.
    ended: DropGuard,
}

impl Registrar {
    /// Ends the bus by `ended` once `closing` is cancelled and the clients have been told.
    pub(super) fn new(
        engine: Engine,
        asked: mpsc::Receiver<Registration>,
        closing: CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        Self { broker: Broker::new(engine), asked, closing, ended: ended.drop_guard() }
    }

    /// Serves until the bus ends.
    pub(super) async fn run(mut self) {
        let desk = self.broker.speak(OWN_QUEUE).await;
        tokio::select! {
            biased;
            () = self.attend() => {}
            () = desk => {}
        }
        // Clients of the door take what is in their queues before they go, so that they hear why.
        self.broker.end().await;
        drop(self.ended);
    }

    async fn attend(&mut self) {
        loop {
            tokio::select! {
                // What was asked comes first: a port that closes last wants its answer.
                biased;
                asked = self.asked.recv() => match asked {
                    Some(asked) => self.serve(asked).await,
                    None => return,
                },
                () = self.closing.cancelled() => return,
            }
        }
    }

    async fn serve(&mut self, asked: Registration) {
        match asked {
            Registration::Register { name, queue, done } => {
                let registered = self.broker.register(&name, queue).await;
                // If nobody waits any more, dropping the client frees the name.
                drop(done.send(registered));
            }
            Registration::Unregister { client, done } => {
                self.broker.unregister(client).await;
                if let Some(done) = done {
                    done.send(()).unwrap_or_default();
                }
            }
        }
    }
}
