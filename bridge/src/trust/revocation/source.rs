//! Where revocation lists lie, and how they are read.
//!
//! Kept true: no file is read beyond [`MAX_BYTES`]; a file that holds no list is an error, a folder without files is not.

use std::{
    fmt, fs,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use hyper::Uri;

use crate::trust::{
    certificate::{hex, sha256},
    pem,
    revocation::Config,
};

/// Most bytes of a file of lists: some 1.5 million entries.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Most files of a folder.
const MAX_FILES: usize = 1024;

/// Where lists lie: a file, a folder of `*.crl`, `*.der` and `*.pem` files, or an `http://` URL. PEM or DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or a folder.
    Path(PathBuf),
    /// A URL that is fetched again and again.
    Url(Uri),
}

impl Source {
    /// Where the last good copy of what a URL gave is kept; `None` for what lies in files.
    pub(super) fn copy(&self, directory: &Path) -> Option<PathBuf> {
        match self {
            Self::Path(_) => None,
            Self::Url(url) => {
                let name = hex(&sha256(url.to_string().as_bytes()));
                Some(directory.join(format!("{}.crl", name.get(..32)?)))
            }
        }
    }

    /// The files that it consists of now.
    pub(super) fn files(&self, directory: &Path) -> Result<Vec<PathBuf>, SourceError> {
        match self {
            Self::Path(path) if path.is_dir() => listing(path),
            Self::Path(path) => Ok(vec![path.clone()]),
            Self::Url(_) => {
                let both = self.copy(directory).map(|copy| [copy.clone(), beside(&copy)]);
                Ok(both.into_iter().flatten().filter(|file| file.exists()).collect())
            }
        }
    }
}

impl Config {
    /// Every file whose change may mean other lists or rules, in a fixed order; what cannot be listed is left out.
    pub(in crate::trust) fn files(&self) -> Vec<PathBuf> {
        let lists = self.sources.iter().flat_map(|source| source.files(&self.directory).unwrap_or_default());
        lists.chain(self.issuers.iter().map(|rule| rule.issuer_file.clone())).collect()
    }
}

/// Where lists that were fetched lie while nobody known has signed them.
pub(super) fn beside(copy: &Path) -> PathBuf {
    copy.with_extension("new.crl")
}

/// A folder's files in the order of their names. What Kubernetes adds (`..data`) and hidden files are passed over.
fn listing(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let read = |source| SourceError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let kind = path.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(kind, Some("crl" | "der" | "pem")) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(SourceError::Crowded { path: folder.to_owned() });
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The lists in a file, DER.
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u8>>, SourceError> {
    let fault = |source| SourceError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fault)?;
    file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SourceError::TooLong { path: path.to_owned() });
    }
    lists(bytes).ok_or_else(|| SourceError::NoList { path: path.to_owned() })
}

/// The lists in `bytes`: one as DER, or any number as PEM; `None` if there is none, or broken PEM.
pub(super) fn lists(bytes: Vec<u8>) -> Option<Vec<Vec<u8>>> {
    // Every list is a SEQUENCE, and PEM begins with a text.
    let lists = if bytes.first() == Some(&0x30) { vec![bytes] } else { pem::lists(&bytes).ok()? };
    Some(lists).filter(|lists| !lists.is_empty())
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if !text.contains("://") {
            return Ok(Self::Path(text.into()));
        }
        let refuse = || SourceError::Url { url: text.chars().take(256).collect() };
        let url: Uri = text.parse().map_err(|_| refuse())?;
        let plain = url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty());
        let anonymous = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if plain && anonymous { Ok(Self::Url(url)) } else { Err(refuse()) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why lists could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Too many files in a folder.
    #[error("folder {} holds more than {MAX_FILES} revocation lists: put those of one issuer into one file", path.display())]
    Crowded {
        /// Which folder.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{} holds no revocation list: it must be DER, or PEM with BEGIN X509 CRL", path.display())]
    NoList {
        /// Which file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("could not read {}: check that it exists and that this user may read it", path.display())]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is too long.
    #[error("{} is longer than {MAX_BYTES} bytes: is it the right file?", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// Not a URL that is fetched.
    #[error(
        "{url:?} is no http:// URL: lists are signed, so they are fetched without TLS and without a password"
    )]
    Url {
        /// What stands there.
        url: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_are_taken() {
        assert!(matches!("/etc/crl.pem".parse(), Ok(Source::Path(_))));
        assert!(matches!("http://pki.example.com:8080/a.crl".parse(), Ok(Source::Url(_))));
        for text in ["https://pki.example.com/a.crl", "ftp://x/y", "http://", "http://me:secret@host/a.crl"] {
            assert!(text.parse::<Source>().unwrap_err().to_string().contains("no http:// URL"), "{text}");
        }
    }

    #[test]
    fn what_holds_no_list_is_told_from_what_does() {
        assert!(lists(Vec::new()).is_none());
        assert!(lists(b"\n".to_vec()).is_none());
        assert!(lists(b"-----BEGIN X509 CRL-----\n!!\n-----END X509 CRL-----\n".to_vec()).is_none());
        assert_eq!(lists(vec![0x30, 0]), Some(vec![vec![0x30, 0]]));
    }
}
