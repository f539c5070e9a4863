//! How a policy file becomes roles.
//!
//! Read key by key rather than in one go, so that each complaint names the file, the role and the key, and says what would
//! be right.

use std::{collections::HashSet, fs, io, num::NonZeroU32, path::Path, path::PathBuf};

use daemoneye_bridge::{settings::ByteSize, topic::is_segment};
use serde::{Deserialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::policy::rule::{Bounds, Glob, GlobError, Limits, Role, Template, TemplateError};

/// Most bytes of a policy file.
const LONGEST_FILE: u64 = 4 << 20;

/// Reads the roles of the file at `path`.
pub(super) fn load(path: &Path) -> Result<Vec<Role>, PolicyError> {
    let file = || path.to_path_buf();
    let size = fs::metadata(path).map_err(|source| PolicyError::Read { file: file(), source })?.len();
    if size > LONGEST_FILE {
        return Err(PolicyError::TooLong { file: file() });
    }
    let text = fs::read_to_string(path).map_err(|source| PolicyError::Read { file: file(), source })?;
    parse(&text, path)
}

/// Reads the roles in `text`; `file` is named in complaints.
pub(super) fn parse(text: &str, file: &Path) -> Result<Vec<Role>, PolicyError> {
    let document = text.parse::<Table>().map_err(|error| PolicyError::Syntax {
        file: file.to_path_buf(),
        line: error
            .span()
            .map_or(1, |span| text.get(..span.start).map_or(1, |head| head.lines().count().max(1))),
        complaint: error.message().to_owned(),
    })?;
    let mut roles = Vec::new();
    let mut names = HashSet::new();
    for (key, value) in document {
        let (true, Value::Array(tables)) = (key == "role", value) else {
            return Err(PolicyError::TopKey { file: file.to_path_buf(), key });
        };
        for (index, value) in tables.into_iter().enumerate() {
            let role = role(value, index).map_err(|fault| fault.at(file))?;
            if !names.insert(role.name.clone()) {
                let fault = Fault { role: role.name, key: "name", complaint: Complaint::Twice };
                return Err(fault.at(file));
            }
            roles.push(role);
        }
    }
    if !roles.iter().any(Role::allows_something) {
        return Err(PolicyError::AllowsNothing { file: file.to_path_buf() });
    }
    Ok(roles)
}

/// The keys of a role, for whom one was mistyped.
const KEYS: [&str; 11] = [
    "name",
    "match",
    "publish",
    "subscribe",
    "deny",
    "speaks_for",
    "json",
    "events_per_second",
    "bytes_per_second",
    "max_message",
    "connections",
];

fn role(value: Value, index: usize) -> Result<Role, Fault> {
    let mut keys = Keys::new(format!("number {}", index + 1), value, "role")?;
    let name: String = keys.required("name")?;
    if !is_segment(&name) || name.len() > 63 {
        return Err(keys.fault("name", Complaint::Name));
    }
    keys.role.clone_from(&name);
    let (identities, sites) = matching(&mut keys)?;
    let (deny_publish, deny_subscribe) = deny(&mut keys)?;
    let role = Role {
        identities,
        sites,
        publish: keys.templates("publish")?,
        subscribe: keys.templates("subscribe")?,
        deny_publish,
        deny_subscribe,
        speaks_for: keys.globs("speaks_for")?.unwrap_or_default(),
        json: json(&mut keys)?,
        bounds: bounds(&mut keys)?,
        name,
    };
    keys.finish(&KEYS)?;
    Ok(role)
}

fn matching(role: &mut Keys) -> Result<(Vec<Glob>, Vec<Glob>), Fault> {
    let mut keys = role.table("match")?.ok_or_else(|| role.fault("match", Complaint::Match))?;
    let identities = keys.globs("identity")?.ok_or_else(|| role.fault("match", Complaint::Match))?;
    let sites = keys.globs("site")?.unwrap_or_else(|| vec![Glob::any()]);
    keys.finish(&["identity", "site"])?;
    if identities.is_empty() || sites.is_empty() {
        return Err(role.fault("match", Complaint::Match));
    }
    Ok((identities, sites))
}

fn deny(role: &mut Keys) -> Result<(Vec<Template>, Vec<Template>), Fault> {
    let Some(mut keys) = role.table("deny")? else { return Ok((Vec::new(), Vec::new())) };
    let both = (keys.templates("publish")?, keys.templates("subscribe")?);
    keys.finish(&["publish", "subscribe"])?;
    Ok(both)
}

fn json(role: &mut Keys) -> Result<Vec<Template>, Fault> {
    match role.table.remove("json") {
        None | Some(Value::Boolean(false)) => Ok(Vec::new()),
        Some(Value::Boolean(true)) => role.parse_templates("json", vec!["#".to_owned()]),
        Some(value) => {
            let patterns = Vec::deserialize(value).map_err(|_| role.fault("json", Complaint::Json))?;
            role.parse_templates("json", patterns)
        }
    }
}

fn bounds(role: &mut Keys) -> Result<Bounds, Fault> {
    let max_message = role.bytes("max_message")?;
    if max_message.is_some_and(|max| max > Limits::MOST_MESSAGE) {
        return Err(role.fault("max_message", Complaint::Payload));
    }
    Ok(Bounds {
        events_per_second: role.number("events_per_second")?,
        bytes_per_second: role.bytes("bytes_per_second")?,
        max_message,
        connections: role.number("connections")?,
    })
}

/// The keys of a table that are still to be read.
struct Keys {
    role: String,
    /// The table's own key, as complaints name it.
    own: &'static str,
    table: Table,
}

impl Keys {
    fn new(role: String, value: Value, own: &'static str) -> Result<Self, Fault> {
        match value {
            Value::Table(table) => Ok(Self { role, own, table }),
            _ => Err(Fault { role, key: own, complaint: Complaint::Table }),
        }
    }

    fn fault(&self, key: &'static str, complaint: Complaint) -> Fault {
        Fault { role: self.role.clone(), key, complaint }
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<Option<T>, Fault> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        T::deserialize(value)
            .map(Some)
            .map_err(|error| self.fault(key, Complaint::Value(error.message().to_owned())))
    }

    fn required<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<T, Fault> {
        self.optional(key)?.ok_or_else(|| self.fault(key, Complaint::Missing))
    }

    fn table(&mut self, key: &'static str) -> Result<Option<Self>, Fault> {
        let value = self.table.remove(key);
        value.map(|value| Self::new(self.role.clone(), value, key)).transpose()
    }

    fn templates(&mut self, key: &'static str) -> Result<Vec<Template>, Fault> {
        let patterns = self.optional(key)?.unwrap_or_default();
        self.parse_templates(key, patterns)
    }

    fn parse_templates(&self, key: &'static str, patterns: Vec<String>) -> Result<Vec<Template>, Fault> {
        let parse = |text: String| {
            Template::parse(&text).map_err(|error| self.fault(key, Complaint::Pattern { text, error }))
        };
        patterns.into_iter().map(parse).collect()
    }

    /// One glob, or a list of them.
    fn globs(&mut self, key: &'static str) -> Result<Option<Vec<Glob>>, Fault> {
        let texts = match self.table.remove(key) {
            None => return Ok(None),
            Some(Value::String(one)) => vec![one],
            Some(value) => Vec::deserialize(value)
                .map_err(|error| self.fault(key, Complaint::Value(error.message().to_owned())))?,
        };
        let parse = |text: String| {
            Glob::parse(&text).map_err(|error| self.fault(key, Complaint::Glob { text, error }))
        };
        texts.into_iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    fn number(&mut self, key: &'static str) -> Result<Option<NonZeroU32>, Fault> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
        number.and_then(NonZeroU32::new).map(Some).ok_or_else(|| self.fault(key, Complaint::Number))
    }

    fn bytes(&mut self, key: &'static str) -> Result<Option<NonZeroU32>, Fault> {
        let Some(size) = self.optional::<ByteSize>(key)? else { return Ok(None) };
        let nonzero = u32::try_from(size.as_u64()).ok().and_then(NonZeroU32::new);
        nonzero.map(Some).ok_or_else(|| self.fault(key, Complaint::Bytes))
    }

    fn finish(self, known: &'static [&'static str]) -> Result<(), Fault> {
        match self.table.into_iter().next() {
            None => Ok(()),
            Some((unknown, _)) => Err(Fault {
                role: self.role,
                key: self.own,
                complaint: Complaint::Unknown { unknown, known },
            }),
        }
    }
}

/// What is wrong with one key of one role.
struct Fault {
    role: String,
    key: &'static str,
    complaint: Complaint,
}

impl Fault {
    fn at(self, file: &Path) -> PolicyError {
        PolicyError::Role {
            file: file.to_path_buf(),
            role: self.role,
            key: self.key,
            complaint: Box::new(self.complaint),
        }
    }
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Nobody could do anything under it.
    #[error(
        "policy {}: no role has a `publish` or `subscribe` pattern, so nobody could do anything; allow something",
        file.display()
    )]
    AllowsNothing {
        /// The file.
        file: PathBuf,
    },
    /// It cannot be read.
    #[error("could not read the policy {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A role is wrong.
    #[error("policy {}: role `{}`, key `{key}`: {complaint}", file.display(), role.escape_debug())]
    Role {
        /// The file.
        file: PathBuf,
        /// Name of the role, or its number while it has none.
        role: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        complaint: Box<Complaint>,
    },
    /// It is no TOML.
    #[error("policy {}, line {line}: {complaint}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where.
        line: usize,
        /// What.
        complaint: String,
    },
    /// It is larger than a policy can be.
    #[error("policy {} is larger than {LONGEST_FILE} bytes", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// Something other than roles stands at the top.
    #[error("policy {}: unknown key `{}`; a policy consists of [[role]] tables", file.display(), key.escape_debug())]
    TopKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
}

