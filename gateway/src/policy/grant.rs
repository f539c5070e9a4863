//! What one subject may do: its roles expanded, and the ruling on what it asks for, with the rule that decided.
//!
//! Pure: the gateway's verdicts and the explanations of them are read off the same ruling, so that they cannot differ. Kept
//! true: something is allowed only if some rule allows it and none denies it; what is reserved is denied whatever the
//! rules say.

use std::sync::Arc;

use daemoneye_bridge::topic::{Pattern, Topic};

use crate::{
    identity::PeerId,
    policy::{
        builtin,
        rule::{ClientTemplate, Entry, Glob, LONGEST_NAME, Limits, Role, Template},
        subject::Subject,
    },
};

/// Where a rule stands.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) role: Arc<Role>,
    /// As the file names it, such as `deny.publish`.
    pub(super) key: &'static str,
    /// As it is written.
    pub(super) text: Arc<str>,
    /// Line of the file, from 1.
    pub(super) line: u32,
    /// The built-in role that it comes with.
    pub(super) builtin: Option<&'static str>,
}

impl Origin {
    fn of<T>(role: &Arc<Role>, key: &'static str, entry: &Entry<T>) -> Self {
        let Entry { text, line, builtin, .. } = entry;
        Self { role: Arc::clone(role), key, text: Arc::clone(text), line: *line, builtin: *builtin }
    }
}

/// A rule as it is for one speaker.
#[derive(Clone, Debug)]
pub(super) struct Rule<P> {
    pub(super) what: P,
    pub(super) origin: Origin,
}

/// All rules on one verb for one speaker.
#[derive(Clone, Debug)]
pub(super) struct Rules<P> {
    pub(super) allow: Vec<Rule<P>>,
    pub(super) deny: Vec<Rule<P>>,
}

/// What is ruled on one topic or client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ruling<'a, P> {
    Allowed(&'a Rule<P>),
    Denied(&'a Rule<P>),
    /// Denied by the gateway itself.
    Reserved,
    /// No rule speaks of it.
    Unmentioned,
}

impl<P> Ruling<'_, P> {
    pub(super) const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// What is ruled on a pattern.
#[derive(Clone, Debug)]
pub(super) enum Hearing<'a> {
    /// By these together.
    Allowed(Vec<&'a Rule<Pattern>>),
    /// A denial meets it there.
    Denied { by: &'a Rule<Pattern>, common: Pattern },
    /// No rule allows this part of it.
    Uncovered(Pattern),
}

impl<P> Rules<P> {
    /// Rules that allow nothing.
    pub(super) const fn none() -> Self {
        Self { allow: Vec::new(), deny: Vec::new() }
    }

    fn rule(&self, matches: impl Fn(&P) -> bool) -> Ruling<'_, P> {
        if let Some(rule) = self.deny.iter().find(|rule| matches(&rule.what)) {
            return Ruling::Denied(rule);
        }
        self.allow.iter().find(|rule| matches(&rule.what)).map_or(Ruling::Unmentioned, Ruling::Allowed)
    }
}

impl Rules<Pattern> {
    /// Rules on publishing on `topic`.
    pub(super) fn publish(&self, topic: &Topic) -> Ruling<'_, Pattern> {
        if builtin::is_reserved(topic) {
            return Ruling::Reserved;
        }
        self.rule(|pattern| pattern.matches(topic))
    }

    /// Rules on hearing all of `wanted`.
    pub(super) fn hear(&self, wanted: &Pattern) -> Hearing<'_> {
        let meets = |rule| {
            let Rule { what, .. }: &Rule<Pattern> = rule;
            what.intersection(wanted).map(|common| (rule, common))
        };
        if let Some((by, common)) = self.deny.iter().find_map(meets) {
            return Hearing::Denied { by, common };
        }
        if let Some(part) = wanted.uncovered(self.allow.iter().map(|rule| &rule.what)) {
            return Hearing::Uncovered(part);
        }
        // One that does it alone is a better reason than several.
        let alone = self.allow.iter().find(|rule| rule.what.covers(wanted)).map(|rule| vec![rule]);
        let together = || self.allow.iter().filter(|rule| rule.what.overlaps(wanted)).collect();
        Hearing::Allowed(alone.unwrap_or_else(together))
    }
}

impl Rules<Glob> {
    /// Rules on calling the client of the bus of that name.
    pub(super) fn call(&self, client: &str) -> Ruling<'_, Glob> {
        if builtin::is_reserved_client(client) {
            return Ruling::Reserved;
        }
        self.rule(|glob| glob.matches(client))
    }
}

