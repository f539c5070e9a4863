//! The place of the socket in the file system: folder, permissions, what an earlier process left.
//!
//! Kept true: a socket that somebody answers on is never taken away, and of two processes that start at once one is told
//! that the other has the place.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use crate::settings::FileMode;

/// Most bytes of a socket's path: `sun_path` has 108 with the final zero.
pub const PATH_BYTES: usize = 107;

/// A socket of ours in the file system. Dropping it takes the socket away.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and inode, to know the socket for ours.
    file: (u64, u64),
    /// Our own user, the owner of what we made.
    owner: u32,
    /// Held for as long as the socket is ours.
    _lock: File,
}

impl Place {
    /// Makes the folder if there is none, clears away a socket that nobody answers on, and listens. Needs a tokio runtime.
    ///
    /// `folder` are the permissions of a folder that has to be made, `file` those of the socket.
    ///
    /// # Errors
    ///
    /// [`DoorError`] says which path is in the way, and of what.
    pub fn take(path: &Path, folder: FileMode, file: FileMode) -> Result<(Self, UnixListener), DoorError> {
        let length = path.as_os_str().len();
        if length > PATH_BYTES {
            return Err(DoorError::TooLong { path: path.to_owned(), length });
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        prepare_folder(parent.unwrap_or_else(|| Path::new(".")), folder)?;
        let lock = lock(path)?;
        clear(path)?;
        let failed = |source| DoorError::Bind { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(file.bits())).map_err(failed)?;
        let made = fs::symlink_metadata(path).map_err(failed)?;
        let place =
            Self { path: path.to_owned(), file: (made.dev(), made.ino()), owner: made.uid(), _lock: lock };
        Ok((place, listener))
    }

    /// The user that this process acts as.
    #[must_use]
    pub const fn owner(&self) -> u32 {
        self.owner
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = |found: &fs::Metadata| (found.dev(), found.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found))
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "socket not removed");
        }
    }
}

/// Makes the folder, or looks whether the one that is there can be trusted.
fn prepare_folder(folder: &Path, mode: FileMode) -> Result<(), DoorError> {
    let failed = |source| DoorError::Folder { path: folder.to_owned(), source };
    match fs::metadata(folder) {
        Ok(found) => {
            let open = found.permissions().mode() & 0o777 & !mode.bits();
            if open & 0o022 != 0 {
                return Err(DoorError::OpenFolder {
                    path: folder.to_owned(),
                    found: FileMode::new(found.permissions().mode()),
                    wanted: mode,
                });
            }
            if open != 0 {
                let found = FileMode::new(found.permissions().mode());
                tracing::debug!(path = %folder.display(), %found, wanted = %mode, "socket folder is open to readers");
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(mode.bits()).create(folder).map_err(failed)?;
            // Not left to the umask.
            fs::set_permissions(folder, Permissions::from_mode(mode.bits())).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Locks the place, so that nobody clears away what another has just made.
fn lock(path: &Path) -> Result<File, DoorError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |source| DoorError::Lock { path: name.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(failed)?;
    fs::set_permissions(&name, Permissions::from_mode(0o600)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DoorError::Busy { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Removes a socket that nobody answers on.
fn clear(path: &Path) -> Result<(), DoorError> {
    let failed = |source| DoorError::Clear { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(DoorError::NotASocket { path: path.to_owned() }),
        Ok(_) if is_answered(path).map_err(failed)? => Err(DoorError::Busy { path: path.to_owned() }),
        Ok(_) => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Whether a process has the socket open.
fn is_answered(path: &Path) -> io::Result<bool> {
    // A datagram socket cannot connect to a stream socket, so this never blocks on a full backlog nor costs its owner a
    // connection: refused says that nobody is there, any other word that somebody is.
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(true),
    }
}

/// Why the socket cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    /// The socket could not be made.
    #[error("could not make socket {}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("socket {} is in use by another process; stop it or choose another socket_path", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// What an earlier process left could not be removed.
    #[error("could not clear away what is at {}", path.display())]
    Clear {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder could not be made or looked at.
    #[error("could not prepare the socket's folder {}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock beside the socket could not be taken.
    #[error("could not lock {}", path.display())]
    Lock {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Clients that are to be sent away would never be.
    #[error(
        "slow_reader_timeout = \"0s\" lets clients whose slow_reader is \"disconnect\" be slow for ever; set a time, or \
         slow_reader = \"block\" for all of them"
    )]
    NeverSentAway,
    /// Something else is there.
    #[error("{} is not a socket; move it away or choose another socket_path", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// Others could put a socket of theirs in its place.
    #[error(
        "the socket's folder {} has permissions {found} where at most {wanted} are wanted, so that others could replace the \
         socket; name a folder that does not exist yet, or take the permissions away",
        path.display()
    )]
    OpenFolder {
        /// Which folder.
        path: PathBuf,
        /// What it has.
        found: FileMode,
        /// What it may have.
        wanted: FileMode,
    },
    /// The operating system takes no path as long.
    #[error("socket path {} has {length} bytes; at most 107 are possible", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// How long.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: FileMode = FileMode::new(0o700);
    const FILE: FileMode = FileMode::new(0o600);

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn folder_and_socket_are_for_their_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/er/broker.sock");
        let (place, _listener) = Place::take(&path, FOLDER, FILE).unwrap();
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        drop(place);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_somebody_answers_on_stays_and_a_dead_one_goes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("broker.sock");
        let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let refused = Place::take(&path, FOLDER, FILE);
        assert!(matches!(refused, Err(DoorError::Busy { .. })), "{refused:?}");
        drop(foreign);
        assert!(path.exists(), "left behind as after a kill");
        let (_first, _listener) = Place::take(&path, FOLDER, FILE).unwrap();
        let second = Place::take(&path, FOLDER, FILE);
        assert!(matches!(second, Err(DoorError::Busy { .. })), "{second:?}");
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("x".repeat(PATH_BYTES));
        let error = Place::take(&long, FOLDER, FILE).unwrap_err().to_string();
        assert!(error.contains("107"), "{error}");
        let file = root.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(Place::take(&file, FOLDER, FILE), Err(DoorError::NotASocket { .. })));
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        fs::set_permissions(root.path(), Permissions::from_mode(0o777)).unwrap();
        let open = Place::take(&root.path().join("s"), FOLDER, FILE);
        assert!(matches!(open, Err(DoorError::OpenFolder { .. })), "{open:?}");
    }

    #[tokio::test]
    async fn a_socket_that_is_no_longer_ours_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("broker.sock");
        let (place, _listener) = Place::take(&path, FOLDER, FILE).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(place);
        assert!(path.exists());
    }
}
