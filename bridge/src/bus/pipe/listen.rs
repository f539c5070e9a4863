//! The pipe itself: made with its rights, accepted from, given to the door's conversation.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use interprocess::os::windows::{
    named_pipe::{
        PipeListenerOptions,
        pipe_mode::Bytes,
        tokio::{PipeListener, PipeStream},
    },
    security_descriptor::SecurityDescriptor,
};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
use tokio::{
    io::AsyncWrite,
    sync::{Semaphore, watch},
    time,
};
use widestring::U16CString;

use crate::{
    bus::{
        door::{
            Config, EXHAUSTED_PAUSE, House, LocalClient, SHOWN, conversation,
            guests::{Guests, Visitor},
        },
        embedded::{Core, Embedded},
        pipe::{PipeName, descriptor},
    },
    lifecycle::Leash,
};

/// Bytes that the system keeps in each direction of a connection before a writer waits.
const BUFFER: u32 = 64 << 10;

/// The pipe for local clients.
#[derive(Debug)]
pub struct Door {
    config: Arc<Config>,
    core: Arc<Core>,
    listener: PipeListener<Bytes, Bytes>,
    slots: Arc<Semaphore>,
    guests: Arc<Guests>,
}

impl Door {
    /// Makes the pipe and listens. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`DoorError`] says what is in the way: most often another process that has the name.
    pub fn bind(config: Config, bus: &Embedded) -> Result<Self, DoorError> {
        let name = &config.pipe_name;
        let failed = |source| DoorError::Bind { name: name.clone(), source };
        let rights = descriptor(&owner()?);
        tracing::debug!(pipe = %name, rights, "who may open the pipe");
        let rights = U16CString::from_str(rights).map_err(|_| DoorError::Owner)?;
        let rights = SecurityDescriptor::deserialize(&rights).map_err(DoorError::Descriptor)?;
        // The first instance must be ours: the library asks for FILE_FLAG_FIRST_PIPE_INSTANCE. It refuses other machines.
        let listener = PipeListenerOptions::new()
            .path(name.as_str())
            .input_buffer_size_hint(BUFFER)
            .output_buffer_size_hint(BUFFER)
            .security_descriptor(Some(rights))
            .create_tokio_duplex::<Bytes>()
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => DoorError::Busy { name: name.clone() },
                _ => failed(error),
            })?;
        tracing::info!(pipe = %name, "listening for local bus clients");
        Ok(Self {
            slots: Arc::new(Semaphore::new(config.max_connections.get())),
            guests: Arc::new(Guests::new()),
            config: Arc::new(config),
            core: Arc::clone(bus.core()),
            listener,
        })
    }

    /// Accepts clients until the bus has ended; each is a task of `leash`, and ends with the bus too.
    pub async fn run(self, leash: Leash) {
        let ended = self.core.ended.clone();
        let mut shown = time::interval(SHOWN);
        shown.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                _ = shown.tick() => {
                    self.guests.show();
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => self.admit(stream, &leash),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    /// Who is in; renewed once a second, and when somebody comes or goes.
    #[must_use]
    pub fn clients(&self) -> watch::Receiver<Arc<Vec<LocalClient>>> {
        self.guests.shown()
    }

    fn admit(&self, stream: PipeStream<Bytes, Bytes>, leash: &Leash) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.core.counters.door_refused.add(1);
            tracing::debug!(reason = "too many clients", "local client refused");
            return;
        };
        let pid = stream.client_process_id().ok().and_then(|pid| i32::try_from(pid).ok());
        let house = House {
            core: Arc::clone(&self.core),
            config: Arc::clone(&self.config),
            guests: Arc::clone(&self.guests),
        };
        leash.spawn(async move {
            let (source, sink) = stream.split();
            conversation::converse((source, Prompt(sink)), Visitor { pid }, house).await;
            drop(slot);
        });
    }
}

/// The user that this process acts as, as a security identifier.
fn owner() -> Result<String, DoorError> {
    let own = sysinfo::get_current_pid().map_err(|_| DoorError::Owner)?;
    let mut system = System::new().map_err(|_| DoorError::Owner)?;
    let user = ProcessRefreshKind::nothing().with_user(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, user);
    let user = system.process(own).and_then(sysinfo::Process::user_id).ok_or(DoorError::Owner)?;
    Ok(user.to_string())
}

/// A pipe that is written to without a buffer of ours, so that flushing is nothing to wait for.
///
/// To Windows, flushing a pipe means to wait until the other end has read everything. That is right at the end, when what
/// is still unread would be lost with the pipe, and nowhere else: the door has deadlines of its own for who does not read.
#[derive(Debug)]
struct Prompt<W>(W);

impl<W: AsyncWrite + Unpin> AsyncWrite for Prompt<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Why the pipe cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    /// The pipe could not be made.
    #[error("could not make the pipe {name}")]
    Bind {
        /// Which.
        name: PipeName,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("the pipe {name} is another process's; stop it or choose another pipe_name")]
    Busy {
        /// Which.
        name: PipeName,
    },
    /// Those who must not be slow would be for ever.
    #[error(
        "slow_reader_timeout = \"0s\" lets clients whose slow_reader is \"disconnect\" be slow for ever; set a time, or \
         slow_reader = \"block\" for all of them"
    )]
    NeverSentAway,
    /// The rights could not be written.
    #[error("the system did not take the rights of the pipe")]
    Descriptor(#[source] io::Error),
    /// The user of this process is not known.
    #[error("could not tell which user this process belongs to, and the pipe must be opened to him alone")]
    Owner,
}
