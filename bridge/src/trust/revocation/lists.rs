//! The lists of one generation, and how a path is judged by them.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime_serde::re::humantime;
use rustls::pki_types::CertificateDer;

use crate::trust::{
    Finding, Link, RefusalReason,
    certificate::{hex, sha256},
    quoted,
    revocation::{
        Crl, Difference, Issuer, KeyHash, Need, Number, Points, Revoked, Rule, Stale,
        crl::{Holders, Scope},
        waiting::Waiting,
    },
};

/// A list and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    crl: Arc<Crl>,
    source: Arc<Path>,
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.crl.digest() == other.crl.digest()
    }
}

impl Listed {
    pub(super) const fn new(crl: Arc<Crl>, source: Arc<Path>) -> Self {
        Self { crl, source }
    }

    pub(super) const fn crl(&self) -> &Arc<Crl> {
        &self.crl
    }

    pub(super) const fn source(&self) -> &Arc<Path> {
        &self.source
    }

    /// The newest of each scope, among lists of one key.
    pub(super) fn newest(lists: impl Iterator<Item = Self>) -> Arc<[Self]> {
        let mut newest: HashMap<Scope, Self> = HashMap::new();
        for listed in lists {
            let age = |of: &Self| (*of.crl.number(), of.crl.this_update());
            let entry = newest.entry(listed.crl.scope().clone()).or_insert_with(|| listed.clone());
            if age(&listed) > age(entry) {
                *entry = listed;
            }
        }
        newest.into_values().collect()
    }
}

/// The revocation lists of one generation, each verified under its issuer's key.
#[derive(Debug, Default)]
pub struct Lists {
    pub(super) rule: Rule,
    /// Rules of single issuers, by key.
    pub(super) rules: HashMap<KeyHash, Rule>,
    /// Issuers that were known when it was loaded: anchors, configured ones, and the next.
    pub(super) issuers: Vec<Issuer>,
    /// Intermediates that earlier generations met.
    pub(super) learned: Vec<Issuer>,
    pub(super) known: HashMap<KeyHash, Arc<[Listed]>>,
    pub(super) waiting: Waiting,
}

impl Lists {
    /// Judges a verified path. Intermediates that were never met are learnt from it.
    ///
    /// # Errors
    ///
    /// [`RefusalReason::CertificateRevoked`], [`RefusalReason::IntermediateRevoked`], [`RefusalReason::CrlStale`] or
    /// [`RefusalReason::RevocationUnknown`], and which certificate it is about.
    pub(in crate::trust) fn judge(&self, path: &Evidence<'_>, now: SystemTime) -> Result<(), Finding> {
        self.meet(path.links, path.between);
        if let Some((place, link, entry)) = self.first_revoked(path.links) {
            let since = humantime::format_rfc3339_seconds(entry.since());
            let says = format!("was revoked at {since} ({})", entry.reason());
            return Err(about(link, place, of_revoked(place), &says));
        }
        let mut all = path.links.iter().zip(path.points).enumerate();
        all.try_for_each(|(place, (link, points))| self.covered(link, points, place, now))
    }

    /// Judges the links of a path whose session lives: only what is revoked is refused, for a list that went stale or
    /// missing cuts nobody.
    ///
    /// # Errors
    ///
    /// [`RefusalReason::CertificateRevoked`] or [`RefusalReason::IntermediateRevoked`].
    pub fn revoked(&self, links: &[Link]) -> Result<(), RefusalReason> {
        self.first_revoked(links).map_or(Ok(()), |(place, _, _)| Err(of_revoked(place)))
    }

