//! Asks a gateway's admin API and shows the answer: for people as text, for scripts with `--json`.
//!
//! Exit codes: 0 healthy or shown; 1 could not be asked; 2 usage; 3 degraded or unknown; 4 unhealthy or unresponsive.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

#[path = "cli/tls.rs"]
mod tls;

/// Asks a `DaemonEye` federation gateway how it is.
#[derive(Debug, Parser)]
#[command(name = "daemoneye-cli", version)]
struct Cli {
    /// Where the gateway's admin listener is.
    #[arg(long, global = true, default_value = "127.0.0.1:9090")]
    address: SocketAddr,
    /// Shows the answer as JSON, as it came.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Shows each component's health; the exit code is that of the worst.
    Health,
    /// Shows who is connected, and who was.
    Collectors,
    /// Shows who was refused, and why.
    Refusals,
    /// Looks at certificates offline.
    Tls(tls::Tls),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match ask(&cli) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves nobody to tell.
            drop(writeln!(io::stderr(), "daemoneye-cli: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn ask(cli: &Cli) -> anyhow::Result<ExitCode> {
    let resource = match &cli.command {
        Command::Tls(tls) => return tls.run(cli.json),
        Command::Health => "health",
        Command::Collectors => "collectors",
        Command::Refusals => "refusals",
    };
    let body = get(cli.address, &format!("/api/v1/{resource}"))?;
    let value: Value = serde_json::from_slice(&body).context("the gateway's answer is not JSON")?;
    let text = match &cli.command {
        Command::Tls(_) => String::new(),
        _ if cli.json => format!("{value:#}\n"),
        Command::Health => health(&value),
        Command::Collectors => collectors(&value),
        Command::Refusals => refusals(&value),
    };
    io::stdout().write_all(text.as_bytes()).context("could not write the answer")?;
    Ok(match (&cli.command, text_of(&value, "status")) {
        (Command::Health, "degraded" | "unknown") => ExitCode::from(3),
        (Command::Health, "unhealthy" | "unresponsive") => ExitCode::from(4),
        _ => ExitCode::SUCCESS,
    })
}

/// A plain GET: one request a connection, so that the answer ends where the connection does.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut tcp = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("could not reach the admin listener at {address}"))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    tcp.take(MAX_ANSWER)
        .read_to_end(&mut answer)
        .with_context(|| format!("could not read the answer of {address}"))?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("the answer is not HTTP")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{address} answered {status} to {path}: {}", printable(&String::from_utf8_lossy(&body)));
    }
    Ok(body)
}

fn health(value: &Value) -> String {
    let summary = ["status", "phase", "version"].map(|key| text_of(value, key).to_owned()).join("  ");
    let rows = list(value, "components").map(|component| {
        ["name", "status", "message", "since"].map(|key| text_of(component, key).to_owned()).to_vec()
    });
    format!("{summary}\n{}", table(&["COMPONENT", "STATUS", "MESSAGE", "SINCE"], rows.collect()))
}

fn collectors(value: &Value) -> String {
    let live = list(value, "live").map(|live| {
        let mut row =
            ["peer", "status", "address", "since"].map(|key| text_of(live, key).to_owned()).to_vec();
        row.extend(["events", "in_flight", "rejected"].map(|key| number_of(live, key)));
        row.push(list(live, "streams").map(|stream| number(stream, "backlog")).sum::<u64>().to_string());
        row
    });
    let heads = ["PEER", "STATUS", "ADDRESS", "SINCE", "EVENTS", "IN FLIGHT", "REJECTED", "BACKLOG"];
    let mut text = table(&heads, live.collect());
    let gone: Vec<_> = list(value, "gone")
        .map(|gone| ["peer", "address", "until", "reason"].map(|key| text_of(gone, key).to_owned()).to_vec())
        .collect();
    if !gone.is_empty() {
        text.push('\n');
        text.push_str(&table(&["GONE", "ADDRESS", "UNTIL", "REASON"], gone));
    }
    text
}

fn refusals(value: &Value) -> String {
    let rows = list(value, "recent").map(|refusal| {
        let mut row =
            ["last", "address", "stage", "reason"].map(|key| text_of(refusal, key).to_owned()).to_vec();
        row.push(number_of(refusal, "count"));
        row.extend(["detail", "hint"].map(|key| text_of(refusal, key).to_owned()));
        row
    });
    table(&["LAST", "ADDRESS", "STAGE", "REASON", "TIMES", "DETAIL", "HINT"], rows.collect())
}

/// Columns as wide as their widest cell.
fn table(heads: &[&str], mut rows: Vec<Vec<String>>) -> String {
    rows.insert(0, heads.iter().map(|head| (*head).to_owned()).collect());
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Texts may be a stranger's: what would move the cursor of a terminal or turn its text around is replaced.
fn printable(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn number_of(value: &Value, key: &str) -> String {
    number(value, key).to_string()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// How long the gateway may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of an answer: some hundred thousand sessions.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_cannot_drive_the_terminal() {
        let text = table(&["A", "B"], vec![vec!["\u{1b}[2Jx".to_owned(), "\u{202e}y\nz".to_owned()]]);
        assert_eq!(text, "A      B\n\u{fffd}[2Jx  \u{fffd}y\u{fffd}z\n");
    }

    #[test]
    fn a_missing_field_is_an_empty_cell() {
        let value = serde_json::json!({"status": "healthy", "components": [{"name": "tls"}]});
        assert_eq!(health(&value), "healthy    \nCOMPONENT  STATUS  MESSAGE  SINCE\ntls\n");
    }
}
