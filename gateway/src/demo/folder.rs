//! The folder in which a demo lives: certificates, settings, sockets, spools, logs.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// The folder. A temporary one is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
}

/// Longest path of a UNIX socket.
const MAX_SOCKET_PATH: usize = 107;

impl Folder {
    /// Makes a temporary folder, or the one that shall be kept, which must be empty or not there yet.
    pub(super) fn make(keep: Option<PathBuf>) -> Result<Self, FolderError> {
        let folder = match keep {
            None => {
                let parent = std::env::temp_dir();
                let temporary = tempfile::Builder::new().prefix("daemoneye-demo-").tempdir_in(&parent);
                let temporary = temporary.map_err(|source| FolderError::Make { path: parent, source })?;
                Self { path: temporary.path().to_owned(), temporary: Some(temporary) }
            }
            Some(path) => {
                // Absolute, because it is written into settings and links.
                let path = std::path::absolute(&path).map_err(|source| FolderError::Make { path, source })?;
                make_empty(&path)?;
                Self { path, temporary: None }
            }
        };
        let socket = folder.socket();
        let length = socket.as_os_str().as_bytes().len();
        if length > MAX_SOCKET_PATH {
            return Err(FolderError::TooLong { socket, length });
        }
        Ok(folder)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it stays when the demo is over.
    pub(super) const fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// The folder of certificates.
    pub(super) fn tls(&self) -> PathBuf {
        self.path.join("tls")
    }

    /// The gateway's socket for local bus clients.
    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("run").join("bus.sock")
    }

    /// The settings of a process.
    pub(super) fn settings(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.toml"))
    }

    /// The log of a process.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    /// Writes the settings of a process.
    pub(super) fn write_settings(
        &self,
        name: &str,
        settings: &serde_json::Value,
    ) -> Result<PathBuf, FolderError> {
        let path = self.settings(name);
        let written =
            toml::to_string(settings).map_err(io::Error::other).and_then(|text| fs::write(&path, text));
        match written {
            Ok(()) => Ok(path),
            Err(source) => Err(FolderError::Write { path, source }),
        }
    }
}

fn make_empty(path: &Path) -> Result<(), FolderError> {
    let failed = |source| FolderError::Make { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    match fs::read_dir(path).map_err(failed)?.next() {
        // Events that an earlier demo left in its spool would be counted in this one.
        Some(_) => Err(FolderError::NotEmpty { path: path.to_owned() }),
        None => Ok(()),
    }
}

/// A folder that cannot hold a demo.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It could not be made or looked into.
    #[error("could not make a folder for the demo in {}", path.display())]
    Make {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something is in it.
    #[error("the folder {} is not empty; name one that is empty or not there yet", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// A socket in it would have too long a path.
    #[error(
        "the socket path {} has {length} bytes and the operating system allows 107; \
         name a shorter folder with --keep", socket.display()
    )]
    TooLong {
        /// Of the socket.
        socket: PathBuf,
        /// Bytes of it.
        length: usize,
    },
    /// A file in it could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_kept_must_be_empty() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kept");
        let folder = Folder::make(Some(path.clone())).unwrap();
        let written = folder.write_settings("gateway", &serde_json::json!({"a": {"path": "x\"y"}})).unwrap();
        assert_eq!(fs::read_to_string(written).unwrap(), "[a]\npath = 'x\"y'\n");
        drop(folder);
        let error = Folder::make(Some(path.clone())).unwrap_err();
        assert!(matches!(error, FolderError::NotEmpty { .. }), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_folder_too_long_for_a_socket_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let error = Folder::make(Some(parent.path().join("x".repeat(90)))).unwrap_err();
        assert!(matches!(error, FolderError::TooLong { .. }), "{error}");
    }

    #[test]
    fn a_temporary_folder_goes_away() {
        let folder = Folder::make(None).unwrap();
        let path = folder.path().to_owned();
        assert!(path.is_dir() && !folder.is_kept());
        drop(folder);
        assert!(!path.exists());
    }
}