/// What is wrong with a key of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Complaint {
    /// Not an amount of bytes from 1 byte to 4 GiB.
    #[error("must be 1 to 4294967295 bytes, such as \"4 MiB\"")]
    Bytes,
    /// Not a glob.
    #[error("`{}`: {error}", text.escape_debug())]
    Glob {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        error: GlobError,
    },
    /// Neither a boolean nor patterns.
    #[error("must be true, false, or a list of patterns of topics")]
    Json,
    /// Nobody is meant.
    #[error(
        "says nobody; write match = {{ identity = \"procmond-*\" }}, or identity = \"*\" if all are meant"
    )]
    Match,
    /// A key that must be there is not.
    #[error("is missing")]
    Missing,
    /// Not a role's name.
    #[error("must be 1 to 63 of a-z, 0-9, `_`, `-`")]
    Name,
    /// Not a number that can be a bound.
    #[error("must be a whole number from 1 to 4294967295")]
    Number,
    /// Not a pattern of topics.
    #[error("`{}`: {error}{}", text.escape_debug(), cause(error))]
    Pattern {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        error: TemplateError,
    },
    /// More than the wire carries.
    #[error("must be at most {} bytes (\"1 MiB\"), the most that the protocol carries", Limits::MOST_MESSAGE)]
    Payload,
    /// Not a table.
    #[error("must be a table")]
    Table,
    /// Another role has this name.
    #[error("another role has this name")]
    Twice,
    /// A key that means nothing.
    #[error("unknown key `{}`; known are {}", unknown.escape_debug(), known.join(", "))]
    Unknown {
        /// What stands there.
        unknown: String,
        /// What may stand there.
        known: &'static [&'static str],
    },
    /// A value of the wrong type.
    #[error("{0}")]
    Value(String),
}

