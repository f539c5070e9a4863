//! `certs`: every certificate that a gateway knows of, and what expires when.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::cli::{
    client::Gateway,
    output::{Format, cells, list, number, table, text_of, when},
};

/// What is to be shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct Certs {
    /// Exit code 3 if anything expires within this time, such as 14d; 4 if something has expired.
    #[arg(long, value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
    fail_if_expiring: Option<Duration>,
}

impl Certs {
    pub(crate) fn run(&self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        let certificates = gateway.get("certificates")?;
        let now = OffsetDateTime::now_utc();
        format.show(&certificates, |certificates| text(certificates, now))?;
        let Some(within) = self.fail_if_expiring else { return Ok(ExitCode::SUCCESS) };
        let seconds = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
        Ok(match soonest(&certificates).map(|end| (end - now).whole_seconds()) {
            Some(left) if left <= 0 => ExitCode::from(4),
            Some(left) if left <= seconds => ExitCode::from(3),
            _ => ExitCode::SUCCESS,
        })
    }
}

/// When the first of all expires.
fn soonest(certificates: &Value) -> Option<OffsetDateTime> {
    let own = list(certificates, "certificates").filter_map(|each| moment(text_of(each, "not_after")));
    own.chain(list(certificates, "collectors").filter_map(|each| moment(text_of(each, "expires")))).min()
}

fn text(certificates: &Value, now: OffsetDateTime) -> String {
    let left = |end: &str| moment(end).map_or_else(String::new, |end| remaining(end - now));
    let own = list(certificates, "certificates").map(|each| {
        let mut row = cells(each, &["role", "subject"]);
        row.push(left(text_of(each, "not_after")));
        row.extend([when(each, "not_after"), text_of(each, "serial").to_owned()]);
        row
    });
    let mut text = table(&["ROLE", "SUBJECT", "LEFT", "UNTIL", "SERIAL"], own.collect());
    let collectors: Vec<_> = list(certificates, "collectors")
        .map(|each| {
            let mut row = cells(each, &["peer"]);
            row.push(left(text_of(each, "expires")));
            row.push(when(each, "expires"));
            row.extend(cells(each, &["issuer", "serial"]));
            row
        })
        .collect();
    if !collectors.is_empty() {
        text.push('\n');
        text.push_str(&table(&["COLLECTOR", "LEFT", "UNTIL", "ISSUER", "SERIAL"], collectors));
    }
    text.push_str(&lists(certificates));
    text.push('\n');
    text.push_str(&forecast(certificates));
    if let Some(refused) = certificates.get("refused").filter(|refused| !refused.is_null()) {
        let mut row = cells(refused, &["since", "cause"]);
        row.insert(0, "not put in force".to_owned());
        text.push('\n');
        text.push_str(&table(&["LAST RELOAD", "SINCE", "WHY"], vec![row]));
    }
    text
}

/// The revocation lists, if there are any.
fn lists(certificates: &Value) -> String {
    let rows: Vec<_> = list(certificates, "lists")
        .map(|each| {
            let mut row = cells(each, &["issuer", "number", "status"]);
            row.extend([
                when(each, "this_update"),
                when(each, "next_update"),
                number(each, "entries").to_string(),
            ]);
            row
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table(&["REVOCATION LIST OF", "NUMBER", "STATUS", "ISSUED", "NEXT DUE", "ENTRIES"], rows))
}

fn forecast(certificates: &Value) -> String {
    let row = |whose: &str| {
        let counts = certificates.pointer(&format!("/forecast/{whose}")).unwrap_or(&Value::Null);
        let counts = ["expired", "in_1d", "in_7d", "in_30d"].map(|key| number(counts, key).to_string());
        std::iter::once(whose.to_owned()).chain(counts).collect()
    };
    table(&["FORECAST", "EXPIRED", "<1d", "<7d", "<30d"], vec![row("gateway"), row("collectors")])
}

/// How much time is left, in the two largest units.
fn remaining(left: time::Duration) -> String {
    if !left.is_positive() {
        return "expired".to_owned();
    }
    let (days, hours, minutes) = (left.whole_days(), left.whole_hours() % 24, left.whole_minutes() % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m"),
        (0, hours) => format!("{hours}h {minutes}m"),
        (days, hours) => format!("{days}d {hours}h"),
    }
}

fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_soonest_end_of_all_counts() {
        let certificates = json!({
            "certificates": [{"not_after": "2030-01-01T00:00:00Z"}],
            "collectors": [{"expires": "2027-05-01T10:00:00.5Z"}, {"expires": "broken"}],
        });
        assert_eq!(soonest(&certificates).unwrap().year(), 2027);
        assert_eq!(soonest(&json!({})), None);
    }

    #[test]
    fn what_is_left_is_told_in_two_units() {
        assert_eq!(remaining(time::Duration::minutes(59)), "59m");
        assert_eq!(remaining(time::Duration::minutes(61)), "1h 1m");
        assert_eq!(remaining(time::Duration::hours(50)), "2d 2h");
        assert_eq!(remaining(time::Duration::ZERO), "expired");
    }

    #[test]
    fn a_hostile_subject_comes_out_escaped_and_within_the_line() {
        let certificates = json!({
            "certificates": [{
                "role": "ca", "subject": "CN=\u{1b}]0;owned\u{7}<script>".repeat(9), "serial": "00".repeat(20),
                "not_after": "2030-01-01T00:00:00Z",
            }],
            "forecast": {"gateway": {"in_30d": 1}},
            "lists": [{
                "issuer": "CN=\u{1b}corp", "number": "2a", "status": "grace", "entries": 7,
                "this_update": "2026-01-01T10:30:00Z", "next_update": "2026-01-02T10:30:00Z",
            }],
        });
        let text = text(&certificates, OffsetDateTime::UNIX_EPOCH);
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
        let listed = text.lines().find(|line| line.contains("corp")).unwrap();
        for word in ["2a", "grace", "2026-01-01 10:30Z", "2026-01-02 10:30Z", "7"] {
            assert!(listed.contains(word), "{listed}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
