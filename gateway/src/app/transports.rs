//! How each transport does: what bus, door, sessions and handshakes have counted, put together once a second.
//!
//! Stands in `app` because it looks into several stages, none of which knows the others. It reads counters only: no lock of
//! the data path is taken for it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use daemoneye_bridge::{
    bus::{BusState, Counters, Link},
    transport::{Kind, Mishap, Rates, Totals, Window},
};
use futures_util::FutureExt;
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    app::{build::Tasks, local::Local},
    ingress::Ingress,
    session,
    snapshot::{Collectors, Part, Refusals, Timestamp, TransportHealth, Transports, Trouble, Word},
    telemetry::metrics::Metrics,
};

/// Which broker the bus stands on.
#[derive(Clone, Debug)]
enum Broker {
    /// Ours; its door, if it is open, and how many may come in.
    Embedded { door: Option<(PathBuf, usize)> },
    /// Somebody else's, at this socket.
    Foreign(PathBuf),
    /// Made by whoever embeds the gateway.
    Given,
}

/// What is looked into. Cheap to clone.
#[derive(Clone, Debug)]
struct Sources {
    broker: Broker,
    bus: watch::Receiver<BusState>,
    counters: Arc<Counters>,
    sessions: session::Metrics,
    collectors: Part<Collectors>,
    refusals: Part<Refusals>,
    /// Where collectors come in, and how many may.
    listener: (std::net::SocketAddr, usize),
}

/// Over how long rates and means are taken.
const WINDOW: Duration = Duration::from_secs(10);

/// How often the picture is renewed.
const EVERY: Duration = Duration::from_secs(1);

/// How each transport does, in the metrics too; so many may come in over mutual TLS, and through the door.
pub(super) fn open(
    (local, ingress, places): (&Local, &Ingress, (usize, usize)),
    (sessions, collectors, refusals): (&session::Metrics, &Part<Collectors>, &Part<Refusals>),
    metrics: &mut Metrics,
    tasks: &mut Tasks,
) -> Part<Transports> {
    let sources = Sources {
        broker: broker(local, places.1),
        bus: local.bus().state(),
        counters: local.bus().counters(),
        sessions: sessions.clone(),
        collectors: collectors.clone(),
        refusals: refusals.clone(),
        listener: (ingress.local(), places.0),
    };
    let counted = sources.clone();
    metrics.transports(move || counted.totals());
    let (transports, follow) = follow(sources);
    tasks.endless.push(follow.boxed());
    transports
}

fn broker(local: &Local, places: usize) -> Broker {
    match local {
        Local::Embedded { socket, .. } => {
            Broker::Embedded { door: socket.clone().map(|socket| (socket, places)) }
        }
        Local::Foreign { socket, .. } => Broker::Foreign(socket.clone()),
        Local::Given(_) => Broker::Given,
    }
}

/// The part of the snapshot, and the future that renews it; it never ends by itself.
fn follow(sources: Sources) -> (Part<Transports>, impl Future<Output = ()> + Send + 'static) {
    let since = Timestamp::now();
    let mut windows = Kind::ALL.map(|_| Window::new(WINDOW));
    let first = sources.look(&mut windows, since);
    let (publish, part) = watch::channel(Arc::new(first));
    let follow = async move {
        let mut clock = time::interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            publish.send_replace(Arc::new(sources.look(&mut windows, since)));
        }
    };
    (part, follow)
}

