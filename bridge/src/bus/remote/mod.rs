//! The client of somebody else's broker, on a UNIX socket.
//!
//! Turns batches into frames on connections of our own: a batch is encoded into one buffer and written at once, and only
//! its last frame asks for an answer. A broker handles the frames of a connection in order, so that answer confirms all
//! before it. Separate from the crate `busrt`'s own client because that one confirms frame by frame and waits for ever when
//! the link dies.
//!
//! Kept true: a batch that the broker has not confirmed is kept, and sent again in order on the next connection; every
//! confirmation has a deadline; while the broker is away nothing fails, it waits.
//!
//! ```text
//!   hub ─┬─ keeper      its own name: says whether the broker is there; with `names = "shared"` it speaks for all
//!        ├─ speaker × port           (`names = "own"`)
//!        └─ listener × subscription
//! ```

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, BusName, BusState, Command, Counters, Ear, Link, Port, PortError, Room, Subscription},
    topic::Pattern,
};

mod backoff;
mod config;
mod known;
mod ledger;
mod listener;
mod speaker;
mod wire;

pub use config::{Config, Names, Prefix};
use listener::Listener;
use speaker::{Join, Speaker};
use wire::{Connection, DialError};

/// Most batches that wait between a port and its connection.
const QUEUE: usize = 8;

/// Most tasks that wait to be begun.
const TASKS: usize = 64;

/// A bus on somebody else's broker.
#[derive(Debug)]
pub struct Remote {
    shared: Arc<Shared>,
    /// Where connections are handed to whoever drives them.
    tasks: mpsc::Sender<BoxFuture<'static, ()>>,
    /// Where the keeper learns of ports, if it speaks for all.
    joins: mpsc::Sender<Join>,
    /// What the ports of the keeper submit into.
    queue: mpsc::Sender<Command>,
    next_port: AtomicU64,
    /// Ends the subscriptions with the bus.
    ended: CancellationToken,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// What the connections have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    counters: Arc<Counters>,
    state: watch::Sender<BusState>,
    /// Names in use here; the broker is asked for none twice.
    names: Mutex<HashSet<BusName>>,
}

/// Opens the bus, and returns the futures that carry it; they end when the bus, its ports and its subscriptions are gone.
#[must_use]
pub fn open(config: Config) -> (Arc<Remote>, Vec<BoxFuture<'static, ()>>) {
    let link = Link::Down { since: SystemTime::now(), cause: "not connected yet".to_owned() };
    let shared = Arc::new(Shared {
        config,
        counters: Arc::default(),
        state: watch::Sender::new(BusState { link, held: Vec::new() }),
        names: Mutex::default(),
    });
    let (tasks, hub) = mpsc::channel(TASKS);
    let (joins, joining) = mpsc::channel(QUEUE);
    let (queue, commands) = mpsc::channel(QUEUE);
    let keeper = Speaker::keeper(Arc::clone(&shared), commands, joining);
    let ended = CancellationToken::new();
    let remote = Remote { shared, tasks, joins, queue, next_port: AtomicU64::new(1), ended };
    (Arc::new(remote), vec![Box::pin(drive(hub)), Box::pin(keeper.run(None))])
}

/// Carries connections, each in a task of its own, until no more can come and all have ended.
///
/// Dropped, it cuts them.
async fn drive(mut hub: mpsc::Receiver<BoxFuture<'static, ()>>) {
    let mut tasks = JoinSet::new();
    let mut open = true;
    while open || !tasks.is_empty() {
        tokio::select! {
            task = hub.recv(), if open => match task {
                Some(task) => drop(tasks.spawn(task)),
                None => open = false,
            },
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a bus connection broke off");
                }
            }
        }
    }
}

impl Bus for Remote {
    fn port<'a>(&'a self, name: &'a BusName) -> BoxFuture<'a, Result<Port, PortError>> {
        Box::pin(async move {
            let claim = self.shared.claim(name)?;
            let id = self.next_port.fetch_add(1, Ordering::Relaxed);
            match &self.shared.config.names {
                Names::Own => self.own_port(claim, id).await,
                Names::Shared(prefix) => {
                    let (port, gone) = Port::new(name.clone(), id, self.queue.clone());
                    let (joined, done) = oneshot::channel();
                    let join = Join { id, prefix: prefix.of(name), gone, claim, joined };
                    self.joins.send(join).await.map_err(|_| PortError::Closed)?;
                    done.await.map_err(|_| PortError::Closed)?;
                    Ok(port)
                }
            }
        })
    }

