//! The gateway as a program; also a leaf, and a demonstration of both.
//!
//! Exit codes: 0 ended in order; 1 something had to be cut, or could not be had; 2 the configuration is wrong.

use std::{
    future::{self, Future},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::LazyLock,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use daemoneye_bridge::{leaf, lifecycle::Signals, log, settings::Chain};
use daemoneye_gateway::{
    app::{Addresses, BindError, Gateway},
    config::Config,
    demo::{self, Post},
    telemetry::metrics,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (commit {})", metrics::VERSION, metrics::COMMIT));

/// Terminates mutual TLS for remote `DaemonEye` collectors and bridges them onto a local BUS/RT bus.
#[derive(Debug, Parser)]
#[command(name = "daemoneye-gateway", version = VERSION.as_str(), args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway (also without naming it).
    Run(Run),
    /// Runs a leaf, as `daemoneye-bridge` does.
    Leaf(leaf::Args),
    /// Shows a whole federation on this machine: certificates, gateway, leaves, real processes on the bus.
    Demo(Demo),
    /// The gateway, for the demo: it ends with its parent.
    #[command(name = demo::GATEWAY, hide = true)]
    DemoGateway { config: PathBuf },
    /// A leaf with its collector, for the demo.
    #[command(name = demo::LEAF, hide = true)]
    DemoLeaf { config: PathBuf, site: String, name: String },
    /// A short-lived process, for the demo.
    #[command(name = demo::NAP, hide = true)]
    DemoNap { milliseconds: u64 },
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration file; deploy/gateway.toml documents every key.
    #[arg(long, short, default_value = "/etc/daemoneye/gateway.toml")]
    config: PathBuf,
    /// Loads and judges configuration, certificates and policy, says "ok" or what is wrong, and ends.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct Demo {
    /// How long events are sent, such as 20s or 5min; until Ctrl-C if not said.
    #[arg(long = "for", value_name = "TIME", value_parser = demo::parse_time)]
    time: Option<Duration>,
    /// Keeps certificates, settings, logs and spools in this folder.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) if args.check => check(&args),
        Command::Run(args) => Box::pin(run(&args.config, future::pending(), |_| {})).await,
        Command::DemoGateway { config } => {
            let tell = |bound: &Addresses| demo::announce(bound.collectors, bound.admin);
            Box::pin(run(&config, demo::hung_up().cancelled_owned(), tell)).await
        }
        Command::Leaf(args) => leaf::main(args).await,
        Command::Demo(Demo { time, keep }) => match demo::run(demo::Options { time, keep }).await {
            Ok(demo::Outcome::Whole) => ExitCode::SUCCESS,
            Ok(demo::Outcome::Faulty) => ExitCode::FAILURE,
            Err(error) => fail(FAILURE, &error),
        },
        Command::DemoLeaf { config, site, name } => match demo::collect(Post { config, site, name }).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILURE, &error),
        },
        Command::DemoNap { milliseconds } => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            ExitCode::SUCCESS
        }
    }
}

/// Says whether a gateway could be run with a configuration, and what it amounts to.
fn check(args: &Run) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    match Gateway::check(&config) {
        Ok(summary) => {
            println!("ok: {}\n{summary}", args.config.display());
            ExitCode::SUCCESS
        }
        Err(error) => fail(USAGE, &error),
    }
}

/// Runs the gateway until it is told to stop, or `over` ends; `tell` learns where it listens.
async fn run(
    config: &Path,
    over: impl Future<Output = ()> + Send,
    tell: impl FnOnce(&Addresses),
) -> ExitCode {
    let config = match Config::load(config) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    log::start(&config.log);
    let (stop, hurry) = match (Signals::listen(), Signals::listen()) {
        (Ok(first), Ok(second)) => stops(first, second),
        (Err(error), _) | (_, Err(error)) => return fail(FAILURE, &error),
    };
    match Gateway::bind(config).await {
        Ok(gateway) => {
            tell(gateway.addresses());
            let stop = async {
                tokio::select! {
                    () = stop => {}
                    () = over => {}
                }
            };
            if gateway.run(stop, hurry).await.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(code(&error), &error),
    }
}

/// What ends at the first signal, and what ends at the second.
fn stops(mut first: Signals, mut second: Signals) -> (impl Future<Output = ()>, impl Future<Output = ()>) {
    let hurry = async move {
        // Each listener sees every signal: this one passes over the first.
        second.stop().await;
        second.stop().await;
    };
    (async move { first.stop().await }, hurry)
}

const fn code(error: &BindError) -> u8 {
    if error.is_of_configuration() { USAGE } else { FAILURE }
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("daemoneye-gateway: {}", Chain(error));
    ExitCode::from(code)
}

/// Exit code of what went wrong while running.
const FAILURE: u8 = 1;

/// Exit code of what the operator must put right first.
const USAGE: u8 = 2;
