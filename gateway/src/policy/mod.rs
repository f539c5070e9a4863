//! May it: which peer may publish and hear what, and how fast.
//!
//! Turns a verified peer and the texts it sends into permits or denials. Separate, because it decides and does nothing: it
//! knows no socket and no bus, so that a decision can be explained, tried and tested by itself.
//!
//! Kept true: what no rule allows is denied; what some rule denies is denied, whoever allows it; a permit is made here
//! only, cannot be copied, and is spent by [`crate::bus`].

mod file;
mod judge;
mod metrics;
mod rate;
mod rule;
mod verdict;

pub use self::{
    file::{Complaint, PolicyError},
    judge::{Config, Judge, Policy, Watch},
    metrics::Metrics,
    rate::Meter,
    rule::{GlobError, LONGEST_NAME, Limits, TemplateError},
    verdict::{Collector, Denial, Payload, Place, PublishPermit, Rights, Speaker, SubscribePermit},
};

#[cfg(test)]
mod tests;
