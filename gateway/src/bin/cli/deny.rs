//! `deny`: who may not be here, whatever his certificate says; acts at once.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, printable, table, text_of, when},
};

/// What is to be done with the deny-list.
#[derive(Clone, Debug, Args)]
pub(crate) struct Deny {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Denies somebody: handshakes are refused, and live connections cut.
    Add {
        #[command(flatten)]
        target: Target,
        /// Why; others will ask.
        #[arg(long)]
        reason: String,
        /// For how long, such as 2h or 7d; for good without it.
        #[arg(long = "for", value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
        time: Option<Duration>,
    },
    /// Shows who is denied.
    List,
    /// Denies somebody no longer.
    Remove {
        #[command(flatten)]
        target: Target,
    },
}

/// Whom it is about.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
struct Target {
    /// One peer, such as site-a/procmond-1.
    #[arg(long, value_name = "SITE/NAME", conflicts_with_all = ["site", "spki", "serial"])]
    identity: Option<String>,
    /// Every peer of a site.
    #[arg(long, conflicts_with_all = ["spki", "serial"])]
    site: Option<String>,
    /// Whoever has this key in his path: SHA-256 of the public key, in hexadecimal, as `certs --json` and `refusals` show it.
    #[arg(long, value_name = "SHA256", conflicts_with = "serial")]
    spki: Option<String>,
    /// Whoever has the certificate with this serial number in his path; --issuer says whose.
    #[arg(long, value_name = "HEX", requires = "issuer")]
    serial: Option<String>,
    /// SHA-256 of the issuer's public key, in hexadecimal.
    #[arg(long, value_name = "SHA256", requires = "serial")]
    issuer: Option<String>,
}

impl Target {
    /// The one spelling that the gateway knows.
    fn text(&self) -> String {
        let Self { identity, site, spki, serial, issuer } = self;
        let kinds = [("identity", identity), ("site", site), ("spki", spki)];
        let plain = kinds.into_iter().find_map(|(kind, value)| Some(format!("{kind}:{}", value.as_ref()?)));
        let of = |issuer: &String, serial: &String| {
            // A colon stands between the two; other tools print it within them, too.
            let [issuer, serial] = [issuer, serial].map(|text| text.replace(':', ""));
            format!("certificate:{issuer}:{serial}")
        };
        plain.or_else(|| Some(of(issuer.as_ref()?, serial.as_ref()?))).unwrap_or_default()
    }
}

impl Deny {
    pub(crate) fn run(self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Add { target, reason, time } => {
                let mut body = json!({ "target": target.text(), "reason": reason });
                if let (Some(time), Some(fields)) = (time, body.as_object_mut()) {
                    let time = humantime_serde::re::humantime::format_duration(time).to_string();
                    fields.insert("for".to_owned(), time.into());
                }
                format.show(&gateway.post("deny-list", &body)?, |entry| {
                    let until = printable(&until(entry));
                    format!("denied {} {until}\n", printable(text_of(entry, "target")))
                })?;
            }
            Command::List => format.show(&gateway.get("deny-list")?, text)?,
            Command::Remove { target } => {
                let removed = gateway.post("deny-list/remove", &json!({ "target": target.text() }))?;
                format.show(&removed, |entry| {
                    format!("no longer denied: {}\n", printable(text_of(entry, "target")))
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(denied: &Value) -> String {
    let rows: Vec<Vec<String>> = list(denied, "entries")
        .map(|entry| {
            let mut row = cells(entry, &["target", "reason", "actor"]);
            let over = entry.get("holds").and_then(Value::as_bool) == Some(false);
            row.extend([when(entry, "since"), if over { "over".to_owned() } else { until(entry) }]);
            row
        })
        .collect();
    if rows.is_empty() {
        return "nobody is denied\n".to_owned();
    }
    table(&["TARGET", "REASON", "BY", "SINCE", "HOLDS"], rows)
}

fn until(entry: &Value) -> String {
    let until = when(entry, "until");
    if until.is_empty() { "for good".to_owned() } else { format!("until {until}") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        target: Target,
    }

    fn parse(args: &[&str]) -> Option<String> {
        let line = Line::try_parse_from([&["x"], args].concat()).ok()?;
        Some(line.target.text())
    }

    #[test]
    fn a_target_is_named_in_one_way_and_no_other() {
        assert_eq!(parse(&["--identity", "site-a/x"]).unwrap(), "identity:site-a/x");
        assert_eq!(parse(&["--site", "site-a"]).unwrap(), "site:site-a");
        assert_eq!(parse(&["--spki", "ab"]).unwrap(), "spki:ab");
        assert_eq!(parse(&["--serial", "01:02", "--issuer", "a:b"]).unwrap(), "certificate:ab:0102");
        for wrong in [&[][..], &["--serial", "01"], &["--issuer", "a"], &["--site", "a", "--identity", "a/b"]]
        {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_hostile_reason_is_escaped() {
        let denied = json!({"entries": [{"target": "site:a", "reason": "\u{1b}[2J", "holds": true}]});
        assert!(text(&denied).contains("\\u{1b}[2J"), "{}", text(&denied));
    }
}
