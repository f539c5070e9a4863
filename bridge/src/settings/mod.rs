//! How a TOML file and the environment become a `Config`.
//!
//! Every stage has a private `File` (serde, `default`, `deny_unknown_fields`) and a public `Config` made from it by
//! `#[serde(try_from = "File")]`, so that a `Config` that exists is usable as it stands. This module reads the file, lays
//! the environment over it, and turns whatever serde has to say into one line that an operator can act on: where, which
//! key, which value, what to do.
//!
//! The environment sets a key by a prefix and its path in capitals, levels parted by two underscores:
//! `DAEMONEYE_GATEWAY_TCP__BIND_ADDRESS=0.0.0.0:8443`. A value that reads as a TOML number, boolean, array or quoted string
//! is one; anything else is a string. Variables that Kubernetes makes for a Service of the same name (`…_SERVICE_HOST`,
//! `…_PORT_8443_TCP`) are none of ours and passed over.
//!
//! Kept true: the process environment is read here and nowhere else.

use std::{
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

mod secret;
mod value;

pub use secret::exposed;
#[cfg(unix)]
pub use secret::stranger;
pub use value::{ByteSize, FileMode, positive, positive_size};

/// Reads `file`, if there is one, lays the environment variables that begin with `prefix` over it, and makes a `T`.
///
/// # Errors
///
/// [`SettingsError`] names file or variable, key, value and remedy, in one line.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, prefix: &str) -> Result<T, SettingsError> {
    let (text, name) = match file {
        None => (String::new(), "the defaults".to_owned()),
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
            (text, path.display().to_string())
        }
    };
    assemble(&text, &name, prefix, std::env::vars_os())
}

/// Makes a `T` of TOML text; `name` stands for the file in errors. The environment has no say.
///
/// # Errors
///
/// [`SettingsError`], as of [`load`].
pub fn parse<T: DeserializeOwned>(text: &str, name: &str) -> Result<T, SettingsError> {
    assemble(text, name, "", std::iter::empty())
}

fn assemble<T: DeserializeOwned>(
    text: &str,
    name: &str,
    prefix: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<T, SettingsError> {
    let mut table: Table = toml::from_str(text).map_err(|error| SettingsError::syntax(name, text, &error))?;
    let overrides = overrides(prefix, variables)?;
    for (origin, value) in &overrides {
        lay(&mut table, &origin.path, value.clone()).map_err(|at| SettingsError::Variable {
            variable: origin.variable.clone(),
            reason: format!("`{at}` is a single value, not a section"),
        })?;
    }
    let whole = Value::Table(table);
    serde_path_to_error::deserialize(whole.clone()).map_err(|error| {
        let path: Vec<String> = error.path().iter().filter_map(segment).collect();
        let origins = overrides.iter().map(|(origin, _)| origin);
        SettingsError::value(&Place { name, whole: &whole, path }, origins, error.inner().message())
    })
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Where a value came from, if not from the file.
struct Origin {
    variable: String,
    path: Vec<String>,
}

/// The variables that set keys, by name, so that the outcome does not hang on the order of the environment.
fn overrides(
    prefix: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(Origin, Value)>, SettingsError> {
    let mut found = Vec::new();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str() else { continue };
        let Some(rest) = variable.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')) else {
            continue;
        };
        if rest.is_empty() || is_of_kubernetes(rest) {
            continue;
        }
        let value = value.into_string().map_err(|_| SettingsError::Variable {
            variable: variable.to_owned(),
            reason: "its value is not UTF-8".to_owned(),
        })?;
        let path = rest.split("__").map(str::to_ascii_lowercase).collect();
        found.push((Origin { variable: variable.to_owned(), path }, read_value(value)));
    }
    found.sort_by(|(a, _), (b, _)| a.variable.cmp(&b.variable));
    Ok(found)
}

/// Whether a variable is one of those that Kubernetes sets for each Service; a Service named like the product would
/// otherwise keep it from starting.
fn is_of_kubernetes(rest: &str) -> bool {
    let is_port = |tail: &str| {
        let tail = tail.split('_').next().unwrap_or_default();
        !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_digit())
    };
    let rest = format!("_{rest}");
    !rest.contains("__")
        && (rest.ends_with("_SERVICE_HOST")
            || rest.contains("_SERVICE_PORT")
            || rest.ends_with("_PORT")
            || rest.split_once("_PORT_").is_some_and(|(_, tail)| is_port(tail)))
}

/// Reads the value of a variable as TOML where that makes a plain value, else as a string.
fn read_value(text: String) -> Value {
    let document: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    let only = document.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    match only {
        Some(plain @ (Value::Array(_) | Value::Boolean(_) | Value::Integer(_) | Value::String(_))) => plain,
        Some(plain @ Value::Float(float)) if float.is_finite() => plain,
        _ => Value::String(text),
    }
}

