//! Which role and which line decided: a decision told to people.
//!
//! Read off the same ruling as the gateway's own verdicts ([`crate::policy::grant`]).

use std::fmt;

use daemoneye_bridge::topic::{Pattern, Topic, TopicError};
use serde::Serialize;

use crate::policy::{
    Policy,
    builtin::RESERVED,
    grant::{Grant, Hearing, Origin, Ruling},
    subject::Subject,
};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// To call a client of the bus.
    Call,
    /// To publish on a topic.
    Publish,
    /// To hear a pattern.
    Subscribe,
}

impl Action {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Action {
    type Err = ActionError;

    fn from_str(word: &str) -> Result<Self, ActionError> {
        let known = [Self::Call, Self::Publish, Self::Subscribe];
        known.into_iter().find(|action| action.as_str() == word).ok_or(ActionError)
    }
}

/// A word is no action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the action must be publish, subscribe or call")]
pub struct ActionError;

/// May somebody do this?
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub subject: &'a Subject,
    /// For whom; empty: for itself; `site/name`: for a collector of another gateway.
    pub collector: &'a str,
    /// What it wants to do.
    pub action: Action,
    /// Topic, pattern, or name of a client of the bus, as the peer would send it.
    pub object: &'a str,
}

/// Why it may or may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rule allows it, or several do together.
    Allowed,
    /// Its roles do not let it speak for that collector.
    Collector,
    /// A rule denies it, at least in part.
    Denied,
    /// It is no topic or pattern.
    Malformed,
    /// No role matches.
    NoRole,
    /// No rule allows all of it.
    NoRule,
    /// The gateway itself denies it.
    Reserved,
}

/// A rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// The role.
    pub role: String,
    /// Its line of the policy file, from 1; for a built-in role that of its `use`.
    pub line: u32,
    /// Such as `publish` or `deny.publish`.
    pub key: &'static str,
    /// As it is written.
    pub rule: String,
    /// The built-in role that it comes with.
    pub builtin: Option<&'static str>,
}

impl From<&Origin> for RuleView {
    fn from(origin: &Origin) -> Self {
        Self {
            role: origin.role.name.clone(),
            line: origin.line,
            key: origin.key,
            rule: origin.text.to_string(),
            builtin: origin.builtin,
        }
    }
}

impl fmt::Display for RuleView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, line, key, rule, builtin } = self;
        write!(f, "line {line}: role `{role}`, {key} `{rule}`")?;
        builtin.map_or(Ok(()), |builtin| write!(f, " (built in: {builtin})"))
    }
}

/// A decision of a policy, told to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whose.
    pub identity: String,
    /// For whom, if not for itself.
    pub collector: Option<String>,
    /// What it wants to do.
    pub action: Action,
    /// With what.
    pub object: String,
    /// Whether it may.
    pub allowed: bool,
    /// Why.
    pub cause: Cause,
    /// The rules that decided.
    pub rules: Vec<RuleView>,
    /// All roles that it has.
    pub roles: Vec<String>,
    /// What to do about it; empty if it is allowed.
    pub hint: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, collector, action, object, allowed, rules, roles, hint, .. } = self;
        let word = if *allowed { "allowed" } else { "denied" };
        write!(f, "{word}: {identity}")?;
        if let Some(collector) = collector {
            write!(f, " as {}", collector.escape_debug())?;
        }
        writeln!(f, ", {action} `{}`", object.escape_debug())?;
        for rule in rules {
            writeln!(f, "  {rule}")?;
        }
        let listed = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
        writeln!(f, "  roles: {listed}")?;
        if hint.is_empty() { Ok(()) } else { writeln!(f, "  hint: {hint}") }
    }
}

/// What was found, before it is put into words.
struct Finding {
    cause: Cause,
    rules: Vec<RuleView>,
    hint: String,
}

impl Finding {
    const fn new(cause: Cause, hint: String) -> Self {
        Self { cause, rules: Vec::new(), hint }
    }

    fn by(cause: Cause, origin: &Origin, hint: &str) -> Self {
        Self { cause, rules: vec![origin.into()], hint: hint.to_owned() }
    }
}

