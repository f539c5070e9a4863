//! The client of a foreign broker.
