//! The embedded broker's door for local clients.
//!
//! Ordinary BUS/RT clients come in through a UNIX socket, or on Windows through a named pipe, and become clients of the
//! broker in this process. The broker has a socket server of its own, but that one loses messages in silence when a client is
//! slow, and has no bounds; here a client that stops reading meets a rule ([`SlowReader`]) and is counted, and what was
//! written to a client is known.
//!
//! Kept true: nobody but the configured users gets in; no client can make the broker wait, and another client only if its
//! rule is to block.

#[cfg(unix)]
use std::path::PathBuf;
use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::sync::Semaphore;
#[cfg(unix)]
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, watch},
    time,
};

#[cfg(windows)]
use crate::bus::pipe::File;
use crate::{
    bus::{door::guests::Guests, embedded::Core},
    native::codec::CodecError,
};
#[cfg(unix)]
use crate::{
    bus::{door::guests::Visitor, embedded::Embedded},
    lifecycle::Leash,
    settings::{self, ByteSize, FileMode},
};

pub(crate) mod conversation;
mod greet;
mod guard;
pub(crate) mod guests;
mod inquiry;
mod known;
mod outbox;
#[cfg(unix)]
mod place;
mod reader;
mod reply;
mod slow;
mod writer;

#[cfg(windows)]
pub use crate::bus::pipe::{Door, DoorError};
pub use guests::LocalClient;
#[cfg(unix)]
pub use place::{DoorError, PATH_BYTES, Place};
pub use slow::{ClientRule, SlowReader};

/// Pause after a failed accept. Most often the process is out of descriptors: the queue stays readable, so that trying
/// again at once would spin.
pub(crate) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Names and lengths beside the payload of a frame.
pub(crate) const FRAME_SLACK: usize = 4096;

/// Settings of the door; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Whether there is a door.
    pub enabled: bool,
    /// Where the socket is.
    #[cfg(unix)]
    pub socket_path: PathBuf,
    /// Clients at the same time.
    pub max_connections: NonZeroUsize,
    /// For the whole greeting.
    pub connection_timeout: Duration,
    /// Of the socket.
    #[cfg(unix)]
    pub file_permissions: FileMode,
    /// Of its folder, if we make it.
    #[cfg(unix)]
    pub directory_permissions: FileMode,
    /// Users that may connect beside our own and root.
    #[cfg(unix)]
    pub allowed_uids: Vec<u32>,
    /// Where the pipe is.
    #[cfg(windows)]
    pub pipe_name: crate::bus::pipe::PipeName,
    /// Bytes of a frame's body.
    pub max_frame: usize,
    /// Bytes that may wait for a client.
    pub outbox_bytes: usize,
    /// What happens to clients that read too slowly, unless a rule of `clients` is about them.
    pub slow_reader: SlowReader,
    /// How long a client may take nothing while something waits for it; zero: for ever, which only those may whose rule is
    /// not to be sent away.
    pub slow_reader_timeout: Duration,
    /// Rules for some clients; the first that matches holds.
    pub clients: Vec<ClientRule>,
    /// Subscriptions, and exclusions, of a client.
    pub max_subscriptions: usize,
}

#[cfg(unix)]
impl Default for Config {
    fn default() -> Self {
        File::default().into_config()
    }
}

