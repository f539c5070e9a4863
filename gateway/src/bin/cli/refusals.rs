//! `refusals`: who was refused, why, what he showed, and what to do about it.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, WIDTH, cells, list, number, printable, text_of, wrap},
};

pub(crate) fn run(gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
    format.show(&gateway.get("refusals")?, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(refusals: &Value) -> String {
    let shown: Vec<String> = list(refusals, "recent").map(one).collect();
    let total = number(refusals, "total");
    if shown.is_empty() {
        return format!("nobody has been refused since the gateway began ({total} in all)\n");
    }
    format!("{}\n{total} refused since the gateway began\n", shown.join("\n"))
}

/// One entry: a line to find it by, then what is known, then what to do.
fn one(refusal: &Value) -> String {
    let times = number(refusal, "count");
    let head = cells(refusal, &["reason", "address", "last"]).join("  ");
    let mut text =
        format!("{}  {times} times, at {}\n", printable(&head), printable(text_of(refusal, "stage")));
    let mut say = |label: &str, what: &str| {
        if what.is_empty() {
            return;
        }
        for (at, line) in wrap(&printable(what), WIDTH - INDENT).into_iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            text.extend(["    ", &format!("{label:<9}"), " ", &line, "\n"]);
        }
    };
    if times > 1 {
        say("from", text_of(refusal, "network"));
    }
    say("what", text_of(refusal, "detail"));
    say("hint", text_of(refusal, "hint"));
    let chain: Vec<&Value> = list(refusal, "chain").collect();
    if !chain.is_empty() {
        say(
            "key",
            if proven(refusal) {
                "held: possession was proven"
            } else {
                "possession not proven: anybody can show a certificate"
            },
        );
    }
    for certificate in chain {
        say("showed", &presented(certificate));
    }
    text
}

fn proven(refusal: &Value) -> bool {
    refusal.get("possession_proven").and_then(Value::as_bool).unwrap_or_default()
}

/// One certificate of the chain as presented.
fn presented(certificate: &Value) -> String {
    let names: Vec<&str> = list(certificate, "names").filter_map(Value::as_str).collect();
    let names = if names.is_empty() { String::new() } else { format!("; names {}", names.join(", ")) };
    let [subject, issuer, serial, from, until] =
        ["subject", "issuer", "serial", "not_before", "not_after"].map(|key| text_of(certificate, key));
    format!("{subject}; by {issuer}; serial {serial}; {from} to {until}{names}")
}

/// What stands before the text of a line.
const INDENT: usize = 14;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_tells_reason_hint_and_chain_and_nothing_to_the_terminal() {
        let chain = json!([{
            "subject": "CN=\u{1b}[31m<b>evil</b>", "issuer": "CN=Nobody", "serial": "0a", "names": ["a\nb"],
            "not_before": "2026-01-01T00:00:00Z", "not_after": "2026-02-01T00:00:00Z",
        }]);
        let refusals = json!({"total": 7, "recent": [{
            "last": "2026-01-05T00:00:00Z", "address": "192.0.2.1", "network": "192.0.2.0/24", "stage": "tls", "reason": "unknown_issuer",
            "count": 7, "detail": "x ".repeat(90), "hint": "put it into ca_file", "possession_proven": false,
            "chain": chain,
        }]});
        let text = text(&refusals);
        assert!(
            text.starts_with("unknown_issuer  192.0.2.1  2026-01-05T00:00:00Z  7 times, at tls\n"),
            "{text}"
        );
        assert!(text.contains("    hint      put it into ca_file\n"), "{text}");
        assert!(text.contains("    from      192.0.2.0/24\n"), "{text}");
        assert!(text.contains("possession not proven"), "{text}");
        assert!(text.contains("CN=\\u{1b}[31m<b>evil</b>; by CN=Nobody; serial 0a"), "{text}");
        assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn nobody_refused_is_said() {
        assert!(text(&json!({"total": 0, "recent": []})).starts_with("nobody has been refused"));
    }
}
