//! A gateway on a bus that takes everything at once and publishes nothing: the limit that the transport sets.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use daemoneye_bridge::{
    bus::{Bus, BusName, BusState, Command, Counters, Link, Port, PortError, Subscription, Taken},
    topic::Pattern,
};
use daemoneye_gateway::app::Gateway;
use daemoneye_tests::embed;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As many as before the publisher of the embedded bus.
const COMMANDS: usize = 1024;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let (commands, mut commanded) = mpsc::channel(COMMANDS);
    tokio::spawn(async move {
        while let Some(command) = commanded.recv().await {
            // Nobody waits for an answer that is not received.
            match command {
                Command::Submit { done, .. } => drop(done.send(Taken::All)),
                Command::Close { done, .. } => drop(done.send(())),
                // Nobody can be reached here.
                Command::Ask { .. } | Command::Attach { .. } => {}
            }
        }
    });
    let bus = NullBus { commands, next: AtomicU64::new(1), counters: Arc::default(), state: state() };
    embed::run(Gateway::bind_on(embed::config()?, Arc::new(bus)).await?).await
}

fn state() -> watch::Sender<BusState> {
    watch::Sender::new(BusState { link: Link::Up, held: Vec::new() })
}

#[derive(Debug)]
struct NullBus {
    commands: mpsc::Sender<Command>,
    next: AtomicU64,
    counters: Arc<Counters>,
    state: watch::Sender<BusState>,
}

impl Bus for NullBus {
    fn port<'a>(&'a self, name: &'a BusName) -> BoxFuture<'a, Result<Port, PortError>> {
        Box::pin(async {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            Ok(Port::new(name.clone(), id, self.commands.clone()).0)
        })
    }

    fn subscribe<'a>(
        &'a self,
        _: &'a BusName,
        _: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>> {
        // Nothing is heard here.
        Box::pin(async { Err(PortError::Closed) })
    }

    fn state(&self) -> watch::Receiver<BusState> {
        self.state.subscribe()
    }

    fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}
