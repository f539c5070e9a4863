//! Loads the lists of a generation: reads, verifies each under its issuer's key, and holds them against those in force.
//!
//! Kept true: what a list in force said is not taken back by an older list, a list of the future or the absence of one,
//! unless somebody insists.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::trust::{
    certificate::sha256,
    pem,
    revocation::{
        Config, Crl, CrlError, Issuer, KeyHash, Lists, Need, Rule, Source, SourceError, lists::Listed,
        source, waiting,
    },
};

/// Whether lists may be put in force that take back what those in force say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Whatever the files hold, because somebody insists. Whoever asks for it writes down who did.
    Any,
    /// Only newer lists.
    #[default]
    Forward,
}

/// Who has signed lists that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// At least one was signed by nobody known: it may be anybody's.
    Unknown,
    /// Each was verified under the key of an issuer that is known.
    Verified,
}

/// What a list is held against while it is read.
#[derive(Clone, Copy)]
struct Held<'a> {
    /// Lists that were verified before.
    older: &'a Lists,
    /// When the latest list may have been issued; `None` where somebody insists.
    latest: Option<SystemTime>,
}

/// How far ahead of our clock a list may have been issued.
const SKEW: Duration = Duration::from_mins(5);

impl Lists {
    /// Loads the lists of `config`; `anchors` are issuers that are known besides those that it names. Blocking: it reads
    /// files. Lists that `older` has verified are not verified again.
    ///
    /// # Errors
    ///
    /// [`ListsError`] names the file or the issuer, what is wrong, and what to do.
    pub fn load(
        config: &Config,
        anchors: Vec<Issuer>,
        older: &Self,
        wanted: Order,
        now: SystemTime,
    ) -> Result<Self, ListsError> {
        let mut lists = Self { rule: config.rule, issuers: anchors, ..Self::default() };
        lists.name(config)?;
        let demanded: Vec<KeyHash> = lists.issuers.iter().map(|issuer| *issuer.key()).collect();
        lists.learned = older.remembered();
        // Whom the operator names is judged by what he says.
        lists.learned.retain(|issuer| !demanded.contains(issuer.key()));
        lists.issuers.extend(lists.learned.iter().cloned());
        let latest = now.checked_add(SKEW).unwrap_or(now);
        let latest = Some(latest).filter(|_| wanted == Order::Forward);
        lists.read(config, Held { older, latest })?;
        if wanted == Order::Forward {
            lists.hold_against(older)?;
        }
        // What is fetched may not be there yet; until it is, its issuer's certificates are refused one by one.
        let fetched = config.sources.iter().any(|source| matches!(source, Source::Url(_)));
        match lists.missing(&demanded) {
            Some(issuer) if !fetched => Err(ListsError::Missing { issuer: cut(issuer.subject()) }),
            _ => Ok(lists),
        }
    }

    /// Judges `fetched` lists before they are kept as `place`: those of known issuers must be signed by them, newer than
    /// those in force, and all be there that came from the same place before.
    pub(super) fn admits(
        &self,
        fetched: &[Vec<u8>],
        place: &Path,
        now: SystemTime,
    ) -> Result<Standing, ListsError> {
        let (issuers, learned) = (self.issuers.clone(), self.learned.clone());
        let mut offered = Self { issuers, learned, ..Self::default() };
        let met: Vec<Issuer> = self.waiting.met().into_iter().map(|(issuer, _)| issuer).collect();
        offered.issuers.extend(met.iter().cloned());
        offered.learned.extend(met);
        let source = Arc::from(place);
        let held = Held { older: self, latest: Some(now.checked_add(SKEW).unwrap_or(now)) };
        fetched.iter().try_for_each(|der| offered.add(der, &source, held))?;
        if offered.waiting.all().any(|listed| offered.is_forged(listed)) {
            return Err(ListsError::Crl { path: place.to_owned(), source: CrlError::Signature });
        }
        let beside = source::beside(place);
        let is_here = |old: &Listed| **old.source() == *place || **old.source() == *beside;
        for (key, before) in self.in_force() {
            let new = offered.known.get(&key).map(Arc::clone).unwrap_or_default();
            let heir = |old: &&Listed| new.iter().any(|new| new.crl().scope() == old.crl().scope());
            if let Some(gone) = before.iter().find(|old| is_here(old) && !heir(old)) {
                return Err(withdrawn(gone));
            }
            let replaced: Vec<Listed> = before.iter().filter(heir).cloned().collect();
            forward(&replaced, &new)?;
        }
        let unknown = offered.waiting.all().next().is_some();
        Ok(if unknown { Standing::Unknown } else { Standing::Verified })
    }

