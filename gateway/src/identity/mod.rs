//! Who a peer is: names in a verified certificate become a [`PeerId`].
//!
//! Templates say which names are identities. Everything else in a certificate is passed over, but nothing is guessed: two
//! identities in one certificate are refused, and so is a name that has the form of an identity with a part that cannot
//! be one. It is a stage of its own, so that no other parses a certificate.
//!
//! Kept true: a [`VerifiedPeer`] is made by [`Directory::identify`] and nowhere else, out of a chain that was verified.

mod directory;
mod peer;
mod template;

use daemoneye_bridge::trust::RefusalReason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::Deserialize;

use self::template::Templates;
pub use self::{
    directory::Directory,
    peer::{PeerId, PeerIdError, VerifiedPeer},
    template::TemplateError,
};

/// Settings of the identity stage; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    templates: Templates,
}

/// The section `[identity]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// The SPIFFE trust domain that stands for `{trust_domain}` below. Default: `daemoneye.internal`.
    trust_domain: String,
    /// Forms of a SPIFFE URI that are an identity. `{site}` and `{name}` stand once each, for a whole segment. Default:
    /// `["spiffe://{trust_domain}/site/{site}/collector/{name}"]`.
    spiffe: Vec<String>,
    /// Forms of a DNS name that are an identity, such as `{name}.{site}.collectors.example.com`. Default: none.
    dns: Vec<String>,
    /// Forms of a subject's common name that are an identity, written as those of DNS names; any switches common names on,
    /// which no authority is bound to check. Default: none.
    common_name: Vec<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            trust_domain: "daemoneye.internal".to_owned(),
            spiffe: vec!["spiffe://{trust_domain}/site/{site}/collector/{name}".to_owned()],
            dns: Vec::new(),
            common_name: Vec::new(),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = TemplateError;

    fn try_from(file: File) -> Result<Self, TemplateError> {
        let templates = Templates::parse(&file.trust_domain, &file.spiffe, &file.dns, &file.common_name)?;
        Ok(Self { templates })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the default templates are well-formed")
    }
}

/// What the identity stage counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refusals: Family<Labels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`, whose prefix is that of the gateway.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for reason in [
            RefusalReason::AmbiguousIdentity,
            RefusalReason::AnchorNotForSite,
            RefusalReason::BadName,
            RefusalReason::NoIdentity,
        ] {
            drop(metrics.refusals.get_or_create(&Labels { reason: reason.as_str() }));
        }
        let registry = registry.sub_registry_with_prefix("identity");
        registry.register("refusals", "Certificates that name nobody", metrics.refusals.clone());
        metrics
    }

    fn refused(&self, reason: RefusalReason) {
        self.refusals.get_or_create(&Labels { reason: reason.as_str() }).inc();
    }
}