    fn first_revoked<'a>(&self, links: &'a [Link]) -> Option<(usize, &'a Link, Revoked)> {
        let mut all = links.iter().enumerate();
        all.find_map(|(place, link)| Some((place, link, self.entry(link.issuer_spki(), link.serial())?)))
    }

    /// The entry of the certificate with this serial number, signed with this key.
    #[must_use]
    pub fn entry(&self, issuer: &KeyHash, serial: &[u8]) -> Option<Revoked> {
        let lists = self.of(issuer)?;
        let serial = Number::of(serial)?;
        lists.iter().find_map(|listed| listed.crl.find(&serial)).copied()
    }

    fn covered(&self, link: &Link, points: &Points, place: usize, now: SystemTime) -> Result<(), Finding> {
        let rule = self.rule(link.issuer_spki());
        let lists = self.of(link.issuer_spki()).unwrap_or_default();
        let mut covering = lists.iter().filter(|listed| {
            let Scope { holders, of, .. } = listed.crl.scope();
            let held = match holders {
                Holders::All => true,
                Holders::Authorities => place != 0,
                Holders::EndEntities => place == 0,
            };
            // RFC 5280, section 6.3.3 (b) (2) (i).
            held && of.as_ref().is_none_or(|of| of.meet(points))
        });
        let needless = match rule.need {
            Need::IfPresent => true,
            Need::Required => false,
            Need::ShortLived(most) => link.lifetime() <= most,
        };
        match covering.next() {
            None if needless => Ok(()),
            None => {
                let says = if lists.is_empty() {
                    "was issued by an authority whose revocation list is required and not there"
                } else {
                    "is on none of the revocation lists of its issuer that are there: they are of other \
                     distribution points, or of other kinds of certificates"
                };
                Err(about(link, place, RefusalReason::RevocationUnknown, says))
            }
            Some(first) => {
                let usable = |listed: &Listed| is_usable(&listed.crl, rule.stale, now);
                let fresh = usable(first) || covering.any(usable);
                // Where no list was needed, an old one does no harm.
                let short = matches!(rule.need, Need::ShortLived(_)) && needless;
                if fresh || short {
                    return Ok(());
                }
                let due = humantime::format_rfc3339_seconds(first.crl.next_update());
                let says = format!("is on a revocation list whose next was due at {due}");
                Err(about(link, place, RefusalReason::CrlStale, &says))
            }
        }
    }

    /// Remembers intermediates of a verified path that were never met, so that lists of theirs can be verified.
    fn meet(&self, links: &[Link], between: &[CertificateDer<'_>]) {
        // Each link was signed by the next certificate of the path, and the last by an anchor, which is known.
        let signed = links.iter().zip(between).filter(|(link, _)| !self.knows(link.issuer_spki()));
        for (link, der) in signed {
            let issuer = Issuer::parse(der).ok().filter(|issuer| issuer.key() == link.issuer_spki());
            if let Some(issuer) = issuer {
                self.waiting.meet(issuer);
            }
        }
    }

    fn knows(&self, key: &KeyHash) -> bool {
        self.issuers.iter().any(|issuer| issuer.key() == key) || self.waiting.has_met(key)
    }

    pub(super) fn of(&self, key: &KeyHash) -> Option<Arc<[Listed]>> {
        self.known.get(key).map(Arc::clone).or_else(|| self.waiting.of(key))
    }

    pub(super) fn rule(&self, key: &KeyHash) -> Rule {
        self.rules.get(key).copied().unwrap_or(self.rule)
    }

    /// Every issuer with lists that are in force.
    pub(super) fn in_force(&self) -> Vec<(KeyHash, Arc<[Listed]>)> {
        let known = self.known.iter().map(|(key, lists)| (*key, Arc::clone(lists)));
        known.chain(self.waiting.met().into_iter().map(|(issuer, lists)| (*issuer.key(), lists))).collect()
    }

    /// Whether a list from `place` has an issuer that was not met yet.
    pub(super) fn waits_for(&self, place: &Path) -> bool {
        self.waiting.left().iter().any(|listed| *listed.source == *place)
    }

    /// Whether this list was verified, and is the newest of its scope.
    pub(super) fn has_in_force(&self, der: &[u8]) -> bool {
        let digest = sha256(der);
        self.in_force().iter().any(|(_, lists)| lists.iter().any(|listed| *listed.crl.digest() == digest))
    }

    fn digests(&self) -> BTreeSet<&[u8; 32]> {
        let known = self.known.values().flat_map(|lists| lists.iter());
        known.chain(self.waiting.all()).map(|listed| listed.crl.digest()).collect()
    }

    /// What this generation revokes that `older` did not.
    #[must_use]
    pub fn since(&self, older: &Self) -> Difference {
        let mut difference = Difference::default();
        for (key, lists) in self.in_force() {
            let before = older.of(&key).unwrap_or_default();
            for listed in lists.iter().filter(|listed| !before.contains(listed)) {
                let old = before.iter().map(|old| old.crl.entries());
                difference.revoke(key, listed.crl.entries(), old);
            }
        }
        difference
    }

    /// How each list is, at `now`: for people.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Vec<ListStatus> {
        let mut status = Vec::new();
        for (key, lists) in self.in_force() {
            let rule = self.rule(&key);
            status.extend(
                lists
                    .iter()
                    .map(|listed| ListStatus::of(listed, Some(key), word(&listed.crl, rule.stale, now))),
            );
        }
        status
            .extend(self.waiting.left().iter().map(|listed| ListStatus::of(listed, None, ListWord::Waiting)));
        status.sort_by(|a, b| (&a.issuer, &a.source).cmp(&(&b.issuer, &b.source)));
        status
    }
}

