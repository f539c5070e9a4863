//! The leaf.
//!
//! Being written on branch `h-me` (config, health page, wiring, main): do not write it twice. It expects of the uplink
//! `Uplink::open(Config, Spool, Leash) -> Result<(Uplink, BoxFuture<'static, ()>), UplinkError>`, `Uplink::status() ->
//! watch::Receiver<Status>`, `Status: Display` (one line for people) and `Status::figures() -> Vec<(&'static str, &'static
//! str, u64)>` (metric name such as `sent_total`, meaning, value).

pub mod intake;
