//! Settings of the spool.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    event::Class,
    settings::ByteSize,
    topic::{Pattern, Topic},
};

/// When an appended event counts as safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// When it is on the disk: survives a power cut. Appends that arrive together share one flush.
    Always,
    /// When the operating system has it: survives the death of the process.
    #[default]
    Os,
}

/// Which class the topics of a pattern belong to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassRule {
    /// Which topics.
    pub pattern: Pattern,
    /// Their class.
    pub class: Class,
}

/// Settings of the spool; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where the spool lives; a folder of its own.
    pub directory: PathBuf,
    /// Most bytes of all segments together.
    pub max_bytes: u64,
    /// About how large a segment grows; what is acknowledged or evicted goes in such pieces.
    pub segment_bytes: u64,
    /// When an appended event counts as safe.
    pub sync: Sync,
    /// The first rule that matches a topic gives its class; none: telemetry.
    pub classes: Vec<ClassRule>,
    /// Most bytes of rejected events that are kept.
    pub dead_letter_bytes: u64,
}

impl Config {
    /// The defaults, in `directory`.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the defaults are within their bounds, as a test shows")]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        let file = File { directory: directory.into(), ..File::default() };
        Self::try_from(file).expect("the defaults are within their bounds")
    }

    /// The class of a topic.
    pub(crate) fn class_of(&self, topic: &Topic) -> Class {
        let rule = self.classes.iter().find(|rule| rule.pattern.matches(topic));
        rule.map_or(Class::Telemetry, |rule| rule.class)
    }
}

/// The section as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// A folder of its own. Made with mode 0700 if it is not there, set to it if it is empty; one that holds files and that
    /// others can enter is refused.
    directory: PathBuf,
    /// At least 8 MiB. When it is met, the oldest telemetry goes, then the oldest critical events.
    max_bytes: ByteSize,
    /// 2 MiB, so that the largest payload fits, to a quarter of `max_bytes`; at least an 8192nd of it, so that the list of
    /// segments stays short. Default: a sixteenth of it, but not over 16 MiB or a 4096th of it.
    segment_bytes: Option<ByteSize>,
    /// "os" or "always".
    sync: Sync,
    /// Replaces the whole list.
    classes: Vec<ClassRule>,
    /// 0 keeps none.
    dead_letter_bytes: ByteSize,
}

/// Where the spool is if the file does not say.
const DIRECTORY: &str =
    if cfg!(windows) { r"C:\ProgramData\DaemonEye\spool" } else { "/var/lib/daemoneye/spool" };

impl Default for File {
    fn default() -> Self {
        Self {
            directory: PathBuf::from(DIRECTORY),
            max_bytes: ByteSize::gib(1),
            segment_bytes: None,
            sync: Sync::default(),
            classes: default_classes(),
            dead_letter_bytes: ByteSize::mib(16),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        let max_bytes = file.max_bytes.as_u64();
        if max_bytes < MIN_MAX_BYTES {
            return Err(ConfigError::MaxBytes(file.max_bytes));
        }
        let segment_bytes =
            file.segment_bytes.map_or_else(|| default_segment_bytes(max_bytes), ByteSize::as_u64);
        let (least, most) = (MIN_SEGMENT_BYTES.max(max_bytes / 8192), max_bytes / 4);
        if !(least..=most).contains(&segment_bytes) {
            let [given, least, most] = [segment_bytes, least, most].map(ByteSize::bytes);
            return Err(ConfigError::SegmentBytes { given, least, most });
        }
        Ok(Self {
            directory: file.directory,
            max_bytes,
            segment_bytes,
            sync: file.sync,
            classes: file.classes,
            dead_letter_bytes: file.dead_letter_bytes.as_u64(),
        })
    }
}

const MIN_MAX_BYTES: u64 = 8 << 20;
const MIN_SEGMENT_BYTES: u64 = 2 << 20;

fn default_segment_bytes(max_bytes: u64) -> u64 {
    (max_bytes / 16).clamp(MIN_SEGMENT_BYTES, (16 << 20).max(max_bytes / 4096))
}

/// What a later scan cannot repair.
fn default_classes() -> Vec<ClassRule> {
    [
        "events.process.lifecycle",
        "events.process.start",
        "events.process.stop",
        "events.process.integrity",
        "events.+.anomaly",
        "control.collector.#",
    ]
    .into_iter()
    .map(|pattern| ClassRule {
        pattern: Pattern::parse(pattern).expect("a built-in pattern is well-formed"),
        class: Class::Critical,
    })
    .collect()
}

/// A setting that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too small to hold anything.
    #[error("max_bytes = \"{0}\" is too small; use at least \"8 MiB\"")]
    MaxBytes(ByteSize),
    /// Out of bounds.
    #[error("segment_bytes = \"{given}\" is out of bounds; use \"{least}\" to \"{most}\", or leave it out")]
    SegmentBytes {
        /// What was asked for.
        given: ByteSize,
        /// Least that this `max_bytes` permits.
        least: ByteSize,
        /// Most that this `max_bytes` permits.
        most: ByteSize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn what_is_left_out_has_a_default_that_fits() {
        let config = parse("directory = \"/x\"").unwrap();
        assert_eq!((config.max_bytes, config.segment_bytes, config.sync), (1 << 30, 16 << 20, Sync::Os));
        assert_eq!(parse("max_bytes = \"8 MiB\"").unwrap().segment_bytes, 2 << 20);
        assert_eq!(parse("max_bytes = \"1 TiB\"").unwrap().segment_bytes, 256 << 20);
        let class = |topic: &str| config.class_of(&Topic::parse(topic).unwrap());
        assert_eq!(class("events.process.start"), Class::Critical);
        assert_eq!(class("events.process.metadata"), Class::Telemetry);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_remedy() {
        assert!(parse("max_bytes = \"1 MiB\"").unwrap_err().contains("at least \"8 MiB\""));
        let refused = parse("max_bytes = \"8 MiB\"\nsegment_bytes = \"4 MiB\"").unwrap_err();
        assert!(refused.contains("\"4 MiB\" is out of bounds; use \"2 MiB\" to \"2 MiB\""), "{refused}");
        assert!(parse("sync = \"never\"").is_err());
        assert!(parse("max_byte = 1").is_err());
        assert!(parse("classes = [{ pattern = \"a.*\", class = \"critical\" }]").is_err());
    }
}
