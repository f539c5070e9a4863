//! The door on Windows: a named pipe instead of a UNIX socket.
//!
//! Clients speak BUS/RT over it as over a socket; greeting, guard, bounds and the rules for slow readers are
//! [the door's](crate::bus::door). Who may connect is for the system to judge, by the pipe's security descriptor.
//!
//! Kept true: nobody but the system, its administrators and the owner of this process gets in, and nobody from another machine;
//! the pipe is ours or is not opened, so that nobody who took the name before is mistaken for us.

use std::{fmt, num::NonZeroUsize, time::Duration};

use serde::Deserialize;

use crate::{
    bus::door::{ClientRule, SlowReader},
    settings::{self, ByteSize},
};

#[cfg(windows)]
mod listen;

#[cfg(windows)]
pub use listen::{Door, DoorError};

/// How the names of all pipes of this machine begin.
const PREFIX: &str = r"\\.\pipe\";

/// Most characters of a name, its beginning included.
const LENGTH: usize = 256;

/// The whole name of a pipe of this machine: `\\.\pipe\` and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PipeName(String);

impl PipeName {
    /// As it is handed to the system.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PipeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for PipeName {
    fn default() -> Self {
        Self(format!("{PREFIX}daemoneye-broker"))
    }
}

impl TryFrom<String> for PipeName {
    type Error = PipeNameError;

    fn try_from(name: String) -> Result<Self, PipeNameError> {
        let own = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        let rest = name.get(PREFIX.len()..).unwrap_or_default();
        let sound = own
            && !rest.is_empty()
            && !rest.contains('\\')
            && !rest.contains(char::is_control)
            && name.encode_utf16().count() <= LENGTH;
        if sound { Ok(Self(name)) } else { Err(PipeNameError(name)) }
    }
}

/// A name that no pipe can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    r"`{0}` names no pipe of this machine: write \\.\pipe\ and a name without backslashes, at most 256 characters in all"
)]
pub struct PipeNameError(String);

/// `[named_pipe]` as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// Whether local clients may connect. Default true.
    enabled: bool,
    /// The whole name of the pipe. Default `\\.\pipe\daemoneye-broker`.
    pipe_name: PipeName,
    /// Clients at the same time; more are turned away. Default 100.
    max_connections: NonZeroUsize,
    /// For the whole greeting. Default 30 s.
    #[serde(deserialize_with = "settings::positive")]
    connection_timeout: Duration,
    /// Largest payload of a client's frame; a client that sends more is cut off. Default 1 MiB.
    #[serde(deserialize_with = "settings::positive_size")]
    max_message: ByteSize,
    /// Bytes that may wait for a client before its rule takes hold. Default 64 MiB.
    #[serde(deserialize_with = "settings::positive_size")]
    outbox_bytes: ByteSize,
    /// What happens to a client that reads too slowly, as in `[unix_socket]`. Default `disconnect`.
    slow_reader: SlowReader,
    /// How long a client may take nothing while something waits for it before it is sent away. `0s`: for ever, not with
    /// `disconnect`. Default 10 s.
    #[serde(with = "humantime_serde")]
    slow_reader_timeout: Duration,
    /// Tables `[[named_pipe.client]]`, as `[[unix_socket.client]]`. Default none.
    client: Vec<ClientRule>,
    /// Subscriptions of a client, and as many exclusions. Default 1024.
    max_subscriptions: NonZeroUsize,
}

impl Default for File {
    fn default() -> Self {
        Self {
            enabled: true,
            pipe_name: PipeName::default(),
            max_connections: NonZeroUsize::MIN.saturating_add(99),
            connection_timeout: Duration::from_secs(30),
            max_message: ByteSize::mib(1),
            outbox_bytes: ByteSize::mib(64),
            slow_reader: SlowReader::default(),
            slow_reader_timeout: Duration::from_secs(10),
            client: Vec::new(),
            max_subscriptions: NonZeroUsize::MIN.saturating_add(1023),
        }
    }
}

#[cfg(windows)]
impl File {
    fn into_config(self) -> crate::bus::door::Config {
        use crate::bus::door::{FRAME_SLACK, MOST_CONNECTIONS};

        crate::bus::door::Config {
            enabled: self.enabled,
            pipe_name: self.pipe_name,
            max_connections: self.max_connections.min(MOST_CONNECTIONS),
            connection_timeout: self.connection_timeout,
            max_frame: self.max_message.as_usize().saturating_add(FRAME_SLACK),
            outbox_bytes: self.outbox_bytes.as_usize(),
            slow_reader: self.slow_reader,
            slow_reader_timeout: self.slow_reader_timeout,
            clients: self.client,
            max_subscriptions: self.max_subscriptions.get(),
        }
    }
}

#[cfg(windows)]
impl TryFrom<File> for crate::bus::door::Config {
    type Error = DoorError;

    fn try_from(file: File) -> Result<Self, DoorError> {
        let mut rules = file.client.iter().map(|rule| rule.slow_reader).chain([file.slow_reader]);
        if file.slow_reader_timeout.is_zero() && rules.any(|rule| rule == SlowReader::Disconnect) {
            return Err(DoorError::NeverSentAway);
        }
        Ok(file.into_config())
    }
}

#[cfg(windows)]
impl Default for crate::bus::door::Config {
    fn default() -> Self {
        File::default().into_config()
    }
}

/// Who may open the pipe: the local system, the administrators, and the owner of this process; nobody else, and none of the
/// rights that Windows would give everybody by default.
fn descriptor(owner: &str) -> String {
    format!("D:(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;{owner})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_of_another_machine_or_of_no_name_is_refused_with_a_remedy() {
        for good in [r"\\.\pipe\daemoneye-broker", r"\\.\PIPE\x", r"\\.\pipe\a.b c"] {
            assert_eq!(PipeName::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        let long = format!(r"\\.\pipe\{}", "x".repeat(248));
        for bad in [
            "",
            "daemoneye-broker",
            r"\\.\pipe\",
            r"\\host\pipe\x",
            r"\\.\pipe\a\b",
            "\\\\.\\pipe\\a\n",
            &long,
        ] {
            let error = PipeName::try_from(bad.to_owned()).unwrap_err().to_string();
            assert!(error.contains(r"write \\.\pipe\"), "{error}");
        }
    }

    #[test]
    fn the_descriptor_names_system_administrators_and_owner_alone() {
        assert_eq!(
            descriptor("S-1-5-21-1-2-3-1001"),
            "D:(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;S-1-5-21-1-2-3-1001)"
        );
    }

    #[test]
    fn the_documented_section_says_the_defaults() {
        let text = include_str!("../../../../deploy/bridge.windows.toml");
        let text = text.parse::<toml::Table>().unwrap();
        let section = toml::to_string(&text["named_pipe"]).unwrap();
        let documented: File = settings::parse(&section, "deploy/bridge.windows.toml").unwrap();
        assert_eq!(format!("{documented:#?}"), format!("{:#?}", File::default()));
    }
}
