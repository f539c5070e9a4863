//! A small PKI in a folder: a root, an intermediate, what they issued, and their revocation lists.
//!
//! ```text
//! root.crt  root.key      the anchor; `ca_file` of gateways and collectors
//! issuer.crt  issuer.key  the intermediate, which issues everything else
//! crl/root.crl  crl/issuer.crl
//! servers/NAME.{crt,key}  collectors/SITE/NAME.{crt,key}      chains, leaf first, and keys
//! index.json              what was issued, with serial numbers
//! ```
//!
//! Kept true: what is issued stands in the index before it exists, so that it can always be revoked; nothing is overwritten
//! but by a renewal; keys are `0600`; one process at a time changes a folder.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use daemoneye_bridge::topic::is_segment;
use time::{Duration, OffsetDateTime};

use crate::pki::{
    Authority, Entry, FileError, Files, Kind, PkiError, Reason, Validity, files,
    index::{Index, Root, to_hex},
};

/// What a new PKI shall be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Beginning of the names of its authorities.
    pub name: String,
    /// Trust domain of the collectors' SPIFFE URIs.
    pub trust_domain: String,
    /// Domain of the collectors' DNS names.
    pub dns_domain: String,
}

/// A certificate that has just been issued, and where it lies.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What stands in the index.
    pub entry: Entry,
    /// Where certificate and key are.
    pub files: Files,
}

/// A development PKI in a folder; locked for as long as it is open.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    index: Index,
    root: Authority,
    issuer: Authority,
    _lock: File,
}

impl Folder {
    /// Makes a root that lasts a year, an intermediate that lasts half of it, and their revocation lists, valid for `crl`.
    ///
    /// # Errors
    ///
    /// [`FolderError::NotEmpty`] if anything is there already; else what could not be made or written.
    pub fn init(path: &Path, plan: &Plan, crl: Duration) -> Result<Self, FolderError> {
        files::make_private(path)?;
        let mut there = fs::read_dir(path).map_err(|source| FolderError::read(path, source))?;
        if there.next().is_some() {
            return Err(FolderError::NotEmpty { path: path.to_owned() });
        }
        let lock = lock(path)?;
        let (root_validity, validity) = (Validity::days(365), Validity::days(182));
        let (root_name, name) = (format!("{} root", plan.name), format!("{} issuer", plan.name));
        let root = Authority::root_valid(&root_name, root_validity)?;
        let (issuer, serial) = root.certify(&name, validity)?;
        for (stem, authority) in [(ROOT, &root), (ISSUER, &issuer)] {
            files::write(&path.join(format!("{stem}.key")), &authority.key_pem(), 0o600)?;
            files::write(&path.join(format!("{stem}.crt")), authority.own_pem(), 0o644)?;
        }
        let entry = Entry {
            serial: to_hex(serial.as_ref()),
            kind: Kind::Authority,
            name,
            dns: Vec::new(),
            ips: Vec::new(),
            uris: Vec::new(),
            not_after: validity.until,
            revoked: None,
        };
        let index = Index {
            trust_domain: plan.trust_domain.clone(),
            dns_domain: plan.dns_domain.clone(),
            crl_number: 0,
            root: Root { name: root_name, not_after: root_validity.until },
            issued: vec![entry],
        };
        let mut folder = Self { path: path.to_owned(), index, root, issuer, _lock: lock };
        folder.write_crls(crl)?;
        Ok(folder)
    }

