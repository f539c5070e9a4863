//! A gateway with a consumer of all events in its own process.

use std::process::ExitCode;

use daemoneye_bridge::{bus::BusName, topic::Pattern};
use daemoneye_gateway::app::Gateway;
use daemoneye_tests::embed;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages taken at once.
const MOST: usize = 1024;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let gateway = Gateway::bind(embed::config()?).await?;
    let bus = gateway.bus();
    tokio::spawn(async move {
        let name = BusName::parse("consumer").expect("the name is well-formed");
        // Answered when the gateway runs.
        let mut subscription =
            bus.subscribe(&name, &[Pattern::all()]).await.expect("nobody else has the name");
        // It would keep the bus, which ends when nobody does.
        drop(bus);
        let mut messages = Vec::with_capacity(MOST);
        while subscription.next(&mut messages, MOST).await {
            messages.clear();
        }
    });
    embed::run(gateway).await
}
