//! The verdict over a chain, offline and link by link.
//!
//! The verdict is the one that a handshake would have reached: it comes out of the same functions. What is told of each
//! link is more than a handshake looks for: every rule that it breaks, not the first alone, and whether the next key signed
//! it.
//!
//! Kept true: an [`Explanation`] accepts exactly what [`Material::verify`](crate::trust::Material::verify) does under the
//! same anchors, lists and time.

mod link;
mod report;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use humantime_serde::re::humantime;
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    sign::CertifiedKey,
};

pub use self::report::{Accepted, Breach, Explanation, Refused, Signed, Step};
use crate::trust::{
    Claim, Finding, Jury, LoadError, NamePattern, Profile, RefusalReason, Rights, Role, VerifiedChain,
    anchor::Anchors,
    load,
    profile::Exhibit,
    provider,
    revocation::{self, Issuer, Lists, Order, Source},
};

/// What is to be judged.
#[derive(Debug)]
pub struct Case<'a> {
    /// Which end of a connection presents it.
    pub role: Role,
    /// What it presents, its own certificate first.
    pub chain: &'a [CertificateDer<'static>],
    /// Which authorities are trusted.
    pub anchors: &'a [CertificateDer<'static>],
    /// When.
    pub at: SystemTime,
    /// A name that it must have.
    pub name: Option<&'a NamePattern>,
    /// What the chain profile leaves to the operator.
    pub profile: &'a Profile,
    /// Files of revocation lists.
    pub lists: &'a [PathBuf],
    /// File of a private key that must belong to the leaf.
    pub key: Option<&'a Path>,
}

impl Case<'_> {
    /// Judges it. Blocking: it reads the revocation lists.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let mut anchors = Anchors::default();
        let rights = Arc::new(Rights::default());
        let unreadable = self.anchors.iter().filter(|der| anchors.add(der, &rights).is_err()).count();
        let verdict = self.verdict(&anchors);
        let steps = link::steps(self, &anchors);
        Explanation::new(self, verdict, steps, unreadable)
    }

    /// The verdict of a handshake.
    fn verdict(&self, anchors: &Anchors) -> Result<VerifiedChain, Finding> {
        let (leaf, intermediates) = self.chain.split_first().ok_or(RefusalReason::NoCertificate)?;
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let lists = self.read_lists()?;
        let claim = Claim { role: self.role, leaf, intermediates, now: UnixTime::since_unix_epoch(since) };
        let jury = Jury { profile: self.profile, revocation: Some(&lists), judge: None };
        let chain = anchors.verify(&claim, &jury)?;
        if self.name.is_some_and(|name| !name.admits(&chain)) {
            return Err(wrong_name(&chain));
        }
        self.key.map_or(Ok(()), |path| self.own_key(path))?;
        Ok(chain)
    }

    /// Whether the key in `path` may be used, and is that of the leaf.
    fn own_key(&self, path: &Path) -> Result<(), Finding> {
        let refused = |says: String| Finding::new(RefusalReason::PossessionNotProven, says);
        let key = load::key(path).map_err(|error| refused(chained(&error)))?;
        match CertifiedKey::from_der(self.chain.to_vec(), key, &provider::provider()) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(format!("private key {} is not the leaf's: {error}", path.display()))),
        }
    }

    /// A list that cannot be used refuses: a gateway would not load the generation that it belongs to.
    fn read_lists(&self) -> Result<Lists, Finding> {
        let config = revocation::Config {
            sources: self.lists.iter().cloned().map(Source::Path).collect(),
            ..revocation::Config::default()
        };
        let issuers = self.anchors.iter().chain(self.chain.iter().skip(1));
        let issuers = issuers.filter_map(|der| Issuer::parse(der).ok()).collect();
        let lists = Lists::load(&config, issuers, &Lists::default(), Order::Any, self.at);
        lists.map_err(|error| Finding::new(RefusalReason::RevocationUnknown, chained(&error)))
    }
}

/// An error with its causes.
fn chained(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Reads the certificates of a PEM file.
///
/// # Errors
///
/// [`LoadError`] names the file, what is wrong with it, and what to do.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    load::certificates(path)
}

/// Reads a moment as RFC 3339 has it, in UTC: `2026-01-31T12:00:00Z`.
///
/// # Errors
///
/// [`MomentError`], if it is none.
pub fn moment(text: &str) -> Result<SystemTime, MomentError> {
    let zulu = text.strip_suffix("+00:00").map_or_else(|| text.to_owned(), |local| format!("{local}Z"));
    humantime::parse_rfc3339_weak(&zulu).map_err(|_| MomentError(text.chars().take(64).collect()))
}

/// A text is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no moment: write it as 2026-01-31T12:00:00Z")]
pub struct MomentError(String);

fn wrong_name(chain: &VerifiedChain) -> Finding {
    let names: Vec<&str> = chain.leaf().all_names().collect();
    let says = match names.as_slice() {
        [] => "the leaf has no alternative name, and its subject is not looked at".to_owned(),
        names => format!("the leaf is for {}", crate::trust::quoted(&names.join(", "))),
    };
    Finding::new(RefusalReason::WrongServerName, says)
}

/// Reads what can be read.
fn read(der: &CertificateDer<'_>) -> Option<Exhibit> {
    Exhibit::read(der).ok()
}
