//! What a collector links.
