//! The only wiring: settings become stages, stages become a running gateway, and a running gateway comes to its end.
//!
//! ```text
//! bind ─► run ─┬─ front   ingress ─ handshakes, sessions, calls; registry; gRPC health     ends first, in order
//!              ├─ back    bus and its door, state, reloads, views                          ends when nobody speaks
//!              └─ admin   listener and its connections                                     ends last
//! ```
//!
//! Kept true: the phase only advances, and only here; sessions end before the bus that carries their last events, and the
//! bus before the marks that say how far it came are written for the last time; the end has one deadline.

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use daemoneye_bridge::{
    bus::Bus,
    lifecycle::{Leash, Lifecycle, Phase},
    settings::Chain,
};
use futures_util::{FutureExt, future::BoxFuture};
use sd_notify::NotifyState;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Commands},
    config::{Config, Drain},
    deny,
    ingress::{Ingress, PeerStream},
    policy::Judge,
    session::{self, http2::Server, leash::Roll, native},
    snapshot::Snapshots,
    state::{State, audit::Audit},
    telemetry::metrics::Exporter,
    tls::{Protocol, Refusal, Refusals},
};

mod build;

mod descriptors;

mod grpc;

mod local;

mod memory;

mod orders;

mod record;

mod reload;

mod transports;

mod upward;

mod views;

#[cfg(test)]
mod tests;

use build::Tasks;
pub use build::{BindError, Summary};
use local::Local;
use upward::Upward;

/// A gateway whose stages are made and bound, but do not move yet.
#[derive(Debug)]
pub struct Gateway {
    /// Ingress and sessions; its phase is the gateway's.
    front: Lifecycle,
    addresses: Addresses,
    drain: Drain,
    ingress: Ingress,
    reception: Reception,
    deny: deny::Handle,
    audit: Audit,
    /// Cuts who is still here when patience ends.
    last_call: CancellationToken,
    local: Local,
    upward: Option<Upward>,
    state: State,
    admin: Admin,
    snapshots: Snapshots,
    exporter: Exporter,
    commands: Commands,
    tasks: Tasks,
}

/// Where a gateway is found; ports are real ones even where 0 was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For collectors: gRPC over mutual TLS.
    pub collectors: SocketAddr,
    /// For operators: API, metrics, dashboard.
    pub admin: SocketAddr,
    /// For probes from elsewhere, if they have a place of their own.
    pub probes: Option<SocketAddr>,
    /// For local bus clients: the socket of the embedded broker.
    pub bus: Option<PathBuf>,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a gateway that had to be cut did not end well"]
pub struct Outcome {
    /// Tasks of collectors that had to be cut.
    pub cut: usize,
    /// Whether the last marks could be written.
    pub saved: bool,
}

impl Outcome {
    /// Whether everything ended by itself, and what must be on the disk is.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        self.cut == 0 && self.saved
    }
}

impl Gateway {
    /// Judges a configuration and what it leads to, without taking anything that a running gateway has.
    ///
    /// # Errors
    ///
    /// [`BindError`] names the file and a remedy.
    pub fn check(config: &Config) -> Result<Summary, BindError> {
        build::check(config)
    }

    /// Loads and binds everything: certificates, policy, ports, socket, state. Needs a runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`] names what could not be had, and a remedy.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        build::bind(config, None).await
    }

    /// The same on a bus that the caller has made, in place of the one that the configuration describes; its routes hold.
    ///
    /// The bus is not ended with the gateway.
    ///
    /// # Errors
    ///
    /// [`BindError`] names what could not be had, and a remedy.
    pub async fn bind_on(config: Config, bus: Arc<dyn Bus>) -> Result<Self, BindError> {
        build::bind(config, Some(bus)).await
    }

    /// Where it is found.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The local bus, for a consumer in this process.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        self.local.bus()
    }

    /// The deny-list, for an operator in this process.
    #[must_use]
    pub fn deny(&self) -> deny::Handle {
        self.deny.clone()
    }

    /// Where changes are recorded.
    #[must_use]
    pub const fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What it shows of itself.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Works until `stop` ends, then goes away in order; `hurry` cuts that short.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send,
        hurry: impl Future<Output = ()> + Send,
    ) -> Outcome {
        // Bus, state and reloads; the admin listener, which shows the end of all others.
        let (back, admin_life) = (Lifecycle::new(), Lifecycle::new());
        let Self { front, drain, ingress, reception, last_call, mut local, upward, state, .. } = self;
        let Tasks { front: ours, endless, back: behind } = self.tasks;
        let admin = self.admin.run(admin_life.leash(), self.snapshots, self.exporter, self.commands);
        admin_life.leash().spawn(admin);
        for task in behind {
            back.leash().spawn(task);
        }
        for task in endless {
            spawn_endless(&back.leash(), task);
        }
        let risen = upward.map(Upward::begin);
        local.let_in(&back.leash());
        for task in ours {
            front.leash().spawn(task);
        }
        let receive = move |stream| reception.clone().receive(stream);
        let accepting = ingress.run(front.leash(), front.leash().drain_token(), receive);
        front.leash().spawn(accepting);
        front.advance(Phase::Serving);
        tell(&self.addresses);
        notify(&[NotifyState::Ready]);

        stop.await;
        let deadline = Instant::now() + drain.deadline;
        // Shared, because each step asks again for what may have ended long ago.
        let hurry = hurry.shared();
        announce(&front, &drain, hurry.clone()).await;
        let cut = leave(front, deadline, &last_call, hurry.clone()).await;
        // From here on nobody speaks on the bus, and no mark moves any more.
        local.close();
        let saved = save(&state).await;
        drop(state);
        if let Some(risen) = risen {
            let left = deadline.saturating_duration_since(Instant::now());
            risen.end(left.saturating_sub(QUIET), hurry.clone()).await;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(LAST);
        let unfinished = back.drain(left.min(QUIET), hurry.clone()).await;
        admin_life.drain(LAST, hurry).await;
        tracing::info!(cut, unfinished, saved, "gateway drained");
        Outcome { cut, saved }
    }
}