/// A complaint stands on one line, with its cause.
fn cause(error: &TemplateError) -> String {
    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        parse(text, Path::new("p.toml")).unwrap_err().to_string()
    }

    fn role(rest: &str) -> String {
        format!("[[role]]\nname = \"r\"\nmatch = {{ identity = \"*\" }}\npublish = [\"events.#\"]\n{rest}\n")
    }

    #[test]
    fn a_policy_without_an_allowing_role_is_refused() {
        assert!(complaint("").contains("nobody could do anything"));
        let only_deny = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\ndeny = { publish = [\"#\"] }";
        assert!(complaint(only_deny).contains("nobody could do anything"));
        assert!(parse(&role(""), Path::new("p.toml")).is_ok());
    }

    #[test]
    fn a_complaint_names_file_role_and_key() {
        for (rest, key, word) in [
            ("subscribe = [\"a.*\"]", "subscribe", "'*'"),
            ("publsh = []", "role", "publsh"),
            ("events_per_second = 0", "events_per_second", "1 to"),
            ("events_per_second = \"x\"", "events_per_second", "whole number"),
            ("bytes_per_second = \"4 Gallons\"", "bytes_per_second", ""),
            ("max_message = \"2 MiB\"", "max_message", "1 MiB"),
            ("connections = -1", "connections", "1 to"),
            ("json = 3", "json", "true, false"),
            ("deny = { hear = [] }", "deny", "hear"),
            ("speaks_for = [\"A\"]", "speaks_for", "'A'"),
            ("deny = []", "deny", "table"),
            ("speaks_for = [1]", "speaks_for", "string"),
        ] {
            let complaint = complaint(&role(rest));
            assert!(complaint.starts_with("policy p.toml: role `r`, key `"), "{complaint}");
            assert!(complaint.contains(&format!("key `{key}`")), "{complaint}");
            assert!(complaint.contains(word), "{complaint}");
            assert!(!complaint.contains('\n'), "{complaint}");
        }
    }

    #[test]
    fn a_role_must_say_whom_it_means() {
        let nobody = "[[role]]\nname = \"r\"\npublish = [\"#\"]";
        assert!(complaint(nobody).contains("key `match`"));
        let nobody = "[[role]]\nname = \"r\"\nmatch = { site = \"a\" }\npublish = [\"#\"]";
        assert!(complaint(nobody).contains("says nobody"));
        assert!(complaint("[[role]]\npublish = [\"#\"]").contains("role `number 1`, key `name`"));
        assert!(complaint(&(role("") + &role(""))).contains("another role has this name"));
    }

    #[test]
    fn what_is_no_policy_is_refused_in_one_line() {
        assert!(complaint("[[rule]]\nname = \"r\"").contains("unknown key `rule`"));
        assert!(complaint("role = 3").contains("unknown key `role`"));
        let syntax = complaint("\n\n[[role]\n");
        assert!(syntax.starts_with("policy p.toml, line 3:"), "{syntax}");
    }
}
