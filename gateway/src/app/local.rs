//! The local bus, whichever broker it stands on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use daemoneye_bridge::{
    bus::{
        Broker, Bus,
        door::{self, Door, DoorError, LocalClient, SlowReader},
        embedded::{self, Embedded},
        remote::{self, Remote},
    },
    lifecycle::Leash,
};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::bus;

/// The local bus, with what belongs to its kind.
#[derive(Debug)]
pub(super) enum Local {
    Embedded {
        bus: Arc<Embedded>,
        door: Option<Door>,
        socket: Option<PathBuf>,
        clients: watch::Receiver<Arc<Vec<LocalClient>>>,
    },
    Foreign {
        bus: Arc<Remote>,
        socket: PathBuf,
    },
    /// Made by whoever embeds the gateway.
    Given(Arc<dyn Bus>),
}

impl Local {
    /// Takes the bus that is given, or opens the one that `config` names, with its door; returns the tasks of the bus, too.
    pub(super) fn open(
        given: Option<Arc<dyn Bus>>,
        config: &bus::Config,
        broker: embedded::Config,
        door: door::Config,
    ) -> Result<(Self, Vec<BoxFuture<'static, ()>>), DoorError> {
        if let Some(bus) = given {
            return Ok((Self::Given(bus), Vec::new()));
        }
        match config.broker {
            Broker::Embedded => {
                let (bus, tasks) = embedded::open(broker, config.routes.clone());
                if door.enabled && door.slow_reader == SlowReader::DropOldest {
                    tracing::warn!(
                        "no local client without a rule of its own is an audience: slow_reader is \"drop_oldest\"; routes with \
                         unheard = \"hold\" wait for others. Give those that must hear another rule in [[unix_socket.client]]"
                    );
                }
                let socket = door.enabled.then(|| door.socket_path.clone());
                let door = door.enabled.then(|| Door::bind(door, &bus)).transpose()?;
                let clients = door.as_ref().map_or_else(nobody, Door::clients);
                Ok((Self::Embedded { bus, door, socket, clients }, tasks))
            }
            Broker::Foreign => {
                let (bus, tasks) = remote::open(config.foreign.clone());
                Ok((Self::Foreign { bus, socket: config.foreign.socket_path.clone() }, tasks))
            }
        }
    }

    /// The bus itself.
    pub(super) fn bus(&self) -> Arc<dyn Bus> {
        match self {
            Self::Embedded { bus, .. } => Arc::<Embedded>::clone(bus),
            Self::Foreign { bus, .. } => Arc::<Remote>::clone(bus),
            Self::Given(bus) => Arc::clone(bus),
        }
    }

    /// The socket for local clients, if there is one.
    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Embedded { socket, .. } => socket.as_deref(),
            Self::Foreign { .. } | Self::Given(_) => None,
        }
    }

    /// Who is in at the door.
    pub(super) fn clients(&self) -> watch::Receiver<Arc<Vec<LocalClient>>> {
        match self {
            Self::Embedded { clients, .. } => clients.clone(),
            Self::Foreign { .. } | Self::Given(_) => nobody(),
        }
    }

    /// The word for its broker.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Embedded { .. } => "embedded",
            Self::Foreign { .. } => "foreign",
            Self::Given(_) => "given",
        }
    }

    /// Lets local clients in. They, and the door, end with the bus.
    pub(super) fn let_in(&mut self, leash: &Leash) {
        if let Self::Embedded { door, .. } = self
            && let Some(door) = door.take()
        {
            leash.spawn(door.run(leash.clone()));
        }
    }

    /// Ends the bus as soon as nobody speaks on it. A foreign one ends when nobody holds it.
    pub(super) fn close(self) {
        if let Self::Embedded { bus, .. } = self {
            bus.close();
        }
    }
}

/// The list of a door that is not there.
fn nobody() -> watch::Receiver<Arc<Vec<LocalClient>>> {
    watch::Sender::default().subscribe()
}
