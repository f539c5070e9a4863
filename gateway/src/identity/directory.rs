//! Reads the one identity out of a verified chain.

use daemoneye_bridge::trust::{Certificate, Judge, RefusalReason, VerifiedChain};

use crate::identity::{
    Config, Metrics, PeerId, VerifiedPeer,
    template::{Reading, SPIFFE, Templates},
};

/// Knows which names are identities.
#[derive(Clone, Debug)]
pub struct Directory {
    templates: Templates,
    metrics: Metrics,
}

impl Directory {
    /// Builds it.
    #[must_use]
    pub fn new(config: Config, metrics: Metrics) -> Self {
        Self { templates: config.templates, metrics }
    }

    /// Says who the peer behind `chain` is.
    ///
    /// # Errors
    ///
    /// [`RefusalReason::NoIdentity`], [`RefusalReason::AmbiguousIdentity`] or [`RefusalReason::BadName`].
    pub fn identify(&self, chain: &VerifiedChain) -> Result<VerifiedPeer, RefusalReason> {
        self.name(chain.leaf()).map(|id| VerifiedPeer::new(id, chain))
    }

    fn name(&self, leaf: &Certificate) -> Result<PeerId, RefusalReason> {
        if leaf.has_malformed_name() {
            return Err(RefusalReason::BadName);
        }
        // An X.509 SVID has one SPIFFE ID (SPIFFE X509-SVID, 2): two are nobody, whichever domain they are of.
        if leaf.uris().iter().filter(|uri| uri.starts_with(SPIFFE)).count() > 1 {
            return Err(RefusalReason::AmbiguousIdentity);
        }
        let uris = leaf.uris().iter().map(|uri| self.templates.read_uri(uri));
        let names = leaf.dns_names().iter().map(|name| self.templates.read_dns(name));
        let mut found = None;
        for reading in uris.chain(names) {
            match (reading, &found) {
                (Reading::Bad, _) => return Err(RefusalReason::BadName),
                (Reading::Foreign, _) => {}
                (Reading::Peer(id), None) => found = Some(id),
                (Reading::Peer(id), Some(first)) if id == *first => {}
                (Reading::Peer(_), Some(_)) => return Err(RefusalReason::AmbiguousIdentity),
            }
        }
        found.ok_or(RefusalReason::NoIdentity)
    }
}

/// Asked in the handshake already, so that a stranger without a name sees the alert that every other refusal is.
impl Judge for Directory {
    fn judge(&self, chain: &VerifiedChain) -> Result<(), RefusalReason> {
        let admitted = self.name(chain.leaf()).and_then(|id| {
            // Of several authorities behind one gateway each speaks for its own sites.
            let may = chain.anchor().rights().may_name_site(id.site());
            if may { Ok(()) } else { Err(RefusalReason::AnchorNotForSite) }
        });
        admitted.inspect_err(|reason| self.metrics.refused(*reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf};

    fn config() -> Config {
        serde_json::from_str(
            r#"{"trust_domain": "td.test", "dns": ["{name}.{site}.collectors.example.com"]}"#,
        )
        .unwrap()
    }

    fn name(leaf: &Leaf) -> Result<String, RefusalReason> {
        let issued = Authority::root("root").unwrap().issue(leaf).unwrap();
        let leaf = Certificate::parse(issued.der()).unwrap();
        Directory::new(config(), Metrics::default()).name(&leaf).map(|id| id.to_string())
    }

    #[test]
    fn names_that_agree_are_one_identity() {
        let leaf = Leaf::collector("td.test", "site-a", "procmond");
        assert_eq!(name(&leaf).unwrap(), "site-a/procmond");
        assert_eq!(name(&leaf.dns("host17.example.org")).unwrap(), "site-a/procmond");
    }

    #[test]
    fn names_that_differ_are_refused_as_ambiguous() {
        let leaf = Leaf::collector("td.test", "site-a", "procmond");
        assert_eq!(
            name(&leaf.clone().dns("netmond.site-a.collectors.example.com")),
            Err(RefusalReason::AmbiguousIdentity)
        );
        assert_eq!(
            name(&leaf.uri("spiffe://elsewhere.test/workload")),
            Err(RefusalReason::AmbiguousIdentity)
        );
    }

    #[test]
    fn a_certificate_without_a_name_of_ours_is_nobody() {
        assert_eq!(name(&Leaf::client("procmond")), Err(RefusalReason::NoIdentity));
        let foreign = Leaf::client("x").uri("spiffe://elsewhere.test/site/site-a/collector/procmond");
        assert_eq!(name(&foreign), Err(RefusalReason::NoIdentity));
    }

    #[test]
    fn a_wildcard_spoils_the_whole_certificate() {
        let leaf = Leaf::collector("td.test", "site-a", "procmond");
        assert_eq!(name(&leaf.dns("*.site-a.collectors.example.com")), Err(RefusalReason::BadName));
    }
}
