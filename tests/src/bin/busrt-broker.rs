//! The `busrt` crate's own broker on a UNIX socket, as a process of its own: what `busrtd` is, without its options.

use std::time::Duration;

use busrt::broker::{Broker, ServerConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: busrt-broker SOCKET"))?;
    let mut broker = Broker::new();
    broker.spawn_unix_server(&path, ServerConfig::new().timeout(Duration::from_secs(10))).await?;
    std::future::pending().await
}
