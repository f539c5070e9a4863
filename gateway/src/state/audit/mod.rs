//! The audit: who changed what, in a chain that nobody can edit unseen.
//!
//! Turns each change of what the gateway enforces into a line of JSON in `audit.jsonl`, flushed to the disk before the change
//! takes effect. Each entry holds the hash of the one before it (BLAKE3), so that an edited, removed or inserted line breaks
//! the chain at its place; that the end was cut off is found by who keeps a [`Head`] elsewhere.
//!
//! Kept true: what was appended is on the disk, in the file that has the name; what could not be appended leaves no trace in
//! it, and who wanted the change is refused.

mod entry;
mod health;
mod verify;

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::watch;

use self::entry::Line;
pub use self::{
    entry::{Action, Head},
    verify::{Break, Flaw, Verified, verify},
};
use crate::snapshot::{Timestamp, Trouble};

/// Where changes are recorded. Cheap to clone; clones write one after the other.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Held while a line is written, so that lines follow each other as their hashes say.
    writer: Mutex<Writer>,
    /// Why nothing can be written, as far as is known, and since when.
    trouble: watch::Sender<Option<Trouble>>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    /// Bytes of whole entries: what lies behind is what a failed write left.
    length: u64,
    /// Whether something may lie behind.
    torn: bool,
    head: Head,
    /// Entries that could not be written since the last one that tells of them.
    missed: u64,
}

/// Name of the file in the state folder.
const NAME: &str = "audit.jsonl";

impl Audit {
    /// Opens the audit in `directory`, which must be there, or begins one. What a crash left of an entry that it cut short is
    /// removed, and that is recorded: its change was never made. Blocking.
    ///
    /// # Errors
    ///
    /// [`AuditError`] names the file and a remedy.
    pub fn open(directory: &Path) -> Result<Self, AuditError> {
        let path = directory.join(NAME);
        let failed = |source| AuditError::Write { path: path.clone(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        // A file whose name is not on the disk is not there after a crash.
        File::open(directory).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let (mut writer, torn) = Writer::resume(file, &path)?;
        let audit = |writer| {
            let (writer, trouble) = (Mutex::new(writer), watch::Sender::default());
            Self(Arc::new(Inner { path: path.clone(), writer, trouble }))
        };
        if torn == 0 {
            return Ok(audit(writer));
        }
        writer.torn = true;
        let audit = audit(writer);
        audit.append("gateway", Action::AuditRecovered, &Recovered { bytes: torn })?;
        Ok(audit)
    }

    /// Records a change; when this returns, it is on the disk. Blocking.
    ///
    /// # Errors
    ///
    /// [`AuditError`]: the change must not be made.
    pub fn append(&self, actor: &str, action: Action, payload: &impl Serialize) -> Result<Head, AuditError> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.0.path;
        let line = Line::new(writer.head, Timestamp::now(), actor, action, payload)
            .map_err(|source| AuditError::Payload { action, source })?;
        let written = writer.put(&line, path);
        if written.is_err() {
            writer.missed = writer.missed.saturating_add(1);
        }
        let head = writer.head;
        // In the order of the tries.
        self.note(written.as_ref().err());
        drop(writer);
        written.map(|()| head)
    }

    /// The last entry, for who keeps it elsewhere.
    #[must_use]
    pub fn head(&self) -> Head {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).head
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

/// What is recorded of an entry that was cut short.
#[derive(Serialize)]
struct Recovered {
    bytes: u64,
}

impl Writer {
    /// Goes on behind the last whole entry; says how many bytes lie behind it. An entry that lacks nothing but its end of
    /// line is whole, and is given that.
    fn resume(mut file: File, path: &Path) -> Result<(Self, u64), AuditError> {
        let failed = |source| AuditError::Read { path: path.to_owned(), source };
        let all = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let from = all.saturating_sub(TAIL);
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let mut tail = Vec::new();
        (&file).take(TAIL).read_to_end(&mut tail).map_err(failed)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end.saturating_add(1));
        let torn = u64::try_from(tail.len().saturating_sub(whole)).unwrap_or(u64::MAX);
        let lines = tail.get(..whole).unwrap_or_default().strip_suffix(b"\n").unwrap_or_default();
        let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let head = if all == torn {
            Head::default()
        } else {
            entry::read(last).map_err(|flaw| AuditError::Broken { path: path.to_owned(), flaw })?.head
        };
        let last = entry::read(tail.get(whole..).unwrap_or_default());
        if let Some(last) = last.ok().filter(|last| last.follows(head)) {
            (&file).write_all(b"\n").and_then(|()| file.sync_data()).map_err(failed)?;
            return Ok((
                Self { file, length: all.saturating_add(1), torn: false, head: last.head, missed: 0 },
                0,
            ));
        }
        let length = all.saturating_sub(torn);
        Ok((Self { file, length, torn: false, head, missed: 0 }, torn))
    }

    /// Whether the file that has the name is still the one that is written, and is as it was left.
    fn look(&self, path: &Path) -> Result<(), AuditError> {
        let failed = |source| AuditError::Read { path: path.to_owned(), source };
        let own = self.file.metadata().map_err(failed)?;
        match fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => return Err(AuditError::Replaced { path: path.to_owned() }),
        }
        // Behind what a failed write left, more than our own may lie.
        if own.len() == self.length || (self.torn && own.len() > self.length) {
            return Ok(());
        }
        Err(AuditError::Changed { path: path.to_owned(), found: own.len(), expected: self.length })
    }

    fn put(&mut self, line: &Line, path: &Path) -> Result<(), AuditError> {
        self.look(path)?;
        self.write(line).map_err(|source| AuditError::Write { path: path.to_owned(), source })
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        let written = self.file.write_all(&line.bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is there of it must not stand before the next entry; if it cannot be removed now, then later.
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length = self.length.saturating_add(u64::try_from(line.bytes.len()).unwrap_or(u64::MAX));
        self.head = line.head;
        Ok(())
    }
}

/// More than the longest line.
const TAIL: u64 = 128 << 10;

/// Why a change could not be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file's last entry is none.
    #[error(
        "audit {} does not end in an entry; look at it with `audit verify`, and move it away to begin another",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        flaw: Flaw,
    },
    /// Somebody else wrote to the file, or cut it off.
    #[error(
        "audit {} has {found} bytes where the gateway left {expected}, so the change is refused; look at it with `audit verify`, and restart the gateway once it is as it should be",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// How long it is.
        found: u64,
        /// How long it should be.
        expected: u64,
    },
    /// What was to be recorded cannot be.
    #[error("could not write down {action} for the audit")]
    Payload {
        /// What was to be done.
        action: Action,
        /// Why.
        #[source]
        source: entry::PayloadError,
    },
    /// The file cannot be read.
    #[error("could not read audit {}; it must be readable and writable by the gateway's user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is gone, or another has its name.
    #[error(
        "audit {} was deleted or replaced while the gateway ran, so the change is refused; put it back, or restart the gateway to begin another",
        path.display()
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("could not write audit {}, so the change is refused; free space or repair the disk", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
