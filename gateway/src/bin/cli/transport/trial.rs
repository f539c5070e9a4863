//! `transport test` and `analyze`: which transport, where, as whom; and what came of it.

use std::{net::SocketAddr, num::NonZeroU64, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use daemoneye_bridge::{
    bus::Broker,
    topic::Topic,
    transport::Kind,
    trust::Files,
    uplink::{self, Gateway as Remote},
};
use daemoneye_gateway::{
    demo,
    trial::{self, Dial, Options, Place, Report},
};
use serde_json::Value;

use crate::cli::{
    client::Gateway,
    output::{Format, WIDTH, list, number, printable, text_of},
    transport::{
        DEGRADED, progress,
        shown::{grouped, millis},
        throwaway,
    },
};

/// What is to be tried.
#[derive(Clone, Debug, Args)]
pub(super) struct Trial {
    /// Which transport.
    #[arg(long = "type", value_enum)]
    kind: Type,
    /// Messages sent as fast as they go; a tenth of them, at most 1,000, are sent one at a time before.
    #[arg(long, default_value = "20000")]
    messages: NonZeroU64,
    /// Bytes of each payload, 64 to 1,000,000.
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    size: u32,
    /// Connections that send, 1 to 64.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    connections: u8,
    /// Makes what is tried for the trial: broker and door, or gateway and certificates. In-process trials always do.
    #[arg(long = "self")]
    own: bool,
    /// Where the gateway hears collectors, as host:port; `--address`, or its configuration, if not said.
    #[arg(long, value_name = "HOST:PORT")]
    gateway: Option<Remote>,
    /// PEM of the certificate to show to a gateway, its intermediates after it.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM of its private key.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// PEM of the authorities that the gateway's certificate leads to.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A topic to publish to at a running gateway, whose subscribers will hear it. If not said, it is pinged only.
    #[arg(long, value_parser = Topic::parse)]
    topic: Option<Topic>,
    /// How long nothing may happen before it is given up.
    #[arg(long, value_name = "TIME", value_parser = demo::parse_time, default_value = "10s")]
    timeout: Duration,
}

/// Which transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    InProcess,
    NamedPipe,
    TcpMtls,
    UnixSocket,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// With the distribution of latency, and what it is made of.
    Analyze,
    /// The figures.
    Test,
}

impl Trial {
    /// Exit code 0: everything arrived, once; 3: something did not; 1: nothing did, or it could not be tried.
    pub(super) fn run(&self, depth: Depth, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        let options = Options {
            messages: self.messages,
            size: usize::try_from(self.size).unwrap_or(usize::MAX),
            connections: usize::from(self.connections),
            patience: self.timeout,
            analyze: depth == Depth::Analyze,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let report = runtime.context("could not start a runtime")?.block_on(self.tried(&options, gateway))?;
        let code = match report.status.as_str() {
            "healthy" => ExitCode::SUCCESS,
            "degraded" => ExitCode::from(DEGRADED),
            _ => ExitCode::FAILURE,
        };
        format.show(&serde_json::to_value(&report).context("could not write JSON")?, text)?;
        Ok(code)
    }

    async fn tried(&self, options: &Options, gateway: &Gateway) -> anyhow::Result<Report> {
        match self.kind {
            Type::InProcess => Ok(trial::in_process(options, progress).await?),
            Type::NamedPipe => bail!(
                "named pipes are not available on this platform: they are of Windows, where the leaf serves them; \
                 use --type {} here",
                Kind::UnixSocket
            ),
            Type::TcpMtls if self.own => {
                let throwaway = throwaway::start(options.connections).await?;
                let tried = trial::tcp(throwaway.dial(), options, progress).await;
                throwaway.end().await;
                Ok(tried?)
            }
            Type::TcpMtls => Ok(trial::tcp(self.dial(options, gateway)?, options, progress).await?),
            Type::UnixSocket => {
                let place = if self.own { Place::Own } else { Place::At(door(gateway)?) };
                Ok(trial::unix_socket(&place, options, progress).await?)
            }
        }
    }

    /// The way to a running gateway.
    fn dial(&self, options: &Options, gateway: &Gateway) -> anyhow::Result<Dial> {
        let (Some(cert), Some(key), Some(ca)) = (&self.cert, &self.key, &self.ca) else {
            bail!(
                "a gateway lets nobody in without a certificate; name a collector's with --cert, --key and --ca, or let \
                 --self make a throw-away gateway with certificates of its own"
            );
        };
        let remote = match (&self.gateway, gateway.address()) {
            (Some(remote), _) => remote.clone(),
            (None, Some(address)) => address.to_string().parse()?,
            (None, None) => listener(gateway)?.to_string().parse()?,
        };
        let files = Files { cert_file: cert.clone(), key_file: key.clone(), ca_file: ca.clone() };
        let uplink = uplink::Config::new(vec![remote.clone()], files);
        Ok(Dial {
            uplinks: vec![uplink; options.connections],
            topic: self.topic.clone(),
            bus: None,
            place: remote.to_string(),
        })
    }
}

/// Where local bus clients find a running gateway's bus.
fn door(gateway: &Gateway) -> anyhow::Result<PathBuf> {
    if let Some(path) = gateway.socket() {
        return Ok(path.to_owned());
    }
    let Some((file, settings)) = gateway.settings()? else { return Ok(DOOR.into()) };
    match settings.bus.broker {
        Broker::Embedded if !settings.unix_socket.enabled => {
            bail!("{}: unix_socket.enabled = false; turn it on, or use --self", file.display())
        }
        Broker::Embedded => Ok(settings.unix_socket.socket_path),
        Broker::Foreign => Ok(settings.bus.foreign.socket_path),
    }
}

/// Where a running gateway hears collectors.
fn listener(gateway: &Gateway) -> anyhow::Result<SocketAddr> {
    let configured = gateway.settings()?.map(|(_, settings)| settings.tcp.listener.bind_address);
    let mut address = configured.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8443)));
    if address.ip().is_unspecified() {
        // It listens everywhere, so here too.
        let localhost =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(localhost);
    }
    Ok(address)
}

