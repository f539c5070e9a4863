//! What the spool costs: appending, reading back, and opening a large one.
//!
//! Prints a row a measurement. `cargo bench --bench spool` runs all; an operation's name as argument runs it alone. Opening
//! is measured in a process of its own, so that its memory is seen.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use daemoneye_bridge::{
    event::Class,
    lifecycle::Lifecycle,
    spool::{Chunk, Config, Record, Spool, Sync},
    topic::Topic,
};
use tokio::time::Instant;

const PAYLOAD: usize = 256;

/// How long a row of appends takes.
const ROW: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let all = arguments.is_empty();
    let first = arguments.first().map(String::as_str);
    if let (Some("open"), Some(directory)) = (first, arguments.get(1)) {
        return runtime.block_on(open(Path::new(directory)));
    }
    if all || first == Some("append") {
        for (sync, callers, batch) in [
            (Sync::Os, 1, 1),
            (Sync::Os, 64, 1),
            (Sync::Os, 1, 128),
            (Sync::Os, 8, 128),
            (Sync::Always, 1, 128),
            (Sync::Always, 8, 128),
            (Sync::Always, 64, 1),
        ] {
            runtime.block_on(append(sync, callers, batch))?;
        }
    }
    if all || first == Some("read") || first == Some("recover") {
        runtime.block_on(recover_and_read())?;
    }
    Ok(())
}

/// A spool with its owner at work.
struct Running {
    spool: Spool,
    life: Lifecycle,
}

impl Running {
    fn open(directory: &Path, sync: Sync) -> anyhow::Result<Self> {
        let (spool, owner) = Spool::open(Config { sync, ..Config::at(directory) })?;
        let life = Lifecycle::new();
        life.leash().spawn(owner);
        Ok(Self { spool, life })
    }

    async fn close(self) {
        self.spool.close().await;
        self.life.drain(Duration::from_secs(30), std::future::pending()).await;
    }
}

/// Many callers append for a while into a spool that is full before the end: making room is part of it.
async fn append(sync: Sync, callers: usize, batch: usize) -> anyhow::Result<()> {
    let folder = folder()?;
    let running = Running::open(folder.path(), sync)?;
    let records = Arc::new(records(batch));
    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    let appending = (0..callers).map(|_| {
        let (spool, records) = (running.spool.clone(), Arc::clone(&records));
        async move {
            let mut appended = 0;
            while started.elapsed() < ROW {
                spool.append(records.to_vec()).await?;
                appended += records.len() as u64;
            }
            anyhow::Ok(appended)
        }
    });
    let appended: u64 = futures_util::future::try_join_all(appending).await?.into_iter().sum();
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    println!(
        "bench=spool op=append sync={} callers={callers} batch={batch} payload={PAYLOAD} events_per_s={:.0} mb_per_s={:.0} cpu_s_per_m={:.2}",
        match sync {
            Sync::Always => "always",
            Sync::Os => "os",
        },
        per(appended, seconds),
        per(appended * PAYLOAD as u64, seconds) / 1e6,
        cpu / (per(appended, 1e6)),
    );
    running.close().await;
    Ok(())
}

/// Fills a spool of 1 GiB, opens it in another process, and reads it back.
async fn recover_and_read() -> anyhow::Result<()> {
    let folder = folder()?;
    let running = Running::open(folder.path(), Sync::Os)?;
    let records = records(128);
    let full = 1 << 30;
    while running.spool.stats().borrow().bytes < full - (17 << 20) {
        running.spool.append(records.clone()).await?;
    }
    running.close().await;
    for _ in 0..3 {
        let program = env::current_exe()?;
        let status = Command::new(program).arg("open").arg(folder.path()).status()?;
        ensure!(status.success(), "opening failed");
    }
    let running = Running::open(folder.path(), Sync::Os)?;
    let started = Instant::now();
    running.spool.ack(Class::Telemetry, u64::MAX).await;
    running.close().await;
    println!("bench=spool op=trim gib=1 ms={:.1}", started.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// In a process of its own: opens a spool, then reads all of it.
async fn open(directory: &Path) -> anyhow::Result<()> {
    let bytes: u64 =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<std::io::Result<u64>>()?;
    let started = Instant::now();
    let running = Running::open(directory, Sync::Os)?;
    let taken = started.elapsed();
    println!(
        "bench=spool op=recover gib={:.2} ms={:.1} rss_mb={:.1}",
        per(bytes, f64::from(1 << 30)),
        taken.as_secs_f64() * 1e3,
        most_memory()?
    );
    let streams = running.spool.streams();
    let telemetry = streams.iter().find(|state| state.class == Class::Telemetry).context("no stream")?;
    let mut reader = running.spool.reader(Class::Telemetry, 1);
    let (mut read, cpu, started) = (0, cpu_seconds()?, Instant::now());
    while reader.position() < telemetry.next {
        match reader.next(128, 1 << 20).await.context("the spool is closed")? {
            Chunk::Events { events, .. } => read += events.len() as u64,
            Chunk::Gap { reason, .. } => ensure!(reason.as_str() == "evicted", "events are missing"),
        }
    }
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    println!(
        "bench=spool op=read batch=128 payload={PAYLOAD} events_per_s={:.0} mb_per_s={:.0} cpu_s_per_m={:.2} rss_mb={:.1}",
        per(read, seconds),
        per(read * PAYLOAD as u64, seconds) / 1e6,
        cpu / per(read, 1e6),
        most_memory()?,
    );
    running.close().await;
    Ok(())
}

fn records(count: usize) -> Vec<Record> {
    let topic = Topic::parse("events.process.metadata").expect("a topic");
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let collector = Some(Arc::from("procmond"));
    vec![Record { collector, origin: None, topic, payload, time: 1_700_000_000_000_000_000 }; count]
}

/// A folder on the disk that the build is on: the one for temporary files may be in memory.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let beside = option_env!("CARGO_TARGET_TMPDIR").map_or_else(env::temp_dir, PathBuf::from);
    Ok(tempfile::tempdir_in(beside)?)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per(count: u64, of: f64) -> f64 {
    count as f64 / of
}

/// Processor time of this process so far.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(per(ticks, 100.0))
}

/// The most memory that this process has held, in MB.
fn most_memory() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(per(kib * 1024, 1e6))
}
