//! May it: which peer may publish and hear what, and how fast.
//!
//! Turns a verified peer and the texts it sends into permits or denials. Separate, because it decides and does nothing: it
//! knows no socket and no bus, so that a decision can be explained, tried and tested by itself.
//!
//! Kept true: what no rule allows is denied; what some rule denies is denied, whoever allows it; a permit is made here
//! only, cannot be copied, and is spent by [`crate::bus`].

mod broadcast;
mod builtin;
pub mod command;
mod compare;
mod downlink;
mod explain;
mod file;
mod fleet;
mod grant;
mod judge;
mod metrics;
mod permit;
mod rate;
mod rule;
mod rules;
mod shadow;
mod subject;
mod verdict;

pub use self::{
    broadcast::BroadcastPermit,
    compare::{Change, Cut, Impact},
    downlink::{DownlinkPermit, LocalClient, Way},
    explain::{Action, ActionError, Cause, Explanation, Question, RuleView},
    file::{Complaint, Owner, PolicyError, pin},
    judge::{Applied, Config, Force, Held, Judge, ReloadError, Watch},
    metrics::Metrics,
    permit::{CallPermit, Collector, Payload, Place, PublishPermit, SubscribePermit},
    rate::Meter,
    rule::{GlobError, LONGEST_NAME, Limits, SameIdentity, TemplateError},
    rules::Policy,
    shadow::{DifferenceView, ShadowView},
    subject::Subject,
    verdict::{Denial, Rights, Speaker, Unheard},
};

#[cfg(test)]
mod tests;
