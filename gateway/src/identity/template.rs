//! Templates: which names of a certificate are identities.
//!
//! A template is taken apart at its separators once; a name is compared segment by segment, so that no character of a name
//! can reach beyond its segment.

use crate::identity::{PeerId, peer};

/// All templates of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Templates {
    spiffe: Vec<Template>,
    dns: Vec<Template>,
}

/// What a name is under a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It has the form of an identity, with a part that cannot be one.
    Bad,
    /// It is none of ours.
    Foreign,
    /// It names a peer.
    Peer(PeerId),
}

impl Templates {
    pub(super) fn parse(
        trust_domain: &str,
        spiffe: &[String],
        dns: &[String],
    ) -> Result<Self, TemplateError> {
        if spiffe.is_empty() && dns.is_empty() {
            return Err(TemplateError::Empty);
        }
        if !is_domain(trust_domain) {
            return Err(TemplateError::TrustDomain(trust_domain.to_owned()));
        }
        let of_uri = |text: &String| Template::spiffe(text, trust_domain);
        Ok(Self {
            spiffe: spiffe.iter().map(of_uri).collect::<Result<_, _>>()?,
            dns: dns.iter().map(|text| Template::dns(text)).collect::<Result<_, _>>()?,
        })
    }

    /// What a URI is under the first template that has its form.
    pub(super) fn read_uri(&self, uri: &str) -> Reading {
        let Some(rest) = uri.strip_prefix(SPIFFE) else { return Reading::Foreign };
        first(&self.spiffe, &rest.split('/').collect::<Vec<_>>())
    }

    /// What a DNS name is under the first template that has its form. Letters of either case are the same.
    pub(super) fn read_dns(&self, name: &str) -> Reading {
        let name = name.to_ascii_lowercase();
        first(&self.dns, &name.split('.').collect::<Vec<_>>())
    }
}

/// Stands for the configured trust domain.
const TRUST_DOMAIN: &str = "{trust_domain}";

pub(super) const SPIFFE: &str = "spiffe://";

fn first(templates: &[Template], given: &[&str]) -> Reading {
    let readings = templates.iter().map(|template| template.read(given));
    readings.into_iter().find(|reading| *reading != Reading::Foreign).unwrap_or(Reading::Foreign)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Box<[Place]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Literal(Box<str>),
    Name,
    Site,
}

impl Template {
    fn spiffe(text: &str, trust_domain: &str) -> Result<Self, TemplateError> {
        let error = || TemplateError::Spiffe(text.to_owned());
        let rest = text.strip_prefix(SPIFFE).ok_or_else(error)?;
        let (domain, path) = rest.split_once('/').ok_or_else(error)?;
        let domain = if domain == TRUST_DOMAIN { trust_domain } else { domain };
        // A site or a name in place of the trust domain would let every domain speak.
        if !is_domain(domain) {
            return Err(error());
        }
        let literal = |part: &str| {
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !part.is_empty() && part.bytes().all(sound)
        };
        let places = std::iter::once(Some(Place::Literal(domain.into())))
            .chain(path.split('/').map(|part| place(part, literal)));
        places.collect::<Option<Box<[Place]>>>().and_then(whole).ok_or_else(error)
    }

    fn dns(text: &str) -> Result<Self, TemplateError> {
        let lower = text.to_ascii_lowercase();
        let literal = |part: &str| peer::is_part(part);
        let places: Option<Box<[Place]>> = lower.split('.').map(|part| place(part, literal)).collect();
        // The last label is whose zone it is: it is never left open.
        let anchored = |places: &Self| matches!(places.0.last(), Some(Place::Literal(_)));
        places.and_then(whole).filter(anchored).ok_or_else(|| TemplateError::Dns(text.to_owned()))
    }

    fn read(&self, given: &[&str]) -> Reading {
        if self.0.len() != given.len() {
            return Reading::Foreign;
        }
        let (mut site, mut name) = ("", "");
        for (place, segment) in self.0.iter().zip(given) {
            match place {
                Place::Literal(literal) if **literal != **segment => return Reading::Foreign,
                Place::Literal(_) => {}
                Place::Name => name = segment,
                Place::Site => site = segment,
            }
        }
        PeerId::new(site, name).map_or(Reading::Bad, Reading::Peer)
    }
}

fn place(part: &str, is_literal: impl Fn(&str) -> bool) -> Option<Place> {
    match part {
        "{name}" => Some(Place::Name),
        "{site}" => Some(Place::Site),
        literal => is_literal(literal).then(|| Place::Literal(literal.into())),
    }
}

