//! The one owner of the broker: it registers and unregisters clients.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

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
    ended: CancellationToken,
}

impl Registrar {
    pub(super) fn new(engine: Engine, asked: mpsc::Receiver<Registration>, ended: CancellationToken) -> Self {
        Self { broker: Broker::new(engine), asked, ended }
    }

    /// Serves until the bus has ended.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                // What was asked comes first: a port that closes last wants its answer.
                biased;
                asked = self.asked.recv() => match asked {
                    Some(asked) => self.serve(asked).await,
                    None => return,
                },
                () = self.ended.cancelled() => return,
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
