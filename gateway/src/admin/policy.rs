//! What is told of the policy: as it is, why it decides as it does, and what another would do to those who are connected.

use axum::{
    Extension, Json, Router,
    extract::{Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use daemoneye_bridge::settings::Chain;
use serde::{Deserialize, Serialize};
use tokio::task;

use crate::{
    admin::{
        api::{self, Sources},
        caller::Caller,
        command::unreadable,
        problem::Problem,
    },
    policy::{
        ActionError, Explanation, Impact, ShadowView,
        command::{AskError, Asked, Candidate},
    },
};

/// The resource and its questions.
pub(super) fn routes() -> Router<Sources> {
    Router::new()
        .route("/api/v1/policy", get(status))
        .route("/api/v1/policy/explain", get(explain))
        .route("/api/v1/policy/try", post(dry_run))
        .route("/api/v1/policy/shadow", get(shadow).post(set_shadow))
}

async fn status(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    api::json(&sources.commands.policy.status(), None, &headers)
}

/// May somebody do something?
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    identity: String,
    verb: String,
    topic: String,
    #[serde(default)]
    collector: String,
}

async fn explain(
    State(sources): State<Sources>,
    query: Result<Query<Wish>, QueryRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Query(Wish { identity, verb, topic, collector }) =
        query.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let action = verb.parse().map_err(|error: ActionError| wrong(error.to_string()))?;
    let asked = Asked { identity: &identity, collector: &collector, action, object: &topic };
    let explained = sources.commands.policy.explain(&asked);
    explained.map(Json).map_err(|error: AskError| wrong(Chain(&error).to_string()))
}

/// Which policy is tried.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Trial {
    /// Its text; what the policy file says now if there is none.
    policy: Option<String>,
}

async fn dry_run(
    State(sources): State<Sources>,
    body: Result<Json<Trial>, JsonRejection>,
) -> Result<Json<Impact>, Problem> {
    let Json(Trial { policy }) = body.map_err(|rejection| unreadable(&rejection))?;
    let candidate = policy.map_or(Candidate::File, Candidate::Text);
    // It reads the file, and judges everybody who is connected.
    let tried = task::spawn_blocking(move || sources.commands.policy.dry_run(&candidate)).await;
    let tried = tried.map_err(|_| Problem::internal("the policy could not be tried"))?;
    tried.map(Json).map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, Chain(&error).to_string()))
}

/// The policy that is judged beside the one in force.
#[derive(Debug, Serialize)]
struct Shadowed {
    shadow: Option<ShadowView>,
}

async fn shadow(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    api::json(&Shadowed { shadow: sources.commands.policy.status().shadow }, None, &headers)
}

/// Which policy is to be judged beside the one in force.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Casting {
    /// Its text; none is from now on if this is null.
    policy: Option<String>,
}

/// The answer tells the new shadow, or what the one that ends came to.
async fn set_shadow(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Casting>, JsonRejection>,
) -> Result<Json<Shadowed>, Problem> {
    let Json(Casting { policy }) = body.map_err(|rejection| unreadable(&rejection))?;
    let (desk, by) = (sources.commands.policy, caller.to_string());
    tracing::info!(actor = by, on = policy.is_some(), "shadow of the policy asked for");
    let cast = task::spawn_blocking(move || {
        let Some(text) = policy else { return Ok(desk.end_shadow(&by)) };
        desk.shadow(&Candidate::Text(text), &by).map(|()| desk.status().shadow)
    });
    let cast = cast.await.map_err(|_| Problem::internal("the policy could not be judged"))?;
    cast.map(|shadow| Json(Shadowed { shadow }))
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, Chain(&error).to_string()))
}
