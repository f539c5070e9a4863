//! `health`: each component's word, and the worst as exit code.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, printable, table, text_of, when},
};

/// From which word on the exit code is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FailOn {
    /// Anything but healthy.
    #[default]
    Degraded,
    /// Not doing its work.
    Unhealthy,
}

impl FailOn {
    const fn code(self) -> u8 {
        match self {
            Self::Degraded => 3,
            Self::Unhealthy => 4,
        }
    }
}

pub(crate) fn run(gateway: &Gateway, fail_on: FailOn, format: Format) -> anyhow::Result<ExitCode> {
    let health = gateway.get("health")?;
    format.show(&health, text)?;
    let code: u8 = match text_of(&health, "status") {
        "healthy" => 0,
        "unhealthy" | "unresponsive" => 4,
        // And a word of a later version: who does not know it must not take it for good.
        _ => 3,
    };
    Ok(ExitCode::from(if code < fail_on.code() { 0 } else { code }))
}

fn text(health: &Value) -> String {
    let summary = printable(&cells(health, &["status", "phase", "version"]).join("  "));
    let rows = list(health, "components").map(|each| {
        let mut row = cells(each, &["name", "status", "message"]);
        row.push(when(each, "since"));
        row
    });
    format!("{summary}\n{}", table(&["COMPONENT", "STATUS", "MESSAGE", "SINCE"], rows.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_field_is_an_empty_cell() {
        let value = serde_json::json!({"status": "healthy", "components": [{"name": "tls"}]});
        assert_eq!(text(&value), "healthy    \nCOMPONENT  STATUS  MESSAGE  SINCE\ntls\n");
    }
}
