//! Certificates and keys as files.
//!
//! A key is `0600` from its first byte, its folder `0700`. A file appears whole or not at all, so that a process which
//! watches it never reads half of one; and once it was written, no power cut takes it back.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::pki::{Authority, Certificate};

/// Where a certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Writes `<stem>.crt` and `<stem>.key` into `folder`, which is made if it is not there. What was there is replaced.
///
/// # Errors
///
/// [`FileError`] names the path.
pub fn write_certificate(folder: &Path, stem: &str, certificate: &Certificate) -> Result<Files, FileError> {
    make_private(folder)?;
    let files =
        Files { certificate: folder.join(format!("{stem}.crt")), key: folder.join(format!("{stem}.key")) };
    write(&files.key, certificate.key_pem(), 0o600)?;
    write(&files.certificate, &certificate.chain_pem(), 0o644)?;
    Ok(files)
}

/// Writes the root that `authority` stands below as `<stem>.crt` into `folder`.
///
/// # Errors
///
/// [`FileError`] names the path.
pub fn write_authority(folder: &Path, stem: &str, authority: &Authority) -> Result<PathBuf, FileError> {
    make_private(folder)?;
    let path = folder.join(format!("{stem}.crt"));
    write(&path, authority.root_pem(), 0o644)?;
    Ok(path)
}

pub(super) fn make_private(folder: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let made = made.and_then(|()| sync(folder.parent()));
    made.map_err(|source| FileError { path: folder.to_owned(), source })
}

/// A name is on the disk when its folder is.
fn sync(folder: Option<&Path>) -> io::Result<()> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let whole = |path: &Path| -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        // What a process that died here has left; its mode may be another.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        // A rename may reach the disk before what was written, and the name would lead to half a file.
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync(path.parent())
    };
    whole(path).map_err(|source| FileError { path: path.to_owned(), source })
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}", path.display())]
pub struct FileError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pki::Leaf;

    #[test]
    fn a_key_is_for_its_owner_only_and_can_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let tls = folder.path().join("tls");
        let authority = Authority::root("root").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let first = authority.issue(&Leaf::server("gateway")).unwrap();
        let files = write_certificate(&tls, "gateway", &first).unwrap();
        assert_eq!((mode(&files.key), mode(&tls)), (0o600, 0o700));
        let second = authority.issue(&Leaf::server("gateway")).unwrap();
        assert_eq!(write_certificate(&tls, "gateway", &second).unwrap(), files);
        assert_eq!(fs::read_to_string(&files.key).unwrap(), second.key_pem());
        assert_eq!(fs::read_to_string(&files.certificate).unwrap(), second.chain_pem());
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(fs::read_dir(&tls).unwrap().count(), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let authority = Authority::root("root").unwrap();
        let error = write_authority(&file.join("tls"), "ca", &authority).unwrap_err();
        assert!(error.to_string().ends_with("/file/tls"), "{error}");
    }
}
