//! What stands between a local bus and a federation gateway, at either end.
//!
//! ```text
//!   local bus ──► leaf ──► spool on disk ──► uplink ══ mutual TLS ══► gateway ──► local bus
//!      bus                    spool            uplink                   (crate `daemoneye-gateway`)
//! ```
//!
//! The gateway stands on the same parts as the leaf: the bus and its door, topics, trust, settings, and the life of a
//! process. Nothing here judges who may do what; that is the gateway's.
//!
//! | feature | what it brings | for whom |
//! |---|---|---|
//! | `client` | spool and uplink | a collector that links this crate |
//! | `broker` | the local bus | the gateway |
//! | `leaf` | both, wired, with a health page and a binary | `daemoneye-bridge` |

pub mod event;
pub mod lifecycle;
pub mod settings;
pub mod topic;
pub mod transport;
pub mod trust;

#[cfg(feature = "broker")]
pub mod native;

#[cfg(feature = "broker")]
pub mod bus;

#[cfg(feature = "client")]
pub mod spool;

#[cfg(feature = "client")]
pub mod uplink;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "leaf")]
pub mod log;

#[cfg(feature = "leaf")]
pub mod probe;

#[cfg(feature = "leaf")]
pub mod reception;

#[cfg(feature = "leaf")]
pub mod leaf;