impl Sources {
    /// What each transport in use has counted.
    fn totals(&self) -> Vec<(Kind, Totals)> {
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.totals_of(kind)?))).collect()
    }

    fn totals_of(&self, kind: Kind) -> Option<Totals> {
        match (kind, &self.broker) {
            (Kind::InProcess, Broker::Embedded { .. } | Broker::Given) => Some(self.counters.in_process()),
            (Kind::UnixSocket, Broker::Embedded { door: Some(_) }) => Some(self.counters.door()),
            (Kind::UnixSocket, Broker::Foreign(_)) => Some(self.counters.broker_client()),
            (Kind::TcpMtls, _) => Some(self.sessions.transport(self.refusals.borrow().total)),
            (Kind::InProcess | Kind::UnixSocket | Kind::NamedPipe, _) => None,
        }
    }

    fn look(&self, windows: &mut [Window; 4], since: Timestamp) -> Transports {
        let now = Instant::now();
        let each = Kind::ALL.into_iter().zip(windows).map(|(kind, window)| {
            let Some(totals) = self.totals_of(kind) else { return self.absent(kind) };
            let rates = window.note(now, totals);
            let health = self.describe(kind).counted(&totals, &rates);
            self.judge(health, &rates)
        });
        Transports {
            transports: each.collect(),
            as_of: Some(Timestamp::now()),
            since: Some(since),
            window_seconds: WINDOW.as_secs(),
        }
    }

    fn absent(&self, kind: Kind) -> TransportHealth {
        let cause = match (kind, &self.broker) {
            (Kind::NamedPipe, _) => {
                "not available on this platform: named pipes are of Windows, where the leaf serves them"
            }
            (Kind::UnixSocket, Broker::Embedded { .. }) => "turned off: unix_socket.enabled = false",
            (_, Broker::Foreign(_)) => "not used: bus.broker = \"foreign\"",
            (..) => "not used: the bus was made by the program that this gateway is a part of",
        };
        TransportHealth::absent(kind, cause)
    }

    /// What is known of one without counting.
    fn describe(&self, kind: Kind) -> TransportHealth {
        let health = TransportHealth::of(kind);
        let most = |most: usize| u64::try_from(most).ok();
        match (kind, &self.broker) {
            (Kind::UnixSocket, Broker::Embedded { door: Some((path, places)) }) => TransportHealth {
                endpoint: Some(path.display().to_string()),
                max_connections: most(*places),
                latency_of: "published until written to the subscriber's socket",
                last_error: self.counters.door_error.get().map(Trouble::from),
                ..health
            },
            (Kind::UnixSocket, Broker::Foreign(path)) => TransportHealth {
                endpoint: Some(path.display().to_string()),
                latency_of: "batch sent until the broker's answer",
                last_error: self.link_error(),
                ..health
            },
            (Kind::TcpMtls, _) => TransportHealth {
                endpoint: Some(self.listener.0.to_string()),
                max_connections: most(self.listener.1),
                latency_of: "batch handed to the bus until it is confirmed",
                last_error: self.session_error(),
                ..health.pinged(self.sessions.round_trips())
            },
            (Kind::InProcess | Kind::UnixSocket | Kind::NamedPipe, _) => TransportHealth {
                latency_of: "published until taken by the consumer",
                last_error: self.link_error(),
                ..health
            },
        }
    }

    /// Finds the word for one.
    fn judge(&self, health: TransportHealth, rates: &Rates) -> TransportHealth {
        let down = match (health.transport, &self.bus.borrow().link) {
            (Kind::InProcess | Kind::UnixSocket, Link::Down { cause, .. }) => Some(cause.clone()),
            _ => None,
        };
        let full = health.max_connections.filter(|most| health.connection_count >= *most);
        let (status, cause) = if let Some(cause) = down {
            (Word::Unhealthy, format!("the broker is not reached: {cause}"))
        } else if rates.error_count > 0 {
            let last =
                health.last_error.as_ref().map_or_else(String::new, |last| format!("; {}", last.cause));
            (Word::Degraded, format!("errors within {} s: {}{last}", WINDOW.as_secs(), rates.error_count))
        } else if let Some(most) = full {
            let key = if health.transport == Kind::TcpMtls { "tcp" } else { "unix_socket" };
            (Word::Degraded, format!("all {most} places are taken; raise {key}.max_connections"))
        } else {
            return health;
        };
        TransportHealth { status: Some(status), cause: Some(cause), ..health }
    }

    fn link_error(&self) -> Option<Trouble> {
        match &self.bus.borrow().link {
            Link::Down { since, cause } => Some(Mishap { cause: cause.clone(), at: *since }.into()),
            Link::Up => None,
        }
    }

    /// The newest of sessions that ended badly and of connections that were turned away.
    fn session_error(&self) -> Option<Trouble> {
        let (collectors, refusals) =
            (Arc::clone(&self.collectors.borrow()), Arc::clone(&self.refusals.borrow()));
        let ended = collectors.gone.iter().find(|gone| session::Metrics::is_error(&gone.reason));
        let ended = ended.map(|gone| Trouble {
            cause: format!("{}: session ended: {}: {}", gone.peer, gone.reason, gone.detail),
            since: gone.until,
        });
        let refused = refusals.recent.first().map(|refusal| Trouble {
            cause: format!("{} refused: {}: {}", refusal.address, refusal.reason, refusal.detail),
            since: refusal.last,
        });
        ended.into_iter().chain(refused).max_by_key(|trouble| trouble.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sources of which nothing has happened yet; what is returned besides keeps them alive.
    fn sources(broker: Broker) -> (Sources, watch::Sender<BusState>) {
        let up = watch::Sender::new(BusState { link: Link::Up, held: Vec::new() });
        let sources = Sources {
            broker,
            bus: up.subscribe(),
            counters: Arc::default(),
            sessions: session::Metrics::default(),
            collectors: watch::channel(Arc::default()).1,
            refusals: watch::channel(Arc::default()).1,
            listener: (([127, 0, 0, 1], 8443).into(), 50),
        };
        (sources, up)
    }

    fn door() -> Broker {
        Broker::Embedded { door: Some(("/run/bus.sock".into(), 2)) }
    }

    /// One look after another, a second apart.
    async fn looks(sources: &Sources, between: impl Fn(&Sources)) -> Transports {
        let mut windows = Kind::ALL.map(|_| Window::new(WINDOW));
        sources.look(&mut windows, Timestamp::now());
        between(sources);
        time::advance(EVERY).await;
        sources.look(&mut windows, Timestamp::now())
    }

    fn of(transports: &Transports, kind: Kind) -> &TransportHealth {
        transports.transports.iter().find(|each| each.transport == kind).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn every_transport_is_listed_and_one_that_is_not_in_use_says_why() {
        let (embedded, _up) = sources(door());
        let shown = looks(&embedded, |_| {}).await;
        assert_eq!(shown.transports.iter().map(|each| each.transport).collect::<Vec<_>>(), Kind::ALL);
        assert_eq!(of(&shown, Kind::UnixSocket).status, Some(Word::Healthy));
        let pipe = of(&shown, Kind::NamedPipe);
        assert!(!pipe.enabled && pipe.cause.as_ref().unwrap().contains("not available on this platform"));
        let (foreign, _up) = sources(Broker::Foreign("/run/busrt.sock".into()));
        let shown = looks(&foreign, |_| {}).await;
        assert!(!of(&shown, Kind::InProcess).enabled && of(&shown, Kind::UnixSocket).enabled);
        assert_eq!(foreign.totals().len(), 2, "what is not in use is not exported");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_becomes_rates_and_a_word() {
        let (sources, up) = sources(door());
        let shown = looks(&sources, |sources| {
            sources.counters.door_read.add(30);
            sources.counters.door_written.add(70);
            sources.counters.door_refused.add(9);
            sources.counters.taken_at_door.note(Duration::from_millis(2));
        });
        let shown = shown.await;
        let health = of(&shown, Kind::UnixSocket);
        assert!((health.message_rate - 100.0).abs() < 1e-6, "{health:?}");
        assert_eq!((health.average_latency_ms, health.totals.connections_refused), (Some(2.0), 9));
        assert_eq!(health.status, Some(Word::Healthy), "a stranger at the door is no fault of the transport");

        let shown = looks(&sources, |sources| {
            sources.counters.door_slow_readers.add(1);
            sources.counters.door_error.note("x was sent away".to_owned());
        });
        let shown = shown.await;
        let health = of(&shown, Kind::UnixSocket);
        assert_eq!(health.status, Some(Word::Degraded));
        assert!(health.cause.as_ref().unwrap().contains("x was sent away"), "{health:?}");

        sources.counters.door_opened.add(2);
        let shown = looks(&sources, |_| {}).await;
        let health = of(&shown, Kind::UnixSocket);
        assert!(health.cause.as_ref().unwrap().contains("raise unix_socket.max_connections"), "{health:?}");

        let link = Link::Down { since: std::time::SystemTime::now(), cause: "gone".to_owned() };
        up.send_replace(BusState { link, held: Vec::new() });
        let shown = looks(&sources, |_| {}).await;
        assert_eq!(of(&shown, Kind::InProcess).status, Some(Word::Unhealthy));
        assert_eq!(of(&shown, Kind::TcpMtls).status, Some(Word::Healthy));
    }
}
