//! What the time of a message is made of, each part measured by itself or as the difference of two measures.

use std::time::Duration;

use serde::Serialize;

/// A part of the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// What is done.
    pub name: &'static str,
    /// Its median, in microseconds.
    pub micros: f64,
    /// Whether it is done once a connection, or for every message.
    pub per: Per,
}

/// How often a stage is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Once a connection.
    Connection,
    /// For every message.
    Message,
}

/// A stage of every message.
pub(super) fn message(name: &'static str, took: Duration) -> Stage {
    stage(name, took, Per::Message)
}

/// A stage of the set-up.
pub(super) fn connection(name: &'static str, took: Duration) -> Stage {
    stage(name, took, Per::Connection)
}

fn stage(name: &'static str, took: Duration, per: Per) -> Stage {
    Stage { name, micros: took.as_secs_f64() * 1e6, per }
}
