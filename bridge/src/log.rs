//! Log lines of leaf and gateway: text or JSON on standard error, times in RFC 3339.
//!
//! Kept true: a filter that exists is well-formed, so that a typing error is found by `--check` and not by silence.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt,
};

/// Settings of the log; every value is usable as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "File")]
pub struct Config {
    /// How a line looks.
    pub format: Format,
    /// What is written.
    pub filter: Filter,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Which events are written, such as `info` or `info,daemoneye_bridge::uplink=debug`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl Filter {
    /// Reads comma-separated directives `[target=]level`.
    ///
    /// # Errors
    ///
    /// [`FilterError`], if one is malformed.
    pub fn parse(directives: &str) -> Result<Self, FilterError> {
        // A bare word that is no level would be taken for a target, and silence everything else.
        let mut bare = directives.split(',').map(str::trim).filter(|one| !one.contains(['=', '[']));
        match EnvFilter::builder().parse(directives) {
            Ok(_) if bare.all(|word| !word.is_empty() && word.parse::<LevelFilter>().is_ok()) => {
                Ok(Self(directives.to_owned()))
            }
            _ => Err(FilterError { given: directives.to_owned() }),
        }
    }

    /// The filter with what every process wants added in front, so that the operator's own directives win.
    fn build(&self) -> EnvFilter {
        // busrt warns once per event while a client's queue is full: under load that is a flood which says nothing that
        // the bus counters do not. Per-event warnings of the broker are theirs to ask for.
        EnvFilter::builder().parse_lossy(format!("busrt=error,{}", self.0))
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(directives: String) -> Result<Self, Self::Error> {
        Self::parse(&directives)
    }
}

/// A filter that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no log filter; write a level (error, warn, info, debug, trace) or `target=level,…`")]
pub struct FilterError {
    given: String,
}

/// What a configuration file may say.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// `text` or `json`. Default: `text`.
    format: Format,
    /// Comma-separated `[target=]level`. Default: `info`.
    filter: Filter,
}

impl Default for File {
    fn default() -> Self {
        Self { format: Format::Text, filter: Filter("info".to_owned()) }
    }
}

impl From<File> for Config {
    fn from(file: File) -> Self {
        Self { format: file.format, filter: file.filter }
    }
}

impl Default for Config {
    fn default() -> Self {
        File::default().into()
    }
}

/// Begins to write the log of this process; a second call changes nothing.
pub fn start(config: &Config) {
    let lines = registry().with(config.filter.build());
    let begun = match config.format {
        Format::Json => {
            lines.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()
        }
        Format::Text => {
            let text = fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
            lines.with(text).try_init()
        }
    };
    if begun.is_err() {
        tracing::debug!("log was already started");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_a_typing_error_is_refused() {
        assert!(Filter::parse("info,daemoneye_bridge::uplink=debug").is_ok());
        for wrong in ["daemoneye=loud", "", "  ", "info,=x=", "verbose", "info,daemoneye_bridge"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_operators_own_directive_for_the_broker_wins() {
        let quiet = Filter::parse("info").unwrap().build().to_string();
        assert!(quiet.contains("busrt=error"), "{quiet}");
        let asked = Filter::parse("info,busrt=warn").unwrap().build().to_string();
        assert!(asked.contains("busrt=warn") && !asked.contains("busrt=error"), "{asked}");
    }
}
