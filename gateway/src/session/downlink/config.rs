//! Settings of the downlink.

use std::{num::NonZeroUsize, time::Duration};

use daemoneye_bridge::{
    bus::{Room, rpc::Budget},
    settings::ByteSize,
};
use serde::Deserialize;

/// Settings of the downlink; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Calls of one collector at once, in each direction.
    pub max_calls: usize,
    /// How long a call may take.
    pub budget: Budget,
    /// How much may wait for one collector.
    pub outbox: Room,
}

/// The section `[session.downlink]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Calls of one collector at once, in each direction. Default 10, 1 to 1,000.
    max_calls: usize,
    /// How long a call may take that does not say. Default 30 s, 1 s to `max_budget`.
    #[serde(with = "humantime_serde")]
    budget: Duration,
    /// How long a call may take at most. Default 5 min, 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    max_budget: Duration,
    /// Messages that may wait for one collector: so many published, and as many sent by name. Default 1,024.
    outbox_frames: NonZeroUsize,
    /// Bytes of them, likewise; one message may always wait. Default 1 MiB.
    outbox_bytes: ByteSize,
}

impl Default for File {
    fn default() -> Self {
        let budget = Budget::default();
        Self {
            max_calls: 10,
            budget: budget.usual,
            max_budget: budget.most,
            outbox_frames: Room::default().frames,
            outbox_bytes: ByteSize::mib(1),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let least = Budget::default().least;
        if !(1..=1000).contains(&file.max_calls) {
            return Err("max_calls must be 1 to 1000".to_owned());
        }
        if !(least..=Budget::default().most).contains(&file.max_budget) {
            return Err("max_budget must be 1s to 5m".to_owned());
        }
        if !(least..=file.max_budget).contains(&file.budget) {
            return Err("budget must be 1s to max_budget".to_owned());
        }
        let bytes = NonZeroUsize::new(file.outbox_bytes.as_usize());
        let bytes = bytes.ok_or_else(|| "outbox_bytes must be at least 1 B".to_owned())?;
        Ok(Self {
            max_calls: file.max_calls,
            budget: Budget { usual: file.budget, least, most: file.max_budget },
            outbox: Room { frames: file.outbox_frames, bytes },
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_named() {
        let complaint = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(complaint("max_calls = 0").contains("max_calls"));
        assert!(complaint("budget = '6m'").contains("budget"));
        assert!(complaint("max_budget = '1h'").contains("max_budget"));
        assert!(complaint("outbox_bytes = '0 B'").contains("outbox_bytes"));
        assert!(complaint("calls = 3").contains("calls"));
    }
}
