//! What an authority may speak for: sites, and SPIFFE trust domains.
//!
//! Several authorities often stand behind one gateway, one for each site or customer. Without limits each of them could
//! name a collector of any other.
//!
//! Kept true: what is not limited is open, and a limit that admits nobody cannot be written.

use std::fmt;

use crate::trust::Certificate;

/// What an authority may speak for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// How configuration calls the authority.
    name: Option<Box<str>>,
    /// Sites that it may name; empty stands for all.
    sites: Box<[SitePattern]>,
    /// Trust domains that it may name; empty stands for all.
    trust_domains: Box<[Box<str>]>,
}

impl Rights {
    /// The rights of the authorities called `name`; an empty list limits nothing.
    ///
    /// # Errors
    ///
    /// [`RightsError`], if a site or a trust domain is none.
    pub fn new(name: &str, sites: &[String], trust_domains: &[String]) -> Result<Self, RightsError> {
        let sites = sites.iter().map(|site| SitePattern::parse(site)).collect::<Result<_, _>>()?;
        let trust_domains =
            trust_domains.iter().map(|domain| trust_domain(domain)).collect::<Result<_, _>>()?;
        Ok(Self { name: Some(name.into()), sites, trust_domains })
    }

    /// How configuration calls the authority, if it has a name there.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether it may name a peer of `site`.
    #[must_use]
    pub fn may_name_site(&self, site: &str) -> bool {
        self.sites.is_empty() || self.sites.iter().any(|pattern| pattern.admits(site))
    }

    /// The first SPIFFE trust domain of `leaf` that it may not name.
    pub(super) fn forbidden_domain<'a>(&self, leaf: &'a Certificate) -> Option<&'a str> {
        if self.trust_domains.is_empty() {
            return None;
        }
        let domains = leaf.uris().iter().filter_map(|uri| uri.strip_prefix("spiffe://"));
        let domains = domains.map(|rest| rest.split_once('/').map_or(rest, |(domain, _)| domain));
        domains.into_iter().find(|domain| !self.trust_domains.iter().any(|known| **known == **domain))
    }
}

/// A site, or the beginning of its name with `*` behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SitePattern {
    text: Box<str>,
    open: bool,
}

impl SitePattern {
    fn parse(text: &str) -> Result<Self, RightsError> {
        let (fixed, open) = text.strip_suffix('*').map_or((text, false), |fixed| (fixed, true));
        let sound =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        // A star alone would look like a limit and be none.
        if fixed.is_empty() || fixed.len() > LONGEST_SITE || !fixed.bytes().all(sound) {
            return Err(RightsError::Site(text.chars().take(128).collect()));
        }
        Ok(Self { text: fixed.into(), open })
    }

    fn admits(&self, site: &str) -> bool {
        if self.open { site.starts_with(&*self.text) } else { site == &*self.text }
    }
}

impl fmt::Display for SitePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.open { "*" } else { "" })
    }
}

/// Most bytes of a site, as of a DNS label.
const LONGEST_SITE: usize = 63;

fn trust_domain(text: &str) -> Result<Box<str>, RightsError> {
    let sound =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 255 || !text.bytes().all(sound) {
        return Err(RightsError::TrustDomain(text.chars().take(128).collect()));
    }
    Ok(text.into())
}

/// Something is no limit of an authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RightsError {
    /// A site that is none.
    #[error(
        "site {0:?} must be 1 to 63 of a-z, 0-9, `_` and `-`, or the beginning of one with `*` behind it"
    )]
    Site(String),
    /// A trust domain that is none.
    #[error("trust domain {0:?} must be 1 to 255 of a-z, 0-9, `.`, `_` and `-`, without spiffe://")]
    TrustDomain(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(sites: &[&str], domains: &[&str]) -> Result<Rights, RightsError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Rights::new("corp", &owned(sites), &owned(domains))
    }

    #[test]
    fn sites_are_admitted_whole_or_by_their_beginning() {
        let limited = rights(&["site-a", "lab-*"], &[]).unwrap();
        assert!(limited.may_name_site("site-a") && limited.may_name_site("lab-7"));
        assert!(!limited.may_name_site("site-ab") && !limited.may_name_site("lab"));
        assert!(Rights::default().may_name_site("anything"));
    }

    #[test]
    fn limits_that_look_like_one_and_are_none_are_refused() {
        for site in ["*", "", "A", "a*b", "a/b"] {
            assert!(matches!(rights(&[site], &[]), Err(RightsError::Site(_))), "{site}");
        }
        for domain in ["", "spiffe://td", "TD", "*"] {
            assert!(matches!(rights(&[], &[domain]), Err(RightsError::TrustDomain(_))), "{domain}");
        }
    }
}
