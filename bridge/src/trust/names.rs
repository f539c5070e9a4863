//! Which names a server may have.
//!
//! Without a configured pattern the certificate must be for the name that was dialled. With patterns it must match one of
//! them, whatever was dialled: gateways behind one address then need no common DNS name.

use rustls::pki_types::ServerName;
use webpki::EndEntityCert;

use crate::trust::{RefusalReason, VerifiedChain};

/// The names that a server may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct ServerNames(Vec<NamePattern>);

impl ServerNames {
    /// Any of `patterns`; the dialled name if there is none.
    #[must_use]
    pub const fn new(patterns: Vec<NamePattern>) -> Self {
        Self(patterns)
    }

    /// Checks that `chain` is for one of these names, or for `dialled`.
    pub(super) fn check(&self, chain: &VerifiedChain, dialled: &ServerName<'_>) -> Result<(), RefusalReason> {
        let fits = if self.0.is_empty() {
            is_for(chain, dialled)
        } else {
            self.0.iter().any(|pattern| pattern.admits(chain))
        };
        if fits { Ok(()) } else { Err(RefusalReason::WrongServerName) }
    }
}

fn is_for(chain: &VerifiedChain, name: &ServerName<'_>) -> bool {
    EndEntityCert::try_from(chain.leaf_der())
        .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
}

/// A name that a server may have: `gw.example.com`, `*.gw.example.com`, `10.0.0.1`, `spiffe://domain/gateway/*`.
///
/// `*` stands for the whole first label of a DNS name, or for one whole segment of a SPIFFE path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// DNS name or address, compared as TLS does.
    Exact(ServerName<'static>),
    /// SPIFFE ID, split at its slashes; `None` stands for any segment.
    Spiffe(Vec<Option<Box<str>>>),
    /// What follows the first label, with its leading dot, in lower case.
    Wild(Box<str>),
}

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// [`NameError`], if it is none of the four forms.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let error = || NameError(text.chars().take(128).collect());
        if let Some(rest) = text.strip_prefix("spiffe://") {
            return spiffe(rest).map(|segments| Self(Form::Spiffe(segments))).ok_or_else(error);
        }
        if let Some(rest) = text.strip_prefix("*.") {
            // Two labels at the least: `*.com` would admit half the world.
            let sound =
                rest.contains('.') && matches!(ServerName::try_from(rest), Ok(ServerName::DnsName(_)));
            let tail = format!(".{}", rest.to_ascii_lowercase());
            return if sound { Ok(Self(Form::Wild(tail.into()))) } else { Err(error()) };
        }
        ServerName::try_from(text.to_owned()).map(|name| Self(Form::Exact(name))).map_err(|_| error())
    }

    pub(super) fn admits(&self, chain: &VerifiedChain) -> bool {
        match &self.0 {
            Form::Exact(name) => is_for(chain, name),
            Form::Spiffe(segments) => chain.leaf().uris().iter().any(|uri| admits_uri(segments, uri)),
            Form::Wild(tail) => chain.leaf().dns_names().iter().any(|name| admits_label(tail, name)),
        }
    }
}

fn spiffe(rest: &str) -> Option<Vec<Option<Box<str>>>> {
    let segments: Vec<&str> = rest.split('/').collect();
    let (domain, path) = segments.split_first()?;
    let sound = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    // The trust domain is whom we trust: it is never left open.
    let whole = sound(domain) && !path.is_empty() && path.iter().all(|part| *part == "*" || sound(part));
    let open = |segment: &&str| if *segment == "*" { None } else { Some(Box::from(*segment)) };
    whole.then(|| segments.iter().map(open).collect())
}

fn admits_uri(segments: &[Option<Box<str>>], uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else { return false };
    let mut given = rest.split('/');
    segments.iter().all(|wanted| {
        given.next().is_some_and(|segment| {
            !segment.is_empty() && wanted.as_ref().is_none_or(|wanted| **wanted == *segment)
        })
    }) && given.next().is_none()
}

fn admits_label(tail: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_suffix(tail).is_some_and(|label| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

impl std::str::FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl<'de> serde::Deserialize<'de> for NamePattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Something is no name of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "server name {0:?} is neither a DNS name, `*.` and a DNS name, an address, nor a SPIFFE ID with a path"
)]
pub struct NameError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_leave_too_much_open_are_refused() {
        for text in [
            "",
            "*",
            "*.com",
            "a.*.com",
            "spiffe://",
            "spiffe://td",
            "spiffe://*/gateway",
            "spiffe://td/",
            "a b",
        ] {
            assert!(NamePattern::parse(text).is_err(), "{text}");
        }
        for text in ["gw", "gw.example.com", "*.example.com", "10.0.0.1", "::1", "spiffe://td/gateway/*"] {
            assert!(NamePattern::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_one_whole_segment() {
        let segments = spiffe("td/gateway/*").unwrap();
        assert!(admits_uri(&segments, "spiffe://td/gateway/a"));
        assert!(!admits_uri(&segments, "spiffe://td/gateway/"));
        assert!(!admits_uri(&segments, "spiffe://td/gateway/a/b"));
        assert!(!admits_uri(&segments, "spiffe://other/gateway/a"));
        assert!(!admits_uri(&segments, "https://td/gateway/a"));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(admits_label(".gw.example.com", "A1.GW.example.com"));
        assert!(!admits_label(".gw.example.com", "a.b.gw.example.com"));
        assert!(!admits_label(".gw.example.com", "gw.example.com"));
        assert!(!admits_label(".gw.example.com", "*.gw.example.com"));
    }
}
