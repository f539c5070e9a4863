//! What is built in: the roles of `DaemonEye`'s four collectors, and what no remote peer may ever do.
//!
//! A role of a policy takes them over by name (`use = ["procmond"]`), so that nobody copies patterns that follow the suite.
//! Kept true: no policy can allow what is reserved.

use std::num::NonZeroU32;

use daemoneye_bridge::topic::Topic;

use crate::policy::rule::Bounds;

/// A role that a policy may take over.
#[derive(Debug)]
pub(super) struct Builtin {
    pub(super) name: &'static str,
    /// Names of the peers that have it, unless the role says otherwise.
    pub(super) identities: [&'static str; 2],
    /// What it may publish.
    pub(super) publish: &'static [&'static str],
    /// What it may hear.
    pub(super) subscribe: &'static [&'static str],
    /// What of it must be JSON.
    pub(super) json: &'static [&'static str],
}

impl Builtin {
    /// Bounds of all of them: what a busy host's monitor needs.
    pub(super) const BOUNDS: Bounds = Bounds {
        events_per_second: NonZeroU32::new(10_000),
        bytes_per_second: NonZeroU32::new(16 << 20),
        max_message: None,
        connections: None,
        same_identity: None,
    };

    /// The built-in role of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|builtin| builtin.name == name)
    }

    /// Names of all of them.
    pub(super) const fn names() -> [&'static str; 4] {
        ["procmond", "netmond", "fsmond", "perfmond"]
    }
}

/// What each collector says and hears besides what it observes.
macro_rules! builtin {
    ($name:literal, $what:literal $(, hears $topic:literal)*) => {
        Builtin {
            name: $name,
            identities: [$name, concat!($name, "-*")],
            publish: &[
                concat!("events.", $what, ".#"),
                "control.collector.registration",
                "control.health.heartbeat.{name}",
                "control.health.status",
                "control.health.diagnostics",
            ],
            subscribe: &[
                concat!("control.collector.task.", $what, ".{name}"),
                "control.collector.{name}",
                "control.collector.config.{name}",
                "control.shutdown.{name}",
                $($topic,)*
            ],
            json: &[concat!("events.", $what, ".#")],
        }
    };
}

static ALL: [Builtin; 4] = [
    // It waits for any message there to begin.
    builtin!("procmond", "process", hears "control.collector.lifecycle"),
    builtin!("netmond", "network"),
    builtin!("fsmond", "filesystem"),
    builtin!("perfmond", "performance"),
];

/// A process monitor takes any message on this topic for the signal to begin, so no remote peer may send one.
pub(super) const RESERVED: &str = "control.collector.lifecycle";

/// Whether no remote peer may publish on `topic`, whatever a policy says.
pub(super) fn is_reserved(topic: &Topic) -> bool {
    topic.dotted() == RESERVED
}

/// Whether no remote peer may address the client of the bus of that name: the broker itself, and other remote peers.
pub(super) fn is_reserved_client(name: &str) -> bool {
    name.starts_with('.') || name.split('.').next() == Some(PEERS)
}

/// Whether a mask of names may match one that is reserved.
pub(super) fn may_reach_reserved(mask: &str) -> bool {
    is_reserved_client(mask) || matches!(mask.split('.').next(), Some("*" | "?"))
}

/// Names of remote peers on the bus begin so.
const PEERS: &str = "collector";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rule::{Glob, Template};

    #[test]
    fn every_built_in_pattern_is_one() {
        for name in Builtin::names() {
            let builtin = Builtin::named(name).unwrap();
            for pattern in builtin.publish.iter().chain(builtin.subscribe).chain(builtin.json) {
                Template::parse(pattern).unwrap_or_else(|error| panic!("{name}: {pattern}: {error}"));
            }
            for glob in builtin.identities {
                Glob::parse(glob).unwrap();
            }
            assert!(!builtin.publish.contains(&RESERVED), "{name}");
        }
        assert!(Builtin::named("leaf").is_none());
    }
}
