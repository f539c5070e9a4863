//! The leaf.

pub mod intake;
