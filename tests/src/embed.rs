//! A gateway inside another program, as the benches need it: with a consumer of its own, or on a bus of its own.

use std::{env, future, path::Path, process::ExitCode};

use anyhow::Context;
use daemoneye_bridge::{lifecycle::Signals, log};
use daemoneye_gateway::{app::Gateway, config::Config};

/// The configuration that the command line names, as the gateway's own program takes it: `run --config FILE`.
///
/// # Errors
///
/// The command line or the file cannot be used.
pub fn config() -> anyhow::Result<Config> {
    let file = env::args().skip_while(|arg| arg != "--config").nth(1).context("usage: run --config FILE")?;
    let config = Config::load(Path::new(&file))?;
    log::start(&config.log);
    Ok(config)
}

/// Runs a gateway until it is told to stop.
///
/// # Errors
///
/// Signals cannot be listened for.
pub async fn run(gateway: Gateway) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let outcome = gateway.run(async move { signals.stop().await }, future::pending()).await;
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
