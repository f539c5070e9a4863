//! The JSON API and the metrics. Resources are snapshots; all that is polled carries an entity tag.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum::{
    Router,
    extract::{FromRef, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::{
    admin::{
        Commands,
        certificates::Certificates,
        command, commands, health,
        pages::{Page, Pages},
        policy,
        problem::Problem,
    },
    snapshot::{Health, Part, Snapshots, Timestamp},
    telemetry::metrics::{self, Exporter},
};

/// What the handlers read.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) snapshots: Snapshots,
    pub(super) exporter: Exporter,
    pub(super) commands: Commands,
    pub(super) pages: Pages,
}

impl FromRef<Sources> for Snapshots {
    fn from_ref(sources: &Sources) -> Self {
        sources.snapshots.clone()
    }
}

/// Everything below `/api/v1`, and `/metrics`.
pub(super) fn routes() -> Router<Sources> {
    command::routes()
        .merge(commands::routes())
        .merge(policy::routes())
        .route("/metrics", get(scrape))
        .route("/api/v1/health", get(show_health))
        .route(
            "/api/v1/collectors",
            get(async |s: State<Sources>, h: HeaderMap| s.show("collectors", &s.snapshots.collectors, &h)),
        )
        .route(
            "/api/v1/refusals",
            get(async |s: State<Sources>, h: HeaderMap| s.show("refusals", &s.snapshots.refusals, &h)),
        )
        .route(
            "/api/v1/bus",
            get(async |s: State<Sources>, h: HeaderMap| s.show("bus", &s.snapshots.bus, &h)),
        )
        .route("/api/v1/upstream", get(show_upstream))
        .route(
            "/api/v1/clients",
            get(async |s: State<Sources>, h: HeaderMap| s.show("clients", &s.snapshots.clients, &h)),
        )
        .route("/api/v1/certificates", get(show_certificates))
        .route("/api/v1/transports", get(show_transports))
}

async fn scrape(State(sources): State<Sources>) -> Result<impl IntoResponse, Problem> {
    let text = sources.exporter.text().map_err(|_| Problem::internal("a metric could not be encoded"))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

async fn show_health(State(snapshots): State<Snapshots>, headers: HeaderMap) -> Response {
    let health = health::health(&snapshots);
    // The moment of the check is in every answer and makes none of them news.
    json(&health, Some(stable(&health)), &headers)
}

async fn show_upstream(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let Some(part) = &sources.snapshots.upstream else {
        let detail = "this gateway relays to none; [upstream] in its configuration names one";
        return Problem::new(StatusCode::NOT_FOUND, detail).into_response();
    };
    sources.show("upstream", part, &headers)
}

async fn show_certificates(State(snapshots): State<Snapshots>, headers: HeaderMap) -> Response {
    let (material, collectors) =
        (Arc::clone(&snapshots.material.borrow()), snapshots.collectors.borrow().clone());
    json(&Certificates::of(&material, &collectors, Timestamp::now()), None, &headers)
}

async fn show_transports(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let transports = Arc::clone(&sources.snapshots.transports.borrow());
    // When the figures were taken is no news; that they are others is.
    let page = sources.pages.page("transports", transports, |transports| {
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(&transports.transports).unwrap_or_default().hash(&mut hasher);
        Some(hasher.finish())
    });
    answer(page, &headers)
}

impl Sources {
    /// One part, as it stands.
    fn show<T>(&self, name: &'static str, part: &Part<T>, headers: &HeaderMap) -> Response
    where
        T: Serialize + Send + Sync + 'static,
    {
        let value = Arc::clone(&part.borrow());
        answer(self.pages.page(name, value, |_| None), headers)
    }
}

/// What of a health must have changed for it to be news.
fn stable(health: &Health) -> u64 {
    let mut hasher = DefaultHasher::new();
    health.phase.hash(&mut hasher);
    for part in &health.components {
        (part.name, part.status, &part.message, part.since.map(|since| since.0)).hash(&mut hasher);
    }
    hasher.finish()
}

/// The value as JSON with a weak entity tag, or 304 if the asker has it; the tag is of `stable` or of the text.
pub(super) fn json(value: &impl Serialize, stable: Option<u64>, headers: &HeaderMap) -> Response {
    answer(Page::of(value, stable), headers)
}

fn answer(page: Result<Page, serde_json::Error>, headers: &HeaderMap) -> Response {
    let Ok(Page { tag, body }) = page else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written")
            .into_response();
    };
    let tag = format!("W/\"{tag:016x}\"");
    let asked = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let known =
        asked.flat_map(|list| list.split(',')).any(|each| matches!(each.trim(), "*") || each.trim() == tag);
    let tag = HeaderValue::from_str(&tag).expect("a tag is ASCII");
    if known {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body)
        .into_response()
}
