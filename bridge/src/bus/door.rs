//! The embedded broker's door for local clients.
