//! Own chain and key, anchors and revocation lists: one generation, loaded whole.
//!
//! Kept true: a [`Material`] fits together. Its key is the leaf's, its leaf is valid and for its role, its key file cannot be
//! read by others, its lists are signed by their issuers. Whatever is wrong is said with the file and the remedy, for the
//! operator alone.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::trust::{
    Anchor, Certificate, Claim, Finding, Judge, Jury, Link, LoadError, Profile, RefusalReason, Rights,
    VerifiedChain,
    anchor::Anchors,
    load, provider,
    revocation::{self, Difference, Issuer, Lists, Order},
};

/// Where the material lies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// PEM of the own certificate, its intermediates after it.
    pub cert_file: PathBuf,
    /// PEM of its private key; readable by its owner alone.
    pub key_file: PathBuf,
    /// PEM of the authorities that the other side's certificates lead to; empty if all authorities are limited.
    pub ca_file: PathBuf,
}

/// Which end of a connection a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It dials.
    Client,
    /// It is dialled.
    Server,
}

impl Role {
    /// The extended key usage that a certificate of this role has.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Client => "clientAuth",
            Self::Server => "serverAuth",
        }
    }
}

/// What a generation is loaded from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Own chain, key and anchors.
    pub files: Files,
    /// Anchors that may speak for some sites or trust domains only.
    pub anchors: Vec<AnchorFile>,
    /// What the own certificate is for.
    pub role: Role,
    /// Revocation lists, and what is demanded of them.
    pub revocation: revocation::Config,
}

impl Plan {
    /// Own chain, key and anchors alone.
    #[must_use]
    pub fn new(files: Files, role: Role) -> Self {
        Self { files, anchors: Vec::new(), role, revocation: revocation::Config::default() }
    }
}

/// Authorities in a file, and what they may speak for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorFile {
    /// PEM of the authorities.
    pub ca_file: PathBuf,
    /// What they may speak for.
    pub rights: Arc<Rights>,
}

/// A part of the material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The authorities that are trusted.
    Anchors,
    /// The own certificate and its intermediates.
    Chain,
    /// The private key.
    Key,
    /// The revocation lists, or what is demanded of them.
    Lists,
}

impl Part {
    /// The word, as logs and answers have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anchors => "anchors",
            Self::Chain => "chain",
            Self::Key => "key",
            Self::Lists => "revocation lists",
        }
    }
}

/// One generation of own chain, key, anchors and revocation lists.
#[derive(Debug)]
pub struct Material {
    /// Own chain and key, as rustls wants them.
    resolver: Arc<SingleCertAndKey>,
    /// What the files held, to tell a change from a touch.
    source: Source,
    /// What the own leaf says.
    leaf: Certificate,
    /// What those between it and its root say.
    intermediates: Vec<Certificate>,
    anchors: Anchors,
    lists: Lists,
}

/// What the files held. Has no `Debug` of the key: pki-types elides it.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    anchors: Vec<CertificateDer<'static>>,
}

impl PartialEq for Material {
    fn eq(&self, other: &Self) -> bool {
        self.changed_from(other).is_empty()
    }
}

impl Eq for Material {}

impl Material {
    /// Loads and checks a generation without revocation lists. Blocking: it reads files.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the file, what is wrong with it, and what to do.
    pub fn load(files: &Files, role: Role) -> Result<Self, LoadError> {
        Self::load_all(&Plan::new(files.clone(), role))
    }

    /// Loads and checks a generation. Blocking: it reads files.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the file, what is wrong with it, and what to do.
    pub fn load_all(plan: &Plan) -> Result<Self, LoadError> {
        Self::load_after(plan, &Lists::default(), Order::Forward)
    }

    /// Loads and checks the generation after the one whose lists are `older`.
    pub(super) fn load_after(plan: &Plan, older: &Lists, wanted: Order) -> Result<Self, LoadError> {
        Self::load_under(plan, || load::anchors(&plan.files.ca_file, &plan.anchors), older, wanted)
    }

    /// The same under the anchors of `older`, whatever their files hold.
    pub(super) fn load_beside(plan: &Plan, older: &Self, wanted: Order) -> Result<Self, LoadError> {
        let kept = || Ok((older.source.anchors.clone(), older.anchors.clone()));
        Self::load_under(plan, kept, &older.lists, wanted)
    }

