//! Settings of the client of a foreign broker.

use std::{
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;

use crate::{bus::BusName, settings::ByteSize, topic};

/// Most bytes of a socket's path, given by the system.
const MAX_PATH: usize = 107;

/// Settings of the client of a foreign broker; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where the broker listens.
    pub socket_path: PathBuf,
    /// The name of the connection that keeps watch.
    pub name: BusName,
    /// Under which names ports speak.
    pub names: Names,
    /// How long connecting and the greeting may take.
    pub connect_timeout: Duration,
    /// How long a batch may wait for its confirmation before the link counts as dead.
    pub confirm_timeout: Duration,
    /// How long a name that the broker says is busy is asked for again.
    pub name_timeout: Duration,
    /// How often an idle connection shows a sign of life.
    pub ping_interval: Duration,
    /// Most events sent and not confirmed, per connection.
    pub max_unconfirmed: usize,
    /// Most messages that wait for a subscription's reader.
    pub subscription_queue: usize,
    /// Most bytes of a message heard; a longer one is dropped.
    pub max_message: ByteSize,
}

/// Under which names ports speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Each under its own, on a connection of its own.
    Own,
    /// All under one, on one connection; the origin stands before the topic.
    Shared(Prefix),
}

/// Where the site goes.
const SITE: &str = "{site}";

/// Where the name goes.
const NAME: &str = "{name}";