/// `[unix_socket]` as it stands in a file.
#[cfg(unix)]
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys are given")]
struct File {
    /// Whether local clients may connect. Default true.
    enabled: bool,
    /// Where the socket is; at most 107 bytes. Default `/var/run/daemoneye/broker.sock`.
    socket_path: PathBuf,
    /// Clients at the same time; more are turned away. Default 100.
    max_connections: NonZeroUsize,
    /// For the whole greeting. Default 30 s.
    #[serde(deserialize_with = "settings::positive")]
    connection_timeout: Duration,
    /// Of the socket. Default `"0600"`. Whatever they are, the user of each client is checked.
    file_permissions: FileMode,
    /// Of the socket's folder, if it is not there yet. Default `"0700"`. A folder that others may write to is refused.
    directory_permissions: FileMode,
    /// Numbers of users that may connect beside our own and root. Default none.
    allowed_uids: Vec<u32>,
    /// Largest payload of a client's frame; a client that sends more is cut off. Default 1 MiB.
    #[serde(deserialize_with = "settings::positive_size")]
    max_message: ByteSize,
    /// Bytes that may wait for a client before its rule takes hold. Default 64 MiB.
    #[serde(deserialize_with = "settings::positive_size")]
    outbox_bytes: ByteSize,
    /// What happens to a client that reads too slowly: `disconnect` sends it away, `block` lets others wait for it,
    /// `drop_oldest` drops what it does not take, and tells it. Default `disconnect`.
    slow_reader: SlowReader,
    /// How long a client may take nothing while something waits for it before it is sent away. `0s`: for ever, not with
    /// `disconnect`. Without effect on `drop_oldest`. Default 10 s.
    #[serde(with = "humantime_serde")]
    slow_reader_timeout: Duration,
    /// Tables `[[unix_socket.client]]`: `name`, in which `*` stands for any characters, and its `slow_reader`. The first that
    /// matches holds. Default none.
    client: Vec<ClientRule>,
    /// Subscriptions of a client, and as many exclusions. Default 1024.
    max_subscriptions: NonZeroUsize,
}

#[cfg(unix)]
impl Default for File {
    fn default() -> Self {
        Self {
            enabled: true,
            socket_path: "/var/run/daemoneye/broker.sock".into(),
            max_connections: NonZeroUsize::MIN.saturating_add(99),
            connection_timeout: Duration::from_secs(30),
            file_permissions: FileMode::new(0o600),
            directory_permissions: FileMode::new(0o700),
            allowed_uids: Vec::new(),
            max_message: ByteSize::mib(1),
            outbox_bytes: ByteSize::mib(64),
            slow_reader: SlowReader::default(),
            slow_reader_timeout: Duration::from_secs(10),
            client: Vec::new(),
            max_subscriptions: NonZeroUsize::MIN.saturating_add(1023),
        }
    }
}

#[cfg(unix)]
impl File {
    fn into_config(self) -> Config {
        Config {
            enabled: self.enabled,
            socket_path: self.socket_path,
            max_connections: self.max_connections.min(MOST_CONNECTIONS),
            connection_timeout: self.connection_timeout,
            file_permissions: self.file_permissions,
            directory_permissions: self.directory_permissions,
            allowed_uids: self.allowed_uids,
            max_frame: self.max_message.as_usize().saturating_add(FRAME_SLACK),
            outbox_bytes: self.outbox_bytes.as_usize(),
            slow_reader: self.slow_reader,
            slow_reader_timeout: self.slow_reader_timeout,
            clients: self.client,
            max_subscriptions: self.max_subscriptions.get(),
        }
    }
}

/// What a semaphore can count.
pub(crate) const MOST_CONNECTIONS: NonZeroUsize =
    NonZeroUsize::MIN.saturating_add(Semaphore::MAX_PERMITS - 1);

#[cfg(unix)]
impl TryFrom<File> for Config {
    type Error = DoorError;

    fn try_from(file: File) -> Result<Self, DoorError> {
        let length = file.socket_path.as_os_str().len();
        if length > PATH_BYTES {
            return Err(DoorError::TooLong { path: file.socket_path, length });
        }
        let mut rules = file.client.iter().map(|rule| rule.slow_reader).chain([file.slow_reader]);
        if file.slow_reader_timeout.is_zero() && rules.any(|rule| rule == SlowReader::Disconnect) {
            return Err(DoorError::NeverSentAway);
        }
        Ok(file.into_config())
    }
}

impl Config {
    /// What happens to a client of this name when it reads too slowly.
    fn rule(&self, name: &str) -> SlowReader {
        let own = self.clients.iter().find(|rule| rule.matches(name));
        own.map_or(self.slow_reader, |rule| rule.slow_reader)
    }
}

