//! What the demo prints at its end, and whether it may be called a success.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use crate::demo::{
    report::Report,
    tally::{Count, Tally},
};

/// What became of one collector's events.
#[derive(Debug)]
struct Row {
    collector: String,
    sent: u64,
    acked: u64,
    received: u64,
    duplicates: u64,
    disorder: u64,
    p50: Option<Duration>,
    p99: Option<Duration>,
}

impl Row {
    fn new(report: &Report, count: Option<&Count>) -> Self {
        Self {
            collector: report.collector.clone(),
            sent: report.sent,
            acked: report.acked,
            received: count.map_or(0, Count::received),
            duplicates: count.map_or(0, |count| count.duplicates),
            disorder: count.map_or(0, |count| count.disorder),
            p50: count.and_then(|count| count.latencies.quantile(500)),
            p99: count.and_then(|count| count.latencies.quantile(990)),
        }
    }

    const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// The table, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
    /// Messages that no collector of the demo can have sent.
    strange: u64,
    /// Who was not refused, though he should have been.
    admitted: Vec<String>,
    /// How many events were heard of those who are not allowed.
    smuggled: u64,
}

impl Table {
    /// Sets the last reports of the collectors against what was heard of them.
    pub(super) fn new(reports: &[Report], refused: &[Report], tally: &Tally) -> Self {
        let rows = reports.iter().map(|report| Row::new(report, tally.of(&report.collector))).collect();
        let smuggled =
            refused.iter().filter_map(|report| tally.of(&report.collector)).map(Count::received).sum();
        let admitted = refused.iter().filter(|report| report.refused.is_none());
        let admitted = admitted.map(|report| report.collector.clone()).collect();
        Self { rows, strange: tally.strange, admitted, smuggled }
    }

    /// What keeps the demo from being a success, one sentence each.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for row in &self.rows {
            let who = &row.collector;
            if row.sent == 0 {
                faults.push(format!("{who} has sent nothing"));
            }
            if row.lost() > 0 {
                faults.push(format!("{} of {who}'s events were lost", row.lost()));
            }
            if row.received > row.sent {
                faults.push(format!("{} events of {who} were made up", row.received - row.sent));
            }
            if row.acked != row.sent {
                faults.push(format!(
                    "{} of {who}'s events were not acknowledged",
                    row.sent.abs_diff(row.acked)
                ));
            }
            if row.disorder > 0 {
                faults.push(format!("{} of {who}'s events came out of order", row.disorder));
            }
        }
        if self.strange > 0 {
            faults.push(format!("{} messages came from nobody of the demo", self.strange));
        }
        if self.smuggled > 0 {
            faults.push(format!("{} events of who is not allowed were heard", self.smuggled));
        }
        for who in &self.admitted {
            faults.push(format!("{who} is not allowed, and was not refused"));
        }
        faults
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20}{:>8}{:>8}{:>10}{:>7}{:>12}{:>11}{:>11}",
            "collector", "sent", "acked", "received", "lost", "duplicates", "p50", "p99"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<20}{:>8}{:>8}{:>10}{:>7}{:>12}{:>11}{:>11}",
                row.collector,
                row.sent,
                row.acked,
                row.received,
                row.lost(),
                row.duplicates,
                millis(row.p50),
                millis(row.p99),
            )?;
        }
        Ok(())
    }
}

fn millis(time: Option<Duration>) -> String {
    let mut text = String::new();
    match time {
        // Writing to a string cannot fail.
        Some(time) => write!(text, "{:.1} ms", time.as_secs_f64() * 1e3).unwrap_or_default(),
        None => text.push('-'),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: u64, acked: u64) -> Report {
        Report { collector: "site-a/procmond".to_owned(), sent, acked, ..Report::default() }
    }

    fn table(sent: u64, acked: u64, received: u64) -> Table {
        let mut row = Row::new(&report(sent, acked), None);
        row.received = received;
        Table { rows: vec![row], strange: 0, admitted: Vec::new(), smuggled: 0 }
    }

    #[test]
    fn only_a_whole_count_is_a_success() {
        assert_eq!(table(7, 7, 7).faults(), Vec::<String>::new());
        assert_eq!(table(7, 7, 6).faults(), ["1 of site-a/procmond's events were lost"]);
        assert_eq!(table(7, 6, 7).faults(), ["1 of site-a/procmond's events were not acknowledged"]);
        assert_eq!(table(7, 7, 8).faults(), ["1 events of site-a/procmond were made up"]);
        assert_eq!(table(0, 0, 0).faults(), ["site-a/procmond has sent nothing"]);
        let unrefused = Table { admitted: vec!["site-c/x".to_owned()], smuggled: 1, ..table(7, 7, 7) };
        assert_eq!(unrefused.faults().len(), 2);
    }

    #[test]
    fn the_table_stays_within_ninety_columns() {
        let text = table(123_456, 123_456, 123_455).to_string();
        assert!(text.lines().all(|line| line.len() <= 90), "{text}");
        assert!(text.contains("123456") && text.ends_with("-\n"), "{text}");
    }
}
