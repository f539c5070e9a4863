//! `transport status`: each transport of a running gateway.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, list, number, printable, table, text_of, when},
    transport::{
        code,
        shown::{millis, rate},
    },
};

pub(super) fn run(gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    let transports = gateway.get("transports")?;
    format.show(&transports, text)?;
    let worst = list(&transports, "transports").map(|each| code(text_of(each, "status"))).max();
    Ok(ExitCode::from(worst.unwrap_or_default()))
}

fn text(transports: &Value) -> String {
    let rows = list(transports, "transports").map(|each| {
        let average = each.get("average_latency_ms").and_then(Value::as_f64);
        vec![
            text_of(each, "transport").to_owned(),
            word(each).to_owned(),
            number(each, "connection_count").to_string(),
            rate(each, "message_rate"),
            rate(each, "error_rate"),
            average.map_or_else(String::new, millis),
            text_of(each, "endpoint").to_owned(),
        ]
    });
    let heads = ["TRANSPORT", "STATUS", "CONNECTIONS", "MSG/S", "ERR/S", "LATENCY", "WHERE"];
    let mut text = table(&heads, rows.collect());
    text.extend(list(transports, "transports").flat_map(remarks));
    wrapped(&text)
}

/// What a table has no room for.
fn remarks(transport: &Value) -> Vec<String> {
    let name = text_of(transport, "transport");
    let cause = transport.get("cause").and_then(Value::as_str).map(|cause| format!("{name}: {cause}"));
    let last = transport.get("last_error").filter(|last| !last.is_null());
    let last =
        last.map(|last| format!("{name}: last error {}: {}", when(last, "since"), text_of(last, "cause")));
    cause.into_iter().chain(last).map(|line| printable(&line) + "\n").collect()
}

/// What is said beside the table, in lines that fit.
fn wrapped(text: &str) -> String {
    use crate::cli::output::{WIDTH, wrap};
    text.lines()
        .flat_map(|line| if line.chars().count() > WIDTH { wrap(line, WIDTH) } else { vec![line.to_owned()] })
        .map(|line| line + "\n")
        .collect()
}

/// Its word, or that it is not in use.
pub(super) fn word(transport: &Value) -> &str {
    match transport.get("enabled").and_then(Value::as_bool) {
        Some(false) => "not in use",
        _ => text_of(transport, "status"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_use_says_why_and_no_line_is_too_long() {
        let value = serde_json::json!({"transports": [
            {"transport": "named-pipe", "enabled": false, "cause": "not available ".repeat(20)},
            {"transport": "unix-socket", "enabled": true, "status": "healthy", "connection_count": 2,
             "message_rate": 1234.5, "error_rate": 0.0, "average_latency_ms": 0.25,
             "last_error": {"cause": "x\u{1b}", "since": "2026-11-28T21:59:05Z"}},
        ]});
        let text = text(&value);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(
            text.contains("not in use") && text.contains("0.250 ms") && text.contains("1,234.5"),
            "{text}"
        );
        assert!(text.contains("last error 2026-11-28 21:59Z: x\\u{1b}"), "{text}");
    }
}
