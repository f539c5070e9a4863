//! Reads the files of a generation, and says what is wrong with them: which file, what, and the remedy.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{
    settings,
    trust::{
        AnchorFile, Certificate, Files, Finding, Held, MAX_CHAIN, RefusalReason, Rights, Role,
        anchor::{AnchorError, Anchors},
        pem::{self, PemError},
        profile::{Exhibit, Place, Signature},
        revocation::ListsError,
    },
};

fn contents(path: &Path) -> Result<pem::Contents, LoadError> {
    pem::read(path).map_err(|error| {
        let path = path.to_owned();
        match error {
            PemError::Malformed(source) => LoadError::Malformed { path, source },
            PemError::Read(source) => LoadError::Read { path, source },
            PemError::TooLong => LoadError::TooLong { path },
        }
    })
}

/// Reads certificates; there is at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let certificates = contents(path)?.certificates;
    if certificates.is_empty() {
        return Err(LoadError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let chain = certificates(path)?;
    if chain.len() > MAX_CHAIN {
        return Err(LoadError::LongChain { path: path.to_owned(), count: chain.len() });
    }
    Ok(chain)
}

/// Reads the own leaf and what is presented with it, and checks that both are of use now.
pub(super) fn own(
    path: &Path,
    chain: &[CertificateDer<'_>],
    role: Role,
) -> Result<(Certificate, Vec<Certificate>), LoadError> {
    let parsed: Result<Vec<Certificate>, _> = chain.iter().map(|der| Certificate::parse(der)).collect();
    let mut parsed = parsed.map_err(|_| LoadError::Certificate { path: path.to_owned() })?.into_iter();
    let leaf = parsed.next().ok_or_else(|| LoadError::NoCertificate { path: path.to_owned() })?;
    let intermediates: Vec<Certificate> = parsed.collect();
    for certificate in std::iter::once(&leaf).chain(&intermediates) {
        check_validity(path, certificate)?;
    }
    let suited = match role {
        Role::Client => leaf.is_for_clients(),
        Role::Server => leaf.is_for_servers(),
    };
    if leaf.is_authority() {
        return Err(LoadError::Authority { path: path.to_owned() });
    }
    if !suited {
        return Err(LoadError::Purpose { path: path.to_owned(), purpose: role.purpose() });
    }
    hold_against_profile(path, chain)?;
    Ok((leaf, intermediates))
}

/// Whether the other end would take the own chain, as far as that can be told without its anchors.
fn hold_against_profile(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), LoadError> {
    for (number, der) in chain.iter().enumerate() {
        let exhibit = Exhibit::read(der).map_err(|_| LoadError::Certificate { path: path.to_owned() })?;
        // Some put their root behind it, which nobody needs; it is judged as the anchor that it is.
        let place = match number {
            0 => Place::Leaf,
            _ if exhibit.facts().is_self_issued() => Place::Anchor,
            _ => Place::Intermediate,
        };
        if let Some((_, finding)) = exhibit.broken(place).next() {
            return Err(LoadError::Profile { path: path.to_owned(), finding });
        }
        if let Signature::Weak(hash) = exhibit.facts().signature()
            && place != Place::Anchor
        {
            let says = format!("is signed with {hash}, which can be forged");
            let finding = exhibit.finding(place, RefusalReason::WeakSignature, &says);
            return Err(LoadError::Profile { path: path.to_owned(), finding });
        }
    }
    Ok(())
}

fn check_validity(path: &Path, certificate: &Certificate) -> Result<(), LoadError> {
    let now = SystemTime::now();
    let subject = || certificate.subject().chars().take(128).collect();
    if let Ok(age) = now.duration_since(certificate.not_after()) {
        let (path, subject, ago) = (path.to_owned(), subject(), whole_minutes(age));
        return Err(LoadError::Expired { path, subject, ago });
    }
    if let Ok(wait) = certificate.not_before().duration_since(now) {
        let (path, subject, wait) = (path.to_owned(), subject(), whole_minutes(wait));
        return Err(LoadError::NotYetValid { path, subject, wait });
    }
    Ok(())
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    let contents = contents(path)?;
    check_mode(path)?;
    let mut keys = contents.keys.into_iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(LoadError::ManyKeys { path: path.to_owned() }),
        (None, _) if contents.encrypted => Err(LoadError::EncryptedKey { path: path.to_owned() }),
        (None, _) => Err(LoadError::NoKey { path: path.to_owned() }),
    }
}

pub(super) fn key_error(files: &Files, error: rustls::Error) -> LoadError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            LoadError::Mismatch { key: files.key_file.clone(), chain: files.cert_file.clone() }
        }
        source => LoadError::Key { path: files.key_file.clone(), source },
    }
}

/// Reads the authorities: those of `plain`, which may speak for everybody, and the limited ones.
pub(super) fn anchors(
    plain: &Path,
    limited: &[AnchorFile],
) -> Result<(Vec<CertificateDer<'static>>, Anchors), LoadError> {
    let (mut authorities, mut anchors) = (Vec::new(), Anchors::default());
    let open = Arc::new(Rights::default());
    let plain = Some((plain, &open)).filter(|(path, _)| !path.as_os_str().is_empty());
    let groups = plain.into_iter().chain(limited.iter().map(|group| (&*group.ca_file, &group.rights)));
    let mut last = Path::new("ca_file");
    for (path, rights) in groups {
        authorities.extend(group(path, rights, &mut anchors)?);
        last = path;
    }
    let now = SystemTime::now();
    if anchors.known().iter().all(|anchor| anchor.certificate().not_after() < now) {
        return Err(LoadError::AnchorsExpired { path: last.to_owned() });
    }
    Ok((authorities, anchors))
}

