//! Own chain, key and anchors: one generation, loaded whole.
//!
//! Kept true: a [`Material`] fits together. Its key is the leaf's, its leaf is valid and for its role, its key file cannot be
//! read by others. Whatever is wrong is said with the file and the remedy, for the operator alone.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::trust::{
    Anchor, Certificate, LoadError, RefusalReason, VerifiedChain, chain::Anchors, load, provider,
};

/// Where the material lies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// PEM of the own certificate, its intermediates after it.
    pub cert_file: PathBuf,
    /// PEM of its private key; readable by its owner alone.
    pub key_file: PathBuf,
    /// PEM of the authorities that the other side's certificates lead to.
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

/// One generation of own chain, key and anchors.
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
        self.source == other.source
    }
}

impl Eq for Material {}

impl Material {
    /// Loads and checks a generation. Blocking: it reads files.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the file, what is wrong with it, and what to do.
    pub fn load(files: &Files, role: Role) -> Result<Self, LoadError> {
        let chain = load::chain(&files.cert_file)?;
        let key = load::key(&files.key_file)?;
        let (leaf, intermediates) = load::own(&files.cert_file, &chain, role)?;
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider::provider())
            .map_err(|error| load::key_error(files, error))?;
        let (authorities, anchors) = load::anchors(&files.ca_file)?;
        Ok(Self {
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            source: Source { chain, key, anchors: authorities },
            leaf,
            intermediates,
            anchors,
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

    /// Verifies what a peer of role `role` presented.
    ///
    /// # Errors
    ///
    /// The reason to refuse it.
    pub fn verify(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedChain, RefusalReason> {
        self.anchors.verify(role, leaf, intermediates, now)
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::clone(&self.resolver)
    }
}
