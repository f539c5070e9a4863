//! Settings of the leaf: one section a part, and the file they stand in.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    bus::{Broker, RouteError, Routes, door, embedded},
    leaf::{downlink, intake::Naming},
    log,
    settings::{self, SettingsError},
    spool,
    topic::Pattern,
    uplink,
};

#[cfg(unix)]
use crate::bus::remote;

/// The prefix of environment variables that override the file.
const PREFIX: &str = "DAEMONEYE_BRIDGE";

/// Where the spool is if the file does not say.
const SPOOL: &str =
    if cfg!(windows) { r"C:\ProgramData\DaemonEye\spool" } else { "/var/lib/daemoneye/spool" };

/// Settings of a leaf; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// The local bus.
    pub bus: Bus,
    /// What is forwarded, and under whose name.
    pub forward: Forward,
    /// The queue on disk.
    pub spool: spool::Config,
    /// The way to the gateways.
    pub uplink: uplink::Config,
    /// The way back.
    pub downlink: downlink::Config,
    /// The health page; none: no page.
    pub health: Option<SocketAddr>,
    /// How long the end may take.
    pub drain: Duration,
    /// The log.
    pub log: log::Config,
}

impl Config {
    /// Reads `file` and the environment.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] names the place, the key and the remedy.
    pub fn load(file: &Path) -> Result<Self, SettingsError> {
        settings::load(Some(file), PREFIX)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults fit together")
    }
}

/// The local bus of a leaf.
#[derive(Clone, Debug)]
pub enum Bus {
    /// Our own broker, with a door for local clients unless it is switched off.
    Embedded {
        /// The broker.
        broker: embedded::Config,
        /// Its door.
        door: door::Config,
        /// What a local confirmation means.
        routes: Routes,
    },
    /// Somebody else's broker.
    #[cfg(unix)]
    Foreign(remote::Config),
}

/// What is forwarded, and under whose name.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which topics of the local bus cross the federation.
    pub patterns: Vec<Pattern>,
    /// Whether events keep the name of the local client that published them.
    pub naming: Naming,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    bus: BusFile,
    in_process: embedded::Config,
    #[cfg(unix)]
    unix_socket: door::Config,
    #[cfg(windows)]
    named_pipe: door::Config,
    /// The section of the other system.
    #[cfg(unix)]
    named_pipe: Option<IgnoredAny>,
    #[cfg(windows)]
    unix_socket: Option<IgnoredAny>,
    forward: ForwardFile,
    spool: Option<spool::Config>,
    uplink: uplink::Config,
    downlink: downlink::Config,
    health: HealthFile,
    drain: DrainFile,
    log: log::Config,
}

/// `[bus]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BusFile {
    /// `embedded`: our own broker. `foreign`: the one at `bus.foreign.socket_path`.
    broker: Broker,
    #[cfg(unix)]
    foreign: Option<remote::Config>,
    #[cfg(windows)]
    foreign: Option<IgnoredAny>,
}

impl Default for BusFile {
    fn default() -> Self {
        Self { broker: Broker::Embedded, foreign: None }
    }
}

/// `[forward]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ForwardFile {
    /// Patterns of topics that cross the federation. At least one.
    patterns: Vec<Pattern>,
    /// Whether events keep the name of the local client that published them; the gateway's policy must let this leaf speak
    /// for it.
    speak_for: bool,
}

impl Default for ForwardFile {
    fn default() -> Self {
        let patterns =
            ["events.#", "control.health.#"].iter().filter_map(|pattern| pattern.parse().ok()).collect();
        Self { patterns, speak_for: false }
    }
}

/// `[health]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HealthFile {
    /// Whether there is a page.
    enabled: bool,
    /// Where it is; loopback only, for it asks nobody who he is.
    bind_address: SocketAddr,
}

impl Default for HealthFile {
    fn default() -> Self {
        Self { enabled: true, bind_address: (Ipv4Addr::LOCALHOST, 9091).into() }
    }
}

/// `[drain]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DrainFile {
    /// How long the end may take: sending what the spool still has, then closing.
    #[serde(with = "humantime_serde")]
    deadline: Duration,
}

