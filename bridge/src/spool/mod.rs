//! The queue on disk.
