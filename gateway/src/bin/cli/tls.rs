//! `tls explain`: the verdict over a chain, offline and link by link.
//!
//! Nothing is sent anywhere: files are read, and judged by the functions that a handshake uses. Exit codes: 0 accepted; 3
//! refused; 1 a file could not be read.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use daemoneye_bridge::trust::{
    NamePattern, Profile, Role,
    explain::{self, Case},
};

use crate::cli::output::Format;

/// What is to be done about certificates.
#[derive(Clone, Debug, Args)]
pub(crate) struct Tls {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Says whether a chain would be accepted, link by link, and why not.
    Explain(Explain),
}

/// A chain, and what it is judged by.
#[derive(Clone, Debug, Args)]
struct Explain {
    /// PEM of the authorities that are trusted.
    #[arg(long, value_name = "FILE")]
    anchors: PathBuf,
    /// PEM of what is presented: the leaf, then its intermediates.
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// A revocation list, PEM or DER; may stand several times.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// The moment that it is judged for, such as 2026-01-31T12:00:00Z; now if it is left out.
    #[arg(long, value_name = "TIME", value_parser = explain::moment)]
    at: Option<SystemTime>,
    /// Which end of a connection presents it.
    #[arg(long, value_enum, default_value_t = End::Client)]
    role: End,
    /// A name that it must have: a DNS name, `*.` and a DNS name, an address, or a SPIFFE ID in which `*` stands for a segment.
    #[arg(long, value_name = "NAME")]
    name: Option<NamePattern>,
    /// The leaf's private key: whether it belongs to the leaf, and whether others may read it.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How long a leaf may be valid from begin to end, in days, as `max_leaf_lifetime` has it.
    #[arg(long, value_name = "DAYS")]
    max_leaf_days: Option<u32>,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum End {
    Client,
    Server,
}

impl From<End> for Role {
    fn from(end: End) -> Self {
        match end {
            End::Client => Self::Client,
            End::Server => Self::Server,
        }
    }
}

impl Tls {
    /// Does it, and shows the answer.
    ///
    /// # Errors
    ///
    /// The file that could not be read.
    pub(crate) fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let Command::Explain(explain) = &self.command;
        explain.run(format)
    }
}

impl Explain {
    fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let anchors = explain::certificates(&self.anchors)?;
        let chain = explain::certificates(&self.chain)?;
        let most = self.max_leaf_days.map(|days| Duration::from_hours(u64::from(days) * 24));
        let profile = Profile { max_leaf_lifetime: most, ..Profile::default() };
        let explanation = Case {
            role: self.role.into(),
            chain: &chain,
            anchors: &anchors,
            at: self.at.unwrap_or_else(SystemTime::now),
            name: self.name.as_ref(),
            profile: &profile,
            lists: &self.crl,
            key: self.key.as_deref(),
        }
        .explain();
        let value = serde_json::to_value(&explanation).context("could not write JSON")?;
        format.show(&value, |_| explanation.to_string())?;
        Ok(if explanation.is_accepted() { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }
}
