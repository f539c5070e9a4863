//! Facts of this process out of `/proc`, under the names that every Prometheus client uses.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};

use crate::telemetry::metrics;

/// Reads the facts at each scrape; what cannot be read (another system, a sandbox) is left out.
#[derive(Debug)]
pub(super) struct Facts;

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(bytes) = resident_memory() {
            metrics::gauge(&mut encoder, "process_resident_memory_bytes", "Memory held", bytes)?;
        }
        if let Some(count) = open_descriptors() {
            metrics::gauge(&mut encoder, "process_open_fds", "Open file descriptors", count)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Processor time used, in user and system mode";
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

fn resident_memory() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kilobytes.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

fn open_descriptors() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_ascii_whitespace().skip(11);
    let (user, system) = (ticks.next()?.parse::<u32>().ok()?, ticks.next()?.parse::<u32>().ok()?);
    // Linux reports in hundredths of a second to every program, whatever its own clock.
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_process_can_be_read() {
        assert!(resident_memory().unwrap() > 100_000);
        assert!(open_descriptors().unwrap() >= 3);
        assert!(cpu_seconds().unwrap() >= 0.0);
    }
}
