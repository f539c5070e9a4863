//! The registry that every stage counts into, and the numbers that belong to no stage.
//!
//! Names are `daemoneye_gateway_<stage>_<what>[_<unit>]`; the process's own facts keep the names that every Prometheus
//! client uses. What counts elsewhere (bus, phase) is read when somebody scrapes.

use std::{fmt, sync::Arc};

use daemoneye_bridge::{
    bus::{BusState, Counters, Link},
    lifecycle::Phase,
    transport::{Kind, Totals},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use tokio::sync::watch;

use crate::telemetry::{process, transports::Transports};

/// The media type of [`Exporter::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit of this build, if who built it said so.
pub const COMMIT: &str = match option_env!("DAEMONEYE_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The metrics under construction: stages register, then it becomes an [`Exporter`].
#[derive(Debug)]
pub struct Metrics(Registry);

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Facts));
        let build = Info::new(vec![("version", VERSION), ("commit", COMMIT)]);
        registry.sub_registry_with_prefix(PREFIX).register("build", "What was built", build);
        Self(registry)
    }
}

impl Metrics {
    /// Where stages register what they count; each begins its names with its own.
    pub fn registry(&mut self) -> &mut Registry {
        self.0.sub_registry_with_prefix(PREFIX)
    }

    /// Adds what the process and the bus tell of themselves.
    pub fn vitals(&mut self, vitals: Vitals) {
        self.registry().register_collector(Box::new(vitals));
    }

    /// Adds what each transport has counted.
    pub fn transports<F>(&mut self, totals: F)
    where
        F: Fn() -> Vec<(Kind, Totals)> + Send + Sync + 'static,
    {
        self.registry().register_collector(Box::new(Transports(totals)));
    }

    /// Closes the registry.
    #[must_use]
    pub fn exporter(self) -> Exporter {
        Exporter(Arc::new(self.0))
    }
}

/// Writes the metrics down. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exporter(Arc<Registry>);

impl Exporter {
    /// Every metric, as [`CONTENT_TYPE`] wants it.
    ///
    /// # Errors
    ///
    /// A collector's, if it cannot be encoded.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// What is read off elsewhere at each scrape.
#[derive(Debug)]
pub struct Vitals {
    /// Where the process is in its life.
    pub phase: watch::Receiver<Phase>,
    /// The state of the bus.
    pub bus: watch::Receiver<BusState>,
    /// What the bus has counted.
    pub counters: Arc<Counters>,
}

impl Collector for Vitals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in self.counters.all() {
            let counter = ConstCounter::new(value);
            let (name, help) = (format!("bus_{name}"), help.trim_end_matches('.'));
            let metric = encoder.encode_descriptor(&name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let (up, held) = {
            let bus = self.bus.borrow();
            (matches!(bus.link, Link::Up), bus.held.len())
        };
        gauge(&mut encoder, "bus_link_up", "Whether the broker is there", i64::from(up))?;
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        gauge(
            &mut encoder,
            "bus_held_routes",
            "Routes whose events are kept back because nobody listens",
            held,
        )?;
        let now = *self.phase.borrow();
        let mut phases = encoder.encode_descriptor(
            "lifecycle_phase",
            "1 for the phase of the process",
            None,
            MetricType::Gauge,
        )?;
        for phase in [Phase::Starting, Phase::Serving, Phase::Draining, Phase::Stopped] {
            let labels = [("phase", phase.as_str())];
            ConstGauge::new(i64::from(phase == now)).encode(phases.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Writes one gauge without labels.
pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

const PREFIX: &str = "daemoneye_gateway";

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_bus_the_build_and_the_phase_are_exported_under_their_names() {
        let counters = Arc::new(Counters::default());
        counters.published.add(7);
        let (_phase, phase) = watch::channel(Phase::Serving);
        let down = Link::Down { since: SystemTime::now(), cause: "gone".to_owned() };
        let (_bus, bus) = watch::channel(BusState { link: down, held: Vec::new() });
        let mut metrics = Metrics::default();
        metrics.vitals(Vitals { phase, bus, counters });
        let text = metrics.exporter().text().unwrap();
        for line in [
            "daemoneye_gateway_bus_published_total 7",
            "daemoneye_gateway_bus_link_up 0",
            "daemoneye_gateway_bus_held_routes 0",
            "daemoneye_gateway_lifecycle_phase{phase=\"serving\"} 1",
            "daemoneye_gateway_lifecycle_phase{phase=\"draining\"} 0",
        ] {
            assert!(text.lines().any(|each| each == line), "no `{line}` in\n{text}");
        }
        assert!(text.contains("daemoneye_gateway_build_info{version=\""), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