/// Answers `question` under `policy`.
pub(super) fn explain(policy: &Policy, question: &Question<'_>) -> Explanation {
    let Question { subject, collector, action, object } = question;
    let own = collector.is_empty() || *collector == subject.id().name();
    let grant = Grant::of((*subject).clone(), policy.rules());
    let roles = grant.iter().flat_map(Grant::roles).map(|role| role.name.clone());
    let roles: Vec<String> = roles.collect();
    let finding = grant.map_or_else(
        || Finding::new(Cause::NoRole, stranger(policy, subject)),
        |grant| {
            let name = if own { subject.id().name() } else { collector };
            find(&grant, *action, name, object, &roles)
        },
    );
    Explanation {
        identity: subject.id().to_string(),
        collector: (!own).then(|| (*collector).to_owned()),
        action: *action,
        object: (*object).to_owned(),
        allowed: finding.cause == Cause::Allowed,
        cause: finding.cause,
        rules: finding.rules,
        roles,
        hint: finding.hint,
    }
}

/// What to do about somebody without a role.
fn stranger(policy: &Policy, subject: &Subject) -> String {
    let named: Vec<_> = policy
        .rules()
        .iter()
        .filter(|role| role.names(subject.id()))
        .map(|role| format!("`{}`", role.name))
        .collect();
    if named.is_empty() {
        let (site, name) = (subject.id().site(), subject.id().name());
        return format!(
            "no role matches; add [[role]] with match = {{ identity = \"{name}\", site = \"{site}\" }}"
        );
    }
    format!(
        "the name fits {}, but not the authority or the key that it asks for; give both to try it with them",
        named.join(", ")
    )
}

fn find(grant: &Grant, action: Action, name: &str, object: &str, roles: &[String]) -> Finding {
    let missing = |key: &str| {
        format!("none of its roles ({}) has it; add it to `{key}` of one of them", roles.join(", "))
    };
    // Hearing is the peer's own affair, whomever it speaks for.
    let may = grant.speaks_for(name) && !(action == Action::Call && name.contains('/'));
    if action != Action::Subscribe && !may {
        let key = if name.contains('/') { "relays" } else { "speaks_for" };
        return Finding::new(Cause::Collector, missing(key));
    }
    match action {
        Action::Call => match grant.call(name).call(object) {
            Ruling::Reserved => Finding::new(
                Cause::Reserved,
                "the broker and remote collectors are not called through the gateway".to_owned(),
            ),
            ruling => ruled(&ruling, || missing("call")),
        },
        Action::Publish => match Topic::parse(object) {
            Err(error) => malformed(error),
            Ok(topic) => match grant.publish(name).publish(&topic) {
                Ruling::Reserved => Finding::new(
                    Cause::Reserved,
                    format!("`{RESERVED}` is the signal to begin; no remote peer may publish there"),
                ),
                ruling => ruled(&ruling, || missing("publish")),
            },
        },
        Action::Subscribe => match Pattern::parse(object) {
            Err(error) => malformed(error),
            Ok(wanted) => hearing(grant, &wanted, roles),
        },
    }
}

fn malformed(error: TopicError) -> Finding {
    Finding::new(Cause::Malformed, error.to_string())
}

fn ruled<P>(ruling: &Ruling<'_, P>, missing: impl FnOnce() -> String) -> Finding {
    match ruling {
        Ruling::Allowed(rule) => Finding::by(Cause::Allowed, &rule.origin, ""),
        Ruling::Denied(rule) => {
            Finding::by(Cause::Denied, &rule.origin, "a denial wins over whatever allows it; narrow it")
        }
        Ruling::Reserved | Ruling::Unmentioned => Finding::new(Cause::NoRule, missing()),
    }
}

fn hearing(grant: &Grant, wanted: &Pattern, roles: &[String]) -> Finding {
    match grant.subscribe().hear(wanted) {
        Hearing::Allowed(by) => Finding {
            cause: Cause::Allowed,
            rules: by.iter().map(|rule| RuleView::from(&rule.origin)).collect(),
            hint: String::new(),
        },
        Hearing::Denied { by, common } => {
            let hint = if by.what.covers(wanted) {
                "a denial wins over whatever allows it; narrow it".to_owned()
            } else {
                format!(
                    "`{common}` of it is denied; ask for patterns that leave that out, or narrow the denial"
                )
            };
            Finding::by(Cause::Denied, &by.origin, &hint)
        }
        Hearing::Uncovered(part) => {
            let hint = format!(
                "none of its roles ({}) allows `{part}` of it; ask for less, or add that to `subscribe` of one",
                roles.join(", ")
            );
            Finding::new(Cause::NoRule, hint)
        }
    }
}
