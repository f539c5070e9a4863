//! Commands held for collectors that are not here: what is held, and how an operator asks for more or less.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use daemoneye_bridge::settings::Chain;
use serde::{Deserialize, Serialize};

use crate::{
    admin::{
        api::{self, Sources},
        caller::Caller,
        command::unreadable,
        problem::Problem,
        token::Role,
    },
    held::{Counts, Entry, HoldError, Order},
    identity::PeerId,
};

pub(super) fn routes() -> Router<Sources> {
    Router::new()
        .route("/api/v1/commands", get(list).post(send))
        .route("/api/v1/commands/cancel", post(cancel))
}

/// All that is held, and what became of the rest since the process began.
#[derive(Serialize)]
struct Held<'a> {
    entries: Vec<&'a Entry>,
    #[serde(flatten)]
    counts: Counts,
}

async fn list(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let table = sources.commands.held.list();
    let entries = table.values().map(AsRef::as_ref).collect();
    api::json(&Held { entries, counts: sources.commands.held.counts() }, None, &headers)
}

/// What a collector is to have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    site: String,
    name: String,
    /// Base64.
    payload: String,
    #[serde(with = "humantime_serde")]
    hold_for: Duration,
}

async fn send(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Command>, JsonRejection>,
) -> Result<Response, Problem> {
    // What a collector does at a command is more than what a gateway lets through.
    if caller.role() < Role::Admin {
        let detail = "to send a command to a collector takes the role admin";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let Command { site, name, payload, hold_for } = body.map_err(|rejection| unreadable(&rejection))?.0;
    let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let collector = PeerId::new(&site, &name).map_err(|error| wrong(error.to_string()))?;
    let payload = BASE64_STANDARD.decode(payload);
    let payload = payload.map_err(|error| wrong(format!("payload is not base64: {error}")))?.into();
    let order = Order { collector, payload, hold_for };
    let entry = sources.commands.held.hold(order, &caller.to_string()).await;
    let entry = entry.map_err(|error| unchanged(&error))?;
    Ok((StatusCode::CREATED, Json(entry.as_ref())).into_response())
}

/// Which command a collector shall not have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    number: u64,
}

async fn cancel(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Cancel>, JsonRejection>,
) -> Result<Response, Problem> {
    let Cancel { number } = body.map_err(|rejection| unreadable(&rejection))?.0;
    let entry = sources.commands.held.cancel(number, &caller.to_string()).await;
    let entry = entry.map_err(|error| unchanged(&error))?;
    Ok(Json(entry.as_ref()).into_response())
}

fn unchanged(error: &HoldError) -> Problem {
    let status = match error {
        HoldError::Absent(_) => StatusCode::NOT_FOUND,
        HoldError::Full | HoldError::FullOf(_) | HoldError::Time | HoldError::TooLarge { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => {
            tracing::error!(error = %Chain(error), "held commands not changed");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    Problem::new(status, Chain(error).to_string())
}
