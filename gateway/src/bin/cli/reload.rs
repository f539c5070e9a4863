//! `reload`: certificates, revocation lists and policy are read again, and what became of it is told.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::{
    client::Gateway,
    output::{Format, table, text_of},
};

/// How to reload.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Reload {
    /// Also puts in force what is held back: a revocation list that goes back, anchors or a policy that cut more than a fifth
    /// of the connected; this stands in the audit.
    #[arg(long)]
    force: bool,
}

impl Reload {
    /// Exit code 1 if anything was refused: what was in force before stays then.
    pub(crate) fn run(self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        let done = gateway.post("reload", &json!({ "force": self.force }))?;
        format.show(&done, text)?;
        let refused = PARTS.iter().any(|part| text_of(&part_of(&done, part), "outcome") == "refused");
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn text(done: &Value) -> String {
    let rows = PARTS.map(|part| {
        let outcome = part_of(done, part);
        vec![part.to_owned(), text_of(&outcome, "outcome").to_owned(), text_of(&outcome, "detail").to_owned()]
    });
    table(&["PART", "OUTCOME", "DETAIL"], rows.into())
}

fn part_of(done: &Value, part: &str) -> Value {
    done.get(part).cloned().unwrap_or_default()
}

/// What is reloaded.
const PARTS: [&str; 2] = ["certificates", "policy"];
