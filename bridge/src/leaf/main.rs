//! The leaf as a program: what `daemoneye-bridge` and `daemoneye-gateway leaf` both are.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    leaf::{BuildError, Config, Leaf},
    lifecycle::Signals,
    log,
    settings::Chain,
    trust::{Material, Role},
};

/// What the command line says.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file; deploy/bridge.toml documents every key.
    #[arg(long, short, default_value = CONFIG)]
    pub config: PathBuf,
    /// Loads and judges the configuration, says "ok" or what is wrong, and ends.
    #[arg(long)]
    pub check: bool,
}

/// Where the configuration is if the command line does not say.
const CONFIG: &str =
    if cfg!(windows) { r"C:\ProgramData\DaemonEye\bridge.toml" } else { "/etc/daemoneye/bridge.toml" };

/// Exit code for what could not be had now.
const FAILURE: u8 = 1;

/// Exit code for a configuration that cannot be used, the files that it names included.
const USAGE: u8 = 2;

/// Runs a leaf until it is told to stop.
///
/// Exit code 0: ended in order; 1: something had to be cut, or could not be had; 2: the configuration is wrong.
pub async fn main(args: Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{}", Chain(&error));
            return ExitCode::from(USAGE);
        }
    };
    if args.check {
        if let Err(error) = Material::load(&config.uplink.files, Role::Client) {
            eprintln!("{}: uplink.tls_config: {}", args.config.display(), Chain(&error));
            return ExitCode::from(USAGE);
        }
        println!("ok: {}", args.config.display());
        return ExitCode::SUCCESS;
    }
    log::start(&config.log);
    match serve(config).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(cut) => {
            tracing::warn!(cut, "tasks had to be cut");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!(error = %Chain(&error), "leaf could not be made");
            ExitCode::from(if matches!(error, BuildError::Uplink(_)) { USAGE } else { FAILURE })
        }
    }
}

async fn serve(config: Config) -> Result<usize, BuildError> {
    let mut first = Signals::listen().map_err(BuildError::Signals)?;
    let mut second = Signals::listen().map_err(BuildError::Signals)?;
    let leaf = Leaf::build(config).await?;
    // Each listener sees every signal: the second one passes over the first.
    let hurry = async move {
        second.stop().await;
        second.stop().await;
    };
    Ok(leaf.run(async move { first.stop().await }, hurry).await)
}
