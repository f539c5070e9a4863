//! The leaf.
