//! `collectors`: who is connected, and who was.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, number, table, when},
};

pub(crate) fn run(gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    format.show(&gateway.get("collectors")?, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(collectors: &Value) -> String {
    let live = list(collectors, "live").map(|live| {
        let mut row = cells(live, &["peer", "status", "address"]);
        row.push(when(live, "since"));
        row.extend(["events", "in_flight", "rejected"].map(|key| number(live, key).to_string()));
        row.push(list(live, "streams").map(|stream| number(stream, "backlog")).sum::<u64>().to_string());
        row
    });
    let heads = ["PEER", "STATUS", "ADDRESS", "SINCE", "EVENTS", "IN FLIGHT", "REJECTED", "BACKLOG"];
    let mut text = table(&heads, live.collect());
    let gone: Vec<_> = list(collectors, "gone")
        .map(|gone| {
            let mut row = cells(gone, &["peer", "address", "reason"]);
            row.push(when(gone, "until"));
            row
        })
        .collect();
    if !gone.is_empty() {
        text.push('\n');
        text.push_str(&table(&["GONE", "ADDRESS", "REASON", "UNTIL"], gone));
    }
    text
}
