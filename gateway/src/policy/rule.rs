//! Roles: who is meant, and what he may do.
//!
//! A role is read once and expanded for each peer, because `{name}` and `{site}` stand for the peer's own. Kept true: a
//! [`Template`] that exists expands to a well-formed pattern for every well-formed identity, so that no rule is lost when a
//! peer connects.

use std::{num::NonZeroU32, sync::Arc};

use daemoneye_bridge::topic::{Pattern, TopicError, is_segment};

use crate::{
    identity::PeerId,
    policy::{downlink::Whom, subject::Subject},
};

/// Something of a role, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Entry<T> {
    pub(crate) value: T,
    /// As it is written.
    pub(crate) text: Arc<str>,
    /// Line of the file, from 1.
    pub(crate) line: u32,
    /// The built-in role that it comes with; then the line is that of its `use`.
    pub(crate) builtin: Option<&'static str>,
}

/// One role of the policy.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// Named in decisions, metrics and logs.
    pub(crate) name: String,
    /// Who has it.
    pub(crate) matching: Matching,
    /// What they may publish.
    pub(crate) publish: Vec<Entry<Template>>,
    /// What they may hear.
    pub(crate) subscribe: Vec<Entry<Template>>,
    /// Which clients of the bus they may call.
    pub(crate) call: Vec<Entry<ClientTemplate>>,
    /// What they may not do, whatever another role says.
    pub(crate) deny: Deny,
    /// Names of their own site on whose behalf they may publish.
    pub(crate) speaks_for: Vec<Entry<Glob>>,
    /// Collectors of other gateways whose events they may relay.
    pub(crate) relays: Vec<Entry<Whom>>,
    /// Topics whose payload must be well-formed JSON.
    pub(crate) json: Vec<Template>,
    /// Bounds that it states.
    pub(crate) bounds: Bounds,
}

/// What a role denies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deny {
    pub(crate) publish: Vec<Entry<Template>>,
    pub(crate) subscribe: Vec<Entry<Template>>,
    pub(crate) call: Vec<Entry<ClientTemplate>>,
}

/// Who has a role: everything that is stated must fit.
#[derive(Clone, Debug)]
pub(crate) struct Matching {
    /// Names of peers; at least one.
    pub(crate) identities: Vec<Glob>,
    /// Sites; at least one.
    pub(crate) sites: Vec<Glob>,
    /// Authorities that vouch for them, by configured name, else by subject; `None` stands for any.
    pub(crate) anchors: Option<Vec<Glob>>,
    /// Hashes of their public keys; `None` stands for any.
    pub(crate) pins: Option<Vec<[u8; 32]>>,
}

impl Role {
    /// Whether `subject` has it.
    pub(crate) fn is_of(&self, subject: &Subject) -> bool {
        let Matching { anchors, pins, .. } = &self.matching;
        self.names(subject.id())
            && anchors.as_ref().is_none_or(|globs| {
                subject.anchor().is_some_and(|anchor| globs.iter().any(|glob| glob.matches(anchor)))
            })
            && pins.as_ref().is_none_or(|pins| subject.spki().is_some_and(|spki| pins.contains(spki)))
    }

    /// Whether `peer` would have it, if its authority and key are the right ones.
    pub(crate) fn names(&self, peer: &PeerId) -> bool {
        self.matching.identities.iter().any(|glob| glob.matches(peer.name()))
            && self.matching.sites.iter().any(|glob| glob.matches(peer.site()))
    }

    /// Whether it lets anybody do anything.
    pub(crate) const fn allows_something(&self) -> bool {
        !self.publish.is_empty() || !self.subscribe.is_empty() || !self.call.is_empty()
    }
}

/// Bounds that a role states. What it leaves open another role, or the default, decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) events_per_second: Option<NonZeroU32>,
    pub(crate) bytes_per_second: Option<NonZeroU32>,
    pub(crate) max_message: Option<NonZeroU32>,
    pub(crate) connections: Option<NonZeroU32>,
    pub(crate) same_identity: Option<SameIdentity>,
}

/// What a second session of an identity does to the first; the wider comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SameIdentity {
    /// The first makes way.
    Newest,
    /// Nothing, unless they share a stream.
    Allow,
}

impl SameIdentity {
    /// The word, as the policy has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Newest => "newest",
        }
    }
}

/// The bounds in force for one identity: of each, the widest that any of its roles states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events a second, over all of its sessions.
    pub events_per_second: NonZeroU32,
    /// Bytes of payload a second, over all of its sessions.
    pub bytes_per_second: NonZeroU32,
    /// Bytes of one payload.
    pub max_message: NonZeroU32,
    /// Sessions at once.
    pub connections: NonZeroU32,
    /// What a second session does to the first; `None` leaves it to the settings of the gateway.
    pub same_identity: Option<SameIdentity>,
}

