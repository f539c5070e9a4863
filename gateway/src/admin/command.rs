//! What operators may ask to be changed, and how it is asked.
//!
//! Kept true: nothing here changes anything; each change goes to the owner of what is changed, with the name of who asks, and
//! its answer is told as it came.

use std::time::{Duration, SystemTime};

use axum::{
    Extension, Json, Router,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use daemoneye_bridge::settings::Chain;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    admin::{
        api::{self, Sources},
        caller::Caller,
        problem::Problem,
        token::Role,
    },
    deny::{self, ChangeError, Denial, Target},
    held,
    policy::command::Desk,
};

/// The ways to those who change something. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    /// The deny-list.
    pub deny: deny::Handle,
    /// Commands for collectors that are not here.
    pub held: held::Handle,
    /// The policy, to be asked and tried.
    pub policy: Desk,
    /// Whoever reads certificates, revocation lists and policy again. While it is at work, others are told to come back.
    pub reload: mpsc::Sender<Reload>,
}

/// What is to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Certificates, revocation lists and policy.
    All,
    /// The policy alone.
    Policy,
}

/// A wish that something be read again.
#[derive(Debug)]
pub struct Reload {
    /// What.
    pub what: What,
    /// Whether what would be held back is put in force all the same.
    pub force: bool,
    /// Who asks.
    pub actor: String,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reloaded>,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Of certificates, anchors and revocation lists.
    pub certificates: Outcome,
    /// Of the policy.
    pub policy: Outcome,
}

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum Outcome {
    /// Something new is in force: what.
    Changed(String),
    /// What was in force stays: why.
    Refused(String),
    /// There is nothing new.
    Unchanged,
}

/// What changes something, and the list that can be changed.
pub(super) fn routes() -> Router<Sources> {
    Router::new()
        .route("/api/v1/deny-list", get(denied).post(deny))
        .route("/api/v1/deny-list/remove", post(allow))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/policy/apply", post(apply))
}

/// The list.
#[derive(Serialize)]
struct Denied<'a> {
    entries: Vec<Shown<'a>>,
}

/// One entry, and whether it still holds.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a deny::Entry,
    holds: bool,
}

async fn denied(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let (list, now) = (sources.commands.deny.list(), SystemTime::now());
    let entries = list.entries().map(|entry| Shown { entry, holds: entry.holds(now) }).collect();
    api::json(&Denied { entries }, None, &headers)
}

/// Who shall be denied.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addition {
    target: String,
    reason: String,
    /// For good without it.
    #[serde(default, rename = "for", with = "humantime_serde")]
    time: Option<Duration>,
}

async fn deny(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Addition>, JsonRejection>,
) -> Result<Response, Problem> {
    let Addition { target, reason, time } = body.map_err(|rejection| unreadable(&rejection))?.0;
    let until = match time {
        Some(time) => Some(SystemTime::now().checked_add(time).ok_or_else(|| {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the end of the entry is beyond all clocks; leave `for` out",
            )
        })?),
        None => None,
    };
    let denial = Denial { target: parse(&target)?, reason, until };
    let entry =
        sources.commands.deny.add(denial, &caller.to_string()).await.map_err(|error| unchanged(&error))?;
    Ok((StatusCode::CREATED, Json(entry.as_ref())).into_response())
}

/// Who shall be denied no more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    target: String,
}

async fn allow(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Removal>, JsonRejection>,
) -> Result<Response, Problem> {
    let target = parse(&body.map_err(|rejection| unreadable(&rejection))?.0.target)?;
    let entry = sources
        .commands
        .deny
        .remove(&target, &caller.to_string())
        .await
        .map_err(|error| unchanged(&error))?;
    Ok(Json(entry.as_ref()).into_response())
}

/// How to reload.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wish {
    force: bool,
}

async fn reload(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Wish>, JsonRejection>,
) -> Result<Json<Reloaded>, Problem> {
    let Wish { force } = body.map_err(|rejection| unreadable(&rejection))?.0;
    ask(&sources.commands, What::All, force, caller).await.map(Json)
}

async fn apply(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Wish>, JsonRejection>,
) -> Result<Json<Outcome>, Problem> {
    let Wish { force } = body.map_err(|rejection| unreadable(&rejection))?.0;
    ask(&sources.commands, What::Policy, force, caller).await.map(|done| Json(done.policy))
}

async fn ask(commands: &Commands, what: What, force: bool, caller: Caller) -> Result<Reloaded, Problem> {
    if force && caller.role() < Role::Admin {
        let detail = "to force what would be held back takes the role admin";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let (reply, answer) = oneshot::channel();
    let wish = Reload { what, force, actor: caller.to_string(), reply };
    commands.reload.try_send(wish).map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "another reload is under way; ask again in a moment")
    })?;
    answer.await.map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is going away and reloads nothing")
    })
}

fn parse(target: &str) -> Result<Target, Problem> {
    target
        .parse()
        .map_err(|error: deny::TargetError| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

/// axum's own words are precise, and its status is kept.
pub(super) fn unreadable(rejection: &JsonRejection) -> Problem {
    Problem::new(rejection.status(), rejection.body_text())
}

fn unchanged(error: &ChangeError) -> Problem {
    let status = match error {
        ChangeError::Absent(_) => StatusCode::NOT_FOUND,
        ChangeError::Full | ChangeError::Over | ChangeError::Reason => StatusCode::UNPROCESSABLE_ENTITY,
        _ => {
            // A full disk or a broken file is the operator's to mend; who asks is one.
            tracing::error!(error = %Chain(error), "deny-list not changed");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    Problem::new(status, Chain(error).to_string())
}