    fn load_under(
        plan: &Plan,
        trusted: impl FnOnce() -> Result<(Vec<CertificateDer<'static>>, Anchors), LoadError>,
        older: &Lists,
        wanted: Order,
    ) -> Result<Self, LoadError> {
        let files = &plan.files;
        let chain = load::chain(&files.cert_file)?;
        let key = load::key(&files.key_file)?;
        let (leaf, intermediates) = load::own(&files.cert_file, &chain, plan.role)?;
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider::provider())
            .map_err(|error| load::key_error(files, error))?;
        let (authorities, anchors) = trusted()?;
        let issuers: Result<Vec<Issuer>, _> = authorities.iter().map(|der| Issuer::parse(der)).collect();
        let issuers = issuers.map_err(|_| LoadError::Certificate { path: files.ca_file.clone() })?;
        let lists = Lists::load(&plan.revocation, issuers, older, wanted, SystemTime::now())?;
        for between in &intermediates {
            if anchors.named(between.issuer()).next().is_some() {
                anchors.meet_named(between.subject());
            }
        }
        Ok(Self {
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            source: Source { chain, key, anchors: authorities },
            leaf,
            intermediates,
            anchors,
            lists,
        })
    }

    /// What the own certificate says.
    #[must_use]
    pub const fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What is presented with it: the certificates between it and its root.
    #[must_use]
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// Whether this end presents the same chain, with the same key, as in `other`.
    #[must_use]
    pub fn has_same_key(&self, other: &Self) -> bool {
        self.source.chain == other.source.chain && self.source.key == other.source.key
    }

    /// The authorities that the other side's certificates must lead to.
    #[must_use]
    pub fn anchors(&self) -> &[Arc<Anchor>] {
        self.anchors.known()
    }

    /// The revocation lists.
    #[must_use]
    pub const fn lists(&self) -> &Lists {
        &self.lists
    }

    /// Verifies what a peer presented; `judge` is asked about each path that leads to an anchor.
    ///
    /// # Errors
    ///
    /// The reason to refuse it, and what exactly is wrong.
    pub fn verify(
        &self,
        claim: &Claim<'_>,
        profile: &Profile,
        judge: Option<&dyn Judge>,
    ) -> Result<VerifiedChain, Finding> {
        self.anchors.verify(claim, &Jury { profile, revocation: Some(&self.lists), judge })
    }

    /// Verifies what a peer presented whose session lives: what is revoked is refused, what no list covers is not.
    pub(super) fn verify_live(&self, claim: &Claim<'_>) -> Result<VerifiedChain, RefusalReason> {
        let jury = Jury { profile: &Profile::default(), revocation: None, judge: None };
        let chain = self.anchors.verify(claim, &jury).map_err(|finding| finding.reason())?;
        self.lists.revoked(chain.links())?;
        Ok(chain)
    }

    /// Judges again the links of a path that was verified before, without its signatures: whether all are valid, none is
    /// revoked, and the anchor is still one. A list that is stale or missing cuts nobody.
    ///
    /// # Errors
    ///
    /// The reason to cut the session.
    pub fn judge_links(&self, links: &[Link], now: SystemTime) -> Result<(), RefusalReason> {
        self.lists.revoked(links)?;
        for (place, link) in links.iter().enumerate() {
            if link.not_after() < now {
                let leaf = place == 0;
                return Err(if leaf {
                    RefusalReason::CertificateExpired
                } else {
                    RefusalReason::IntermediateExpired
                });
            }
        }
        let root = links.last().ok_or(RefusalReason::UnknownIssuer)?.issuer_spki();
        let anchors = self.anchors().iter().map(|anchor| anchor.certificate());
        let mut ours = anchors.filter(|anchor| anchor.spki_sha256() == root).peekable();
        ours.peek().ok_or(RefusalReason::UnknownIssuer)?;
        if ours.any(|anchor| now <= anchor.not_after()) { Ok(()) } else { Err(RefusalReason::AnchorExpired) }
    }

    /// What this generation takes away that `older` gave: whose sessions must be judged again.
    #[must_use]
    pub fn difference(&self, older: &Self) -> Difference {
        let mut difference = self.lists.since(&older.lists);
        for anchor in older.anchors().iter().filter(|anchor| !self.anchors().contains(anchor)) {
            difference.lose(*anchor.certificate().spki_sha256());
        }
        difference
    }

    /// Which parts are not those of `older`.
    #[must_use]
    pub fn changed_from(&self, older: &Self) -> Vec<Part> {
        let (new, old) = (&self.source, &older.source);
        let parts = [
            (Part::Anchors, new.anchors != old.anchors || self.anchors() != older.anchors()),
            (Part::Chain, new.chain != old.chain),
            (Part::Key, new.key != old.key),
            (Part::Lists, self.lists != older.lists),
        ];
        parts.into_iter().filter(|(_, changed)| *changed).map(|(part, _)| part).collect()
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::clone(&self.resolver)
    }
}
