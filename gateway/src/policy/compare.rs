//! What another policy would change: for a list of identities, and for those who are connected.
//!
//! Told in topics, not in texts: a rule that is written otherwise and means the same is no difference. Exact, as the
//! coverage that it rests on.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use daemoneye_bridge::topic::Pattern;
use serde::Serialize;

use crate::{
    identity::PeerId,
    policy::{
        Limits, Policy, SameIdentity,
        builtin::RESERVED,
        fleet::Tenure,
        grant::{Grant, Hearing, Rules},
        subject::Subject,
    },
};

/// What changes for one identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Whose.
    pub identity: String,
    /// Roles that it has under the old policy.
    pub roles_before: Vec<String>,
    /// Roles that it has under the new one.
    pub roles_after: Vec<String>,
    /// Whether it may connect no longer.
    pub cut: bool,
    /// What it may do then and not now, such as "publish events.process.#".
    pub gains: Vec<String>,
    /// What it may do now and not then; where that is a part of a pattern only, with an example.
    pub loses: Vec<String>,
    /// Bounds that change, such as "connections 2 -> 4".
    pub limits: Vec<String>,
}

impl Change {
    const fn is_none(&self) -> bool {
        !self.cut && self.gains.is_empty() && self.loses.is_empty() && self.limits.is_empty()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = |roles: &[String]| if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
        let (before, after) = (roles(&self.roles_before), roles(&self.roles_after));
        let cut = if self.cut { ": would be cut" } else { "" };
        writeln!(f, "{}{cut}", self.identity)?;
        if before != after {
            writeln!(f, "  roles   {before} -> {after}")?;
        }
        for (word, lines) in [("gains ", &self.gains), ("loses ", &self.loses), ("bounds", &self.limits)] {
            for line in lines {
                writeln!(f, "  {word}  {line}")?;
            }
        }
        Ok(())
    }
}

/// What changes for each of `subjects`; those for whom nothing does are left out.
pub(super) fn between(old: &Policy, new: &Policy, subjects: &[Subject]) -> Vec<Change> {
    subjects.iter().map(|subject| change(old, new, subject)).filter(|change| !change.is_none()).collect()
}

fn change(old: &Policy, new: &Policy, subject: &Subject) -> Change {
    let [before, after] = [old, new].map(|policy| Grant::of(subject.clone(), policy.rules()));
    let names = |grant: &Option<Grant>| {
        let roles = grant.iter().flat_map(Grant::roles);
        roles.map(|role| role.name.clone()).collect::<Vec<_>>()
    };
    Change {
        identity: subject.id().to_string(),
        roles_before: names(&before),
        roles_after: names(&after),
        cut: before.is_some() && after.is_none(),
        gains: gains(before.as_ref(), after.as_ref()),
        loses: gains(after.as_ref(), before.as_ref()),
        limits: match (&before, &after) {
            (Some(before), Some(after)) => bounds(&before.limits(), &after.limits()),
            _ => Vec::new(),
        },
    }
}

/// What `after` allows that `before` does not.
fn gains(before: Option<&Grant>, after: Option<&Grant>) -> Vec<String> {
    let Some(after) = after else { return Vec::new() };
    let name = after.peer().name();
    let of = |rules: fn(&Grant, &str) -> Rules<Pattern>| {
        (before.map_or_else(Rules::none, |grant| rules(grant, name)), rules(after, name))
    };
    let (old, new) = of(Grant::publish);
    let reserved = Pattern::parse(RESERVED).ok();
    let mut gains = topics("publish", &old, &new, reserved.as_ref());
    let (old, new) = of(|grant, _| grant.subscribe());
    gains.extend(topics("subscribe", &old, &new, None));
    // Names are open sets of letters: compared as they are written.
    let texts = |grant: &Grant| {
        let call = grant.call(grant.peer().name());
        let allowed = call.allow.iter().map(|rule| format!("call {}", rule.what.as_str()));
        let denied = call.deny.iter().map(|rule| format!("no denial of call {}", rule.what.as_str()));
        let spoken = grant.roles().iter().flat_map(|role| &role.speaks_for);
        let spoken = spoken.map(|entry| format!("speak for {}", entry.text));
        let relayed = grant.roles().iter().flat_map(|role| &role.relays);
        let relayed = relayed.map(|entry| format!("relay {}", entry.text));
        (allowed.chain(spoken).chain(relayed).collect::<BTreeSet<_>>(), denied.collect::<BTreeSet<_>>())
    };
    let (old, old_denied) = before.map(texts).unwrap_or_default();
    let (new, new_denied) = texts(after);
    gains.extend(new.difference(&old).cloned());
    gains.extend(old_denied.difference(&new_denied).cloned());
    gains
}