    /// Intermediates that the next generation shall know: those with lists first, and no more than one generation may meet.
    pub(super) fn remembered(&self) -> Vec<Issuer> {
        let met = self.waiting.met().into_iter().map(|(issuer, _)| issuer);
        let mut all: Vec<Issuer> = self.learned.iter().cloned().chain(met).collect();
        all.sort_by_key(|issuer| self.of(issuer.key()).is_none_or(|lists| lists.is_empty()));
        all.truncate(waiting::MOST);
        all
    }

    /// Reads the issuers that the configuration names, and their rules.
    fn name(&mut self, config: &Config) -> Result<(), ListsError> {
        for rule in &config.issuers {
            let path = &rule.issuer_file;
            let unusable = || ListsError::Issuer { path: path.clone() };
            let certificates = pem::read(path).map_err(|_| unusable())?.certificates;
            if certificates.is_empty() {
                return Err(unusable());
            }
            for der in &certificates {
                let issuer = Issuer::parse(der).map_err(|_| unusable())?;
                self.rules.insert(*issuer.key(), Rule { need: rule.revocation, stale: rule.stale_crl });
                self.issuers.push(issuer);
            }
        }
        Ok(())
    }

    fn read(&mut self, config: &Config, held: Held<'_>) -> Result<(), ListsError> {
        for source in &config.sources {
            for path in source.files(&config.directory)? {
                match (source, self.read_file(&path.into(), held)) {
                    // Only a copy, which the next fetch replaces: until then it is as if it was never fetched.
                    (Source::Url(url), Err(error)) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(%url, error, "kept copy of a revocation list passed over until the next fetch");
                    }
                    (_, read) => read?,
                }
            }
        }
        for lists in self.known.values_mut() {
            *lists = Listed::newest(lists.iter().cloned());
        }
        Ok(())
    }

    fn read_file(&mut self, place: &Arc<Path>, held: Held<'_>) -> Result<(), ListsError> {
        source::read(place)?.iter().try_for_each(|der| self.add(der, place, held))
    }

    /// Adds one list, under each known key that signed it; without one it waits.
    fn add(&mut self, der: &[u8], place: &Arc<Path>, held: Held<'_>) -> Result<(), ListsError> {
        let refuse = |source| ListsError::Crl { path: place.to_path_buf(), source };
        let digest = sha256(der);
        let in_force = held.older.in_force();
        let kept = in_force.iter().find_map(|(key, lists)| {
            lists.iter().find(|listed| *listed.crl().digest() == digest).map(|listed| (*key, listed))
        });
        let crl = match kept {
            Some((_, listed)) => Arc::clone(listed.crl()),
            None => Arc::new(Crl::parse(der).map_err(refuse)?),
        };
        if held.latest.is_some_and(|latest| crl.this_update() > latest) {
            return Err(ListsError::Future { path: place.to_path_buf() });
        }
        let listed = Listed::new(crl, Arc::clone(place));
        let (mut signed, mut disowned) = (Vec::new(), true);
        for issuer in self.issuers.iter().filter(|issuer| listed.crl().is_by_name_of(issuer)) {
            let verified = kept.is_some_and(|(key, _)| key == *issuer.key());
            match if verified { Ok(()) } else { Crl::verify(der, issuer) } {
                Ok(()) => signed.push(*issuer.key()),
                // What a peer presented decides neither whether a list counts nor whether a reload succeeds.
                Err(CrlError::MayNotSign) if self.learned.contains(issuer) => signed.push(*issuer.key()),
                Err(_) if self.learned.contains(issuer) => {}
                Err(error @ CrlError::MayNotSign) => return Err(refuse(error)),
                Err(_) => disowned &= listed.crl().disowns(issuer),
            }
        }
        signed.sort_unstable();
        signed.dedup();
        match signed.as_slice() {
            [] if disowned => self.waiting.add(listed, der),
            [] => return Err(refuse(CrlError::Signature)),
            keys => keys.iter().for_each(|key| {
                let lists = self.known.entry(*key).or_default();
                *lists = lists.iter().chain([&listed]).cloned().collect();
            }),
        }
        Ok(())
    }

    /// Whether a list that nobody known has signed is in the name of one who is, and does not say that he has another key.
    fn is_forged(&self, listed: &Listed) -> bool {
        let mut named = self.issuers.iter().filter(|issuer| listed.crl().is_by_name_of(issuer));
        named.any(|issuer| !listed.crl().disowns(issuer))
    }

    fn hold_against(&self, older: &Self) -> Result<(), ListsError> {
        for (key, before) in older.in_force() {
            // Whoever is no issuer of ours any more has nothing to say.
            if !self.issuers.iter().any(|issuer| *issuer.key() == key) {
                continue;
            }
            match self.known.get(&key) {
                Some(lists) => forward(&before, lists)?,
                None => before.first().map_or(Ok(()), |gone| Err(withdrawn(gone)))?,
            }
        }
        Ok(())
    }

    /// An issuer that must have a list and has none.
    fn missing(&self, demanded: &[KeyHash]) -> Option<&Issuer> {
        let lacks = |issuer: &&Issuer| {
            demanded.contains(issuer.key())
                && self.rule(issuer.key()).need == Need::Required
                && !self.known.contains_key(issuer.key())
        };
        self.issuers.iter().find(lacks)
    }
}