impl Limits {
    /// The most that a payload may be: what the protocol carries.
    pub const MOST_MESSAGE: NonZeroU32 = nonzero(1 << 20);

    /// What holds where no role says otherwise: the rate that the suite's own broker grants, and room for a session and
    /// its successor.
    pub const DEFAULT: Self = Self {
        events_per_second: nonzero(1_000),
        bytes_per_second: nonzero(4 << 20),
        max_message: nonzero(1 << 20),
        connections: nonzero(2),
        same_identity: None,
    };

    /// Adds up what the roles state.
    pub(crate) fn of<'a>(stated: impl Iterator<Item = &'a Bounds>) -> Self {
        let widest = stated.fold(Bounds::default(), |widest, bounds| Bounds {
            events_per_second: widest.events_per_second.max(bounds.events_per_second),
            bytes_per_second: widest.bytes_per_second.max(bounds.bytes_per_second),
            max_message: widest.max_message.max(bounds.max_message),
            connections: widest.connections.max(bounds.connections),
            same_identity: widest.same_identity.max(bounds.same_identity),
        });
        Self {
            events_per_second: widest.events_per_second.unwrap_or(Self::DEFAULT.events_per_second),
            bytes_per_second: widest.bytes_per_second.unwrap_or(Self::DEFAULT.bytes_per_second),
            max_message: widest.max_message.unwrap_or(Self::DEFAULT.max_message),
            connections: widest.connections.unwrap_or(Self::DEFAULT.connections),
            same_identity: widest.same_identity,
        }
    }
}

const fn nonzero(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

const SITE: &str = "{site}";

const NAME: &str = "{name}";

/// A pattern in which `{name}` and `{site}` stand for the speaker's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Box<str>);

impl Template {
    /// Reads a template and proves that it expands to a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Pattern::parse(&longest(text)?).map_err(|source| TemplateError::Grammar { source })?;
        Ok(Self(text.into()))
    }

    /// The pattern for one speaker.
    ///
    /// # Errors
    ///
    /// Only for a speaker whose name or site is not a segment of at most [`LONGEST_NAME`] bytes.
    pub(crate) fn expand(&self, site: &str, name: &str) -> Result<Pattern, TopicError> {
        if !self.0.contains('{') {
            return Pattern::parse(&self.0);
        }
        if !is_segment(site) || !is_segment(name) {
            return Err(TopicError::EmptySegment);
        }
        Pattern::parse(&spell(&self.0, site, name))
    }
}

/// The template as it is for the longest identity there can be: what fits with it fits with all.
fn longest(text: &str) -> Result<String, TemplateError> {
    let longest = "x".repeat(LONGEST_NAME);
    let expanded = spell(text, &longest, &longest);
    match expanded.split_once('{') {
        None => Ok(expanded),
        Some((_, rest)) => {
            let name = rest.split('}').next().unwrap_or_default();
            Err(TemplateError::Placeholder { name: name.into() })
        }
    }
}

fn spell(text: &str, site: &str, name: &str) -> String {
    text.replace(SITE, site).replace(NAME, name)
}

/// Names of clients of the bus, in which `{name}` and `{site}` stand for the caller's own and `*` for any run of letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientTemplate(Box<str>);

impl ClientTemplate {
    /// Reads a template and proves that it expands.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Glob::parse_client(&longest(text)?).map_err(|source| TemplateError::Client { source })?;
        Ok(Self(text.into()))
    }

    /// The names for one caller; `None` for one whose name or site is not a segment.
    pub(crate) fn expand(&self, site: &str, name: &str) -> Option<Glob> {
        let sound = !self.0.contains('{') || (is_segment(site) && is_segment(name));
        sound.then(|| Glob(spell(&self.0, site, name).into()))
    }
}

/// Most bytes of the name of a collector or of a site.
pub const LONGEST_NAME: usize = 63;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// It is no name of a client of the bus.
    #[error("not a name of a client of the bus")]
    Client {
        /// What is wrong with it.
        #[source]
        source: GlobError,
    },
    /// It is no pattern.
    #[error("not a pattern of topics")]
    Grammar {
        /// What breaks the grammar.
        #[source]
        source: TopicError,
    },
    /// Something else stands in braces.
    #[error("`{{{}}}` stands for nothing; use `{{name}}` or `{{site}}`", name.escape_debug())]
    Placeholder {
        /// What stands there.
        name: String,
    },
}

/// A set of names: `*` stands for any run of letters, the empty one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Box<str>);

