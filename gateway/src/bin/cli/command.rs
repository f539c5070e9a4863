//! `command`: messages held for collectors that are not here.

use std::{fs, io::Read, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, printable, table, text_of, when},
};

/// What is to be done with held commands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Commands {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Holds a message for a collector and delivers it once the collector is attached, at once if it is.
    Send {
        /// The collector, such as site-a/procmond-1.
        #[arg(value_name = "SITE/NAME")]
        collector: String,
        /// What it is to have.
        #[arg(long, conflicts_with = "file", required_unless_present = "file")]
        text: Option<String>,
        /// A file that holds it; `-` for standard input.
        #[arg(long)]
        file: Option<PathBuf>,
        /// For how long it is held, such as 2h or 7d; then it is given up.
        #[arg(long, value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
        hold_for: Duration,
    },
    /// Shows what is held.
    List,
    /// Takes a held message back.
    Cancel {
        /// Its number, as `list` shows it.
        number: u64,
    },
}

impl Commands {
    pub(crate) fn run(self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Send { collector, text, file, hold_for } => {
                let (site, name) = collector.split_once('/').context("a collector is named SITE/NAME")?;
                let payload = match (text, file) {
                    (Some(text), _) => text.into_bytes(),
                    (None, Some(file)) if file.as_os_str() == "-" => {
                        let mut payload = Vec::new();
                        std::io::stdin()
                            .read_to_end(&mut payload)
                            .context("could not read standard input")?;
                        payload
                    }
                    (None, Some(file)) => {
                        fs::read(&file).with_context(|| format!("could not read {}", file.display()))?
                    }
                    (None, None) => Vec::new(),
                };
                let body = json!({
                    "site": site,
                    "name": name,
                    "payload": BASE64_STANDARD.encode(payload),
                    "hold_for": humantime_serde::re::humantime::format_duration(hold_for).to_string(),
                });
                format.show(&gateway.anew().post("commands", &body)?, |entry| {
                    let [number, collector] =
                        ["number", "collector"].map(|key| printable(&shown(entry, key)));
                    format!(
                        "command {number} is held for {collector} until {}\n",
                        printable(&when(entry, "until"))
                    )
                })?;
            }
            Command::List => format.show(&gateway.get("commands")?, text)?,
            Command::Cancel { number } => {
                let cancelled = gateway.post("commands/cancel", &json!({ "number": number }))?;
                format.show(&cancelled, |entry| {
                    format!("no longer held for {}\n", printable(text_of(entry, "collector")))
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn shown(entry: &Value, key: &str) -> String {
    entry
        .get(key)
        .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        .unwrap_or_default()
}

fn text(held: &Value) -> String {
    let rows: Vec<Vec<String>> = list(held, "entries")
        .map(|entry| {
            let mut row =
                vec![shown(entry, "number"), text_of(entry, "collector").to_owned(), shown(entry, "bytes")];
            row.extend(cells(entry, &["actor"]));
            row.push(when(entry, "until"));
            row
        })
        .collect();
    let [received, expired, cancelled] = ["received", "expired", "cancelled"].map(|key| shown(held, key));
    let since =
        format!("since the gateway began: {received} received, {expired} expired, {cancelled} cancelled\n");
    if rows.is_empty() {
        return format!("no command is held\n{since}");
    }
    format!("{}{since}", table(&["NUMBER", "COLLECTOR", "BYTES", "BY", "UNTIL"], rows))
}
