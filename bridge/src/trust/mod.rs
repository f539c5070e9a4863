//! What both ends trust.