/// Whether `lists` say at least as late a word as `before`, scope by scope.
fn forward(before: &[Listed], lists: &[Listed]) -> Result<(), ListsError> {
    for old in before {
        let same = lists.iter().find(|listed| listed.crl().scope() == old.crl().scope());
        // Where an issuer begins to divide its lists otherwise, any of them must be newer.
        let heirs: Vec<&Listed> = same.map_or_else(|| lists.iter().collect(), |same| vec![same]);
        let goes_back = |new: &Listed| {
            new.crl().number() < old.crl().number() || new.crl().this_update() < old.crl().this_update()
        };
        if let Some(new) = heirs.into_iter().find(|new| goes_back(new)) {
            let (path, held) = (new.source().to_path_buf(), old.crl().number().to_string());
            return Err(ListsError::WentBack { path, number: new.crl().number().to_string(), held });
        }
    }
    Ok(())
}

fn withdrawn(gone: &Listed) -> ListsError {
    ListsError::Withdrawn { issuer: cut(gone.crl().issuer()), path: gone.source().to_path_buf() }
}

fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

/// Why lists were not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListsError {
    /// A list that cannot be used.
    #[error("revocation list {} cannot be used", path.display())]
    Crl {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: CrlError,
    },
    /// A list of the future.
    #[error("revocation list {} is of the future: look at the clocks of this host and of its issuer, or force the reload", path.display())]
    Future {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate of an issuer cannot be read.
    #[error("issuer_file {} holds no certificate that can be read: it must be PEM with BEGIN CERTIFICATE", path.display())]
    Issuer {
        /// Which file.
        path: PathBuf,
    },
    /// An issuer must have a list and has none.
    #[error(
        "no revocation list is by {issuer:?}, whose lists are required: put it among the files of crl, or set revocation = \"if-present\" for that issuer"
    )]
    Missing {
        /// Whose.
        issuer: String,
    },
    /// A file or folder of lists cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An older list than the one in force.
    #[error("revocation list {} (number {number}) is older than the one in force (number {held}): publish the newest one, or force the reload", path.display())]
    WentBack {
        /// Which file.
        path: PathBuf,
        /// Its number.
        number: String,
        /// The number of the one in force.
        held: String,
    },
    /// The list in force is not there any more.
    #[error(
        "the revocation list of {issuer:?}, which is in force, is gone from {}: put it back, or a newer one by the same key, or force the reload",
        path.display()
    )]
    Withdrawn {
        /// Whose.
        issuer: String,
        /// Which file it came from.
        path: PathBuf,
    },
}

impl ListsError {
    /// Whether the files may have been caught in the middle of a change, so that trying again is worth it.
    #[must_use]
    pub const fn may_be_torn(&self) -> bool {
        matches!(
            self,
            Self::Crl { source: CrlError::Malformed | CrlError::Signature, .. }
                | Self::Missing { .. }
                | Self::Source(SourceError::NoList { .. } | SourceError::Read { .. })
                | Self::Withdrawn { .. }
        )
    }
}
