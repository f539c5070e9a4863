//! Limits of HTTP/2, each set on its own: what hyper and tonic leave open is closed here.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

use daemoneye_bridge::settings::ByteSize;
use serde::Deserialize;

/// Settings of HTTP/2; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    pub(super) max_concurrent_streams: NonZeroU32,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    pub(super) max_frame_size: u32,
    pub(super) max_header_list_size: u32,
    pub(super) max_send_buffer: usize,
    pub(super) keepalive_interval: Duration,
    pub(super) keepalive_timeout: Duration,
    pub(super) max_pending_resets: usize,
    pub(super) max_local_resets: usize,
    pub(super) first_request_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_connection_age: Duration,
    pub(super) connection_age_grace: Duration,
}

/// The section `[session.http2]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Most requests open at once on a connection. Default 64, 1 to 1,024.
    max_concurrent_streams: NonZeroU32,
    /// What a peer may send ahead on one stream. Default 256 KiB, 64 KiB to 16 MiB.
    stream_window: ByteSize,
    /// What a peer may send ahead in all. Default 1 MiB, 64 KiB to 64 MiB, at least `stream_window`.
    connection_window: ByteSize,
    /// Largest frame that is accepted. Default 64 KiB, 16 KiB to 1 MiB.
    max_frame_size: ByteSize,
    /// Most bytes of a request's headers. Default 16 KiB, 4 KiB to 64 KiB.
    max_header_list_size: ByteSize,
    /// Most bytes buffered for one stream that the peer does not read. Default 256 KiB, 16 KiB to 4 MiB.
    max_send_buffer: ByteSize,
    /// How often a silent peer is pinged. Default 20 s, 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection is dropped. Default 20 s, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    keepalive_timeout: Duration,
    /// Streams that the peer may reset before they were looked at (rapid reset). Default 20, 1 to 1,000.
    max_pending_resets: usize,
    /// Streams that may be reset because of the peer's mistakes. Default 256, 1 to 10,000.
    max_local_resets: usize,
    /// How long a peer may take to make its first request. Default 30 s, 1 s to 10 min.
    #[serde(with = "humantime_serde")]
    first_request_timeout: Duration,
    /// How long a connection may be without a request. Default 5 min, 1 s to 24 h.
    #[serde(with = "humantime_serde")]
    idle_timeout: Duration,
    /// How old a connection may become, a tenth more or less; then its peer is told to come back at once. Default 24 h, 1 s
    /// to 365 d.
    #[serde(with = "humantime_serde")]
    max_connection_age: Duration,
    /// How long a peer that was told so may take. Default 30 s, 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    connection_age_grace: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self {
            max_concurrent_streams: NonZeroU32::new(64).expect("64 is not zero"),
            stream_window: ByteSize::kib(256),
            connection_window: ByteSize::mib(1),
            max_frame_size: ByteSize::kib(64),
            max_header_list_size: ByteSize::kib(16),
            max_send_buffer: ByteSize::kib(256),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
            max_pending_resets: 20,
            max_local_resets: 256,
            first_request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(5),
            max_connection_age: Duration::from_hours(24),
            connection_age_grace: Duration::from_secs(30),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        if file.max_concurrent_streams.get() > 1024 {
            return Err("max_concurrent_streams must be 1 to 1024".to_owned());
        }
        if file.connection_window < file.stream_window {
            return Err("connection_window must be at least stream_window".to_owned());
        }
        let send_buffer = bytes("max_send_buffer", file.max_send_buffer, 16 * KIB, 4 * MIB)?;
        let second = Duration::from_secs(1);
        Ok(Self {
            max_concurrent_streams: file.max_concurrent_streams,
            stream_window: bytes("stream_window", file.stream_window, 64 * KIB, 16 * MIB)?,
            connection_window: bytes("connection_window", file.connection_window, 64 * KIB, 64 * MIB)?,
            max_frame_size: bytes("max_frame_size", file.max_frame_size, 16 * KIB, MIB)?,
            max_header_list_size: bytes(
                "max_header_list_size",
                file.max_header_list_size,
                4 * KIB,
                64 * KIB,
            )?,
            max_send_buffer: usize::try_from(send_buffer).unwrap_or(usize::MAX),
            keepalive_interval: span(
                "keepalive_interval",
                file.keepalive_interval,
                second..=Duration::from_hours(1),
            )?,
            keepalive_timeout: span(
                "keepalive_timeout",
                file.keepalive_timeout,
                second..=Duration::from_mins(5),
            )?,
            max_pending_resets: count("max_pending_resets", file.max_pending_resets, 1000)?,
            max_local_resets: count("max_local_resets", file.max_local_resets, 10_000)?,
            first_request_timeout: span(
                "first_request_timeout",
                file.first_request_timeout,
                second..=Duration::from_mins(10),
            )?,
            idle_timeout: span("idle_timeout", file.idle_timeout, second..=Duration::from_hours(24))?,
            max_connection_age: span(
                "max_connection_age",
                file.max_connection_age,
                second..=Duration::from_hours(365 * 24),
            )?,
            connection_age_grace: span(
                "connection_age_grace",
                file.connection_age_grace,
                second..=Duration::from_hours(1),
            )?,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

fn bytes(key: &str, size: ByteSize, least: u64, most: u64) -> Result<u32, String> {
    u32::try_from(size.as_u64())
        .ok()
        .filter(|_| (least..=most).contains(&size.as_u64()))
        .ok_or_else(|| format!("{key} must be {} to {}", ByteSize::bytes(least), ByteSize::bytes(most)))
}

fn count(key: &str, given: usize, most: usize) -> Result<usize, String> {
    if (1..=most).contains(&given) { Ok(given) } else { Err(format!("{key} must be 1 to {most}")) }
}

fn span(key: &str, given: Duration, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    if allowed.contains(&given) {
        return Ok(given);
    }
    Err(format!("{key} must be {:?} to {:?}", allowed.start(), allowed.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Config, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_its_name() {
        for (json, key) in [
            (r#"{"stream_window": "1 KiB"}"#, "stream_window must be 64 KiB to 16 MiB"),
            (r#"{"stream_window": "2 MiB"}"#, "connection_window must be at least stream_window"),
            (r#"{"max_frame_size": "32 MiB"}"#, "max_frame_size must be 16 KiB to 1 MiB"),
            (r#"{"max_pending_resets": 0}"#, "max_pending_resets must be 1 to 1000"),
            (r#"{"keepalive_timeout": "0s"}"#, "keepalive_timeout must be 1s to 300s"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        assert!(read(r#"{"keepalive_interval": "5s"}"#).is_ok());
    }
}
