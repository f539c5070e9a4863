//! `transport monitor`: what a running gateway's transports do, sample by sample.
//!
//! Rates are those between two samples, made of the totals that the gateway tells; so a sample that was missed costs detail
//! and falsifies nothing.

use std::{
    io::{self, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use daemoneye_gateway::demo;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::{
    client::Gateway,
    output::{Format, json_line, list, number, printable, text_of},
    transport::{
        code, progress,
        shown::{grouped, millis},
        status::word,
    },
};

/// How long and how often.
#[derive(Clone, Debug, Args)]
pub(super) struct Monitor {
    /// How long, such as 60s or 5min; until Ctrl-C if not said.
    #[arg(long, value_name = "TIME", value_parser = demo::parse_time)]
    duration: Option<Duration>,
    /// How often; 100ms at least.
    #[arg(long, value_name = "TIME", value_parser = demo::parse_time, default_value = "1s")]
    interval: Duration,
}

/// The totals of one moment.
struct Sample {
    at: Instant,
    transports: Value,
}

impl Monitor {
    /// Exit code 1 if the gateway no longer answers at the end, else that of its worst word at the end.
    pub(super) fn run(&self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        if self.interval < Duration::from_millis(100) {
            bail!("--interval {:?} is too short; use 100ms or more", self.interval);
        }
        let ask =
            || gateway.anew().get("transports").map(|transports| Sample { at: Instant::now(), transports });
        // Nobody there at all is an error, and no sample.
        let first = ask()?;
        let begun = first.at;
        if !format.is_json() {
            print(&format!("{HEADS}\n"))?;
        }
        let (mut before, mut missed) = (first, None);
        while self.duration.is_none_or(|duration| begun.elapsed() < duration) {
            thread::sleep(self.interval);
            match ask() {
                Ok(now) => {
                    print(&lines(&before, &now, begun, format))?;
                    (before, missed) = (now, None);
                }
                Err(error) => {
                    progress(&format!("{error:#}"));
                    missed = Some(error);
                }
            }
        }
        if let Some(error) = missed {
            return Err(error);
        }
        let worst = list(&before.transports, "transports").map(|each| code(text_of(each, "status"))).max();
        Ok(ExitCode::from(worst.unwrap_or_default()))
    }
}

const HEADS: &str = "     TIME  TRANSPORT    STATUS        CONNECTIONS         MSG/S    ERR/S    LATENCY";

/// One line for each transport in use.
fn lines(before: &Sample, now: &Sample, begun: Instant, format: Format) -> String {
    let time = now.at.duration_since(before.at).as_secs_f64();
    let seconds = now.at.duration_since(begun).as_secs_f64();
    let of = |sample: &'_ Sample, name: &str| {
        list(&sample.transports, "transports").find(|each| text_of(each, "transport") == name).cloned()
    };
    let line = |each: &Value| {
        let name = text_of(each, "transport");
        let earlier = of(before, name).unwrap_or_default();
        let rates = Rates::between(&earlier, each, time);
        let latency = rates.latency.map_or_else(|| "-".to_owned(), millis);
        let connections = number(each, "connection_count");
        if format.is_json() {
            json_line(&json!({
                "seconds": seconds, "transport": name, "status": text_of(each, "status"),
                "connection_count": connections, "message_rate": rates.messages, "error_rate": rates.errors,
                "average_latency_ms": rates.latency,
            }))
        } else {
            let [name, word] = [name, word(each)].map(printable);
            let [messages, errors] = [rates.messages, rates.errors].map(grouped);
            format!(
                "{seconds:>8.1}s  {name:<11}  {word:<12}  {connections:>11}  {messages:>12}  {errors:>7}  {latency:>9}\n"
            )
        }
    };
    let in_use = list(&now.transports, "transports").filter(|each| word(each) != "not in use");
    in_use.map(line).collect()
}

/// What happened between two samples of one transport.
struct Rates {
    messages: f64,
    errors: f64,
    /// In milliseconds.
    latency: Option<f64>,
}

impl Rates {
    fn between(before: &Value, now: &Value, time: f64) -> Self {
        let total = |of: &Value, key: &str| {
            of.pointer(&format!("/totals/{key}")).and_then(Value::as_f64).unwrap_or_default()
        };
        // A gateway that was started anew counts from 0.
        let began_anew = total(now, "connections_opened") < total(before, "connections_opened");
        let nothing = Value::Null;
        let before = if began_anew { &nothing } else { before };
        let more = |key: &str| (total(now, key) - total(before, key)).max(0.0);
        let timed = more("latency_count");
        Self {
            messages: (more("messages_received") + more("messages_sent")) / time,
            errors: more("errors") / time,
            latency: (timed > 0.0).then(|| more("latency_seconds") * 1000.0 / timed),
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_made_of_totals_and_begin_anew_with_the_gateway() {
        let totals = |opened: u64, received: u64, count: u64, seconds: f64| {
            json!({"totals": {"connections_opened": opened, "messages_received": received, "messages_sent": 0,
                              "errors": 0, "latency_count": count, "latency_seconds": seconds}})
        };
        let rates = Rates::between(&totals(5, 100, 10, 1.0), &totals(6, 300, 20, 1.1), 2.0);
        assert!((rates.messages - 100.0).abs() < 1e-9);
        assert!((rates.latency.unwrap() - 10.0).abs() < 1e-6);
        let anew = Rates::between(&totals(5, 100, 10, 1.0), &totals(1, 40, 0, 0.0), 2.0);
        assert!((anew.messages - 20.0).abs() < 1e-9 && anew.latency.is_none());
    }
}
