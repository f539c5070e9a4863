//! Reads the one identity out of a verified chain.

use daemoneye_bridge::trust::{Certificate, Finding, Judge, RefusalReason, VerifiedChain, quoted};

use crate::identity::{
    Config, Metrics, PeerId, VerifiedPeer,
    template::{Reading, Templates, after_scheme},
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
        let common = self.common_names(leaf)?;
        if leaf.has_malformed_name() {
            return Err(RefusalReason::BadName);
        }
        // An X.509 SVID has one SPIFFE ID (SPIFFE X509-SVID, 2): two are nobody, whichever domain they are of.
        if leaf.uris().iter().filter(|uri| after_scheme(uri).is_some()).count() > 1 {
            return Err(RefusalReason::AmbiguousIdentity);
        }
        let uris = leaf.uris().iter().map(|uri| self.templates.read_uri(uri));
        let names = leaf.dns_names().iter().map(|name| self.templates.read_dns(name));
        let mut found = None;
        let common = common.iter().map(|name| self.templates.read_common_name(name));
        for reading in uris.chain(names).chain(common) {
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

    /// Common names that count: none, unless the configuration switches them on.
    fn common_names<'a>(&self, leaf: &'a Certificate) -> Result<&'a [String], RefusalReason> {
        if !self.templates.reads_common_names() {
            return Ok(&[]);
        }
        leaf.common_names().ok_or(RefusalReason::BadName)
    }
}

/// Asked in the handshake already, so that a stranger without a name sees the alert that every other refusal is.
impl Judge for Directory {
    fn judge(&self, chain: &VerifiedChain) -> Result<(), Finding> {
        let admitted = match self.name(chain.leaf()) {
            Err(reason) => Err(of_names(reason, chain.leaf())),
            // Of several authorities behind one gateway each speaks for its own sites.
            Ok(id) if !chain.anchor().rights().may_name_site(id.site()) => {
                let (anchor, site) = (quoted(chain.anchor().name()), quoted(id.site()));
                let says = format!("anchor {anchor} may not speak for site {site}, which the leaf names");
                Err(Finding::new(RefusalReason::AnchorNotForSite, says))
            }
            Ok(_) => Ok(()),
        };
        admitted.inspect_err(|finding| self.metrics.refused(finding.reason()))
    }
}

/// Says which names of a leaf are no identity, or not one alone.
fn of_names(reason: RefusalReason, leaf: &Certificate) -> Finding {
    let names: Vec<String> = leaf.all_names().take(MOST_NAMES).map(quoted).collect();
    let names = names.join(", ");
    let subject = quoted(leaf.subject());
    let says = match reason {
        RefusalReason::NoIdentity if names.is_empty() => {
            format!("leaf {subject} has no subject alternative names, and so names nobody")
        }
        RefusalReason::NoIdentity => {
            format!("leaf {subject} names {names}, none of which is of a form listed in [identity]")
        }
        RefusalReason::AmbiguousIdentity => {
            format!("leaf {subject} names {names}, which is more than one identity")
        }
        _ => format!("leaf {subject} names {names}, of which one has a part that no site or name can have"),
    };
    Finding::new(reason, says)
}

/// Most names that a refusal repeats.
const MOST_NAMES: usize = 4;

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

    #[test]
    fn a_name_said_twice_is_one_name_but_an_svid_has_one_uri() {
        let leaf = Leaf::collector("td.test", "site-a", "procmond");
        let dns = "Procmond.site-a.collectors.example.com";
        assert_eq!(name(&leaf.clone().dns(dns)).unwrap(), "site-a/procmond");
        let uri = "spiffe://td.test/site/site-a/collector/procmond";
        assert_eq!(name(&leaf.uri(uri)), Err(RefusalReason::AmbiguousIdentity));
        let disguised = Leaf::client("x").uri(uri).uri("SPIFFE://elsewhere/x");
        assert_eq!(name(&disguised), Err(RefusalReason::AmbiguousIdentity));
    }

    #[test]
    fn addresses_and_foreign_names_are_passed_over() {
        let leaf = Leaf::collector("td.test", "site-a", "procmond")
            .ip(std::net::Ipv4Addr::LOCALHOST.into())
            .uri("https://example.org/procmond")
            .dns("*.example.org");
        assert_eq!(name(&leaf).unwrap(), "site-a/procmond");
        let address_alone = Leaf::client("x").ip(std::net::Ipv6Addr::LOCALHOST.into());
        assert_eq!(name(&address_alone), Err(RefusalReason::NoIdentity));
    }

    /// A certificate in which one name of the leaf stands in place of another of the same length, as no builder would write it.
    fn forged(leaf: &Leaf, from: &[u8], to: &[u8]) -> Certificate {
        assert_eq!(from.len(), to.len());
        let mut der = Authority::root("root").unwrap().issue(leaf).unwrap().der().to_vec();
        let at = der.windows(from.len()).position(|window| window == from).unwrap();
        der[at..at + to.len()].copy_from_slice(to);
        Certificate::parse(&der).unwrap()
    }

    #[test]
    fn a_forged_name_spoils_the_whole_certificate() {
        let leaf = Leaf::collector("td.test", "site-a", "procmond").dns("host-1.example.org");
        let directory = Directory::new(config(), Metrics::default());
        for hostile in ["host\0a.example.org", "h\u{f6}st1.example.org", "ho\rt-1.example.org"] {
            let forged = forged(&leaf, b"host-1.example.org", hostile.as_bytes());
            assert_eq!(directory.name(&forged), Err(RefusalReason::BadName), "{hostile:?}");
        }
        let forged = forged(&leaf, b"host-1.example.org", b"host\xff1.example.org");
        assert_eq!(directory.name(&forged), Err(RefusalReason::BadName));
    }

    #[test]
    fn a_common_name_counts_only_where_it_is_switched_on_and_must_agree() {
        let own = "procmond.site-a.collectors.example.com";
        assert_eq!(name(&Leaf::client(own)), Err(RefusalReason::NoIdentity));
        let config: Config = serde_json::from_str(
            r#"{"trust_domain": "td.test", "common_name": ["{name}.{site}.collectors.example.com"]}"#,
        )
        .unwrap();
        let directory = Directory::new(config, Metrics::default());
        let read = |leaf: &Leaf| {
            let issued = Authority::root("root").unwrap().issue(leaf).unwrap();
            directory.name(&Certificate::parse(issued.der()).unwrap()).map(|id| id.to_string())
        };
        assert_eq!(read(&Leaf::client(own)).unwrap(), "site-a/procmond");
        let uri = |of: &str| format!("spiffe://td.test/site/site-a/collector/{of}");
        assert_eq!(read(&Leaf::client(own).uri(&uri("procmond"))).unwrap(), "site-a/procmond");
        assert_eq!(read(&Leaf::client(own).uri(&uri("netmond"))), Err(RefusalReason::AmbiguousIdentity));
        assert_eq!(read(&Leaf::client("x").uri(&uri("netmond"))).unwrap(), "site-a/netmond");
        let wildcard = Leaf::client("*.site-a.collectors.example.com").uri(&uri("netmond"));
        assert_eq!(read(&wildcard), Err(RefusalReason::BadName));
    }
}
