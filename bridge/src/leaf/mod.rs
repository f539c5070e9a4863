//! The leaf: stands beside remote collectors, stores and forwards.
//!
//! ```text
//!   local clients ─► door ─► embedded broker ─┐
//!                                             ├─► intake ─► spool ─► uplink ══► gateway
//!            somebody else's broker ──────────┘
//!   local collectors ◄──────── downlink ◄──────────────── uplink ◄══ gateway
//! ```
//!
//! This file wires the parts and ends them in order: first nobody new comes in, then what was heard is stored, then what is
//! stored is sent as far as time allows, and what is left waits in the spool for the next start.

use std::{future::Future, io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    bus::{self, BusName, PortError, Subscription, door, embedded},
    leaf::{
        downlink::Downlink,
        health::Views,
        intake::{Counts, Naming},
    },
    lifecycle::{Leash, Lifecycle, Phase},
    reception::{self, Bounds},
    spool::{Spool, SpoolError},
    topic::Pattern,
    trust::LoadError,
    uplink::{self, Uplink},
};

#[cfg(unix)]
use crate::bus::remote;

mod config;
pub mod downlink;
pub mod health;
pub mod intake;
mod main;

pub use config::{Bus, Config, ConfigError, Forward};
pub use main::{Args, main};

/// The name under which a leaf hears its local bus.
const NAME: &str = "daemoneye-bridge";

/// Part of the deadline in which local clients are let go, and again in which what they said is stored.
const FRONT_SHARE: u32 = 5;

/// Part of the deadline that is kept back for closing the spool after the uplink has used up its own.
const BACK_SHARE: u32 = 10;

/// A leaf whose parts are made and bound, but do not move yet.
#[derive(Debug)]
pub struct Leaf {
    life: Lifecycle,
    /// Local clients; ended first.
    front: Lifecycle,
    /// Bus and intake; ended when nobody comes in any more.
    middle: Lifecycle,
    local: Local,
    subscription: Subscription,
    naming: Naming,
    spool: Spool,
    uplink: Uplink,
    downlink: Option<Downlink>,
    health: Option<(TcpListener, SocketAddr)>,
    views: Views,
    drain: Duration,
}

/// The local bus, with what belongs to its kind.
#[derive(Debug)]
enum Local {
    Embedded(Arc<embedded::Embedded>, Option<door::Door>),
    #[cfg(unix)]
    Foreign(Arc<remote::Remote>),
}

impl Local {
    fn bus(&self) -> Arc<dyn bus::Bus> {
        match self {
            Self::Embedded(bus, _) => Arc::<embedded::Embedded>::clone(bus) as Arc<dyn bus::Bus>,
            #[cfg(unix)]
            Self::Foreign(bus) => Arc::<remote::Remote>::clone(bus) as Arc<dyn bus::Bus>,
        }
    }

    /// Ends the bus, so that who hears it comes to an end. A foreign one ends when nobody holds it.
    fn close(self) {
        match self {
            Self::Embedded(bus, _) => bus.close(),
            #[cfg(unix)]
            Self::Foreign(_) => {}
        }
    }
}

