//! Settings of the downlink.

use std::{num::NonZeroUsize, time::Duration};

use serde::Deserialize;

use crate::{
    bus::{BusName, rpc::Budget},
    settings::positive,
    topic::{Pattern, TopicError},
};

/// Settings of the downlink; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Whether local collectors can be reached from the datacentre, and reach it.
    pub enabled: bool,
    /// Clients of the datacentre's bus that local collectors may address: each has a stand-in on the local bus.
    pub reach: Vec<BusName>,
    /// Which subscriptions of local collectors are served from the datacentre.
    pub subscribe: Vec<Pattern>,
    /// Calls of one collector at once, and as many to it.
    pub calls: NonZeroUsize,
    /// How long a call of a local collector may take.
    pub call_budget: Duration,
}

/// `[downlink]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Default false: what comes down are commands, which both ends must want. The gateway's policy decides as well.
    enabled: bool,
    /// Bus names, at most 64. Local collectors call `engine` as if it were local. Default none.
    reach: Vec<String>,
    /// Dotted patterns. A local subscription that one of them covers is served from the datacentre, too. Default `control.#`.
    subscribe: Vec<Pattern>,
    /// 1 to 1000. Default 10.
    calls: NonZeroUsize,
    /// 1 s to 300 s. Default 30 s.
    #[serde(deserialize_with = "positive")]
    call_budget: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self {
            enabled: false,
            reach: Vec::new(),
            subscribe: "control.#".parse().into_iter().collect(),
            calls: NonZeroUsize::MIN.saturating_add(9),
            call_budget: Budget::default().usual,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults fit together")
    }
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        if file.reach.len() > MOST_REACHED {
            return Err(ConfigError::Reach(file.reach.len()));
        }
        let name = |name: String| match BusName::parse(&name) {
            Ok(parsed) if !name.starts_with("collector.") => Ok(parsed),
            Ok(_) => Err(ConfigError::Collector(name)),
            Err(source) => Err(ConfigError::Name { name, source }),
        };
        let budget = Budget::default();
        if !(budget.least..=budget.most).contains(&file.call_budget) {
            return Err(ConfigError::Budget);
        }
        if file.calls.get() > MOST_CALLS {
            return Err(ConfigError::Calls(file.calls.get()));
        }
        Ok(Self {
            enabled: file.enabled,
            reach: file.reach.into_iter().map(name).collect::<Result<_, _>>()?,
            subscribe: file.subscribe,
            calls: file.calls,
            call_budget: file.call_budget,
        })
    }
}

/// Names that may be reached: each is a client of the local bus.
const MOST_REACHED: usize = 64;

/// Calls at once that a table is meant for.
const MOST_CALLS: usize = 1000;

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Out of bounds.
    #[error("call_budget is out of bounds; use \"1s\" to \"300s\"")]
    Budget,
    /// Out of bounds.
    #[error("calls = {0} is out of bounds; use 1 to {MOST_CALLS}")]
    Calls(usize),
    /// Another collector.
    #[error(
        "reach names {0}, but collectors are not reached from here; name a client of the datacentre's own bus"
    )]
    Collector(String),
    /// No bus name.
    #[error("reach names \"{}\", which is no bus name; use 1 to 4 segments of a-z, 0-9, _ and -", name.escape_debug())]
    Name {
        /// As it was given.
        name: String,
        /// Why not.
        #[source]
        source: TopicError,
    },
    /// Too many.
    #[error("reach names {0} clients; at most {MOST_REACHED} are possible")]
    Reach(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn what_cannot_be_used_is_refused_with_a_remedy() {
        let told = |text: &str| settings::parse::<Config>(text, "bridge.toml").unwrap_err().to_string();
        assert!(told("reach = [\"Engine\"]").contains("\"Engine\""));
        assert!(told("reach = [\"collector.site-a.x\"]").contains("datacentre's own bus"));
        assert!(told("call_budget = \"10m\"").contains("300s"));
        assert!(told("calls = 5000").contains("1 to 1000"));
        let config: Config = settings::parse("reach = [\"engine\"]", "bridge.toml").unwrap();
        assert!(!config.enabled && config.reach.len() == 1);
    }
}