/// The roles of one subject; it has at least one.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    subject: Subject,
    roles: Vec<Arc<Role>>,
}

impl Grant {
    /// Adds up the roles of `subject`; `None` if there is none.
    pub(super) fn of(subject: Subject, roles: &[Arc<Role>]) -> Option<Self> {
        let roles: Vec<_> = roles.iter().filter(|role| role.is_of(&subject)).map(Arc::clone).collect();
        (!roles.is_empty()).then_some(Self { subject, roles })
    }

    pub(super) const fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(super) const fn peer(&self) -> &PeerId {
        self.subject.id()
    }

    pub(super) fn roles(&self) -> &[Arc<Role>] {
        &self.roles
    }

    pub(super) fn limits(&self) -> Limits {
        Limits::of(self.roles.iter().map(|role| &role.bounds))
    }

    /// Whether the subject may speak for `collector`: by a rule, or because it is itself. `site/name` is a collector of another
    /// gateway, whose events the subject relays.
    pub(super) fn speaks_for(&self, collector: &str) -> bool {
        if let Some((site, name)) = collector.split_once('/') {
            let mut relayed = self.roles.iter().flat_map(|role| &role.relays);
            return is_name(site) && is_name(name) && relayed.any(|entry| entry.value.admits(site, name));
        }
        let mut known = self.roles.iter().flat_map(|role| &role.speaks_for);
        collector == self.peer().name()
            || (is_name(collector) && known.any(|entry| entry.value.matches(collector)))
    }

    /// Rules on what `collector` may publish.
    pub(super) fn publish(&self, collector: &str) -> Rules<Pattern> {
        let deny = |template: &Template, site: &str, name: &str| Some(denying(template, site, name));
        Rules {
            allow: self.rules(collector, "publish", |role| &role.publish, allowing),
            deny: self.rules(collector, "deny.publish", |role| &role.deny.publish, deny),
        }
    }

    /// Rules on what the subject may hear.
    pub(super) fn subscribe(&self) -> Rules<Pattern> {
        self.hear(self.peer().name())
    }

    /// Rules on what `collector` may hear.
    pub(super) fn hear(&self, collector: &str) -> Rules<Pattern> {
        let name = collector;
        let deny = |template: &Template, site: &str, name: &str| Some(denying(template, site, name));
        Rules {
            allow: self.rules(name, "subscribe", |role| &role.subscribe, allowing),
            deny: self.rules(name, "deny.subscribe", |role| &role.deny.subscribe, deny),
        }
    }

    /// Rules on whom `collector` may call.
    pub(super) fn call(&self, collector: &str) -> Rules<Glob> {
        let expand = |template: &ClientTemplate, site: &str, name: &str| template.expand(site, name);
        let deny = |template: &ClientTemplate, site: &str, name: &str| {
            Some(template.expand(site, name).unwrap_or_else(Glob::any))
        };
        Rules {
            allow: self.rules(collector, "call", |role| &role.call, expand),
            deny: self.rules(collector, "deny.call", |role| &role.deny.call, deny),
        }
    }

    /// Topics on which what `collector` says must be JSON.
    pub(super) fn json(&self, collector: &str) -> Vec<Pattern> {
        let templates = self.roles.iter().flat_map(|role| &role.json);
        let (site, name) = self.place(collector);
        templates.filter_map(|template| template.expand(site, name).ok()).collect()
    }

    /// Site and name of a collector that the subject speaks for.
    fn place<'a>(&'a self, collector: &'a str) -> (&'a str, &'a str) {
        collector.split_once('/').unwrap_or_else(|| (self.peer().site(), collector))
    }

    fn rules<T, P>(
        &self,
        collector: &str,
        key: &'static str,
        of: fn(&Role) -> &[Entry<T>],
        expand: impl Fn(&T, &str, &str) -> Option<P>,
    ) -> Vec<Rule<P>> {
        let (site, name) = self.place(collector);
        let expand = &expand;
        let rules = self.roles.iter().flat_map(|role| {
            of(role).iter().filter_map(move |entry| {
                let what = expand(&entry.value, site, name)?;
                Some(Rule { what, origin: Origin::of(role, key, entry) })
            })
        });
        rules.collect()
    }
}

fn allowing(template: &Template, site: &str, name: &str) -> Option<Pattern> {
    template.expand(site, name).ok()
}

/// Like [`allowing`]; but should a denial not expand, everything is denied.
fn denying(template: &Template, site: &str, name: &str) -> Pattern {
    template.expand(site, name).unwrap_or_else(|_| Pattern::all())
}

/// Whether `name` may be a collector's.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && daemoneye_bridge::topic::is_segment(name)
}