/// What stands before a topic to say where it comes from, such as `from/{site}/{name}/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// The prefix of what `name` says. The name of a remote collector has both parts; any other stands there whole, and `-`
    /// for the site.
    #[must_use]
    pub fn of(&self, name: &BusName) -> Arc<str> {
        let mut parts = name.as_str().splitn(3, '.');
        let (site, name) = match (parts.next(), parts.next(), parts.next()) {
            (Some("collector"), Some(site), Some(name)) => (site, name),
            _ => ("-", name.as_str()),
        };
        self.0.replace(SITE, site).replace(NAME, &name.replace('.', "/")).into()
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let stem = text.strip_suffix('/').ok_or(PrefixError::Slash)?;
        for place in [SITE, NAME] {
            if stem.split('/').filter(|segment| *segment == place).count() != 1 {
                return Err(PrefixError::Place(place));
            }
        }
        let mut literals = stem.split('/').filter(|segment| !matches!(*segment, SITE | NAME));
        match literals.find(|segment| !topic::is_segment(segment)) {
            Some(segment) => Err(PrefixError::Segment(segment.escape_debug().to_string())),
            None if stem.split('/').count() > topic::MAX_SEGMENTS => Err(PrefixError::TooDeep),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// A part of the origin is missing, or there twice, or not a segment of its own.
    #[error("`{0}` must stand in it once, as a segment of its own")]
    Place(&'static str),
    /// Not the alphabet of topics.
    #[error("segment `{0}` is not made of a-z, 0-9, `_`, `-`")]
    Segment(String),
    /// The topic would run into it.
    #[error("it must end with `/`")]
    Slash,
    /// Too many segments.
    #[error("more than {} segments", topic::MAX_SEGMENTS)]
    TooDeep,
}

/// The section of a configuration file.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Where the broker listens, an absolute path of at most 107 bytes. Default: `/var/run/busrt/busrt.sock`.
    socket_path: PathBuf,
    /// The name of the connection that keeps watch; no other client of the broker may have it. Default:
    /// `daemoneye-federation`.
    name: String,
    /// `own`: each port speaks under its own name, on a connection of its own. `shared`: all on one connection, with the
    /// origin before the topic. Default: `own`.
    names: NamesFile,
    /// With `names = "shared"`: what stands before a topic. Default: `from/{site}/{name}/`.
    topic_prefix: String,
    /// How long connecting and the greeting may take. Default 5 s, 100 ms to 60 s.
    #[serde(with = "humantime_serde")]
    connect_timeout: Duration,
    /// How long a batch may wait for its confirmation before the link counts as dead. Default 10 s, 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    confirm_timeout: Duration,
    /// How long a name that the broker says is busy is asked for again. Default 3 s, at most 5 min.
    #[serde(with = "humantime_serde")]
    name_timeout: Duration,
    /// How often an idle connection shows a sign of life; well below the broker's time-out, which is 1 s in a broker left to
    /// its defaults. Default 500 ms, 10 ms to 60 s.
    #[serde(with = "humantime_serde")]
    ping_interval: Duration,
    /// Most events sent and not confirmed, per connection; well below the broker's queue of 8192. Default 1024, 1 to 65536.
    max_unconfirmed: usize,
    /// Most messages that wait for a subscription's reader; then it is the broker's queue that fills. Default 1024, 1 to
    /// 65536.
    subscription_queue: usize,
    /// Most bytes of a message heard; a longer one is dropped. Default 4 MiB, 1 KiB to 1 GiB.
    max_message: ByteSize,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NamesFile {
    #[default]
    Own,
    Shared,
}

impl Default for File {
    fn default() -> Self {
        Self {
            socket_path: PathBuf::from("/var/run/busrt/busrt.sock"),
            name: "daemoneye-federation".to_owned(),
            names: NamesFile::Own,
            topic_prefix: "from/{site}/{name}/".to_owned(),
            connect_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(10),
            name_timeout: Duration::from_secs(3),
            ping_interval: Duration::from_millis(500),
            max_unconfirmed: 1024,
            subscription_queue: 1024,
            max_message: ByteSize::mib(4),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        check_path(&file.socket_path)?;
        let name = BusName::parse(&file.name)
            .map_err(|error| format!("name `{}`: {error}", file.name.escape_debug()))?;
        let prefix = file
            .topic_prefix
            .parse()
            .map_err(|error| format!("topic_prefix `{}`: {error}", file.topic_prefix.escape_debug()))?;
        let millis = Duration::from_millis;
        within("connect_timeout", file.connect_timeout, millis(100), millis(60_000))?;
        within("confirm_timeout", file.confirm_timeout, millis(100), millis(600_000))?;
        within("name_timeout", file.name_timeout, Duration::ZERO, millis(300_000))?;
        within("ping_interval", file.ping_interval, millis(10), millis(60_000))?;
        within("max_unconfirmed", file.max_unconfirmed, 1, 65536)?;
        within("subscription_queue", file.subscription_queue, 1, 65536)?;
        within("max_message", file.max_message, ByteSize::kib(1), ByteSize::gib(1))?;
        Ok(Self {
            socket_path: file.socket_path,
            name,
            names: match file.names {
                NamesFile::Own => Names::Own,
                NamesFile::Shared => Names::Shared(prefix),
            },
            connect_timeout: file.connect_timeout,
            confirm_timeout: file.confirm_timeout,
            name_timeout: file.name_timeout,
            ping_interval: file.ping_interval,
            max_unconfirmed: file.max_unconfirmed,
            subscription_queue: file.subscription_queue,
            max_message: file.max_message,
        })
    }
}

fn check_path(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().as_bytes().len();
    if !path.is_absolute() {
        return Err(format!("socket_path `{}` is not absolute", path.display()));
    }
    if length > MAX_PATH {
        return Err(format!("socket_path has {length} bytes; the system allows {MAX_PATH}"));
    }
    Ok(())
}

fn within<T: Copy + PartialOrd + fmt::Debug>(key: &str, value: T, least: T, most: T) -> Result<(), String> {
    if (&least..=&most).contains(&&value) {
        return Ok(());
    }
    Err(format!("{key} = {value:?} is not within {least:?} and {most:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_where_a_topic_comes_from() {
        let prefix: Prefix = "from/{site}/{name}/".parse().unwrap();
        let collector = BusName::collector("site-a", "procmond-1").unwrap();
        assert_eq!(&*prefix.of(&collector), "from/site-a/procmond-1/");
        assert_eq!(&*prefix.of(&BusName::parse("a.b").unwrap()), "from/-/a/b/");
    }

    #[test]
    fn a_prefix_that_hides_the_origin_or_breaks_the_grammar_is_refused() {
        let parse = Prefix::from_str;
        assert_eq!(parse("from/{site}/"), Err(PrefixError::Place("{name}")));
        assert_eq!(parse("from/{site}-{name}/"), Err(PrefixError::Place("{site}")));
        assert_eq!(parse("{site}/{name}"), Err(PrefixError::Slash));
        assert_eq!(parse("From/{site}/{name}/"), Err(PrefixError::Segment("From".to_owned())));
        assert_eq!(parse(".broker/{site}/{name}/"), Err(PrefixError::Segment(".broker".to_owned())));
        assert_eq!(parse("a/b/c/d/{site}/{name}/"), Err(PrefixError::TooDeep));
    }

    #[test]
    fn wrong_values_name_their_key() {
        let error = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error("max_unconfirmed = 0").contains("max_unconfirmed"));
        assert!(error("socket_path = 'x'").contains("socket_path"));
        assert!(error(&format!("socket_path = '/{}'", "x".repeat(107))).contains("107"));
        assert!(error("topic_prefix = 'x/'").contains("topic_prefix"));
        assert!(error("confirm_timeot = '1s'").contains("confirm_timeot"));
        assert!(toml::from_str::<Config>("").is_ok());
    }
}
