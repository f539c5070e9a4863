//! A subscriber of all events that counts them, as a process of its own; prints its count ten times a second.
//!
//! It stands on the `busrt` crate's own client, so that it is somebody else's.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use busrt::{
    QoS,
    client::AsyncClient,
    ipc::{Client, Config},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: bus-counter SOCKET")?;
    let mut client = Client::connect(&Config::new(&path, "bus-counter")).await?;
    let events = client.take_event_channel().context("a new client has its channel")?;
    if let Some(confirmed) = client.subscribe("events/#", QoS::Processed).await? {
        confirmed.await??;
    }
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let reader = tokio::spawn(async move {
        while let Ok(frame) = events.recv().await {
            // Announcements of the broker itself are no events.
            if !frame.sender().starts_with('.') {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    while !reader.is_finished() {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", count.load(Ordering::Relaxed))?;
        stdout.flush()?;
        drop(stdout);
        // The crate's broker sends away who says nothing for a while, and its client says nothing by itself.
        client.ping().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the bus went away")
}