    /// Opens one that was made earlier.
    ///
    /// # Errors
    ///
    /// [`FolderError`] names the file that could not be read, or says that another process is at work here.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let read = |name: &str| {
            let path = path.join(name);
            fs::read_to_string(&path).map_err(|source| FolderError::read(&path, source))
        };
        // Before the lock, which would be made in any folder.
        read(INDEX)?;
        let lock = lock(path)?;
        let index: Index = serde_json::from_str(&read(INDEX)?)
            .map_err(|source| FolderError::Index { path: path.join(INDEX), source })?;
        let issuer_name = index.issued.iter().find(|entry| entry.kind == Kind::Authority);
        let issuer_name = issuer_name.map_or("", |entry| &entry.name);
        let [root, issuer] = [read("root.crt")?, read("issuer.crt")?];
        let [root_key, issuer_key] = [read("root.key")?, read("issuer.key")?];
        let issuer = Authority::restore(issuer_name, &issuer_key, root.clone(), vec![issuer])?;
        let root = Authority::restore(&index.root.name, &root_key, root, Vec::new())?;
        Ok(Self { path: path.to_owned(), index, root, issuer, _lock: lock })
    }

    /// Where the anchor is, for `ca_file`.
    #[must_use]
    pub fn anchor(&self) -> PathBuf {
        self.path.join("root.crt")
    }

    /// Where the revocation lists are.
    #[must_use]
    pub fn crls(&self) -> [PathBuf; 2] {
        [ROOT, ISSUER].map(|stem| self.path.join("crl").join(format!("{stem}.crl")))
    }

    /// Trust domain of the collectors' SPIFFE URIs.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.index.trust_domain
    }

    /// All that was issued, the oldest first.
    #[must_use]
    pub fn issued(&self) -> &[Entry] {
        &self.index.issued
    }

    /// Issues a certificate for a gateway.
    ///
    /// # Errors
    ///
    /// [`FolderError`], if the name is none or taken, or something could not be made or written.
    pub fn issue_server(
        &mut self,
        name: &str,
        dns: Vec<String>,
        ips: Vec<IpAddr>,
        lifetime: Duration,
    ) -> Result<Issued, FolderError> {
        if !is_part(name) {
            return Err(FolderError::Name { name: name.to_owned() });
        }
        self.issue_new(Kind::Server, name, (dns, ips, Vec::new()), lifetime)
    }

    /// Issues a certificate for the collector `<site>/<name>`, with a SPIFFE URI and a DNS name.
    ///
    /// # Errors
    ///
    /// [`FolderError`], if the name is none or taken, or something could not be made or written.
    pub fn issue_collector(&mut self, id: &str, lifetime: Duration) -> Result<Issued, FolderError> {
        let parts = id.split_once('/').filter(|(site, name)| is_part(site) && is_part(name));
        let Some((site, name)) = parts else { return Err(FolderError::Name { name: id.to_owned() }) };
        let uri = format!("spiffe://{}/site/{site}/collector/{name}", self.index.trust_domain);
        let dns = format!("{name}.{site}.{}", self.index.dns_domain);
        self.issue_new(Kind::Collector, id, (vec![dns], Vec::new(), vec![uri]), lifetime)
    }

    /// Issues another certificate, with a new key, in place of the newest of a name. The old one stays valid.
    ///
    /// # Errors
    ///
    /// [`FolderError::Unknown`], or what could not be made or written.
    pub fn renew(&mut self, name: &str, lifetime: Duration) -> Result<Issued, FolderError> {
        let old = self.index.newest(name).filter(|entry| entry.kind != Kind::Authority);
        let old = old.cloned().ok_or_else(|| FolderError::Unknown { what: name.to_owned() })?;
        self.sign(Entry { revoked: None, ..old }, lifetime)
    }

    /// Revokes all certificates of a name, or the one of a serial number, and writes the lists; returns how many it were.
    ///
    /// # Errors
    ///
    /// [`FolderError::Unknown`] if none is in force, or what could not be written.
    pub fn revoke(&mut self, what: &str, reason: Reason, crl: Duration) -> Result<usize, FolderError> {
        match self.index.revoke(what, reason, OffsetDateTime::now_utc()) {
            0 => Err(FolderError::Unknown { what: what.to_owned() }),
            revoked => {
                self.write_crls(crl)?;
                Ok(revoked)
            }
        }
    }

    /// Writes new revocation lists, with the next number, that are valid for `lifetime`; returns that number.
    ///
    /// # Errors
    ///
    /// [`FolderError`] names what could not be made or written.
    pub fn write_crls(&mut self, lifetime: Duration) -> Result<u64, FolderError> {
        self.index.crl_number = self.index.crl_number.saturating_add(1);
        // A number that was used and not published does no harm; one that is used twice does.
        self.save()?;
        let (number, validity) = (self.index.crl_number, Validity::lasting(lifetime));
        let is_authority = |kind| kind == Kind::Authority;
        let of_root = self.root.crl(number, validity, &self.index.revoked(is_authority))?;
        let of_issuer = self.issuer.crl(number, validity, &self.index.revoked(|kind| !is_authority(kind)))?;
        files::make_private(&self.path.join("crl"))?;
        for (path, text) in self.crls().iter().zip([of_root, of_issuer]) {
            files::write(path, &text, 0o644)?;
        }
        Ok(number)
    }

    fn issue_new(
        &mut self,
        kind: Kind,
        name: &str,
        (dns, ips, uris): (Vec<String>, Vec<IpAddr>, Vec<String>),
        lifetime: Duration,
    ) -> Result<Issued, FolderError> {
        let taken = self.index.issued.iter().any(|entry| entry.name == name);
        if taken || self.files(kind, name).certificate.exists() {
            return Err(FolderError::Exists { name: name.to_owned() });
        }
        let not_after = OffsetDateTime::now_utc();
        let entry = Entry {
            serial: String::new(),
            kind,
            name: name.to_owned(),
            dns,
            ips,
            uris,
            not_after,
            revoked: None,
        };
        self.sign(entry, lifetime)
    }

    /// Makes the certificate that `entry` describes, whose serial number and end it sets.
    fn sign(&mut self, mut entry: Entry, lifetime: Duration) -> Result<Issued, FolderError> {
        let validity = Validity::lasting(lifetime);
        let last = self.index.issued.iter().find(|entry| entry.kind == Kind::Authority);
        if let Some(last) = last.filter(|last| validity.until > last.not_after) {
            return Err(FolderError::TooLong { not_after: last.not_after });
        }
        let certificate = self.issuer.issue(&entry.profile(validity))?;
        entry.serial = to_hex(certificate.serial());
        entry.not_after = validity.until;
        self.index.issued.push(entry.clone());
        self.save()?;
        let files = self.files(entry.kind, &entry.name);
        let (folder, stem) = place(&files.certificate);
        let files = files::write_certificate(&folder, &stem, &certificate)?;
        Ok(Issued { entry, files })
    }

    fn files(&self, kind: Kind, name: &str) -> Files {
        let below = if kind == Kind::Server { "servers" } else { "collectors" };
        let stem = self.path.join(below).join(name);
        // Names have no dot of their own.
        Files { certificate: stem.with_extension("crt"), key: stem.with_extension("key") }
    }

    fn save(&self) -> Result<(), FolderError> {
        let path = self.path.join(INDEX);
        let text = serde_json::to_string_pretty(&self.index)
            .map_err(|source| FolderError::Index { path: path.clone(), source })?;
        Ok(files::write(&path, &text, 0o600)?)
    }
}