impl Default for DrainFile {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10) }
    }
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        #[cfg(unix)]
        let (door, elsewhere) = (file.unix_socket, file.named_pipe);
        #[cfg(windows)]
        let (door, elsewhere) = (file.named_pipe, file.unix_socket);
        if elsewhere.is_some() {
            return Err(ConfigError::OtherSystem);
        }
        let bus = match (file.bus.broker, file.bus.foreign) {
            (Broker::Embedded, None) if !file.in_process.enabled => return Err(ConfigError::NoBroker),
            (Broker::Embedded, None) => Bus::Embedded {
                broker: file.in_process,
                door,
                routes: Routes::new(Vec::new(), Broker::Embedded)?,
            },
            #[cfg(unix)]
            (Broker::Foreign, Some(remote)) => Bus::Foreign(remote),
            #[cfg(unix)]
            (Broker::Foreign, None) => return Err(ConfigError::NoForeign),
            #[cfg(windows)]
            (Broker::Foreign, _) => return Err(ConfigError::NoSockets),
            (Broker::Embedded, Some(_)) => return Err(ConfigError::IdleForeign),
        };
        #[cfg(unix)]
        if file.downlink.enabled && matches!(bus, Bus::Foreign(_)) {
            return Err(ConfigError::ForeignDownlink);
        }
        if file.forward.patterns.is_empty() {
            return Err(ConfigError::NothingForwarded);
        }
        if file.health.enabled && !file.health.bind_address.ip().is_loopback() {
            return Err(ConfigError::PublicHealth(file.health.bind_address));
        }
        let naming = if file.forward.speak_for { Naming::Sender } else { Naming::Leaf };
        Ok(Self {
            bus,
            forward: Forward { patterns: file.forward.patterns, naming },
            spool: file.spool.unwrap_or_else(|| spool::Config::at(SPOOL)),
            uplink: file.uplink,
            downlink: file.downlink,
            health: file.health.enabled.then_some(file.health.bind_address),
            drain: file.drain.deadline,
            log: file.log,
        })
    }
}

/// Sections that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Who is connected to somebody else's broker is not known here.
    #[cfg(unix)]
    #[error(
        "downlink.enabled needs our own broker, which knows who is connected; set bus.broker = \"embedded\", or \
         downlink.enabled = false"
    )]
    ForeignDownlink,
    /// A foreign broker is described but not used.
    #[error(
        "bus.foreign is set, but bus.broker = \"embedded\"; remove the section, or set bus.broker = \"foreign\""
    )]
    IdleForeign,
    /// Our own broker is used, but switched off.
    #[error(
        "in_process.enabled = false leaves bus.broker = \"embedded\" without a broker; remove it, or use somebody else's \
         with bus.broker = \"foreign\""
    )]
    NoBroker,
    /// A foreign broker is used but not described.
    #[cfg(unix)]
    #[error("bus.broker = \"foreign\" needs bus.foreign.socket_path")]
    NoForeign,
    /// A foreign broker is used where there are no UNIX sockets.
    #[cfg(windows)]
    #[error("bus.broker = \"foreign\" needs UNIX sockets, which a leaf on Windows has not; use \"embedded\"")]
    NoSockets,
    /// No pattern at all.
    #[error(
        "forward.patterns is empty, so nothing would be forwarded; name at least one, such as \"events.#\""
    )]
    NothingForwarded,
    /// The door of another system.
    #[cfg_attr(
        unix,
        error(
            "[named_pipe] is the door of a leaf on Windows; on this system local clients come through [unix_socket]"
        )
    )]
    #[cfg_attr(
        windows,
        error(
            "[unix_socket] is the door of a leaf on UNIX; on this system local clients come through [named_pipe]"
        )
    )]
    OtherSystem,
    /// The health page would be open to the network.
    #[error(
        "health.bind_address = \"{0}\" is not loopback, and the page asks nobody who he is; use 127.0.0.1 or [::1]"
    )]
    PublicHealth(SocketAddr),
    /// A route that cannot be kept.
    #[error(transparent)]
    Route(#[from] RouteError),
}

#[cfg(test)]
mod tests {
    use serde::{
        Deserializer,
        de::{DeserializeOwned, Visitor, value::MapDeserializer},
    };

    use super::*;