/// Says that the gateway goes, and waits until balancers look elsewhere.
async fn announce(front: &Lifecycle, drain: &Drain, hurry: impl Future<Output = ()>) {
    // Who supervises gives it this time, whatever is set there for shorter deadlines.
    let whole = drain.deadline.saturating_add(GRACE).as_micros().try_into().unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(whole)]);
    tracing::info!(deadline = ?drain.deadline, "gateway drains");
    front.advance(Phase::Draining);
    tokio::select! {
        biased;
        () = hurry => {}
        () = time::sleep(drain.announce) => {}
    }
}

/// Sends every peer away and waits for the last; returns the number of tasks that had to be cut.
async fn leave(
    front: Lifecycle,
    deadline: Instant,
    last_call: &CancellationToken,
    hurry: impl Future<Output = ()> + Send,
) -> usize {
    let patience = deadline.saturating_duration_since(Instant::now());
    let calling = async {
        // Early enough that peers hear why, and that the deadline holds.
        time::sleep(patience.saturating_sub(LAST)).await;
        last_call.cancel();
        std::future::pending().await
    };
    tokio::select! {
        biased;
        cut = front.drain(patience, hurry) => cut,
        never = calling => never,
    }
}

/// What a connection needs once it is admitted. Cheap to clone.
#[derive(Clone, Debug)]
struct Reception {
    server: Server,
    native: native::Server,
    roll: Roll,
    judge: Judge,
    refusals: Refusals,
    metrics: session::Metrics,
}

impl Reception {
    /// Serves one peer to its end.
    async fn receive(self, mut stream: PeerStream) {
        if let Some(declined) = stream.declined() {
            return match stream.protocol() {
                Protocol::BusRt => self.native.decline(stream).await,
                Protocol::Http2 => {
                    self.server.decline(stream, &declined.over.to_string(), declined.wait).await;
                }
            };
        }
        let _served = self.metrics.serving();
        let (peer, remote) = (stream.peer().clone(), stream.remote());
        if !self.judge.knows(&peer) {
            // It is served all the same: each of its calls is answered with why it may not be made.
            self.refusals.offer(Refusal::without_role(peer.id(), peer.certificate(), remote));
        }
        let enrolled = self.roll.enrol(stream.papers(), remote);
        stream.obey(enrolled.caller().cut().clone());
        match stream.protocol() {
            Protocol::BusRt => self.native.serve(stream, enrolled).await,
            Protocol::Http2 => self.server.serve(stream, enrolled).await,
        }
    }
}

/// Writes the last marks.
async fn save(state: &State) -> bool {
    match time::timeout(SAVING, state.close()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(error = %Chain(&error), "last marks not written, their events will come again");
            false
        }
        Err(_) => {
            tracing::error!("last marks not written in time, their events will come again");
            false
        }
    }
}

/// Starts a task that never ends by itself: it ends when its part of the gateway drains.
fn spawn_endless(leash: &Leash, task: BoxFuture<'static, ()>) {
    let own = leash.clone();
    leash.spawn(async move {
        tokio::select! {
            biased;
            () = own.draining() => {}
            () = task => {}
        }
    });
}

fn tell(addresses: &Addresses) {
    let Addresses { collectors, admin, probes, bus } = addresses;
    let probes = probes.map(tracing::field::display);
    let bus = bus.as_ref().map(|path| tracing::field::display(path.display()));
    tracing::info!(%collectors, %admin, probes, bus, "gateway serves");
}

/// Tells systemd, if it asked to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "service manager not told");
    }
}

/// What a bus that nobody speaks on any more may take to end.
const QUIET: Duration = Duration::from_secs(2);

/// What the process itself may take beside its deadline.
const GRACE: Duration = Duration::from_secs(5);

/// What is granted to the last steps, however late it is.
const LAST: Duration = Duration::from_millis(500);

/// Longest time to write the last marks: a disk that hangs must not hold up the end.
const SAVING: Duration = Duration::from_secs(5);
