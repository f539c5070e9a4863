//! The leaf as a program of its own; `daemoneye-gateway leaf` is the same.

use std::process::ExitCode;

use clap::Parser;
use daemoneye_bridge::leaf::{self, Args};

/// Stands beside remote collectors: takes their events on a local bus, keeps them on disk, forwards them to a gateway.
#[derive(Debug, Parser)]
#[command(name = "daemoneye-bridge", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> ExitCode {
    leaf::main(Cli::parse().args).await
}