/// Sets the key at `path`; the error is the part of the path that is not a section.
fn lay(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let Some((last, sections)) = path.split_last() else { return Ok(()) };
    let mut here = table;
    for (depth, section) in sections.iter().enumerate() {
        let next = here.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let at = || path.iter().take(depth + 1).map(String::as_str).collect::<Vec<_>>().join(".");
        here = next.as_table_mut().ok_or_else(at)?;
    }
    here.insert(last.clone(), value);
    Ok(())
}

/// Where serde stumbled.
struct Place<'a> {
    name: &'a str,
    whole: &'a Value,
    path: Vec<String>,
}

impl Place<'_> {
    /// The value there, spelled on one line, if it is not a section.
    fn spelled(&self) -> Option<String> {
        let mut here = self.whole;
        for key in &self.path {
            here = match here {
                Value::Array(items) => items.get(key.parse::<usize>().ok()?)?,
                other => other.get(key)?,
            };
        }
        let spelled = (!here.is_table()).then(|| one_line(&here.to_string()))?;
        let shown: String = spelled.chars().take(SHOWN).collect();
        Some(if shown.len() < spelled.len() { format!("{shown}…") } else { shown })
    }
}

/// Characters of a value that an error repeats.
const SHOWN: usize = 80;

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names in back quotes in one of serde's sentences.
fn quoted(sentence: &str) -> Vec<&str> {
    sentence.split('`').skip(1).step_by(2).collect()
}

/// Says which known key was meant, or which there are.
fn remedy(unknown: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, key)| *distance <= 2.max(key.len() / 3));
    match nearest {
        Some((_, key)) => format!("did you mean `{key}`?"),
        None if known.is_empty() => "there are no keys here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file could not be read.
    #[error("could not read configuration {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// Which file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that nobody knows.
    #[error("{origin}: unknown key `{key}`; {remedy}")]
    Unknown {
        /// File or variable.
        origin: String,
        /// Its whole path.
        key: String,
        /// What to do.
        remedy: String,
    },
    /// A value, or a section as a whole, that will not do.
    #[error("{origin}: {key}{}{}: {message}", if value.is_some() { " = " } else { "" }, value.as_deref().unwrap_or_default())]
    Value {
        /// File or variable.
        origin: String,
        /// Its whole path.
        key: String,
        /// What stands there; nothing for a section.
        value: Option<String>,
        /// What is wrong and what would do.
        message: String,
    },
    /// A variable that sets nothing.
    #[error("environment variable {variable}: {reason}")]
    Variable {
        /// Which one.
        variable: String,
        /// Why.
        reason: String,
    },
}

impl SettingsError {
    fn syntax(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
        Self::Syntax { file: file.to_owned(), line, column, message: one_line(error.message()) }
    }

    fn value<'a>(place: &Place<'_>, mut origins: impl Iterator<Item = &'a Origin>, message: &str) -> Self {
        let message = one_line(message);
        let mut path = place.path.clone();
        let named = quoted(&message).first().map(|name| (*name).to_owned()).unwrap_or_default();
        let is_unknown = message.starts_with("unknown field ");
        let is_missing = message.starts_with("missing field ");
        if (is_unknown || is_missing) && path.last() != Some(&named) {
            path.push(named.clone());
        }
        let variable = origins.find(|origin| origin.path.starts_with(&path));
        let origin = variable.map_or_else(
            || place.name.to_owned(),
            |origin| format!("environment variable {}", origin.variable),
        );
        let key = if path.is_empty() { "the configuration".to_owned() } else { path.join(".") };
        if is_unknown {
            let known: Vec<&str> = quoted(&message).into_iter().skip(1).collect();
            return Self::Unknown { origin, key, remedy: remedy(&named, &known) };
        }
        if is_missing {
            return Self::Value { origin, key, value: None, message: "must be set".to_owned() };
        }
        Self::Value { origin, key, value: place.spelled(), message }
    }
}

