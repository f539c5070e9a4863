//! What each transport has counted, read off when somebody scrapes.

use std::fmt;

use daemoneye_bridge::transport::{Kind, Totals};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Exports what the function tells of each transport in use.
pub(super) struct Transports<F>(pub(super) F);

impl<F> fmt::Debug for Transports<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transports").finish_non_exhaustive()
    }
}

/// A counter of every transport: its name, its meaning, where it is found, and its direction if it has one.
type Row = (&'static str, &'static str, &'static [(Option<&'static str>, fn(&Totals) -> u64)]);

const ROWS: [Row; 5] = [
    ("transport_connections_opened", "Connections that began", &[(None, |totals| totals.opened)]),
    ("transport_connections_refused", "Strangers turned away", &[(None, |totals| totals.refused)]),
    (
        "transport_messages",
        "Messages, by direction",
        &[(Some("received"), |totals| totals.received), (Some("sent"), |totals| totals.sent)],
    ),
    (
        "transport_errors",
        "Connections that ended badly and messages that were dropped",
        &[(None, |totals| totals.errors)],
    ),
    (
        "transport_timed_messages",
        "Messages, or batches, of which transport_latency_seconds is the sum",
        &[(None, |totals| totals.latency.count)],
    ),
];

impl<F: Fn() -> Vec<(Kind, Totals)> + Send + Sync + 'static> Collector for Transports<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = (self.0)();
        let mut connections =
            encoder.encode_descriptor("transport_connections", "Connections now", None, MetricType::Gauge)?;
        for (kind, totals) in &all {
            let now = i64::try_from(totals.connections()).unwrap_or(i64::MAX);
            ConstGauge::new(now).encode(connections.encode_family(&[("transport", kind.as_str())])?)?;
        }
        for (name, help, values) in ROWS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (kind, totals) in &all {
                for (direction, value) in values {
                    let counter = ConstCounter::new(value(totals));
                    let kind = ("transport", kind.as_str());
                    match direction {
                        Some(direction) => {
                            let labels = [kind, ("direction", *direction)];
                            counter.encode(family.encode_family(&labels)?)?;
                        }
                        None => counter.encode(family.encode_family(&[kind])?)?,
                    }
                }
            }
        }
        let latency = ("transport_latency", "Time that messages took, in all");
        let mut family =
            encoder.encode_descriptor(latency.0, latency.1, Some(&Unit::Seconds), MetricType::Counter)?;
        for (kind, totals) in &all {
            let seconds = ConstCounter::new(totals.latency.time.as_secs_f64());
            seconds.encode(family.encode_family(&[("transport", kind.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use daemoneye_bridge::transport::Sum;
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    #[test]
    fn every_transport_in_use_is_exported_under_its_name() {
        let latency = Sum { count: 2, time: Duration::from_millis(500) };
        let totals = Totals { opened: 5, closed: 2, refused: 1, received: 10, sent: 20, errors: 3, latency };
        let mut registry = Registry::with_prefix("x");
        registry.register_collector(Box::new(Transports(move || vec![(Kind::UnixSocket, totals)])));
        let mut exported = String::new();
        text::encode(&mut exported, &registry).unwrap();
        for line in [
            "x_transport_connections{transport=\"unix-socket\"} 3",
            "x_transport_connections_opened_total{transport=\"unix-socket\"} 5",
            "x_transport_connections_refused_total{transport=\"unix-socket\"} 1",
            "x_transport_messages_total{transport=\"unix-socket\",direction=\"received\"} 10",
            "x_transport_messages_total{transport=\"unix-socket\",direction=\"sent\"} 20",
            "x_transport_errors_total{transport=\"unix-socket\"} 3",
            "x_transport_timed_messages_total{transport=\"unix-socket\"} 2",
            "x_transport_latency_seconds_total{transport=\"unix-socket\"} 0.5",
        ] {
            assert!(exported.lines().any(|each| each == line), "no `{line}` in\n{exported}");
        }
    }
}