/// Adds the authorities of one file.
fn group(
    path: &Path,
    rights: &Arc<Rights>,
    anchors: &mut Anchors,
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let mut authorities = certificates(path)?;
    authorities.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    authorities.dedup();
    for der in &authorities {
        let anchor = anchors.add(der, rights).map_err(|error| match error {
            AnchorError::Contradicting => LoadError::Contradicting { path: path.to_owned() },
            AnchorError::Unreadable => LoadError::Certificate { path: path.to_owned() },
        })?;
        if !anchor.certificate().is_authority() {
            let subject = anchor.certificate().subject().chars().take(128).collect();
            return Err(LoadError::NoAuthority { path: path.to_owned(), subject });
        }
    }
    Ok(authorities)
}

fn check_mode(path: &Path) -> Result<(), LoadError> {
    match settings::exposed(path) {
        Ok(None) => Ok(()),
        Ok(Some(mode)) => Err(LoadError::Exposed { path: path.to_owned(), mode }),
        Err(source) => Err(LoadError::Read { path: path.to_owned(), source }),
    }
}

fn whole_minutes(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    match (minutes / 1440, minutes / 60) {
        (0, 0) => format!("{minutes} min"),
        (0, hours) => format!("{hours} h"),
        (days, _) => format!("{days} days"),
    }
}

/// Why the material was not loaded: what file, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No authority is valid any more.
    #[error("every authority has expired, those in {} last: renew them", path.display())]
    AnchorsExpired {
        /// Which file.
        path: PathBuf,
    },
    /// The own certificate is an authority's.
    #[error("certificate {} is an authority's: put the certificate that it issued first in the file", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate cannot be read.
    #[error("a certificate in {} cannot be read: issue it again as X.509 version 3", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
    },
    /// An authority that stands elsewhere with other rights.
    #[error("{} holds an authority that another entry of anchors lists with other rights: list it once", path.display())]
    Contradicting {
        /// Which file.
        path: PathBuf,
    },
    /// The key needs a pass phrase.
    #[error("private key {} is encrypted: decrypt it with `openssl pkey` and protect it by its mode", path.display())]
    EncryptedKey {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate of the own chain is past its validity.
    #[error("certificate {} ({subject:?}) expired {ago} ago: renew it", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// Which certificate in it.
        subject: String,
        /// How long ago.
        ago: String,
    },
    /// The key can be read by others.
    #[error("private key {} can be read by others (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Anchors wait for a word; all else is in force.
    #[error(transparent)]
    Held(#[from] Held),
    /// The key is of a kind that is not accepted.
    #[error("private key {} cannot be used: it must be ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What the provider says of it.
        source: rustls::Error,
    },
    /// The revocation lists.
    #[error(transparent)]
    Lists(#[from] ListsError),
    /// The own chain is longer than peers accept.
    #[error("{} holds {count} certificates, but peers look at {MAX_CHAIN} at most: leave the leaf and its intermediates", path.display())]
    LongChain {
        /// Which file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
    },
    /// PEM that cannot be read.
    #[error("{} is not well-formed PEM: copy it again", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// More than one key.
    #[error("{} holds more than one private key: leave one", path.display())]
    ManyKeys {
        /// Which file.
        path: PathBuf,
    },
    /// The key is not the certificate's.
    #[error("private key {} does not belong to the first certificate in {}: put the leaf first, or install the pair that was issued together", key.display(), chain.display())]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The chain.
        chain: PathBuf,
    },
    /// An anchor that is no authority.
    #[error("{} holds the certificate of {subject:?}, which is no authority: put the certificate of its issuer there", path.display())]
    NoAuthority {
        /// Which file.
        path: PathBuf,
        /// Whose certificate it is.
        subject: String,
    },
    /// No certificate.
    #[error("{} holds no certificate: it must be PEM with BEGIN CERTIFICATE", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// No key.
    #[error("{} holds no private key: it must be PEM with BEGIN PRIVATE KEY", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate of the own chain is not valid yet.
    #[error("certificate {} ({subject:?}) is not valid for another {wait}: check the clock", path.display())]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// Which certificate in it.
        subject: String,
        /// How long until it is.
        wait: String,
    },
    /// The other end would refuse the own chain.
    #[error("{} would be refused by the other end ({}): {finding}; {}", path.display(), finding.reason(), finding.reason().hint())]
    Profile {
        /// Which file.
        path: PathBuf,
        /// Why it would be.
        finding: Finding,
    },
    /// The own certificate is not for this end of a connection.
    #[error("certificate {} lacks extended key usage {purpose}: issue it again with it", path.display())]
    Purpose {
        /// Which file.
        path: PathBuf,
        /// The usage that it lacks.
        purpose: &'static str,
    },
    /// The file cannot be read.
    #[error("could not read {}: check that it exists and that this user may read it", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is too long to be what it should be.
    #[error("{} is longer than {} bytes: is it the right file?", path.display(), pem::MAX_BYTES)]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
}

impl LoadError {
    /// Whether the files may have been caught in the middle of a change, so that trying again is worth it.
    #[must_use]
    pub const fn may_be_torn(&self) -> bool {
        match self {
            Self::Lists(error) => error.may_be_torn(),
            Self::Malformed { .. }
            | Self::Mismatch { .. }
            | Self::NoCertificate { .. }
            | Self::NoKey { .. }
            | Self::Read { .. } => true,
            _ => false,
        }
    }
}