/// Folder and stem of a file.
fn place(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    (folder, path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Whether something may be a site or a name: what gateways take, and what a file may be called.
fn is_part(text: &str) -> bool {
    text.len() <= 63 && is_segment(text)
}

/// Keeps every other process from changing the folder.
fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join(".lock");
    let failed = |source| FolderError::read(&path, source);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FolderError::Busy { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

const ROOT: &str = "root";

const ISSUER: &str = "issuer";

const INDEX: &str = "index.json";

/// What a development PKI could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Somebody else is at it.
    #[error("another process is changing {}; wait until it has ended", path.display())]
    Busy {
        /// Which folder.
        path: PathBuf,
    },
    /// It was issued already.
    #[error("a certificate for {name:?} was issued before; renew it, or choose another name")]
    Exists {
        /// Which.
        name: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The index is not one.
    #[error("could not understand {}, the index of what was issued; was it edited by hand?", path.display())]
    Index {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A certificate or a list could not be made.
    #[error(transparent)]
    Make(#[from] PkiError),
    /// No name for what it is.
    #[error(
        "{name:?} is no name; a server is called `gateway`, a collector `site-a/procmond-1`, in a-z, 0-9, `_` and `-`"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Something is there.
    #[error("{} is not empty and nothing is overwritten; name a folder that is empty or not there yet", path.display())]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("could not read {}; is its folder one that `pki init` has made?", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate would outlive its authority.
    #[error("the issuing authority ends at {not_after}; ask for fewer days, or make a new PKI")]
    TooLong {
        /// When.
        not_after: OffsetDateTime,
    },
    /// No such certificate.
    #[error("no certificate in force has the name or serial number {what:?}; `pki list` shows all")]
    Unknown {
        /// What was asked for.
        what: String,
    },
}

impl FolderError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests;
