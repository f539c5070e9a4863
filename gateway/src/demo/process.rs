//! Reads the processes of this machine and says what has changed.
//!
//! The first reading only learns what is there: a process that ran before has not just started.

use std::collections::HashMap;

use serde::Serialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

/// What has been seen of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is there; once a reading.
    Metadata,
    /// It was not there at the last reading.
    Start,
    /// It is no longer there.
    Stop,
}

impl Sight {
    /// The topic that it is told under.
    pub(super) const fn topic(self) -> &'static str {
        match self {
            Self::Metadata => "events.process.metadata",
            Self::Start => "events.process.start",
            Self::Stop => "events.process.stop",
        }
    }
}

/// A process, in the words of `DaemonEye`'s process events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Process {
    pid: u32,
    ppid: Option<u32>,
    name: String,
    command_line: String,
    executable_path: Option<String>,
    /// Seconds since the UNIX epoch.
    start_time: u64,
    /// Percent of one core.
    cpu_usage: f32,
    /// Bytes resident.
    memory_usage: u64,
    /// The demo hashes nothing.
    executable_hash: Option<String>,
    hash_algorithm: Option<&'static str>,
    user_id: Option<String>,
    /// Whether its executable could be looked up.
    accessible: bool,
    /// Whether its executable is still there.
    file_exists: bool,
}

/// Longest command line that is told, in bytes.
const MAX_COMMAND_LINE: usize = 4096;

impl Process {
    fn read(process: &sysinfo::Process, known: Option<&Self>) -> Self {
        let executable = process.exe().filter(|path| !path.as_os_str().is_empty());
        let path = executable.map(|path| path.to_string_lossy().into_owned());
        // A file that was there a second ago is not looked for again.
        let file_exists = match known {
            Some(known) if known.executable_path == path => known.file_exists,
            _ => executable.is_some_and(std::path::Path::exists),
        };
        let words: Vec<_> = process.cmd().iter().map(|word| word.to_string_lossy()).collect();
        let mut command_line = words.join(" ");
        command_line.truncate(command_line.floor_char_boundary(MAX_COMMAND_LINE));
        Self {
            pid: process.pid().as_u32(),
            ppid: process.parent().map(Pid::as_u32),
            name: process.name().to_string_lossy().into_owned(),
            command_line,
            start_time: process.start_time(),
            cpu_usage: process.cpu_usage(),
            memory_usage: process.memory(),
            executable_hash: None,
            hash_algorithm: None,
            user_id: process.user_id().map(|user| user.to_string()),
            accessible: path.is_some(),
            executable_path: path,
            file_exists,
        }
    }
}

/// Remembers the last reading.
pub(super) struct Reader {
    system: System,
    /// A pid is used again; with its start time it names one process.
    known: Option<HashMap<(u32, u64), Process>>,
}

impl Reader {
    /// Makes a reader that knows of no process.
    ///
    /// # Errors
    ///
    /// The operating system does not show its processes.
    pub(super) fn new() -> Result<Self, sysinfo::Error> {
        Ok(Self { system: System::new()?, known: None })
    }

    /// Looks again. Does file work: some milliseconds for hundreds of processes.
    pub(super) fn read(&mut self) -> Vec<(Sight, Process)> {
        let what = ProcessRefreshKind::nothing()
            // Threads are no processes.
            .without_tasks()
            .with_cpu()
            .with_memory()
            .with_cmd(UpdateKind::OnlyIfNotSet)
            .with_exe(UpdateKind::OnlyIfNotSet)
            .with_user(UpdateKind::OnlyIfNotSet);
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let first = self.known.is_none();
        let mut before = self.known.take().unwrap_or_default();
        let mut now = HashMap::with_capacity(before.len());
        let mut seen = Vec::with_capacity(before.len());
        for process in self.system.processes().values() {
            let key = (process.pid().as_u32(), process.start_time());
            let known = before.remove(&key);
            let process = Process::read(process, known.as_ref());
            if known.is_none() && !first {
                seen.push((Sight::Start, process.clone()));
            }
            seen.push((Sight::Metadata, process.clone()));
            now.insert(key, process);
        }
        seen.extend(before.into_values().map(|process| (Sight::Stop, process)));
        self.known = Some(now);
        seen
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_comes_and_goes_is_seen_to_start_and_stop() {
        let mut reader = Reader::new().unwrap();
        let own = std::process::id();
        let first = reader.read();
        assert!(first.iter().all(|(sight, _)| *sight == Sight::Metadata));
        assert!(first.iter().any(|(_, process)| process.pid == own && process.accessible));

        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let of = |seen: Vec<(Sight, Process)>, pid| -> Vec<Sight> {
            seen.into_iter().filter(|(_, process)| process.pid == pid).map(|(sight, _)| sight).collect()
        };
        assert_eq!(of(reader.read(), child.id()), [Sight::Start, Sight::Metadata]);
        assert_eq!(of(reader.read(), child.id()), [Sight::Metadata]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of(reader.read(), child.id()), [Sight::Stop]);
        assert_eq!(of(reader.read(), child.id()), []);
    }
}
