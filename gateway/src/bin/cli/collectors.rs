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
        // What a peer says that it has may be anything.
        let backlogs = list(live, "streams").map(|stream| number(stream, "backlog"));
        row.push(backlogs.fold(0, u64::saturating_add).to_string());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_a_peer_made_up_is_shown_as_the_most_there_can_be() {
        let streams = vec![serde_json::json!({"backlog": i64::MAX}); 3];
        let shown = text(&serde_json::json!({"live": [{"peer": "a/x", "streams": streams}]}));
        assert!(shown.contains(&u64::MAX.to_string()), "{shown}");
    }
}
