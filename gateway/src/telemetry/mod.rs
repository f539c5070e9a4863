//! How the gateway speaks of itself: lines for people, numbers for machines.
//!
//! Stages own what they count; this module owns the registry they count into and the few numbers that belong to no stage:
//! build, phase, the local bus, the process.

pub use daemoneye_bridge::log;

pub mod metrics;

mod process;

mod transports;
