//! The wire of the DaemonEye federation, and nothing but the wire.
//!
//! Everything here is generated from `proto/daemoneye/federation/v1/federation.proto`, where each message, field and
//! limit is documented, or states a number of that file as a constant. The crate names nothing of ours, so that a client
//! in another language and this one are bound by the same text.

pub mod codec;

/// The generated messages, client and server of protocol version 1.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    rustdoc::invalid_html_tags,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::unwrap_used,
    clippy::str_to_string,
    clippy::clone_on_ref_ptr,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("daemoneye.federation.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/federation.fds"));

/// The protocol version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Most bytes of one payload, whatever is configured.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Most events of one batch.
pub const MAX_BATCH_EVENTS: usize = 4096;

/// Most bytes of one message on the wire.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Most streams of one session.
pub const MAX_STREAMS: usize = 64;

/// The highest sequence number (2^63 − 1): a number above it is refused, so that no arithmetic on one can overflow.
pub const MAX_SEQ: u64 = i64::MAX.cast_unsigned();

/// Most patterns of one subscription.
pub const MAX_PATTERNS: usize = 64;
