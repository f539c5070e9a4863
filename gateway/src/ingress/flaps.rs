//! Peers that connect again and again: each time it is too often, a longer pause.
//!
//! Only who has proven who he is is counted, so that nobody can bring a pause upon somebody else.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    identity::PeerId,
    listener::{
        ages::Ages,
        rates::{Bucket, Pace},
    },
};

/// Settings against flapping; every value is usable as it stands.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    pace: Pace,
    first_pause: Duration,
    longest_pause: Duration,
    remembered: NonZeroUsize,
}

/// The section `[tcp.flapping]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Connections a second under one name, and how many at once before that. Default 1 after 60, 1 to 1,000,000.
    per_second: NonZeroU32,
    burst: NonZeroU32,
    /// How long a peer over it has to wait: the first time, doubled each further time, and at most. Default 2 s and 5 min,
    /// 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    first_pause: Duration,
    #[serde(with = "humantime_serde")]
    longest_pause: Duration,
    /// Peers that are remembered. Default 16,384, 64 to 1,048,576.
    remembered: usize,
}

impl Default for File {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).expect("no default is zero");
        Self {
            per_second: number(1),
            burst: number(60),
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_mins(5),
            remembered: 16_384,
        }
    }
}

impl TryFrom<File> for Config {
    type Error = &'static str;

    fn try_from(file: File) -> Result<Self, &'static str> {
        if file.per_second.get() > 1_000_000 || file.burst.get() > 1_000_000 {
            return Err("per_second and burst must be 1 to 1000000");
        }
        let pauses = Duration::from_millis(100)..=Duration::from_hours(1);
        if !pauses.contains(&file.first_pause) || !pauses.contains(&file.longest_pause) {
            return Err("first_pause and longest_pause must be 100 ms to 1 h");
        }
        if file.first_pause > file.longest_pause {
            return Err("first_pause must be at most longest_pause");
        }
        let remembered =
            NonZeroUsize::new(file.remembered).filter(|most| (64..=1 << 20).contains(&most.get()));
        Ok(Self {
            pace: Pace::new(file.per_second, file.burst),
            first_pause: file.first_pause,
            longest_pause: file.longest_pause,
            remembered: remembered.ok_or("remembered must be 64 to 1048576")?,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

/// How often each peer has come.
#[derive(Debug)]
pub(super) struct Flaps {
    config: Config,
    peers: Ages<PeerId, Record>,
}

#[derive(Debug)]
struct Record {
    bucket: Bucket,
    /// Pauses in a row.
    pauses: u32,
    /// The end of the last one.
    until: Instant,
}

impl Flaps {
    pub(super) fn new(config: Config) -> Self {
        let generation = NonZeroUsize::new(config.remembered.get() / 2).unwrap_or(NonZeroUsize::MIN);
        Self { config, peers: Ages::new(generation) }
    }

    /// Notes that a peer has come.
    ///
    /// # Errors
    ///
    /// How long it has to wait, if it comes too often.
    pub(super) fn arrive(&mut self, peer: &PeerId, now: Instant) -> Result<(), Duration> {
        let Config { pace, first_pause, longest_pause, .. } = self.config;
        let new = || Record { bucket: Bucket::full(pace, now), pauses: 0, until: now };
        let record = self.peers.touch(peer, new);
        let left = record.until.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(left);
        }
        if now.saturating_duration_since(record.until) >= longest_pause {
            record.pauses = 0;
        }
        if record.bucket.take(pace, now) {
            return Ok(());
        }
        let pause = first_pause.saturating_mul(1_u32.checked_shl(record.pauses).unwrap_or(u32::MAX));
        let pause = pause.min(longest_pause);
        record.pauses = record.pauses.saturating_add(1);
        record.until = now.checked_add(pause).unwrap_or(now);
        Err(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_time_it_is_too_often_the_pause_is_longer_up_to_a_bound_and_a_calm_peer_begins_anew() {
        let text = "per_second = 1\nburst = 3\nfirst_pause = '4s'\nlongest_pause = '15s'";
        let mut flaps = Flaps::new(toml::from_str(text).unwrap());
        let (peer, other) = ("a/x".parse().unwrap(), "a/y".parse().unwrap());
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let pause = loop {
                if let Err(pause) = flaps.arrive(&peer, now) {
                    break pause;
                }
            };
            assert!(flaps.arrive(&other, now).is_ok(), "others are not concerned");
            assert_eq!(
                flaps.arrive(&peer, now + SECOND),
                Err(pause.saturating_sub(SECOND)),
                "asking does not make it longer"
            );
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [4, 8, 15, 15]);
        now += 20 * SECOND;
        let again = std::iter::repeat_with(|| flaps.arrive(&peer, now)).find_map(Result::err);
        assert_eq!(again, Some(4 * SECOND));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_its_name() {
        for text in ["burst = 2000000", "first_pause = '0s'", "first_pause = '10m'", "remembered = 1"] {
            let key = text.split(' ').next().unwrap();
            assert!(toml::from_str::<Config>(text).unwrap_err().to_string().contains(key), "{text}");
        }
    }
}