/// Shows an error and its causes on one line, each once.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct TcpFile {
        max_connections: NonZeroUsize,
        #[serde(deserialize_with = "positive")]
        connection_timeout: Duration,
        low: u32,
        high: u32,
    }

    impl Default for TcpFile {
        fn default() -> Self {
            let fifty = NonZeroUsize::new(50).unwrap();
            Self { max_connections: fifty, connection_timeout: Duration::from_secs(30), low: 1, high: 2 }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "TcpFile")]
    struct Tcp {
        max_connections: NonZeroUsize,
        connection_timeout: Duration,
    }

    impl TryFrom<TcpFile> for Tcp {
        type Error = &'static str;

        fn try_from(file: TcpFile) -> Result<Self, Self::Error> {
            if file.low > file.high {
                return Err("`low` must not be above `high`");
            }
            Ok(Self { max_connections: file.max_connections, connection_timeout: file.connection_timeout })
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        tcp: Tcp,
        #[serde(default)]
        names: Vec<String>,
    }

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        assemble(text, "gateway.toml", "DAEMONEYE_GATEWAY", variables).map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_known_one() {
        let error = read("[tcp]\nmax_conections = 3", &[]).unwrap_err();
        assert_eq!(error, "gateway.toml: unknown key `tcp.max_conections`; did you mean `max_connections`?");
        let error = read("[tcp]\n[zebra]", &[]).unwrap_err();
        assert_eq!(error, "gateway.toml: unknown key `zebra`; known here: tcp, names");
    }

    #[test]
    fn a_bad_value_is_named_with_its_whole_path() {
        let error = read("[tcp]\nmax_connections = 0", &[]).unwrap_err();
        assert!(error.starts_with("gateway.toml: tcp.max_connections = 0: "), "{error}");
        assert!(error.contains("nonzero"), "{error}");
        let error = read("names = [\"a\", 3]\n[tcp]", &[]).unwrap_err();
        assert!(error.starts_with("gateway.toml: names.1 = 3: "), "{error}");
        let error = read("[tcp]\nconnection_timeout = \"0s\"", &[]).unwrap_err();
        assert_eq!(
            error,
            "gateway.toml: tcp.connection_timeout = \"0s\": must be longer than nothing, such as \"30s\""
        );
    }

    #[test]
    fn a_rule_between_two_keys_names_their_section() {
        let error = read("[tcp]\nlow = 3", &[]).unwrap_err();
        assert_eq!(error, "gateway.toml: tcp: `low` must not be above `high`");
    }

    #[test]
    fn a_missing_key_is_named() {
        assert_eq!(read("", &[]).unwrap_err(), "gateway.toml: tcp: must be set");
    }

    #[test]
    fn what_is_not_toml_is_shown_by_line_and_column() {
        let error = read("[tcp]\nmax_connections = = 3", &[]).unwrap_err();
        assert!(error.starts_with("gateway.toml:2:"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn the_environment_has_the_last_word() {
        let config = read(
            "[tcp]\nmax_connections = 3",
            &[
                ("DAEMONEYE_GATEWAY_TCP__MAX_CONNECTIONS", "7"),
                ("DAEMONEYE_GATEWAY_TCP__CONNECTION_TIMEOUT", "5s"),
                ("DAEMONEYE_GATEWAY_NAMES", "[\"a\", \"b\"]"),
                ("DAEMONEYE_GATEWAY_SERVICE_HOST", "10.0.0.1"),
                ("DAEMONEYE_GATEWAY_PORT", "tcp://10.0.0.1:8443"),
                ("DAEMONEYE_GATEWAY_ADMIN_PORT_9090_TCP_ADDR", "10.0.0.1"),
                ("DAEMONEYE_GATEWAYS_X", "1"),
                ("PATH", "/bin"),
            ],
        )
        .unwrap();
        assert_eq!(config.tcp.max_connections.get(), 7);
        assert_eq!(config.tcp.connection_timeout, Duration::from_secs(5));
        assert_eq!(config.names, ["a", "b"]);
    }

    #[test]
    fn a_mistake_in_the_environment_is_blamed_on_the_variable() {
        let error = read("[tcp]", &[("DAEMONEYE_GATEWAY_TCP__MAX_CONNECTIONS", "many")]).unwrap_err();
        assert!(
            error.starts_with(
                "environment variable DAEMONEYE_GATEWAY_TCP__MAX_CONNECTIONS: tcp.max_connections = \"many\": "
            ),
            "{error}"
        );
        let error = read("[tcp]", &[("DAEMONEYE_GATEWAY_TCP_MAX_CONNECTIONS", "3")]).unwrap_err();
        assert!(error.contains("unknown key `tcp_max_connections`"), "{error}");
        let error = read("names = []\n[tcp]", &[("DAEMONEYE_GATEWAY_NAMES__X", "3")]).unwrap_err();
        assert!(error.contains("`names` is a single value"), "{error}");
    }

    #[test]
    fn a_variable_reads_as_toml_or_as_text() {
        assert_eq!(read_value("8443".to_owned()), Value::Integer(8443));
        assert_eq!(read_value("0600".to_owned()), Value::String("0600".to_owned()));
        assert_eq!(read_value("2024-01-01".to_owned()), Value::String("2024-01-01".to_owned()));
        assert_eq!(read_value("1\nx = 2".to_owned()), Value::String("1\nx = 2".to_owned()));
        assert_eq!(read_value("inf".to_owned()), Value::String("inf".to_owned()));
    }
}
