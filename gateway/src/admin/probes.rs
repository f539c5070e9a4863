//! `/livez`, `/readyz`, `/startupz`, as Kubernetes' own components answer them.
//!
//! `200` and `ok`, or `503` and the list of checks. `?verbose` always lists; `?exclude=NAME` leaves a check out of the
//! verdict, any number of times. Liveness has one check, which holds if it can be answered at all: restarting the gateway
//! mends neither a broker nor a certificate.

use axum::{
    Router,
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use daemoneye_bridge::{
    lifecycle::Phase,
    probe::{self, Check},
};

use crate::{admin::health, snapshot::Snapshots};

/// The three probes.
pub(super) fn routes() -> Router<Snapshots> {
    Router::new().route("/livez", get(live)).route("/readyz", get(ready)).route("/startupz", get(started))
}

async fn live(RawQuery(query): RawQuery) -> Response {
    answer("livez", &[Check { name: "ping", failure: None }], query.as_deref())
}

async fn ready(State(snapshots): State<Snapshots>, RawQuery(query): RawQuery) -> Response {
    answer("readyz", &health::readiness(&snapshots), query.as_deref())
}

async fn started(State(snapshots): State<Snapshots>, RawQuery(query): RawQuery) -> Response {
    let starting = *snapshots.phase.borrow() == Phase::Starting;
    let failure = starting.then(|| "the gateway is starting".to_owned());
    answer("startupz", &[Check { name: "lifecycle", failure }], query.as_deref())
}

fn answer(name: &str, checks: &[Check], query: Option<&str>) -> Response {
    let (status, body) = probe::verdict(name, checks, query.unwrap_or_default());
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}
