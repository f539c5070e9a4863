//! Whom a peer may address all at once, by a mask of names.
//!
//! A mask is a set of names, so it is judged as one: all of them must be allowed by one rule, and no denial may meet any of
//! them. Kept true: nobody hears a broadcast of a peer that might not have called him.

use std::sync::Arc;

use crate::policy::{
    Collector, Denial, Rights, builtin,
    metrics::{Decision, Verb},
    rule::Glob,
};

/// Permission for a peer to address, once, every client of the bus whose name a mask matches.
#[derive(Debug)]
#[must_use = "a permit that is not spent was checked for nothing"]
pub struct BroadcastPermit {
    collector: Arc<Collector>,
    mask: Box<str>,
}

impl BroadcastPermit {
    /// Spends it: who may address whom.
    #[must_use]
    pub fn spend(self) -> (Arc<Collector>, Box<str>) {
        (self.collector, self.mask)
    }
}

impl Rights {
    /// Lets the peer address every client of the bus whose name `mask` matches (`?` is a segment, `*` the rest).
    ///
    /// # Errors
    ///
    /// [`Denial::Client`], if no single rule allows all of them, or one denies some.
    pub fn broadcast(&self, mask: &str) -> Result<BroadcastPermit, Denial> {
        let name = self.peer().name();
        let rules = self.grant.call(name);
        // A `*` of a rule takes what a mask leaves open, and no other character of a rule does.
        let is_covered = rules.allow.iter().any(|rule| rule.what.matches(mask));
        let is_met = rules.deny.iter().any(|rule| may_meet(&rule.what, mask));
        let tally = self.tally(Verb::Call);
        if builtin::may_reach_reserved(mask) || !is_covered || is_met {
            tally.count(Decision::Deny, 1);
            return Err(Denial::Client);
        }
        tally.count(Decision::Allow, 1);
        Ok(BroadcastPermit { collector: Collector::new(self.peer().clone(), name), mask: mask.into() })
    }
}

/// Whether some name may be in both; says yes where it does not know.
fn may_meet(glob: &Glob, mask: &str) -> bool {
    let glob = glob.as_str().split('*').next().unwrap_or_default();
    let mask = mask.split(['*', '?']).next().unwrap_or_default();
    glob.starts_with(mask) || mask.starts_with(glob)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        identity::PeerId,
        policy::{Metrics, Policy},
    };

    #[test]
    fn a_mask_is_allowed_as_a_whole_or_not_at_all() {
        let text = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\npublish = [\"a\"]\n\
                    call = [\"engine.*\", \"log\"]\n[role.deny]\ncall = [\"engine.secret.*\"]";
        let policy = Policy::parse(text, Path::new("p.toml")).unwrap();
        let metrics = Arc::new(Metrics::default());
        let rights = Rights::of(&PeerId::new("s", "x").unwrap(), policy.rules(), 1, &metrics).unwrap();
        for mask in ["engine.one.*", "engine.one.?", "engine.two", "log"] {
            assert!(rights.broadcast(mask).is_ok(), "{mask}");
        }
        for mask in ["*", "?", "engine.*", "engine.?.x", "engine.secret.x", "log.*", "collector.*", ""] {
            assert_eq!(rights.broadcast(mask).unwrap_err(), Denial::Client, "{mask}");
        }
    }

    #[test]
    fn who_may_call_everybody_reaches_neither_the_broker_nor_other_peers() {
        let text = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\npublish = [\"a\"]\ncall = [\"*\"]";
        let policy = Policy::parse(text, Path::new("p.toml")).unwrap();
        let metrics = Arc::new(Metrics::default());
        let rights = Rights::of(&PeerId::new("s", "x").unwrap(), policy.rules(), 1, &metrics).unwrap();
        for mask in ["engine.*", "engine.?", "collectors.*"] {
            assert!(rights.broadcast(mask).is_ok(), "{mask}");
        }
        for mask in
            ["*", "?", "?.site-b.x", "collector", "collector.*", "collector.site-b.x", ".broker", ".*"]
        {
            assert_eq!(rights.broadcast(mask).unwrap_err(), Denial::Client, "{mask}");
        }
    }
}
