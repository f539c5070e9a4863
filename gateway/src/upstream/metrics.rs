//! What the way up tells of itself at each scrape.

use std::{fmt, time::SystemTime};

use daemoneye_bridge::{spool, uplink};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use tokio::sync::watch;

/// What the way up tells of itself.
#[derive(Debug)]
pub(super) struct Climb {
    pub(super) link: watch::Receiver<uplink::Status>,
    pub(super) queue: watch::Receiver<spool::Stats>,
}

impl Collector for Climb {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (link, queue) = (self.link.borrow().clone(), self.queue.borrow().clone());
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let sum = |of: fn(&spool::ClassStats) -> u64| queue.classes.iter().map(of).sum::<u64>();
        let oldest = queue.classes.iter().filter_map(|class| class.oldest).min();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = oldest.map_or(0, |nanos| since_epoch.as_secs().saturating_sub(nanos / 1_000_000_000));
        for (name, help, value) in [
            ("upstream_link_up", "Whether a gateway above is there", u64::from(link.link.is_up())),
            ("upstream_waiting_events", "Events that wait for a gateway above", sum(|class| class.events)),
            ("upstream_spool_bytes", "Bytes of the spool on disk", queue.bytes),
            ("upstream_oldest_seconds", "Age of the oldest event that waits", age),
        ] {
            let gauge = ConstGauge::new(number(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in [
            ("upstream_acked", "Events that a gateway above has acknowledged", link.acked),
            ("upstream_rejected", "Events that a gateway above will never publish", link.rejected),
            ("upstream_evicted", "Events that went because the spool was full", sum(|class| class.evicted)),
            ("upstream_corrupt", "Events found damaged or gone", sum(|class| class.corrupt)),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
