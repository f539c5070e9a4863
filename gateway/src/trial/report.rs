//! What a trial found, as it is shown and written as JSON.

use std::time::Duration;

use daemoneye_bridge::transport::{Kind, per_second};
use serde::Serialize;

use crate::{
    demo::latencies::Latencies,
    snapshot::Word,
    trial::{
        Measured, Options, Proof,
        stages::{Per, Stage},
    },
};

/// What a trial found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which transport.
    pub transport: &'static str,
    /// Where.
    pub place: String,
    /// `healthy` if everything arrived, once; `degraded` if not; `unhealthy` if nothing did.
    pub status: Word,
    /// How far messages were followed.
    pub proof: Proof,
    /// Connections that sent.
    pub connections: usize,
    /// Bytes of a payload.
    pub size: usize,
    /// Messages sent.
    pub sent: u64,
    /// Those of them that arrived.
    pub arrived: u64,
    /// Messages that arrived again.
    pub duplicates: u64,
    /// Messages that the gateway would not have.
    pub rejected: u64,
    /// 100 if everything arrived.
    pub success_percent: f64,
    /// From nothing to a connection that may speak.
    pub set_up: Times,
    /// Of a message that is alone on its way.
    pub latency: Times,
    /// Of a message among as many as go.
    pub latency_under_load: Times,
    /// Messages a second, of as many as go.
    pub messages_per_second: f64,
    /// Payload in millions of bytes a second.
    pub megabytes_per_second: f64,
    /// How long the second phase took.
    pub seconds: f64,
    /// How [`Self::latency`] is spread.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<Bar>,
    /// What a message's time is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// The stage of a message that takes longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dominated_by: Option<&'static str>,
}

/// Times in milliseconds; none were taken if they are absent. Wrong by 2 % at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ms: Option<f64>,
    /// Of ten, nine took no longer.
    pub p90_ms: Option<f64>,
    /// Of a hundred, all but one.
    pub p99_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

/// Part of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Shorter than this, and at least half of it.
    pub below_us: u64,
    /// How many.
    pub count: u64,
}

/// What a report is made of.
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) place: String,
    pub(super) proof: Proof,
    pub(super) set_up: Latencies,
    pub(super) measured: Measured,
    pub(super) stages: Vec<Stage>,
}

impl Report {
    pub(super) fn new(facts: Facts, options: &Options) -> Self {
        let Facts { kind, place, proof, set_up, measured, stages } = facts;
        let messages_per_second = per_second(measured.counted, measured.time);
        let dominated_by = stages
            .iter()
            .filter(|stage| stage.per == Per::Message)
            .max_by(|a, b| a.micros.total_cmp(&b.micros))
            .map(|stage| stage.name);
        let histogram = if options.analyze { bars(&measured.alone) } else { Vec::new() };
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (size, success_percent) =
            (options.size as f64, 100.0 * measured.arrived as f64 / measured.sent.max(1) as f64);
        Self {
            transport: kind.as_str(),
            place,
            status: word(&measured),
            proof,
            connections: options.connections,
            size: options.size,
            sent: measured.sent,
            arrived: measured.arrived,
            duplicates: measured.duplicates,
            rejected: measured.rejected,
            success_percent,
            set_up: Times::of(&set_up),
            latency: Times::of(&measured.alone),
            latency_under_load: Times::of(&measured.loaded),
            messages_per_second,
            megabytes_per_second: messages_per_second * size / 1e6,
            seconds: measured.time.as_secs_f64(),
            histogram,
            stages,
            dominated_by,
        }
    }
}

const fn word(measured: &Measured) -> Word {
    if measured.arrived == 0 {
        Word::Unhealthy
    } else if measured.arrived < measured.sent || measured.duplicates > 0 {
        Word::Degraded
    } else {
        Word::Healthy
    }
}

fn bars(latencies: &Latencies) -> Vec<Bar> {
    let micros = |end: Duration| u64::try_from(end.as_micros()).unwrap_or(u64::MAX);
    latencies.doublings().map(|(end, count)| Bar { below_us: micros(end), count }).collect()
}

impl Times {
    fn of(latencies: &Latencies) -> Self {
        let quantile = |per_mille| latencies.quantile(per_mille).map(|time| time.as_secs_f64() * 1000.0);
        Self {
            count: latencies.count(),
            p50_ms: quantile(500),
            p90_ms: quantile(900),
            p99_ms: quantile(990),
            max_ms: quantile(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::trial::stages;

    fn report(sent: u64, arrived: u64, duplicates: u64) -> Report {
        let options = Options {
            messages: NonZeroU64::MIN,
            size: 1000,
            connections: 1,
            patience: Duration::ZERO,
            analyze: true,
        };
        let mut alone = Latencies::default();
        for micros in [3, 5, 5, 700] {
            alone.note(Duration::from_micros(micros));
        }
        let time = Duration::from_millis(500);
        let measured =
            Measured { alone, sent, arrived, duplicates, time, counted: 1000, ..Measured::default() };
        let stages = vec![
            stages::connection("connect", Duration::from_secs(1)),
            stages::message("short", Duration::from_micros(1)),
            stages::message("long", Duration::from_micros(2)),
        ];
        let (kind, set_up) = (Kind::InProcess, Latencies::default());
        Report::new(
            Facts { kind, place: String::new(), proof: Proof::Heard, set_up, measured, stages },
            &options,
        )
    }

    #[test]
    fn what_is_lost_or_comes_twice_degrades_and_nothing_at_all_is_unhealthy() {
        assert_eq!(report(10, 10, 0).status, Word::Healthy);
        assert_eq!(report(10, 9, 0).status, Word::Degraded);
        assert_eq!(report(10, 10, 1).status, Word::Degraded);
        assert_eq!(report(10, 0, 0).status, Word::Unhealthy);
        assert!((report(10, 9, 0).success_percent - 90.0).abs() < 1e-9);
    }

    #[test]
    fn rates_bars_and_the_longest_stage_of_a_message_are_told() {
        let report = report(10, 10, 0);
        assert!((report.messages_per_second - 2000.0).abs() < 1e-6);
        assert!((report.megabytes_per_second - 2.0).abs() < 1e-6);
        assert_eq!(report.dominated_by, Some("long"));
        let bar = |below_us, count| Bar { below_us, count };
        assert_eq!(report.histogram, [bar(4, 1), bar(8, 2), bar(1024, 1)]);
        assert_eq!(report.set_up.p50_ms, None);
    }
}
