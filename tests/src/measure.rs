//! What the benches measure of a process, and the rows that they print.

use std::{fmt, fs, time::Duration};

use daemoneye_gateway::demo::latencies::Latencies;
use tokio::time::{self, Instant};

use crate::{load::Load, process::resident};

/// How long a load runs before it is measured.
pub const WARM_UP: Duration = Duration::from_secs(2);

/// How long each run is.
pub const RUN: Duration = Duration::from_secs(5);

/// Runs of which the median counts.
pub const RUNS: usize = 3;

/// Processor time that a process has used, user and system.
///
/// # Panics
///
/// If there is no such process.
pub fn cpu(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process is there");
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')').expect("a process has a name");
    let ticks = rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    // A tick is 10 ms wherever Linux shows it to programs.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// One run.
#[derive(Debug)]
struct Run {
    events_per_second: f64,
    cpu_per_million: f64,
    resident: u64,
    latencies: Latencies,
}

/// The median of the runs of one bench.
#[derive(Debug)]
pub struct Row {
    bench: &'static str,
    connections: usize,
    batch: usize,
    run: Run,
    /// Median of the runs' 99th percentiles.
    p99: Duration,
    credit: u64,
}

/// Warms up, then measures the runs.
pub async fn measure(
    bench: &'static str,
    connections: usize,
    batch: usize,
    load: &mut Load,
    gateway: u32,
) -> Row {
    time::sleep(WARM_UP).await;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(run(load, gateway).await);
    }
    let quantile = |run: &Run, per_mille| run.latencies.quantile(per_mille).unwrap_or_default();
    let mut p99: Vec<Duration> = runs.iter().map(|run| quantile(run, 990)).collect();
    p99.sort_unstable();
    runs.sort_by(|a, b| a.events_per_second.total_cmp(&b.events_per_second));
    Row {
        bench,
        connections,
        batch,
        run: runs.swap_remove(RUNS / 2),
        p99: p99[RUNS / 2],
        credit: load.credit(),
    }
}

async fn run(load: &mut Load, gateway: u32) -> Run {
    drop(load.take_latencies());
    let (begun, acked, used) = (Instant::now(), load.acked(), cpu(gateway));
    time::sleep(RUN).await;
    let (time, acked, used) = (begun.elapsed(), load.acked() - acked, cpu(gateway).saturating_sub(used));
    load.check();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let events = acked as f64;
    Run {
        events_per_second: events / time.as_secs_f64(),
        cpu_per_million: used.as_secs_f64() * 1e6 / events,
        resident: resident(gateway),
        latencies: load.take_latencies(),
    }
}

impl Row {
    /// Events acknowledged a second.
    pub const fn events_per_second(&self) -> f64 {
        self.run.events_per_second
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p50 = self.run.latencies.quantile(500).unwrap_or_default();
        write!(
            f,
            "bench={} conns={} batch={} events_per_s={:.0} gateway_cpu_s_per_m={:.2} rss_mb={} p50_us={} p99_us={} \
             credit={}",
            self.bench,
            self.connections,
            self.batch,
            self.run.events_per_second,
            self.run.cpu_per_million,
            self.run.resident >> 20,
            p50.as_micros(),
            self.p99.as_micros(),
            self.credit,
        )
    }
}

/// Resident memory of a process when it no longer changes.
pub async fn settled_resident(process: u32) -> u64 {
    let mut last = resident(process);
    loop {
        time::sleep(Duration::from_millis(500)).await;
        let now = resident(process);
        if now.abs_diff(last) < 64 << 10 {
            return now;
        }
        last = now;
    }
}
