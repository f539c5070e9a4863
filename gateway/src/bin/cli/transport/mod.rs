//! `transport`: shows, tries and chooses the ways that messages take.
//!
//! Exit codes: 0 everything as it should be; 1 it could not be tried, or nothing arrived; 2 usage; 3 degraded: something was
//! lost or came twice, or the gateway says so; 4 unhealthy (`status` only).

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use crate::cli::{
    client::Gateway,
    output::{Format, printable},
};

mod monitor;
mod select;
mod shown;
mod status;
mod throwaway;
mod trial;

/// What is to be done.
#[derive(Clone, Debug, Args)]
pub(crate) struct Transport {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Shows how each transport of a running gateway does.
    Status,
    /// Sends real messages there and back, and times them.
    Test(trial::Trial),
    /// Watches a running gateway's transports.
    Monitor(monitor::Monitor),
    /// The same as `test`, and shows how latency is spread and what it is made of.
    Analyze(trial::Trial),
    /// Asks three questions and says which transport to use, and why.
    Select(select::Select),
}

impl Transport {
    /// Does it.
    ///
    /// # Errors
    ///
    /// What was tried, why it did not work, and what to do.
    pub(crate) fn run(&self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::Status => status::run(gateway, format),
            Command::Test(trial) => trial.run(trial::Depth::Test, gateway, format),
            Command::Monitor(monitor) => monitor.run(gateway, format),
            Command::Analyze(trial) => trial.run(trial::Depth::Analyze, gateway, format),
            Command::Select(select) => select.run(format),
        }
    }
}

/// Says what is being done, to people: answers go to standard output.
fn progress(text: &str) {
    // A closed standard error leaves nobody to tell.
    drop(writeln!(io::stderr(), "{}", printable(text)));
}

/// The exit code of a word of health.
fn code(word: &str) -> u8 {
    match word {
        "degraded" | "unknown" => DEGRADED,
        "unhealthy" | "unresponsive" => UNHEALTHY,
        _ => 0,
    }
}

const DEGRADED: u8 = 3;
const UNHEALTHY: u8 = 4;
