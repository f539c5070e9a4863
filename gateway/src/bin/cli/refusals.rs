//! `refusals`: who was refused, and why.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, number, table},
};

pub(crate) fn run(gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    format.show(&gateway.get("refusals")?, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(refusals: &Value) -> String {
    let rows = list(refusals, "recent").map(|refusal| {
        let mut row = cells(refusal, &["last", "address", "stage", "reason"]);
        row.push(number(refusal, "count").to_string());
        row.extend(cells(refusal, &["detail", "hint"]));
        row
    });
    table(&["LAST", "ADDRESS", "STAGE", "REASON", "TIMES", "DETAIL", "HINT"], rows.collect())
}