impl Glob {
    /// Reads a glob.
    pub(crate) fn parse(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        let foreign = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '-' | '*'));
        foreign.map_or_else(|| Ok(Self(text.into())), |character| Err(GlobError::Character(character)))
    }

    /// Reads a glob of names of clients of the bus, which have dots and letters of their own.
    pub(crate) fn parse_client(text: &str) -> Result<Self, GlobError> {
        Self::parse_free(text)
    }

    /// Reads a glob of names of authorities, which may have any letters.
    pub(crate) fn parse_anchor(text: &str) -> Result<Self, GlobError> {
        Self::parse_free(text)
    }

    fn parse_free(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > LONGEST_FREE {
            return Err(GlobError::TooLong);
        }
        let foreign = text.chars().find(|c| c.is_control());
        foreign.map_or_else(|| Ok(Self(text.into())), |character| Err(GlobError::Foreign(character)))
    }

    /// As it is written.
    pub(crate) const fn as_str(&self) -> &str {
        &self.0
    }

    /// The set of all names.
    pub(crate) fn any() -> Self {
        Self("*".into())
    }

    /// Whether `name` is in it. Takes time in proportion to both lengths: the last `*` is the only place to go back to.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let (glob, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut given) = (0, 0);
        let mut resume: Option<(usize, usize)> = None;
        while let Some(letter) = name.get(given) {
            match glob.get(at) {
                Some(b'*') => {
                    resume = Some((at + 1, given));
                    at += 1;
                }
                Some(wanted) if wanted == letter => {
                    at += 1;
                    given += 1;
                }
                _ => {
                    let Some((after, taken)) = resume else { return false };
                    resume = Some((after, taken + 1));
                    (at, given) = (after, taken + 1);
                }
            }
        }
        glob.iter().skip(at).all(|rest| *rest == b'*')
    }
}

/// Most bytes of the name of a client of the bus or of an authority.
const LONGEST_FREE: usize = 256;

/// What is wrong with a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// A character that no name has.
    #[error("character {0:?} is not one of a-z, 0-9, `_`, `-`, `*`")]
    Character(char),
    /// Nothing at all.
    #[error("the name is empty")]
    Empty,
    /// A character that cannot be shown.
    #[error("character {0:?} cannot stand in a name")]
    Foreign(char),
    /// Longer than any name.
    #[error("longer than {LONGEST_FREE} bytes")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_runs_of_letters() {
        let matches = |glob: &str, name| Glob::parse(glob).unwrap().matches(name);
        assert!(matches("procmond-*", "procmond-1"));
        assert!(matches("procmond-*", "procmond-"));
        assert!(!matches("procmond-*", "procmond"));
        assert!(!matches("procmond-*", "xprocmond-1"));
        assert!(matches("*", ""));
        assert!(matches("*-a-*", "x-a-a-y"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "a-c-b"));
        assert!(!matches("a", "ab"));
    }

    #[test]
    fn a_glob_of_many_stars_does_not_explode() {
        let hostile = Glob::parse(&("*a".repeat(30) + "b")).unwrap();
        assert!(!hostile.matches(&"a".repeat(10_000)));
    }

    #[test]
    fn a_glob_with_a_foreign_letter_is_refused() {
        assert_eq!(Glob::parse("Procmond"), Err(GlobError::Character('P')));
        assert_eq!(Glob::parse("site/x"), Err(GlobError::Character('/')));
        assert_eq!(Glob::parse(""), Err(GlobError::Empty));
    }

    #[test]
    fn a_template_expands_to_the_speakers_own_names() {
        let template = Template::parse("control.{site}.heartbeat.{name}").unwrap();
        let expanded = template.expand("site-a", "procmond-1").unwrap();
        assert_eq!(expanded.to_string(), "control.site-a.heartbeat.procmond-1");
    }

    #[test]
    fn a_name_cannot_widen_a_template() {
        let template = Template::parse(&format!("control.{NAME}")).unwrap();
        for name in ["#", "+", "a.b", "{site}", "", "a.#"] {
            assert!(template.expand("site-a", name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_template_with_an_unknown_placeholder_is_refused() {
        assert_eq!(
            Template::parse("control.{id}"),
            Err(TemplateError::Placeholder { name: "id".to_owned() })
        );
        assert!(matches!(Template::parse("control.*"), Err(TemplateError::Grammar { .. })));
        assert!(matches!(Template::parse("control.name}"), Err(TemplateError::Grammar { .. })));
        let long = format!("{}.{}", "a".repeat(200), "{name}");
        assert!(matches!(Template::parse(&long), Err(TemplateError::Grammar { .. })));
    }
}
