//! Asks a gateway's admin API and shows the answer: for people as text, for scripts with `--json`.
//!
//! Exit codes: 0 healthy or shown; 1 could not be asked; 2 usage; 3 degraded or unknown; 4 unhealthy or unresponsive.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            let line = cli::output::printable(&format!("{error:#}"));
            // A closed standard error leaves nobody to tell.
            drop(writeln!(io::stderr(), "daemoneye-cli: {line}"));
            ExitCode::FAILURE
        }
    }
}
