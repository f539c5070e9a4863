//! What the end-to-end tests and benches share: processes, peers, subscribers, waiting.
//!
//! Everything here goes through the front door: the real programs, real mutual TLS, a real BUS/RT client. Nothing waits for
//! a time to pass; [`eventually()`] waits for a condition and says what it was when it does not come.

pub mod blocked;
pub mod collector;
pub mod embed;
pub mod engine;
pub mod eventually;
pub mod forge;
pub mod greeting;
pub mod hesitant;
pub mod inside;
pub mod knock;
pub mod link;
pub mod load;
pub mod measure;
pub mod native;
pub mod peer;
pub mod process;
pub mod producer;
pub mod snail;
pub mod stubborn;
pub mod subscriber;
pub mod witness;
pub mod world;

pub use eventually::{eventually, within};
