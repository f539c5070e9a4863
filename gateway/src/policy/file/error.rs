//! Why a policy cannot be used: each complaint names the file, the line, the role and the key, and says what would be right.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::policy::{
    builtin::{Builtin, RESERVED},
    rule::{GlobError, Limits, TemplateError},
};

/// Most bytes of a policy file.
pub(super) const LONGEST_FILE: u64 = 4 << 20;

/// A table of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A `[[downlink]]`, by its number from 1.
    Downlink(usize),
    /// A `[[role]]` of that name.
    Role(String),
    /// A `[[role]]` that has no name yet, by its number from 1.
    Unnamed(usize),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Downlink(number) => write!(f, "downlink `number {number}`"),
            Self::Role(name) => write!(f, "role `{}`", name.escape_debug()),
            Self::Unnamed(number) => write!(f, "role `number {number}`"),
        }
    }
}

/// What is wrong with one key of one table.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) owner: Owner,
    pub(super) line: u32,
    pub(super) key: &'static str,
    pub(super) complaint: Complaint,
}

impl Fault {
    pub(super) fn at(self, file: &Path) -> PolicyError {
        PolicyError::Table {
            file: file.to_path_buf(),
            line: self.line,
            owner: self.owner,
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
        "policy {}: no role has a `publish`, `subscribe` or `call` pattern, so nobody could do anything; allow something",
        file.display()
    )]
    AllowsNothing {
        /// The file.
        file: PathBuf,
    },
    /// A folder, a pipe or a device.
    #[error("the policy {} is no regular file; name one", file.display())]
    NoFile {
        /// The path.
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
    /// It is no TOML.
    #[error("policy {}, line {line}: {complaint}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where.
        line: u32,
        /// What.
        complaint: String,
    },
    /// A role or a downlink is wrong.
    #[error("policy {}, line {line}: {owner}, key `{key}`: {complaint}", file.display())]
    Table {
        /// The file.
        file: PathBuf,
        /// Where.
        line: u32,
        /// Which table.
        owner: Owner,
        /// The key.
        key: &'static str,
        /// What is wrong.
        complaint: Box<Complaint>,
    },
    /// It is larger than a policy can be.
    #[error("policy {} is larger than {LONGEST_FILE} bytes", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// Something else stands at the top.
    #[error(
        "policy {}, line {line}: unknown key `{}`; a policy consists of [[role]] and [[downlink]] tables",
        file.display(),
        key.escape_debug()
    )]
    TopKey {
        /// The file.
        file: PathBuf,
        /// Where.
        line: u32,
        /// The key.
        key: String,
    },
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Complaint {
    /// Not a built-in role.
    #[error("`{}` is not built in; there are {}", .0.escape_debug(), Builtin::names().join(", "))]
    Builtin(String),
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
    /// A downlink that allows nothing.
    #[error("allows nothing; write call = [\"site-a/procmond-*\"], or send, or remove the table")]
    Idle,
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
    /// Not a pattern of topics or clients.
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
    /// Not the hash of a key.
    #[error("`{}` is not the SHA-256 of a public key: 64 hexadecimal digits, as the refusals and certificates show it", .0.escape_debug())]
    Pin(String),
    /// A topic that no remote peer may publish.
    #[error(
        "`{RESERVED}` is reserved: a process monitor takes any message there for the signal to begin; remove it"
    )]
    Reserved,
    /// Not a table.
    #[error("must be a table")]
    Table,
    /// Not text.
    #[error("must be text, or a list of texts")]
    Texts,
    /// Neither of what a second session may do to the first.
    #[error("must be \"allow\" or \"newest\"")]
    SameIdentity,
    /// Another role has this name.
    #[error("another role has this name")]
    Twice,
    /// Not users.
    #[error("must be the number of a user, or a list of them")]
    Uid,
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
    /// Not a site and a name.
    #[error("`{}` is not a site and a name, each with `*` where wanted, such as \"site-a/procmond-*\"", .0.escape_debug())]
    Whom(String),
}

/// A complaint stands on one line, with its cause.
fn cause(error: &TemplateError) -> String {
    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
}
