//! `token`: makes bearer tokens for the admin API.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use daemoneye_gateway::admin::token::{Minted, Role, Tokens};
use serde_json::json;

use crate::cli::output::{Format, text_of};

/// What is to be done with tokens.
#[derive(Clone, Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Makes a token, and prints it once: the gateway keeps its hash alone.
    New {
        /// Who will have it, as the audit names him.
        name: String,
        /// What it is good for: viewer (read), operator (reload, deny), admin (force, send commands).
        #[arg(long)]
        role: Role,
        /// The gateway's file of tokens, which the token's line is added to; printed if not said.
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
    },
}

impl Token {
    /// Needs no gateway.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let Command::New { name, role, file } = self.command;
        let minted =
            Minted::mint(&name, role).with_context(|| format!("{name:?} cannot be a token's name"))?;
        if let Some(file) = &file {
            add(file, &name, &minted.line)?;
        }
        let made = json!({ "name": name, "role": role.as_str(), "token": minted.token, "line": minted.line });
        format.show(&made, |made| {
            let (token, line) = (text_of(made, "token"), text_of(made, "line"));
            file.as_ref().map_or_else(
                || format!("{token}\nput this line into the gateway's admin.token_file:\n{line}\n"),
                |file| format!("{token}\nits line was added to {}\n", file.display()),
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Adds a line to a file of tokens, which is made if it is not there; nothing is written if it could not be used then.
fn add(file: &Path, name: &str, line: &str) -> anyhow::Result<()> {
    if file.exists() {
        let known = Tokens::load(file)?;
        if known.names().any(|known| known == name) {
            bail!(
                "{} has a token of {name}; take its line out first, or choose another name",
                file.display()
            );
        }
    }
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(file);
    let mut opened = opened.with_context(|| format!("could not write {}", file.display()))?;
    // A last line without an end would run into this one.
    writeln!(opened, "\n{line}")
        .and_then(|()| opened.sync_all())
        .with_context(|| format!("could not write {}", file.display()))
}
