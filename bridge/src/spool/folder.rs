//! The folder: whose it is, who may enter, what lies in it.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::Path,
};

use crate::{
    event::Seq,
    spool::{
        handle::{PerClass, SpoolError},
        segment,
    },
};

/// Name of the file that is locked as long as the spool is open.
const LOCK: &str = "lock";

/// What is in the folder beside segments.
const OTHERS: [&str; 5] = [LOCK, "streams.meta", "streams.tmp", "dead-letters.jsonl", "dead-letters.1.jsonl"];

/// Makes the folder if it is not there, checks that it is closed to others, and takes it for this process.
///
/// The lock ends with the process, however it ends.
pub(super) fn take(directory: &Path) -> Result<File, SpoolError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(SpoolError::io("create the spool directory", directory))?;
    check_closed(directory)?;
    let path = directory.join(LOCK);
    let lock = private().write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(SpoolError::io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(SpoolError::io("lock", &path)(error)),
    }
}

/// Closes an empty folder to others, and refuses any other that is open to them: its mode may be meant for what is in it.
#[cfg(unix)]
fn check_closed(directory: &Path) -> Result<(), SpoolError> {
    use std::os::unix::fs::PermissionsExt as _;

    let failed = || SpoolError::io("examine", directory);
    let mode = fs::metadata(directory).map_err(failed())?.permissions().mode() & 0o7777;
    if mode & OTHERS_MAY == 0 {
        return Ok(());
    }
    let shared = mode & STICKY != 0 || fs::read_dir(directory).map_err(failed())?.next().is_some();
    if shared || fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).is_err() {
        return Err(SpoolError::OpenToOthers { directory: directory.to_owned(), mode });
    }
    Ok(())
}

/// What group and others may do.
#[cfg(unix)]
const OTHERS_MAY: u32 = 0o077;

/// The bit of folders that are for everybody.
#[cfg(unix)]
const STICKY: u32 = 0o1000;

#[cfg(not(unix))]
fn check_closed(_directory: &Path) -> Result<(), SpoolError> {
    Ok(())
}

/// How files are made that nobody else may read.
pub(super) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there is no mode to set"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the names in the folder durable.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// The segments in the folder: first number and size, ascending. Files that are not ours are left alone and named in the log.
pub(super) fn segments(directory: &Path) -> Result<PerClass<BTreeMap<Seq, u64>>, SpoolError> {
    let mut found = PerClass::<BTreeMap<Seq, u64>>::default();
    let failed = || SpoolError::io("list", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let metadata = entry.metadata().map_err(SpoolError::io("examine", &entry.path()))?;
        let name = entry.file_name();
        let segment = name.to_str().and_then(segment::parse_name).filter(|_| metadata.is_file());
        if let Some((class, first)) = segment {
            found.of_mut(class).insert(first, metadata.len());
        } else if !OTHERS.iter().any(|known| name == *known) {
            tracing::warn!(file = %entry.path().display(), "file in the spool directory is not of the spool");
        }
    }
    Ok(found)
}

/// Removes a file of which nothing counts any more; where that fails it is looked at again at the next start.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(file = %path.display(), %error, "could not remove a file of the spool"),
    }
}
