//! The broker in this process.
//!
//! ```text
//!   Port ─ Command ─► publisher ─► broker ─► queue ─► pump ─► shelf ─► Subscription
//!                        │            │
//!                        │            └────► queue ─► writer of a door connection ─► socket
//!                        └─ tokens of a barrier, to each member, behind the frames ─┘
//! ```
//!
//! The crate `busrt` routes, or on Windows, where that does not build, a broker of our own (`broker`). What it does not tell, we
//! learn beside it: our table of subscriptions says who must have heard a batch, and barriers say when he has. Publishing costs
//! the broker a lock that many publishers fight over, so a few tasks publish for all ports, each frame under its port's own
//! name.
//!
//! A route may have a consumer, who must answer for a batch before anything of it is published (`consumer`).
//!
//! Kept true: nobody waits for a queue that its owner does not drain; a ticket is told once; a batch that has a topic whose
//! whole audience went away before taking it is published again, or held, never confirmed.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroUsize},
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread,
};

use futures_util::{FutureExt, future::BoxFuture};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        Bus, BusName, BusState, Command, Counters, Link, Port, PortError, Routes, Subscription,
        embedded::{
            broker::Engine,
            consumer::Hands,
            holds::Holds,
            member::{Kind, Member},
            publisher::{Opened, Publisher},
            registrar::Registrar,
            table::Table,
        },
    },
    settings::{self, ByteSize},
    topic::Pattern,
};

pub(crate) mod barrier;
pub(crate) mod broker;
mod consumer;
mod core;
mod deaf;
pub(crate) mod filter;
mod group;
mod holds;
mod lane;
mod ledger;
mod listen;
mod locals;
pub(crate) mod member;
mod publisher;
pub(crate) mod put;
mod registrar;
mod resolve;
mod subscription;
pub(crate) mod table;

pub use crate::bus::embedded::locals::LocalClient;

pub(crate) use crate::bus::embedded::core::Core;

/// Commands that wait for a publisher before [`Port::submit`] does.
const COMMANDS: usize = 1024;

/// How topics begin on which the broker tells who comes and goes. `#` matches them, but nobody in this process asks for them.
const ANNOUNCED: &str = ".broker/";

/// The broker's own name.
pub(crate) const BROKER: &str = ".broker";

/// Frames that wait for a port: none is ever read.
const PORT_QUEUE: usize = 1;

/// Settings of the broker in this process; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "File")]
pub struct Config {
    /// Whether there is such a broker.
    pub enabled: bool,
    /// Frames in the queue of a member.
    pub buffer_size: NonZeroUsize,
    /// Calls to the broker itself that are answered at the same time.
    pub max_concurrent_tasks: NonZeroUsize,
    /// Bytes that wait for a consumer in this process before publishers wait too.
    pub inbox_bytes: usize,
    /// Publisher tasks.
    pub publishers: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Self {
        File::default().into()
    }
}

/// `[in_process]` as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Whether the broker of this process is used. Default true.
    enabled: bool,
    /// Frames that the broker queues for one subscriber before whoever publishes yields to it. Default 1000, at least 128.
    buffer_size: NonZeroUsize,
    /// Calls to the broker itself that are answered at the same time. Default 100.
    max_concurrent_tasks: NonZeroUsize,
    /// Bytes that may wait for a consumer in this process before publishers are held up. Default 16 MiB.
    #[serde(deserialize_with = "settings::positive_size")]
    inbox_bytes: ByteSize,
    /// Tasks that publish. The broker is one lock, so more than a few make it slower. Default: a quarter of the cores, at
    /// least 1, at most 4.
    publishers: Option<NonZeroU16>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            enabled: true,
            buffer_size: NonZeroUsize::MIN.saturating_add(999),
            max_concurrent_tasks: NonZeroUsize::MIN.saturating_add(99),
            inbox_bytes: ByteSize::mib(16),
            publishers: None,
        }
    }
}

impl From<File> for Config {
    fn from(file: File) -> Self {
        let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let few = NonZeroUsize::new((cores.get() / 4).min(4)).unwrap_or(NonZeroUsize::MIN);
        Self {
            enabled: file.enabled,
            // Half of it is the mark at which publishers yield, so it cannot be tiny.
            buffer_size: file.buffer_size.max(NonZeroUsize::MIN.saturating_add(127)),
            max_concurrent_tasks: file.max_concurrent_tasks,
            inbox_bytes: file.inbox_bytes.as_usize(),
            publishers: file.publishers.map_or(few, NonZeroUsize::from),
        }
    }
}

/// A bus whose broker is in this process.
pub struct Embedded {
    core: Arc<Core>,
    publishers: Vec<Mouthpiece>,
    /// Pumps of new subscriptions.
    pumps: mpsc::Sender<BoxFuture<'static, ()>>,
}

/// How a publisher is reached.
struct Mouthpiece {
    opened: mpsc::Sender<Opened>,
    commands: mpsc::Sender<Command>,
}

/// Makes the bus, and the futures that are its tasks. They end when the bus has.
#[must_use]
pub fn open(config: Config, routes: Routes) -> (Arc<Embedded>, Vec<BoxFuture<'static, ()>>) {
    open_over(Engine::default(), config, routes)
}

