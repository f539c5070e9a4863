//! The BUS/RT wire, version 1.
//!
//! The crate `busrt` serves only sockets of its own making, without the bounds and overflow rules that a gateway needs, so
//! its wire is spoken here: by our door, by our client of somebody else's broker, and over TLS.

pub mod codec;
