//! The gateway of a [`World`] in this process, so that a test can do what an operator does and time what comes of it. Its
//! peers come through the real port all the same.

use std::{fs, future::pending, time::Duration};

use daemoneye_gateway::{
    app::{Gateway, Outcome},
    config::Config,
    deny::{self, Denial},
    snapshot::Snapshots,
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{self, Instant},
};

use crate::{eventually, world::World};

/// A running gateway.
#[derive(Debug)]
pub struct Inside {
    /// Its deny-list.
    pub deny: deny::Handle,
    /// What it shows.
    pub snapshots: Snapshots,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Outcome>,
}

impl Inside {
    /// Starts the gateway of `world`, with room for `peers` connections, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it cannot be bound.
    pub async fn start(world: &World, peers: usize) -> Self {
        let file = world.path("gateway.toml");
        let text = fs::read_to_string(&file).expect("the configuration can be read");
        let text = text.replace("max_connections = 2000", &format!("max_connections = {}", peers.max(2000)));
        fs::write(&file, text).expect("the configuration can be written");
        let config = Config::load(&file).expect("the configuration is of use");
        let gateway = Gateway::bind(config).await.expect("the gateway can be bound");
        let (deny, snapshots) = (gateway.deny(), gateway.snapshots());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stop = async move { drop(stopped.await) };
            gateway.run(stop, pending()).await
        });
        let mut phase = snapshots.phase.clone();
        let serving = phase.wait_for(|phase| *phase == daemoneye_bridge::lifecycle::Phase::Serving);
        time::timeout(Duration::from_secs(10), serving).await.expect("it serves soon").expect("it runs");
        Self { deny, snapshots, stop, task }
    }

    /// Denies `target`, and says when that was asked for.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn deny(&self, target: &str) -> Instant {
        let asked = Instant::now();
        let target = target.parse().expect("a test names somebody");
        let denial = Denial { target, reason: "a test".to_owned(), until: None };
        self.deny.add(denial, "test").await.expect("the deny-list can be changed");
        asked
    }

    /// Denies `target` no longer.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn allow(&self, target: &str) {
        let target = target.parse().expect("a test names somebody");
        self.deny.remove(&target, "test").await.expect("the deny-list can be changed");
    }

    /// Waits until no connection is served that could not be cut.
    pub async fn tracked(&self, world: &World) {
        let name = "daemoneye_gateway_session_untracked";
        eventually("every connection is on the leash", || {
            let (_, body) = world.get("/metrics").expect("the admin API answers");
            body.lines().any(|line| line == format!("{name} 0"))
        })
        .await;
    }

    /// Stops it, and waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub async fn stop(self) -> Outcome {
        self.stop.send(()).unwrap_or_default();
        time::timeout(Duration::from_secs(30), self.task).await.expect("it ends").expect("it does not panic")
    }
}