/// Rules of `new` that allow topics which `old` does not; `reserved` is denied by both.
fn topics(verb: &str, old: &Rules<Pattern>, new: &Rules<Pattern>, reserved: Option<&Pattern>) -> Vec<String> {
    let denied = || new.deny.iter().map(|rule| &rule.what).chain(reserved);
    let known = || old.allow.iter().map(|rule| &rule.what).chain(denied());
    let gain = |allowed: &Pattern| {
        // Either no old rule allowed it, or an old rule denied what no new one does.
        let lifted = || old.deny.iter().filter_map(|rule| rule.what.intersection(allowed));
        allowed.uncovered(known()).or_else(|| lifted().find_map(|common| common.uncovered(denied())))
    };
    let mut lines: Vec<String> = Vec::new();
    for rule in &new.allow {
        if let Some(part) = gain(&rule.what) {
            let is_whole = part == rule.what || !known().any(|known| known.overlaps(&rule.what));
            let line = if is_whole {
                format!("{verb} {}", rule.what)
            } else {
                format!("{verb} {} (such as {part})", rule.what)
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

fn bounds(before: &Limits, after: &Limits) -> Vec<String> {
    let words = [before, after].map(|limits| limits.same_identity.map_or("default", SameIdentity::as_str));
    let changed = Some(words).filter(|[before, after]| before != after);
    let word = changed.map(|[before, after]| format!("same_identity {before} -> {after}"));
    [
        ("events_per_second", before.events_per_second, after.events_per_second),
        ("bytes_per_second", before.bytes_per_second, after.bytes_per_second),
        ("max_message", before.max_message, after.max_message),
        ("connections", before.connections, after.connections),
    ]
    .into_iter()
    .filter(|(_, before, after)| before != after)
    .map(|(key, before, after)| format!("{key} {before} -> {after}"))
    .chain(word)
    .collect()
}

/// What a policy would do to those who are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Impact {
    /// How many identities are connected.
    pub connected: usize,
    /// Those that would lose a session or subscription.
    pub cut: Vec<Cut>,
    /// For how many others something changes.
    pub changed: usize,
    /// What changes for the first hundred of those.
    pub changes: Vec<Change>,
}

/// Somebody who would be cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Who.
    pub identity: String,
    /// What ends, and why.
    pub reason: String,
}

impl Impact {
    /// Most names in one line.
    const SHOWN: usize = 10;

    /// Most changes that are told one by one.
    const TOLD: usize = 100;

    /// Who of `fleet` would be cut under `new`.
    pub(super) fn of(new: &Policy, fleet: &[Arc<Tenure>]) -> Self {
        let mut reasons: BTreeMap<&PeerId, Option<String>> = BTreeMap::new();
        for tenure in fleet {
            let reason = reasons.entry(tenure.subject().id()).or_default();
            if reason.is_none() {
                *reason = cause(new, tenure);
            }
        }
        let connected = reasons.len();
        let cut = reasons
            .into_iter()
            .filter_map(|(id, reason)| reason.map(|reason| Cut { identity: id.to_string(), reason }));
        Self { connected, cut: cut.collect(), changed: 0, changes: Vec::new() }
    }

    /// The same, with what else would change for those who stay.
    pub(super) fn in_full(old: &Policy, new: &Policy, fleet: &[Arc<Tenure>]) -> Self {
        let subjects: HashSet<&Subject> = fleet.iter().map(|tenure| tenure.subject()).collect();
        let subjects: Vec<Subject> = subjects.into_iter().cloned().collect();
        let mut told = between(old, new, &subjects);
        told.retain(|change| !change.cut);
        told.sort_by(|a, b| a.identity.cmp(&b.identity));
        let changed = told.len();
        told.truncate(Self::TOLD);
        Self { changed, changes: told, ..Self::of(new, fleet) }
    }

    /// Whether more than a fifth of the connected would be cut.
    #[must_use]
    pub const fn needs_force(&self) -> bool {
        self.cut.len().saturating_mul(5) > self.connected
    }
}

/// Why `tenure` would end under `policy`.
fn cause(policy: &Policy, tenure: &Tenure) -> Option<String> {
    let Some(grant) = Grant::of(tenure.subject().clone(), policy.rules()) else {
        return Some("no role matches it".to_owned());
    };
    let rules = grant.subscribe();
    let refused = |wanted: &&Pattern| !matches!(rules.hear(wanted), Hearing::Allowed(_));
    let refused = tenure.heard().iter().find(refused)?;
    Some(format!("it may no longer hear `{refused}`"))
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "would cut {} of {}", self.cut.len(), self.connected)?;
        for (index, cut) in self.cut.iter().take(Self::SHOWN).enumerate() {
            write!(f, "{}{}", if index == 0 { ": " } else { ", " }, cut.identity)?;
        }
        let more = self.cut.len().saturating_sub(Self::SHOWN);
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}