impl Leaf {
    /// Opens the spool, the local bus with its door, the health page and the way up; what cannot be had is said here.
    ///
    /// Must be called within a tokio runtime: the owner of the spool and the tasks of the bus begin at once.
    ///
    /// # Errors
    ///
    /// [`BuildError`] names the part and the remedy.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        let (life, front, middle) = (Lifecycle::new(), Lifecycle::new(), Lifecycle::new());
        let (spool, owner) = Spool::open(config.spool)?;
        life.leash().spawn(owner);
        let (outlet, conversations) = uplink::outlet();
        let outlet = config.downlink.enabled.then_some(outlet);
        let (uplink, tasks) = Uplink::open_both_ways(config.uplink, spool.clone(), outlet)?;
        for task in tasks {
            spawn(&life.leash(), task);
        }
        let local = open_bus(config.bus, &middle.leash())?;
        let health = match config.health {
            None => None,
            Some(address) => Some(listen(address).await?),
        };
        let subscription = subscribe(&local, &config.forward.patterns).await?;
        let downlink = match &local {
            Local::Embedded(bus, _) if config.downlink.enabled => {
                Some(Downlink::open(config.downlink, Arc::clone(bus), conversations).await?)
            }
            _ => None,
        };
        let views = Views {
            phase: life.watch(),
            bus: local.bus().state(),
            bus_counters: local.bus().counters(),
            intake: Arc::new(Counts::default()),
            spool: spool.stats(),
            uplink: uplink.status(),
            certificates: uplink.certificates().clone(),
            downlink: downlink.as_ref().map(Downlink::views),
        };
        let naming = config.forward.naming;
        Ok(Self {
            life,
            front,
            middle,
            local,
            subscription,
            naming,
            spool,
            uplink,
            downlink,
            health,
            views,
            drain: config.drain,
        })
    }

    /// The local bus, for a collector in this process.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn bus::Bus> {
        self.local.bus()
    }

    /// What the health page shows, for whoever is in this process.
    #[must_use]
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// Where the health page is, if there is one.
    #[must_use]
    pub fn health(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(|(_, address)| *address)
    }

    /// Works until `stop` ends, then ends in order; `hurry` cuts that short.
    ///
    /// Returns the number of tasks that had to be cut.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send,
        hurry: impl Future<Output = ()> + Send,
    ) -> usize {
        let Self {
            life,
            front,
            middle,
            mut local,
            subscription,
            naming,
            spool,
            health,
            views,
            drain,
            uplink,
            downlink,
        } = self;
        // Before the door opens, or a client could be there that nobody attaches.
        if let Some(downlink) = downlink {
            front.leash().spawn(downlink.run(front.leash()));
        }
        let door = match &mut local {
            Local::Embedded(_, door) => door.take(),
            #[cfg(unix)]
            Local::Foreign(_) => None,
        };
        if let Some(door) = door {
            let leash = front.leash();
            front.leash().spawn(door.run(leash));
        }
        middle.leash().spawn(intake::run(subscription, spool.clone(), naming, Arc::clone(&views.intake)));
        if let Some((listener, _)) = health {
            life.leash().spawn(serve(listener, views.clone(), life.leash()));
        }
        life.advance(Phase::Serving);
        tracing::info!("leaf serves");
        stop.await;

        life.advance(Phase::Draining);
        let deadline = Instant::now() + drain;
        // Shared, because each step asks again for what may have ended long ago.
        let hurry = hurry.shared();
        // The door ends with the bus, after what it owes to its clients.
        local.close();
        let mut cut = front.drain(drain / FRONT_SHARE, hurry.clone()).await;
        cut += middle.drain(drain / FRONT_SHARE, hurry.clone()).await;
        let patience = deadline.saturating_duration_since(Instant::now());
        uplink.finish(patience.saturating_sub(drain / BACK_SHARE));
        tokio::select! {
            biased;
            () = hurry.clone() => {}
            () = uplink.ended() => {}
        }
        let waiting: u64 = spool.stats().borrow().classes.iter().map(|class| class.events).sum();
        tracing::info!(waiting, "leaf drained; what waits stays in the spool");
        spool.close().await;
        cut + life.drain(deadline.saturating_duration_since(Instant::now()), hurry).await
    }
}

/// Starts a task that never ends by itself: it ends when the process drains.
fn spawn(leash: &Leash, task: BoxFuture<'static, ()>) {
    let own = leash.clone();
    leash.spawn(async move {
        tokio::select! {
            biased;
            () = own.draining() => {}
            () = task => {}
        }
    });
}

fn open_bus(config: Bus, leash: &Leash) -> Result<Local, BuildError> {
    let (local, tasks) = match config {
        Bus::Embedded { broker, door, routes } => {
            let (bus, tasks) = embedded::open(broker, routes);
            let door = door.enabled.then(|| door::Door::bind(door, &bus)).transpose()?;
            (Local::Embedded(bus, door), tasks)
        }
        #[cfg(unix)]
        Bus::Foreign(remote) => {
            let (bus, tasks) = remote::open(remote);
            (Local::Foreign(bus), tasks)
        }
    };
    for task in tasks {
        leash.spawn(task);
    }
    Ok(local)
}

async fn subscribe(local: &Local, patterns: &[Pattern]) -> Result<Subscription, BuildError> {
    let name = BusName::parse(NAME).expect("the leaf's own name is well-formed");
    Ok(local.bus().subscribe(&name, patterns).await?)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BuildError> {
    let bound = TcpListener::bind(address).await.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|source| BuildError::Health { address, source })
}

async fn serve(listener: TcpListener, views: Views, leash: Leash) {
    let listener = &listener;
    reception::run(PAGE, health::routes(views), leash, || async move { listener.accept().await }).await;
}

/// How much the health page takes on: probes, a scraper, and somebody who looks.
const PAGE: Bounds =
    Bounds { connections: NonZeroUsize::new(32).expect("32 is not zero"), patience: Duration::from_secs(5) };

/// What kept a leaf from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The door for local clients.
    #[error(transparent)]
    Door(#[from] door::DoorError),
    /// The way back.
    #[error(transparent)]
    Downlink(#[from] downlink::OpenError),
    /// The health page.
    #[error(
        "could not listen on health.bind_address = \"{address}\"; is another leaf running? set another address"
    )]
    Health {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name on the local bus.
    #[error("could not hear the local bus as `{NAME}`; is another leaf connected to it?")]
    Name(#[from] PortError),
    /// The signals that end a leaf.
    #[error("could not listen for signals")]
    Signals(#[source] io::Error),
    /// The queue on disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The way up.
    #[error(transparent)]
    Uplink(#[from] LoadError),
}
