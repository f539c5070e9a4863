//! The leaf's own page: is it alive, is it ready, and what is in its spool.
//!
//! It reads snapshots that others publish and holds nothing of theirs. It listens on loopback only.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::sync::watch;

use crate::{
    bus::{BusState, Counters, Link},
    leaf::intake::Counts,
    lifecycle::Phase,
    spool::{ClassStats, Stats},
    uplink,
};

/// All that the page is given.
#[derive(Clone, Debug)]
pub struct Views {
    /// Where the process is in its life.
    pub phase: watch::Receiver<Phase>,
    /// The local bus.
    pub bus: watch::Receiver<BusState>,
    /// What the local bus has counted.
    pub bus_counters: Arc<Counters>,
    /// What was taken in.
    pub intake: Arc<Counts>,
    /// The queue on disk.
    pub spool: watch::Receiver<Stats>,
    /// The way to the gateway.
    pub uplink: watch::Receiver<uplink::Status>,
}

/// The page's routes.
pub fn routes(views: Views) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(views)
}

/// Ready means that local events are taken and kept.
async fn ready(State(views): State<Views>) -> impl IntoResponse {
    let mut text = String::new();
    let mut fine = true;
    for (name, trouble) in judge(&views) {
        fine &= trouble.is_none();
        let _infallible = match trouble {
            None => writeln!(text, "[+]{name} ok"),
            Some(trouble) => writeln!(text, "[-]{name} {trouble}"),
        };
    }
    let _infallible = writeln!(text, "[i]uplink {}", upward(&views.uplink.borrow()));
    (if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

fn judge(views: &Views) -> [(&'static str, Option<String>); 3] {
    let phase = *views.phase.borrow();
    let bus = match &views.bus.borrow().link {
        Link::Up => None,
        Link::Down { cause, .. } => Some(format!("local bus is not reached: {cause}")),
    };
    [
        ("phase", (phase != Phase::Serving).then(|| phase.as_str().to_owned())),
        ("bus", bus),
        ("spool", views.spool.borrow().disk_error.clone()),
    ]
}

/// The uplink in one line. It says nothing about readiness: a gateway that is away is what the spool is for.
fn upward(status: &uplink::Status) -> String {
    let link = match &status.link {
        uplink::Link::Connecting { .. } => "is connecting".to_owned(),
        uplink::Link::Ended => "has ended".to_owned(),
        uplink::Link::Up { gateway, peer, .. } => format!("is up, to {gateway} as {peer}"),
        uplink::Link::Waiting { .. } => "waits before the next attempt".to_owned(),
    };
    match status.last_error.as_ref().filter(|_| !status.link.is_up()) {
        Some(trouble) => format!("{link}; last error: {}", trouble.what),
        None => link,
    }
}

async fn metrics(State(views): State<Views>) -> impl IntoResponse {
    let mut page = Page(String::new());
    let stats = views.spool.borrow().clone();
    page.classes("spool_events", "Events that wait for their acknowledgement.", &stats, |class| class.events);
    page.classes("spool_bytes", "Bytes on disk.", &stats, |class| class.bytes);
    page.classes("spool_appended_total", "Events appended.", &stats, |class| class.appended);
    page.classes("spool_evicted_total", "Events dropped because the spool was full.", &stats, |class| {
        class.evicted
    });
    page.classes("spool_corrupt_total", "Events found damaged or gone.", &stats, |class| class.corrupt);
    page.classes("spool_rejected_total", "Events the gateway rejected.", &stats, |class| class.rejected);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    page.classes("spool_oldest_age_seconds", "Age of the oldest waiting event.", &stats, |class| {
        class.oldest.map_or(0, |oldest| now.saturating_sub(oldest / 1_000_000_000))
    });
    page.one("spool_max_bytes", "The bound of the spool.", stats.max_bytes);
    page.one(
        "intake_heard_total",
        "Messages heard on the local bus.",
        views.intake.heard.load(Ordering::Relaxed),
    );
    page.one(
        "intake_unfit_total",
        "Messages that cannot cross the federation.",
        views.intake.unfit.load(Ordering::Relaxed),
    );
    let uplink = views.uplink.borrow().clone();
    page.one("uplink_up", "Whether a gateway is there.", u64::from(uplink.link.is_up()));
    page.one("uplink_in_flight_events", "Events sent and not yet acknowledged.", uplink.in_flight);
    for (name, meaning, value) in [
        ("sent", "Events sent, those sent again included.", uplink.sent),
        ("acked", "Events acknowledged; rejected ones are among them.", uplink.acked),
        ("rejected", "Events that a gateway will never publish.", uplink.rejected),
        ("gaps", "Ranges reported as lost.", uplink.gaps),
        ("sessions", "Sessions that were welcomed.", uplink.sessions),
    ] {
        page.one(&format!("uplink_{name}_total"), meaning, value);
    }
    for (name, meaning, value) in views.bus_counters.all() {
        page.one(&format!("bus_{name}_total"), meaning, value);
    }
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], page.0)
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
