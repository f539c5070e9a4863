//! The real programs as processes: started, told to stop, killed, and read.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::within;

/// A program under test. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `exe` with `args`; what it prints goes to a new file in `folder`.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(exe: &str, args: &[&str], folder: &Path) -> Self {
        let name = Path::new(exe).file_name().and_then(|name| name.to_str()).unwrap_or("program");
        let log = (0..1_000_u32)
            .map(|n| folder.join(format!("{name}.{n}.log")))
            .find(|path| !path.exists())
            .expect("a name is free");
        let out = File::create(&log).expect("the log can be made");
        let err = out.try_clone().expect("the log can be shared");
        let child = Command::new(exe)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {exe}: {error}"));
        Self { child, log }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    ///
    /// If the system will not.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to stop, as a service manager does.
    ///
    /// # Panics
    ///
    /// If the signal cannot be sent.
    pub fn terminate(&self) {
        signal("TERM", self.id()).expect("a child can be signalled");
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it has not ended within `bound`.
    pub async fn ended(&mut self, bound: Duration) -> ExitStatus {
        let mut status = None;
        within(bound, "the program ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        })
        .await;
        status.expect("it has ended")
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
    }
}

/// Sends a signal by name, with the system's own program, as `unsafe` code is not ours to write.
///
/// # Errors
///
/// If there is no such process.
pub fn signal(name: &str, process: u32) -> io::Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -{name} {process}: {status}"))) }
}

/// Resident memory of a process, in bytes; 0 if it is gone.
pub fn resident(process: u32) -> u64 {
    status(process, "VmRSS:")
}

/// The most that was ever resident of a process, in bytes; 0 if it is gone.
pub fn most_resident(process: u32) -> u64 {
    status(process, "VmHWM:")
}

fn status(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