/// Where the door is unless it was configured elsewhere.
const DOOR: &str = "/var/run/daemoneye/broker.sock";

fn text(report: &Value) -> String {
    let arrived = [number(report, "arrived"), number(report, "sent")].map(whole);
    let success = report.get("success_percent").and_then(Value::as_f64).unwrap_or_default();
    let proof = match text_of(report, "proof") {
        "pinged" => "pings answered",
        proof => proof,
    };
    let rates = ["messages_per_second", "megabytes_per_second", "seconds"]
        .map(|key| report.get(key).and_then(Value::as_f64).unwrap_or_default());
    let mut lines = Vec::new();
    let mut line = |head: &str, said: String| lines.push(format!("{head:<14}{}\n", printable(&said)));
    line("transport", format!("{}, {}", text_of(report, "transport"), text_of(report, "place")));
    line("status", text_of(report, "status").to_owned());
    line(
        "success",
        format!(
            "{:.3} %: {} of {} {proof}, {} twice, {} rejected",
            floored(success),
            arrived[0],
            arrived[1],
            number(report, "duplicates"),
            number(report, "rejected")
        ),
    );
    line("set-up", times(report, "set_up", "connections"));
    line("latency", times(report, "latency", "one at a time"));
    if rates[2] > 0.0 {
        line("under load", times(report, "latency_under_load", "as many as go"));
        let size = number(report, "size");
        line(
            "throughput",
            format!(
                "{} msg/s, {:.1} MB/s ({size}-byte payloads, {:.2} s)",
                grouped(rates[0]),
                rates[1],
                rates[2]
            ),
        );
    }
    lines.concat() + &histogram(report) + &stages(report)
}

/// So that 100 is all, and nothing less.
fn floored(percent: f64) -> f64 {
    (percent * 1000.0).floor() / 1000.0
}

fn whole(number: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    grouped(number as f64)
}

fn times(report: &Value, key: &str, what: &str) -> String {
    let at = |time: &str| report.pointer(&format!("/{key}/{time}_ms")).and_then(Value::as_f64);
    let shown = ["p50", "p90", "p99", "max"]
        .map(|time| format!("{time} {}", at(time).map_or_else(|| "-".to_owned(), millis)));
    let count = report.pointer(&format!("/{key}/count")).and_then(Value::as_u64).unwrap_or_default();
    format!("{}  ({}, {what})", shown.join("  "), whole(count))
}

fn histogram(report: &Value) -> String {
    let bars: Vec<_> = list(report, "histogram").collect();
    let most = bars.iter().map(|bar| number(bar, "count")).max().unwrap_or_default().max(1);
    let line = |bar: &&Value| {
        let (below, count) = (number(bar, "below_us"), number(bar, "count"));
        let width = (WIDTH as u64 / 2).saturating_mul(count).div_ceil(most);
        let bar = "#".repeat(usize::try_from(width).unwrap_or_default());
        format!("  < {:>9} µs  {:>9}  {bar}\n", whole(below), whole(count))
    };
    let text: String = bars.iter().map(line).collect();
    if text.is_empty() { text } else { format!("\nlatency, one at a time\n{text}") }
}

fn stages(report: &Value) -> String {
    let stages: Vec<_> = list(report, "stages").collect();
    let micros = |stage: &Value| stage.get("micros").and_then(Value::as_f64).unwrap_or_default();
    let of = |per: &str| stages.iter().filter(move |stage| text_of(stage, "per") == per).collect::<Vec<_>>();
    let part = |(per, head): (&str, &str)| {
        let stages = of(per);
        let all: f64 = stages.iter().map(|stage| micros(stage)).sum();
        let line = |stage: &Value| {
            let share = 100.0 * micros(stage) / all.max(f64::MIN_POSITIVE);
            format!("  {:>11.2} µs  {share:>3.0} %  {}\n", micros(stage), text_of(stage, "name"))
        };
        let lines: String = stages.iter().map(|stage| line(stage)).collect();
        if lines.is_empty() { lines } else { format!("\n{head}, medians\n{lines}") }
    };
    let parts = [("connection", "once a connection"), ("message", "each message")];
    let text: String = parts.into_iter().map(part).collect();
    match text_of(report, "dominated_by") {
        "" => text,
        dominant => format!("{text}dominated by: {dominant}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_one_of_a_million_is_not_all() {
        assert!((floored(99.999_9) - 99.999).abs() < 1e-9);
        assert!((floored(100.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_is_not_shown() {
        let text = text(&serde_json::json!({"transport": "tcp-mtls", "proof": "pinged", "seconds": 0.0}));
        assert!(text.contains("pings answered") && !text.contains("throughput"), "{text}");
        assert!(!text.contains("dominated"), "{text}");
    }
}