/// As [`open`], over a broker of choice.
pub(crate) fn open_over(
    engine: Engine,
    config: Config,
    routes: Routes,
) -> (Arc<Embedded>, Vec<BoxFuture<'static, ()>>) {
    let (registrar, asked) = mpsc::channel(COMMANDS);
    let (pumps, begun) = mpsc::channel(COMMANDS);
    let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
    let core = Arc::new(Core {
        table: Table::new(),
        counters: Arc::default(),
        inquiries: Semaphore::new(config.max_concurrent_tasks.get().min(Semaphore::MAX_PERMITS)),
        config,
        hands: Hands::new(routes.consumed()),
        routes,
        holds: Holds::new(watch::Sender::new(BusState { link: Link::Up, held: Vec::new() })),
        registrar,
        ids: AtomicU64::new(1),
        census: Mutex::default(),
        closing: closing.clone(),
        ended: ended.clone(),
    });
    let registrar = Registrar::new(engine, asked, closing, ended);
    let mut tasks = vec![registrar.run().boxed(), subscription::run(Arc::clone(&core), begun).boxed()];
    let mut publishers = Vec::new();
    for _ in 0..core.config.publishers.get() {
        let (opened, opening) = mpsc::channel(COMMANDS);
        let (commands, commanded) = mpsc::channel(COMMANDS);
        tasks.push(Publisher::new(Arc::clone(&core), opening, commanded, pumps.clone()).run().boxed());
        publishers.push(Mouthpiece { opened, commands });
    }
    tasks.extend(core.hands.iter().map(|hand| consumer::serve(Arc::clone(&core), Arc::clone(hand)).boxed()));
    (Arc::new(Embedded { core, publishers, pumps }), tasks)
}

impl Embedded {
    /// Opens no more ports; when the last one is gone, the bus ends: subscriptions, the door and all tasks with it.
    pub fn close(&self) {
        self.core.close();
    }

    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    async fn open_port(&self, name: &BusName, near: Option<u64>) -> Result<Port, PortError> {
        let (mut client, id) = self.core.register(name.as_str(), PORT_QUEUE).await?;
        // What is sent to a port by name is refused while nothing reads it.
        deaf::deafen(&mut client).await;
        let index = usize::try_from(near.unwrap_or(id)).unwrap_or_default() % self.publishers.len();
        let mouthpiece = self.publishers.get(index).ok_or(PortError::Closed)?;
        let slot = mouthpiece.opened.reserve().await.map_err(|_| PortError::Closed)?;
        self.core.enter()?;
        let (port, gone) = Port::new(name.clone(), id, mouthpiece.commands.clone());
        slot.send(Opened { id, client, gone });
        Ok(port)
    }

    async fn open_subscription(
        &self,
        name: &BusName,
        patterns: &[Pattern],
        kind: Kind,
    ) -> Result<Subscription, PortError> {
        let (mut client, id) = self.core.register(name.as_str(), self.core.config.buffer_size.get()).await?;
        let queue = client.take_queue().ok_or(PortError::Closed)?;
        let filters: Vec<String> = patterns.iter().flat_map(Pattern::bus_forms).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let slot = self.pumps.reserve().await.map_err(|_| PortError::Closed)?;
        // From here on nothing waits, so that a dropped call leaves nothing half done and no queue without its pump.
        client.subscribe(&filters).await.map_err(|_| PortError::Closed)?;
        let most = self.core.config.inbox_bytes;
        let member = Member::new(id, name.as_str().into(), queue.clone(), (kind, most));
        let member = Arc::new(member.timed(&self.core.counters.taken_in_process));
        let (consumer, pump) = subscription::open(Arc::clone(&self.core), member, client, queue);
        slot.send(pump);
        self.core.table.subscribe(id, filters);
        Ok(Subscription::new(Box::new(consumer)))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("publishers", &self.publishers.len()).finish_non_exhaustive()
    }
}

impl Bus for Embedded {
    fn port<'a>(&'a self, name: &'a BusName) -> BoxFuture<'a, Result<Port, PortError>> {
        self.open_port(name, None).boxed()
    }

    fn port_near<'a>(&'a self, name: &'a BusName, near: u64) -> BoxFuture<'a, Result<Port, PortError>> {
        self.open_port(name, Some(near)).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        name: &'a BusName,
        patterns: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>> {
        self.open_subscription(name, patterns, Kind::InProcess).boxed()
    }

    fn overhear<'a>(
        &'a self,
        name: &'a BusName,
        patterns: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>> {
        self.open_subscription(name, patterns, Kind::Overhears).boxed()
    }

    fn user_of(&self, client: &str) -> Option<u32> {
        self.core.table.named(client)?.user()
    }

    fn departure(&self, client: &str) -> Option<BoxFuture<'static, ()>> {
        let member = self.core.table.named(client)?;
        Some(member.gone().clone().cancelled_owned().boxed())
    }

    fn state(&self) -> watch::Receiver<BusState> {
        self.core.holds.state()
    }

    fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.core.counters)
    }
}

/// What the bus promises, over the broker of the crate `busrt`.
#[cfg(test)]
#[cfg(unix)]
#[path = "."]
mod over_busrt {
    use super::*;

    const ENGINE: Engine = Engine::Busrt;

    mod tests;
}

/// The same, over our own broker.
#[cfg(test)]
#[path = "."]
mod over_memory {
    use super::*;

    const ENGINE: Engine = Engine::Memory;

    #[cfg_attr(unix, expect(clippy::duplicate_mod, reason = "one test for either broker"))]
    mod tests;
}
