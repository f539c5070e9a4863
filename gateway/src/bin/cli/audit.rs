//! `audit`: whether the record of changes is whole.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use daemoneye_gateway::state::audit;
use serde_json::json;

use crate::cli::output::Format;

/// What is to be done with an audit.
#[derive(Clone, Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Follows the chain of hashes through a file, and says where it breaks; exit code 1 if it does.
    ///
    /// That the end was cut off is found only by comparing the head that this prints with one that was kept elsewhere.
    Verify {
        /// The file: audit.jsonl in the gateway's state directory, or a copy.
        file: PathBuf,
    },
}

impl Audit {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let Command::Verify { file } = self.command;
        let head = audit::verify(&file)?.head;
        format.show(&json!({ "sequence": head.sequence, "head": head.hex() }), |_| {
            format!("whole: {} entries, head {}\n", head.sequence, head.hex())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
