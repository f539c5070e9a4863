//! The leaf's own page: is it alive, is it ready, what is in its spool, and how is its way up.
//!
//! | path | what |
//! |---|---|
//! | `/livez`, `/readyz` | for probes; `?verbose` lists the checks |
//! | `/metrics` | Prometheus text |
//! | `/status` | everything as JSON, which `daemoneye-cli leaf status` shows |
//!
//! It reads snapshots that others publish and holds nothing of theirs. It listens on loopback only. Being ready means that
//! local events are taken and kept: a gateway that is away is what the spool is for.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use crate::{
    bus::{BusState, Counters, Link},
    leaf::{downlink, intake::Counts},
    lifecycle::Phase,
    probe::{self, Check},
    spool::Stats,
    trust::Store,
    uplink,
};

mod metrics;
mod report;

pub use report::{Class, Component, Report, Word};

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
    /// The way back, if there is one.
    pub downlink: Option<downlink::Views>,
    /// The certificates of the way to the gateway.
    pub certificates: Store,
}

/// The page's routes.
pub fn routes(views: Views) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(exposed))
        .route("/status", get(shown))
        .with_state(views)
}

/// Holds if it can be answered at all: restarting the leaf mends neither a disk nor a gateway.
async fn live(RawQuery(query): RawQuery) -> Response {
    answer("livez", &[Check { name: "ping", failure: None }], query.as_deref())
}

async fn ready(State(views): State<Views>, RawQuery(query): RawQuery) -> Response {
    answer("readyz", &readiness(&views), query.as_deref())
}

async fn exposed(State(views): State<Views>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::text(&views))
}

async fn shown(State(views): State<Views>) -> Json<Report> {
    Json(Report::of(&views))
}

fn answer(name: &str, checks: &[Check], query: Option<&str>) -> Response {
    let (status, body) = probe::verdict(name, checks, query.unwrap_or_default());
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

/// What must hold for local events to be taken and kept.
fn readiness(views: &Views) -> [Check; 3] {
    let phase = *views.phase.borrow();
    let bus = match &views.bus.borrow().link {
        Link::Up => None,
        Link::Down { cause, .. } => Some(format!("local bus is not reached: {cause}")),
    };
    [
        Check {
            name: "lifecycle",
            failure: (phase != Phase::Serving).then(|| format!("the leaf is {}", phase.as_str())),
        },
        Check { name: "bus", failure: bus },
        Check { name: "spool", failure: views.spool.borrow().disk_error.clone() },
    ]
}
