//! `/metrics`: the leaf's figures as Prometheus text. Cardinality is bounded: the only label is the class of events.

use std::{
    fmt::Write as _,
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    leaf::health::Views,
    spool::{ClassStats, Stats},
    uplink,
};

/// The whole page.
pub(super) fn text(views: &Views) -> String {
    let mut page = Page(String::new());
    spool(&mut page, &views.spool.borrow().clone());
    intake(&mut page, views);
    uplink(&mut page, &views.uplink.borrow().clone());
    for (name, meaning, value) in views.bus_counters.all() {
        page.one(&format!("bus_{name}_total"), meaning, value);
    }
    if let Some(downlink) = &views.downlink {
        let collectors = downlink.shown.borrow().collectors.len() as u64;
        page.one("downlink_collectors", "Local collectors that were named to the gateway.", collectors);
        let refused = downlink.shown.borrow().refused.len() as u64;
        page.one("downlink_refused", "Names and patterns that the gateway refuses.", refused);
        page.one("downlink_open_calls", "Calls that are open now, both ways.", downlink.counts.open.get());
        for (name, meaning, value) in downlink.counts.all() {
            page.one(&format!("downlink_{name}_total"), meaning, value);
        }
    }
    let expiry = views.certificates.current().leaf().not_after().duration_since(UNIX_EPOCH);
    page.one(
        "certificate_expiry_timestamp_seconds",
        "When the leaf's own certificate ends.",
        expiry.unwrap_or_default().as_secs(),
    );
    page.0
}

fn spool(page: &mut Page, stats: &Stats) {
    page.classes("spool_events", "Events that wait for their acknowledgement.", stats, |class| class.events);
    page.classes("spool_bytes", "Bytes on disk.", stats, |class| class.bytes);
    page.classes("spool_appended_total", "Events appended.", stats, |class| class.appended);
    page.classes("spool_evicted_total", "Events dropped because the spool was full.", stats, |class| {
        class.evicted
    });
    page.classes("spool_corrupt_total", "Events found damaged or gone.", stats, |class| class.corrupt);
    page.classes("spool_rejected_total", "Events the gateway rejected.", stats, |class| class.rejected);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    page.classes("spool_oldest_age_seconds", "Age of the oldest waiting event.", stats, |class| {
        class.oldest.map_or(0, |oldest| now.saturating_sub(oldest / 1_000_000_000))
    });
    page.one("spool_max_bytes", "The bound of the spool.", stats.max_bytes);
    page.one(
        "spool_disk_failing",
        "Whether the last write to the disk failed.",
        u64::from(stats.disk_error.is_some()),
    );
}

fn intake(page: &mut Page, views: &Views) {
    let Views { intake, bus_counters: bus, .. } = views;
    page.one("intake_heard_total", "Messages heard on the local bus.", intake.heard.load(Ordering::Relaxed));
    page.one(
        "intake_unfit_total",
        "Messages that cannot cross the federation.",
        intake.unfit.load(Ordering::Relaxed),
    );
    let clients = bus.door_opened.get().saturating_sub(bus.door_closed.get());
    page.one("door_clients", "Local clients at the door now.", clients);
}

fn uplink(page: &mut Page, status: &uplink::Status) {
    page.one("uplink_up", "Whether a gateway is there.", u64::from(status.link.is_up()));
    page.one("uplink_in_flight_events", "Events sent and not yet acknowledged.", status.in_flight);
    page.head(
        "uplink_round_trip_seconds",
        "gauge",
        "The last ping's way there and back; 0 before the first.",
    );
    let round_trip = status.round_trip.unwrap_or_default().as_secs_f64();
    let _infallible = writeln!(page.0, "daemoneye_bridge_uplink_round_trip_seconds {round_trip}");
    for (name, meaning, value) in [
        ("sent", "Events sent, those sent again included.", status.sent),
        ("acked", "Events acknowledged; rejected ones are among them.", status.acked),
        ("rejected", "Events that a gateway will never publish.", status.rejected),
        ("gaps", "Ranges reported as lost.", status.gaps),
        ("sessions", "Sessions that were welcomed.", status.sessions),
        ("failures", "Attempts and sessions that failed.", status.failures),
    ] {
        page.one(&format!("uplink_{name}_total"), meaning, value);
    }
}

/// Prometheus text as it is written.
struct Page(String);

impl Page {
    fn one(&mut self, name: &str, meaning: &str, value: u64) {
        self.head(name, kind(name), meaning);
        let _infallible = writeln!(self.0, "daemoneye_bridge_{name} {value}");
    }

    fn classes(&mut self, name: &str, meaning: &str, stats: &Stats, of: impl Fn(&ClassStats) -> u64) {
        self.head(name, kind(name), meaning);
        for class in &stats.classes {
            let _infallible =
                writeln!(self.0, "daemoneye_bridge_{name}{{class=\"{}\"}} {}", class.class, of(class));
        }
    }

    fn head(&mut self, name: &str, kind: &str, meaning: &str) {
        let _infallible = writeln!(
            self.0,
            "# HELP daemoneye_bridge_{name} {meaning}\n# TYPE daemoneye_bridge_{name} {kind}"
        );
    }
}

/// A counter's name says that it is one.
fn kind(name: &str) -> &'static str {
    if name.ends_with("_total") { "counter" } else { "gauge" }
}