impl PartialEq for Lists {
    /// Whether both were loaded from the same lists and rules. Whom they met since does not count.
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule && self.rules == other.rules && self.digests() == other.digests()
    }
}

/// What is known of a verified path, beginning with the leaf.
#[derive(Clone, Copy, Debug)]
pub(in crate::trust) struct Evidence<'a> {
    /// Each certificate but the anchor, and who signed it.
    pub(in crate::trust) links: &'a [Link],
    /// Which lists each of them stands on, if it is revoked.
    pub(in crate::trust) points: &'a [&'a Points],
    /// The certificates between leaf and anchor; of nothing else that a peer presents is anything learnt.
    pub(in crate::trust) between: &'a [CertificateDer<'a>],
}

const fn of_revoked(place: usize) -> RefusalReason {
    if place == 0 { RefusalReason::CertificateRevoked } else { RefusalReason::IntermediateRevoked }
}

/// Says which certificate of a path it is about.
fn about(link: &Link, place: usize, reason: RefusalReason, says: &str) -> Finding {
    let (place, subject) = (if place == 0 { "leaf" } else { "intermediate" }, quoted(link.subject()));
    Finding::new(reason, format!("{place} {subject} (serial number {}) {says}", hex(link.serial())))
}

fn is_usable(crl: &Crl, stale: Stale, now: SystemTime) -> bool {
    !matches!(word(crl, stale, now), ListWord::Stale) || stale == Stale::Warn
}

fn word(crl: &Crl, stale: Stale, now: SystemTime) -> ListWord {
    let grace = match stale {
        Stale::Grace(time) => time,
        Stale::Fail | Stale::Warn => Duration::ZERO,
    };
    match now.duration_since(crl.next_update()) {
        Err(_) => ListWord::Fresh,
        Ok(past) if past < grace => ListWord::Grace,
        Ok(_) => ListWord::Stale,
    }
}

/// How a list is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListStatus {
    /// Name of its issuer.
    pub issuer: String,
    /// Hash of the key that it was verified with; `None` while it waits for its issuer.
    pub key: Option<KeyHash>,
    /// Its number.
    pub number: Number,
    /// When it was issued.
    pub this_update: SystemTime,
    /// When the next is due.
    pub next_update: SystemTime,
    /// How many certificates it revokes.
    pub entries: usize,
    /// Which file it came from.
    pub source: String,
    /// Whether it is of use.
    pub word: ListWord,
}

impl ListStatus {
    fn of(listed: &Listed, key: Option<KeyHash>, word: ListWord) -> Self {
        let crl = &listed.crl;
        Self {
            issuer: crl.issuer().chars().take(256).collect(),
            key,
            number: *crl.number(),
            this_update: crl.this_update(),
            next_update: crl.next_update(),
            entries: crl.entries().len(),
            source: listed.source.display().to_string(),
            word,
        }
    }
}

/// Whether a list is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListWord {
    /// In force and up to date.
    Fresh,
    /// Past its next update, within the time of grace.
    Grace,
    /// Past its next update.
    Stale,
    /// Its issuer is neither an anchor nor configured, and has not been met.
    Waiting,
}

impl ListWord {
    /// The word, as metrics and snapshots have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Grace => "grace",
            Self::Stale => "stale",
            Self::Waiting => "waiting",
        }
    }
}
