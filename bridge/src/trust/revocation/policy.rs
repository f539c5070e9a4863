//! What the operator demands of revocation lists.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use crate::trust::revocation::Source;

/// Where revocation lists come from and what is demanded of them.
///
/// The default has no source and demands nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where lists lie; which is whose is told by the key that signed it.
    pub sources: Vec<Source>,
    /// What is demanded of every issuer that has no rule of its own.
    pub rule: Rule,
    /// What is demanded of some.
    pub issuers: Vec<IssuerRule>,
    /// How often lists are fetched from URLs.
    pub refresh: Duration,
    /// Where the last good copy of what was fetched is kept over restarts.
    pub directory: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            rule: Rule::default(),
            issuers: Vec::new(),
            refresh: Duration::from_hours(1),
            directory: PathBuf::from("/var/lib/daemoneye/gateway/crl"),
        }
    }
}

/// What is demanded of the issuers in a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerRule {
    /// PEM of the issuers' certificates: anchors, or intermediates, whose key is then known before one presents itself.
    pub issuer_file: PathBuf,
    /// Whether their certificates must be covered by a list.
    #[serde(default)]
    pub revocation: Need,
    /// What a stale list of theirs does.
    #[serde(default)]
    pub stale_crl: Stale,
}

/// What is demanded of an issuer's lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Whether its certificates must be covered by a list.
    pub need: Need,
    /// What a stale list of it does.
    pub stale: Stale,
}

/// Whether certificates of an issuer must be covered by a list: `required`, `if-present` or `short-lived(24h)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// They are judged by its lists, if there are any.
    #[default]
    IfPresent,
    /// Without a list its certificates are refused, and material without one is not loaded.
    Required,
    /// Those that are valid for at most so long need no list; the rest do.
    ShortLived(Duration),
}

/// What a list does once its `nextUpdate` has passed: `fail`, `warn` or `grace(6h)`. No session that lives is cut by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// New sessions are refused.
    #[default]
    Fail,
    /// New sessions are refused after so long.
    Grace(Duration),
    /// Health says so.
    Warn,
}

impl FromStr for Need {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "if-present" => Ok(Self::IfPresent),
            "required" => Ok(Self::Required),
            _ => {
                bracketed(text, "short-lived").map(Self::ShortLived).ok_or_else(|| RuleError::Need(cut(text)))
            }
        }
    }
}

impl FromStr for Stale {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "fail" => Ok(Self::Fail),
            "warn" => Ok(Self::Warn),
            _ => bracketed(text, "grace").map(Self::Grace).ok_or_else(|| RuleError::Stale(cut(text))),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IfPresent => f.write_str("if-present"),
            Self::Required => f.write_str("required"),
            Self::ShortLived(most) => write!(f, "short-lived({}s)", most.as_secs()),
        }
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("fail"),
            Self::Grace(time) => write!(f, "grace({}s)", time.as_secs()),
            Self::Warn => f.write_str("warn"),
        }
    }
}

/// The time in `word(time)`: positive, at most ten years.
fn bracketed(text: &str, word: &str) -> Option<Duration> {
    use serde::de::IntoDeserializer;

    let inner = text.strip_prefix(word)?.strip_prefix('(')?.strip_suffix(')')?;
    let reader: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        inner.trim().into_deserializer();
    let time = humantime_serde::deserialize::<Duration, _>(reader).ok()?;
    (Duration::from_secs(1)..=Duration::from_hours(10 * 366 * 24)).contains(&time).then_some(time)
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

impl<'de> serde::Deserialize<'de> for Need {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> serde::Deserialize<'de> for Stale {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Something is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Of whether a list must be there.
    #[error("revocation {0:?} is neither \"required\", \"if-present\" nor \"short-lived(24h)\"")]
    Need(String),
    /// Of what a stale list does.
    #[error("stale_crl {0:?} is neither \"fail\", \"warn\" nor \"grace(6h)\"")]
    Stale(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_nonsense_is_refused_with_the_forms_there_are() {
        assert_eq!("required".parse(), Ok(Need::Required));
        assert_eq!("short-lived(24h)".parse(), Ok(Need::ShortLived(Duration::from_hours(24))));
        assert_eq!("grace(90m)".parse(), Ok(Stale::Grace(Duration::from_mins(90))));
        for text in ["", "always", "short-lived", "short-lived()", "short-lived(0s)", "short-lived(24h"] {
            let error = text.parse::<Need>().unwrap_err().to_string();
            assert!(error.contains("short-lived(24h)"), "{error}");
        }
        assert!("grace(-1h)".parse::<Stale>().unwrap_err().to_string().contains("grace(6h)"));
        assert_eq!(
            Need::ShortLived(Duration::from_hours(1)).to_string().parse(),
            Ok(Need::ShortLived(Duration::from_hours(1)))
        );
    }
}
