//! Follows the chain from its first entry to its last, and says where it breaks.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use crate::state::audit::{Head, entry};

/// Follows the chain in `file`. Blocking: it reads the whole file, in constant memory.
///
/// # Errors
///
/// [`Break`] says at which line it breaks first, and how.
pub fn verify(file: &Path) -> Result<Verified, Break> {
    let unreadable = |source| Break::Read { path: file.to_owned(), source };
    let mut lines = BufReader::new(File::open(file).map_err(unreadable)?);
    let mut head = Head::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut lines).take(LONGEST).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        let broken = |flaw| Break::At { line: number, flaw };
        head = match line.strip_suffix(b"\n") {
            Some(whole) => follow(head, whole).map_err(broken)?,
            // Only the end of the line may be missing.
            None => follow(head, &line).map_err(|_| broken(Flaw::Torn))?,
        };
    }
    Ok(Verified { head })
}

fn follow(before: Head, line: &[u8]) -> Result<Head, Flaw> {
    let entry = entry::read(line)?;
    let expected = before.sequence.saturating_add(1);
    if entry.head.sequence != expected {
        return Err(Flaw::Sequence { expected, found: entry.head.sequence });
    }
    if entry.previous != before.hex() {
        return Err(Flaw::Previous);
    }
    Ok(entry.head)
}

/// More than the longest line.
const LONGEST: u64 = 1 << 20;

/// A chain that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its end, to be compared with one that was kept elsewhere: nothing else tells that the end was cut off.
    pub head: Head,
}

/// Where a chain breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Break {
    /// At a line.
    #[error("the audit breaks at line {line}")]
    At {
        /// Counted from 1.
        line: u64,
        /// How.
        #[source]
        flaw: Flaw,
    },
    /// The file cannot be read.
    #[error("could not read audit {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// It was edited.
    #[error("the entry's hash is not that of its content: it was edited")]
    Entry,
    /// Its payload was edited.
    #[error("the payload's hash is not that of the payload: it was edited")]
    Payload,
    /// The entry before it is another than it says.
    #[error("the entry before it is not the one that it follows: that one was replaced")]
    Previous,
    /// Entries are missing, or too many.
    #[error("entry {found} stands where {expected} should: entries were removed, inserted or moved")]
    Sequence {
        /// The number that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// The last line has no end.
    #[error("the line was cut short; the gateway removes it at its next start, if it is the last")]
    Torn,
    /// It is no entry.
    #[error("it is no entry")]
    Unreadable,
}