    fn subscribe<'a>(
        &'a self,
        name: &'a BusName,
        patterns: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>> {
        Box::pin(async move {
            let claim = self.shared.claim(name)?;
            let topics = patterns.iter().flat_map(Pattern::bus_forms).collect();
            let (listener, inbox) =
                Listener::new(Arc::clone(&self.shared), claim, topics, self.ended.clone());
            let heard = self.shared.enter(|| listener.enter()).await?;
            let run = Box::pin(listener.run(heard));
            self.tasks.send(run).await.map_err(|_| PortError::Closed)?;
            Ok(Subscription::new(Box::new(inbox)))
        })
    }

    fn attach<'a>(&'a self, name: &'a BusName, room: Room) -> BoxFuture<'a, Result<(Port, Ear), PortError>> {
        Box::pin(async move {
            // Before the name is claimed, which its port lets go of only later.
            if matches!(self.shared.config.names, Names::Shared(_)) {
                return Err(PortError::Shared);
            }
            let port = self.port(name).await?;
            let ear = port.attach(room).await?;
            Ok((port, ear))
        })
    }

    fn state(&self) -> watch::Receiver<BusState> {
        self.shared.state.subscribe()
    }

    fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }
}

impl Remote {
    /// Opens a port with a connection of its own.
    async fn own_port(&self, claim: Claim, id: u64) -> Result<Port, PortError> {
        let connection = self.shared.enter(|| self.shared.dial(&claim.name)).await?;
        let (queue, commands) = mpsc::channel(QUEUE);
        let (port, gone) = Port::new(claim.name.clone(), id, queue);
        let speaker = Speaker::own(Arc::clone(&self.shared), commands, claim, (id, gone));
        let task = Box::pin(speaker.run(connection));
        self.tasks.send(task).await.map_err(|_| PortError::Closed)?;
        Ok(port)
    }
}

impl Shared {
    /// Reserves a name in this process.
    fn claim(self: &Arc<Self>, name: &BusName) -> Result<Claim, PortError> {
        if *name == self.config.name || !self.names().insert(name.clone()) {
            return Err(PortError::Taken);
        }
        self.counters.ports_opened.add(1);
        Ok(Claim { name: name.clone(), shared: Arc::clone(self) })
    }

    fn names(&self) -> MutexGuard<'_, HashSet<BusName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a name with the broker; `None` if the broker is away.
    ///
    /// The broker may still hold the name for a former connection of ours, so a name that is busy is asked for again.
    async fn enter<T, F>(&self, enter: impl Fn() -> F + Send) -> Result<Option<T>, PortError>
    where
        F: Future<Output = Result<T, DialError>> + Send,
    {
        let deadline = Instant::now() + self.config.name_timeout;
        let mut pause = Duration::from_millis(10);
        loop {
            match enter().await {
                Ok(entered) => return Ok(Some(entered)),
                Err(error) if !error.is_taken() => return Ok(None),
                Err(_) if Instant::now() + pause > deadline => return Err(PortError::Taken),
                Err(_) => time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn dial(&self, name: &BusName) -> Result<Connection, DialError> {
        wire::dial(&self.config.socket_path, name.as_str(), self.config.connect_timeout).await
    }

    /// Tells that the broker is there.
    fn up(&self) {
        self.state.send_if_modified(|state| {
            let changed = state.link != Link::Up;
            if changed {
                state.link = Link::Up;
                tracing::info!(socket = %self.config.socket_path.display(), "broker reached");
            }
            changed
        });
    }

    /// Tells that the broker is away, and why.
    fn down(&self, why: &str) {
        self.state.send_if_modified(|state| match &mut state.link {
            Link::Down { cause, .. } if cause == why => false,
            Link::Down { cause, .. } => {
                tracing::warn!(cause = why, "broker still away");
                why.clone_into(cause);
                true
            }
            Link::Up => {
                tracing::warn!(cause = why, "broker lost");
                state.link = Link::Down { since: SystemTime::now(), cause: why.to_owned() };
                true
            }
        });
    }
}

/// A name that this process uses; free again when dropped.
#[derive(Debug)]
struct Claim {
    name: BusName,
    shared: Arc<Shared>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.names().remove(&self.name);
        self.shared.counters.ports_closed.add(1);
    }
}

#[cfg(test)]
mod tests;