    /// Names of the fields that `T` reads.
    fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
        struct Asked<'a>(&'a mut &'static [&'static str]);

        impl<'de> Deserializer<'de> for Asked<'_> {
            type Error = serde::de::value::Error;

            fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
                visitor.visit_map(MapDeserializer::<_, Self::Error>::new(std::iter::empty::<(&str, &str)>()))
            }

            fn deserialize_struct<V: Visitor<'de>>(
                self,
                _name: &'static str,
                fields: &'static [&'static str],
                visitor: V,
            ) -> Result<V::Value, Self::Error> {
                *self.0 = fields;
                self.deserialize_any(visitor)
            }

            serde::forward_to_deserialize_any! {
                bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
                newtype_struct seq tuple tuple_struct map enum identifier ignored_any
            }
        }

        let mut keys: &[&str] = &[];
        // What is missing in what it is given does not matter.
        drop(T::deserialize(Asked(&mut keys)));
        keys
    }

    fn told(text: &str) -> String {
        settings::parse::<Config>(text, "bridge.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_documented_file_says_the_defaults() {
        let text = include_str!("../../../deploy/bridge.toml");
        let documented: Config = settings::parse(text, "deploy/bridge.toml").unwrap();
        assert_eq!(format!("{documented:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn the_documented_files_name_every_key() {
        let unix = include_str!("../../../deploy/bridge.toml");
        let windows = include_str!("../../../deploy/bridge.windows.toml");
        let both = [
            keys_of::<embedded::Config>(),
            keys_of::<ForwardFile>(),
            keys_of::<spool::Config>(),
            keys_of::<uplink::Config>(),
            keys_of::<downlink::Config>(),
            keys_of::<HealthFile>(),
            keys_of::<DrainFile>(),
            keys_of::<log::Config>(),
        ];
        let of_this_system = (if cfg!(unix) { unix } else { windows }, keys_of::<door::Config>());
        let everywhere = both.into_iter().flat_map(|keys| [(unix, keys), (windows, keys)]);
        // There is no foreign broker on Windows.
        for (text, keys) in everywhere.chain([of_this_system, (unix, keys_of::<BusFile>())]) {
            assert!(!keys.is_empty());
            for key in keys {
                let names = |line: &str| {
                    let line = line.trim_start_matches("# ");
                    line.starts_with(&format!("{key} =")) || line.contains(&format!(".{key}]"))
                };
                assert!(text.lines().any(names), "no {key} in\n{text}");
            }
        }
    }

    #[test]
    fn the_documented_file_for_windows_differs_in_door_and_paths_alone() {
        let text = include_str!("../../../deploy/bridge.windows.toml");
        let mut text: toml::Table = text.parse().unwrap();
        assert!(text.remove("named_pipe").is_some());
        let mut paths = vec![text["spool"].as_table_mut().unwrap().remove("directory").unwrap()];
        let files = text["uplink"]["tls_config"].as_table_mut().unwrap();
        paths.extend(
            ["cert_file", "key_file", "ca_file", "crl_directory"].map(|key| files.remove(key).unwrap()),
        );
        for path in paths {
            assert!(path.as_str().unwrap().starts_with(r"C:\ProgramData\DaemonEye\"), "{path}");
        }
        let text = toml::to_string(&text).unwrap();
        let documented: Config = settings::parse(&text, "deploy/bridge.windows.toml").unwrap();
        assert_eq!(format!("{documented:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn sections_that_do_not_fit_together_are_refused_with_a_remedy() {
        assert!(told("[bus]\nbroker = \"foreign\"").contains("needs bus.foreign.socket_path"));
        assert!(
            told("[bus.foreign]\nsocket_path = \"/run/b.sock\"").contains("set bus.broker = \"foreign\"")
        );
        let foreign = "bus = { broker = \"foreign\", foreign = { socket_path = \"/run/b.sock\" } }";
        assert!(told(&format!("downlink.enabled = true\n{foreign}")).contains("needs our own broker"));
        assert!(told("[in_process]\nenabled = false").contains("without a broker"));
        assert!(told("[named_pipe]\nmax_connections = 3").contains("through [unix_socket]"));
        assert!(told("[forward]\npatterns = []").contains("name at least one"));
        assert!(told("[health]\nbind_address = \"0.0.0.0:9091\"").contains("use 127.0.0.1"));
        assert!(told("[forward]\nspeakfor = true").contains("did you mean `speak_for`?"));
        assert!(told("[forward]\npatterns = [\"events.*\"]").contains("events.*"));
    }
}
