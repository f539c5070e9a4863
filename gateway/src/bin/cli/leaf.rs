//! `leaf status`: how a leaf is, read from its own page.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use daemoneye_bridge::leaf::Config;
use serde_json::Value;

use crate::cli::{
    client,
    output::{Format, cells, list, number, printable, table, text_of, when},
};

#[derive(Debug, Args)]
pub(crate) struct Leaf {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows a leaf's health, spool and way to the gateway; the exit code is that of the worst part.
    Status(Status),
}

#[derive(Debug, Args)]
struct Status {
    /// Where the leaf's health page is; <http://127.0.0.1:9091> if not said.
    #[arg(long, conflicts_with = "config")]
    url: Option<String>,
    /// The leaf's configuration, which says where its health page is.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Leaf {
    pub(crate) fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let Command::Status(status) = &self.command;
        status.run(format)
    }
}

impl Status {
    fn run(&self, format: Format) -> anyhow::Result<ExitCode> {
        let status = client::ask_leaf(self.place()?, "/status").with_context(|| self.remedy())?;
        format.show(&status, text)?;
        Ok(match text_of(&status, "status") {
            "healthy" => ExitCode::SUCCESS,
            "unhealthy" => ExitCode::from(4),
            _ => ExitCode::from(3),
        })
    }

    /// Where the page is.
    fn place(&self) -> anyhow::Result<SocketAddr> {
        if let Some(url) = &self.url {
            let place = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
            let place = place.strip_suffix("/status").unwrap_or(place);
            return place.parse().with_context(|| {
                let url = printable(url);
                format!("--url {url} is no address and port of a leaf; write it as http://127.0.0.1:9091")
            });
        }
        let Some(file) = &self.config else { return Ok(USUAL) };
        match Config::load(file)?.health {
            Some(address) => Ok(address),
            None => bail!(
                "the leaf of {} has no health page; set health.enabled = true there and restart it",
                file.display()
            ),
        }
    }

    const fn remedy(&self) -> &'static str {
        if self.url.is_some() || self.config.is_some() {
            "could not ask the leaf; is daemoneye-bridge running on this host? its log says why if it has ended"
        } else {
            "could not ask the leaf; is daemoneye-bridge running on this host? name its bridge.toml with --config, or its \
             page with --url"
        }
    }
}

fn text(status: &Value) -> String {
    let summary = printable(&cells(status, &["status", "phase", "version"]).join("  "));
    let rows = list(status, "components").map(|each| {
        let mut row = cells(each, &["name", "status", "message"]);
        row.push(when(each, "since"));
        row
    });
    let components = table(&["COMPONENT", "STATUS", "MESSAGE", "SINCE"], rows.collect());
    format!("{summary}\n{components}\n{}\n{}", spool(status), figures(status))
}

fn spool(status: &Value) -> String {
    let classes = status.get("spool").unwrap_or(&Value::Null);
    let rows = list(classes, "classes").map(|class| {
        let mut row = vec![text_of(class, "class").to_owned()];
        row.extend(["events", "bytes"].map(|key| number(class, key).to_string()));
        row.push(when(class, "oldest"));
        row.push(format!("{} s", number(class, "lag_seconds")));
        row.extend(["evicted", "corrupt", "rejected"].map(|key| number(class, key).to_string()));
        row
    });
    table(&["SPOOL", "WAITING", "BYTES", "OLDEST", "LAG", "EVICTED", "CORRUPT", "REJECTED"], rows.collect())
}

/// What is counted besides, one line each.
fn figures(status: &Value) -> String {
    let part = |name: &str| status.get(name).unwrap_or(&Value::Null);
    let (uplink, door, intake) = (part("uplink"), part("door"), part("intake"));
    let rtt = uplink.get("round_trip_micros").and_then(Value::as_u64);
    let rtt = rtt.map_or_else(|| "not measured yet".to_owned(), |micros| format!("{micros} us"));
    let left_out: Vec<&str> = list(uplink, "left_out").filter_map(Value::as_str).collect();
    let n = number;
    let line = |name: &str, text: String| vec![name.to_owned(), text];
    table(
        &["FIGURE", "VALUE"],
        vec![
            line(
                "uplink",
                format!(
                    "{} sent, {} acked, {} in flight, {} rejected, {} gaps",
                    n(uplink, "sent"),
                    n(uplink, "acked"),
                    n(uplink, "in_flight"),
                    n(uplink, "rejected"),
                    n(uplink, "gaps"),
                ),
            ),
            line(
                "sessions",
                format!(
                    "{} welcomed, {} failures, round trip {rtt}",
                    n(uplink, "sessions"),
                    n(uplink, "failures")
                ),
            ),
            line(
                "gateways left out",
                if left_out.is_empty() { "none".to_owned() } else { left_out.join(", ") },
            ),
            line(
                "local clients",
                format!(
                    "{} now, {} refused, {} sent away for not reading",
                    n(door, "clients"),
                    n(door, "refused"),
                    n(door, "slow_readers")
                ),
            ),
            line("downlink", downlink(part("downlink"))),
            line(
                "local events",
                format!("{} heard, {} unfit for the federation", n(intake, "heard"), n(intake, "unfit")),
            ),
        ],
    )
}

/// What came down, in a line.
fn downlink(downlink: &Value) -> String {
    let Some(counts) = downlink.get("counts") else {
        return "off; downlink.enabled = true turns it on".to_owned();
    };
    let names: Vec<&str> = list(downlink, "collectors").filter_map(Value::as_str).collect();
    format!(
        "{} calls down, {} up, {} failed, {} open; {} delivered, {} not; collectors: {}",
        number(counts, "calls_down"),
        number(counts, "calls_up"),
        number(counts, "calls_failed"),
        number(downlink, "open_calls"),
        number(counts, "delivered"),
        number(counts, "undelivered"),
        if names.is_empty() { "none".to_owned() } else { names.join(", ") },
    )
}

/// Where a leaf's page is unless it was configured elsewhere.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9091);

#[cfg(test)]
mod tests {
    use super::*;

    fn status(url: Option<&str>, config: Option<&str>) -> Status {
        Status { url: url.map(Into::into), config: config.map(Into::into) }
    }

    #[test]
    fn the_page_is_found_by_url_by_configuration_or_where_it_usually_is() {
        let at = |url: &str| status(Some(url), None).place().map(|place| place.to_string());
        assert_eq!(at("http://127.0.0.1:7000/").unwrap(), "127.0.0.1:7000");
        assert_eq!(at("[::1]:7000").unwrap(), "[::1]:7000");
        assert!(at("leaf-1").unwrap_err().to_string().contains("write it as http://127.0.0.1:9091"));
        assert_eq!(status(None, None).place().unwrap(), USUAL);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bridge.toml");
        let configured = |text: &str| {
            std::fs::write(&file, text).unwrap();
            status(None, file.to_str()).place()
        };
        assert_eq!(configured("[health]\nbind_address = \"127.0.0.1:7001\"").unwrap().port(), 7001);
        let off = configured("[health]\nenabled = false").unwrap_err().to_string();
        assert!(off.contains("set health.enabled = true"), "{off}");
    }

    #[test]
    fn a_status_of_which_nothing_is_known_is_shown_all_the_same() {
        let text = text(&serde_json::json!({"status": "degraded"}));
        assert!(text.starts_with("degraded") && text.contains("not measured yet"), "{text}");
    }
}
