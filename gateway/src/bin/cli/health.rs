//! `health`: each component's word, and the worst as exit code.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, printable, table, text_of, when},
};

pub(crate) fn run(gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    let health = gateway.get("health")?;
    format.show(&health, text)?;
    Ok(match text_of(&health, "status") {
        "degraded" | "unknown" => ExitCode::from(3),
        "unhealthy" | "unresponsive" => ExitCode::from(4),
        _ => ExitCode::SUCCESS,
    })
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