/// How often the list of clients is renewed.
pub(crate) const SHOWN: Duration = Duration::from_secs(1);

/// The socket for local clients.
#[cfg(unix)]
#[derive(Debug)]
pub struct Door {
    config: Arc<Config>,
    core: Arc<Core>,
    listener: UnixListener,
    place: Place,
    slots: Arc<Semaphore>,
    guests: Arc<Guests>,
}

#[cfg(unix)]
impl Door {
    /// Takes the place of the socket and listens. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`DoorError`] says which path is in the way, and of what.
    pub fn bind(config: Config, bus: &Embedded) -> Result<Self, DoorError> {
        let (place, listener) =
            Place::take(&config.socket_path, config.directory_permissions, config.file_permissions)?;
        tracing::info!(path = %config.socket_path.display(), "listening for local bus clients");
        Ok(Self {
            slots: Arc::new(Semaphore::new(config.max_connections.get())),
            guests: Arc::new(Guests::new()),
            config: Arc::new(config),
            core: Arc::clone(bus.core()),
            listener,
            place,
        })
    }

    /// Accepts clients until the bus has ended; each is a task of `leash`, and ends with the bus too.
    pub async fn run(self, leash: Leash) {
        let ended = self.core.ended.clone();
        let mut shown = time::interval(SHOWN);
        shown.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let (stream, visitor, slot) = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                _ = shown.tick() => {
                    self.guests.show();
                    continue;
                }
                accepted = self.accept() => accepted,
            };
            let house = House {
                core: Arc::clone(&self.core),
                config: Arc::clone(&self.config),
                guests: Arc::clone(&self.guests),
            };
            leash.spawn(async move {
                conversation::converse(stream.into_split(), visitor, house).await;
                drop(slot);
            });
        }
    }

    /// Who is in; renewed once a second, and when somebody comes or goes.
    #[must_use]
    pub fn clients(&self) -> watch::Receiver<Arc<Vec<LocalClient>>> {
        self.guests.shown()
    }

    /// Waits for a client that may come in.
    async fn accept(&self) -> (UnixStream, Visitor, OwnedSemaphorePermit) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match self.judge(&stream) {
                    Ok((visitor, slot)) => return (stream, visitor, slot),
                    Err(reason) => {
                        self.core.counters.door_refused.add(1);
                        tracing::debug!(reason, "local client refused");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    fn judge(&self, stream: &UnixStream) -> Result<(Visitor, OwnedSemaphorePermit), &'static str> {
        let peer = stream.peer_cred().map_err(|_| "its user is not known")?;
        let allowed =
            [0, self.place.owner()].contains(&peer.uid()) || self.config.allowed_uids.contains(&peer.uid());
        if !allowed {
            return Err("its user may not connect");
        }
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| "too many clients")?;
        Ok((Visitor { uid: peer.uid(), pid: peer.pid() }, slot))
    }
}

/// What all conversations of a door share.
pub(crate) struct House {
    pub(crate) core: Arc<Core>,
    pub(crate) config: Arc<Config>,
    pub(crate) guests: Arc<Guests>,
}

/// Why a client leaves.
#[derive(Debug)]
enum Leaving {
    /// The bus has ended.
    Ended,
    /// It went.
    Gone,
    /// It stopped reading.
    Slow,
    /// It broke the wire.
    Wire(CodecError),
}

/// The door before the broker of the crate `busrt`.
#[cfg(test)]
#[cfg(unix)]
#[path = "."]
mod over_busrt {
    use super::*;

    const ENGINE: crate::bus::embedded::broker::Engine = crate::bus::embedded::broker::Engine::Busrt;

    mod tests;
}

/// The same before our own broker.
#[cfg(test)]
#[cfg(unix)]
#[path = "."]
mod over_memory {
    use super::*;

    const ENGINE: crate::bus::embedded::broker::Engine = crate::bus::embedded::broker::Engine::Memory;

    #[expect(clippy::duplicate_mod, reason = "one test for either broker")]
    mod tests;
}