/// Site and name stand once each.
fn whole(places: Box<[Place]>) -> Option<Template> {
    let count = |wanted: &Place| places.iter().filter(|place| *place == wanted).count();
    (count(&Place::Name) == 1 && count(&Place::Site) == 1).then_some(Template(places))
}

fn is_domain(text: &str) -> bool {
    let sound =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(sound)
}

/// Why the templates are of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A DNS template that is none.
    #[error(
        "dns template {0:?} must be labels with {{name}} and {{site}} once each, and end in a label of your own, as in \"{{name}}.{{site}}.collectors.example.com\""
    )]
    Dns(String),
    /// No template at all.
    #[error("neither spiffe nor dns has a template: nobody could be identified")]
    Empty,
    /// A SPIFFE template that is none.
    #[error(
        "spiffe template {0:?} must be a SPIFFE URI of one trust domain with {{site}} and {{name}} once each, as in \"spiffe://{{trust_domain}}/site/{{site}}/collector/{{name}}\""
    )]
    Spiffe(String),
    /// A trust domain that is none.
    #[error("trust_domain {0:?} must be 1 to 255 of a-z, 0-9, `.`, `_` and `-`, as in \"example.org\"")]
    TrustDomain(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates() -> Templates {
        let spiffe = ["spiffe://{trust_domain}/site/{site}/collector/{name}".to_owned()];
        let dns = ["{name}.{site}.Collectors.example.com".to_owned()];
        Templates::parse("td.test", &spiffe, &dns).unwrap()
    }

    fn peer(site: &str, name: &str) -> Reading {
        Reading::Peer(PeerId::new(site, name).unwrap())
    }

    #[test]
    fn a_name_of_the_form_is_a_peer() {
        let templates = templates();
        assert_eq!(
            templates.read_uri("spiffe://td.test/site/site-a/collector/procmond"),
            peer("site-a", "procmond")
        );
        assert_eq!(templates.read_dns("Procmond.site-A.collectors.example.com"), peer("site-a", "procmond"));
    }

    #[test]
    fn a_name_of_another_form_is_passed_over() {
        let templates = templates();
        for uri in [
            "spiffe://other.test/site/site-a/collector/procmond",
            "spiffe://td.test/site/site-a/collector/procmond/",
            "spiffe://td.test/site/site-a/collector",
            "spiffe://td.test@evil/site/site-a/collector/procmond",
            "SPIFFE://td.test/site/site-a/collector/procmond",
            "https://td.test/site/site-a/collector/procmond",
            "",
        ] {
            assert_eq!(templates.read_uri(uri), Reading::Foreign, "{uri}");
        }
        for name in [
            "a.b.collectors.example.com.",
            "a.collectors.example.com",
            "a.b.collectors.example.com\0.evil.com",
        ] {
            assert_eq!(templates.read_dns(name), Reading::Foreign, "{name:?}");
        }
    }

    #[test]
    fn a_part_that_cannot_be_one_is_refused() {
        let templates = templates();
        for name in ["*", "", "a\0", "ä", "a b", "%61", "a".repeat(64).as_str(), "Procmond"] {
            let uri = format!("spiffe://td.test/site/site-a/collector/{name}");
            assert_eq!(templates.read_uri(&uri), Reading::Bad, "{name:?}");
        }
        assert_eq!(templates.read_dns("*.site-a.collectors.example.com"), Reading::Bad);
    }

    #[test]
    fn templates_that_leave_the_owner_open_are_refused() {
        let spiffe = |text: &str| Templates::parse("td.test", &[text.to_owned()], &[]);
        let dns = |text: &str| Templates::parse("td.test", &[], &[text.to_owned()]);
        for text in [
            "spiffe://{site}/{name}",
            "spiffe://{trust_domain}/{name}",
            "spiffe://{trust_domain}/{site}/{site}/{name}",
            "spiffe://{trust_domain}/{site}/x-{name}",
            "spiffe://{trust_domain}//{site}/{name}",
            "{site}/{name}",
        ] {
            assert!(matches!(spiffe(text), Err(TemplateError::Spiffe(_))), "{text}");
        }
        for text in ["{name}.{site}", "{name}.example.com", "{site}.x.{name}", "*.{site}.{name}.com", ""] {
            assert!(matches!(dns(text), Err(TemplateError::Dns(_))), "{text}");
        }
        assert_eq!(Templates::parse("td.test", &[], &[]).unwrap_err(), TemplateError::Empty);
        assert!(matches!(Templates::parse("", &[], &["x".to_owned()]), Err(TemplateError::TrustDomain(_))));
    }
}
