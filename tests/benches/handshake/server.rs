//! A server under load, and what each handshake costs it.

use std::{
    fmt, fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use daemoneye_tests::measure::{RUN, cpu};
use rustls::NamedGroup;
use tokio::{task::JoinSet, time::Instant};

use crate::client::{Clients, come_and_go, handshake};

/// Handshakes that are under way at once.
const CLIENTS: usize = 16;

/// One row: a server, who comes to it, and what that cost.
pub(crate) struct Server {
    name: &'static str,
    crl: usize,
    process: u32,
    address: SocketAddr,
    clients: Clients,
    next: Arc<AtomicUsize>,
    exchange: NamedGroup,
    runs: Vec<Run>,
}

/// One run.
struct Run {
    per_second: f64,
    cpu_per_thousand: f64,
}

impl Server {
    pub(crate) async fn new(
        name: &'static str,
        crl: usize,
        process: u32,
        address: SocketAddr,
        clients: &Clients,
    ) -> Self {
        let first = handshake(address, &clients[0]).await;
        let exchange = first.unwrap_or_else(|error| panic!("{name} takes no collector: {error}"));
        let (next, clients) = (Arc::default(), Arc::clone(clients));
        Self { name, crl, process, address, clients, next, exchange, runs: Vec::new() }
    }

    /// One run; returns the processor time of a thousand handshakes, in seconds.
    pub(crate) async fn run(&mut self, warm_up: Duration) -> f64 {
        let done = Arc::new(AtomicU64::new(0));
        let mut load = JoinSet::new();
        for _ in 0..CLIENTS {
            let (clients, next) = (Arc::clone(&self.clients), Arc::clone(&self.next));
            load.spawn(come_and_go(self.address, clients, next, Arc::clone(&done)));
        }
        tokio::time::sleep(warm_up).await;
        let (begun, before, used) = (Instant::now(), done.load(Relaxed), cpu_of_all(self.process));
        tokio::time::sleep(RUN).await;
        let (time, used) = (begun.elapsed(), cpu_of_all(self.process).saturating_sub(used));
        let handshakes = done.load(Relaxed) - before;
        if let Some(ended) = load.try_join_next() {
            panic!("{} failed a collector: {ended:?}", self.name);
        }
        load.shutdown().await;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let handshakes = handshakes as f64;
        let cpu_per_thousand = used.as_secs_f64() * 1e3 / handshakes;
        self.runs.push(Run { per_second: handshakes / time.as_secs_f64(), cpu_per_thousand });
        cpu_per_thousand
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        runs.sort_by(|a, b| a.cpu_per_thousand.total_cmp(&b.cpu_per_thousand));
        let (median, least, most) = (runs[runs.len() / 2], runs[0], runs[runs.len() - 1]);
        write!(
            f,
            "bench=handshake server={} crl={} kx={:?} runs={} per_s={:.0} cpu_s_per_1000={:.3} cpu_least={:.3} cpu_most={:.3}",
            self.name,
            self.crl,
            self.exchange,
            runs.len(),
            median.per_second,
            median.cpu_per_thousand,
            least.cpu_per_thousand,
            most.cpu_per_thousand,
        )
    }
}

/// Processor time of a process and of all that descend from it.
fn cpu_of_all(root: u32) -> Duration {
    let entries = fs::read_dir("/proc").expect("processes are listed").filter_map(Result::ok);
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> =
        processes.filter_map(|process| Some((process, parent(process)?))).collect();
    let mut all = vec![root];
    let mut next = 0;
    while let Some(process) = all.get(next).copied() {
        all.extend(parents.iter().filter(|(_, parent)| *parent == process).map(|(child, _)| *child));
        next += 1;
    }
    all.into_iter().map(cpu).sum()
}

/// Who started a process; none if it is gone.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
