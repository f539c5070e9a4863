//! The other end of the bridge.
