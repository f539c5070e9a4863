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
    /// Forms of a common name; empty if common names are not looked at.
    common: Vec<Template>,
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
        common: &[String],
    ) -> Result<Self, TemplateError> {
        if spiffe.is_empty() && dns.is_empty() && common.is_empty() {
            return Err(TemplateError::Empty);
        }
        if !is_domain(trust_domain) {
            return Err(TemplateError::TrustDomain(trust_domain.to_owned()));
        }
        let of_uri = |text: &String| Template::spiffe(text, trust_domain);
        let of_dns = |text: &String| Template::dns(text);
        Ok(Self {
            spiffe: spiffe.iter().map(of_uri).collect::<Result<_, _>>()?,
            dns: dns.iter().map(of_dns).collect::<Result<_, _>>()?,
            common: common.iter().map(of_dns).collect::<Result<_, _>>()?,
        })
    }

    /// Whether common names are looked at.
    pub(super) const fn reads_common_names(&self) -> bool {
        !self.common.is_empty()
    }

    /// What a URI is under the first template that has its form.
    ///
    /// One that another reader could take for an identity of ours, because he folds cases, decodes escapes or passes over
    /// user, port, query or a slash at the end, is bad (RFC 3986, 6.2; SPIFFE-ID, 2).
    pub(super) fn read_uri(&self, uri: &str) -> Reading {
        if !is_plain(uri, LONGEST_URI) {
            return Reading::Bad;
        }
        let read = |rest: &str| first(&self.spiffe, &rest.split('/').collect::<Vec<_>>());
        let Some(rest) = after_scheme(uri) else { return Reading::Foreign };
        match read(rest) {
            Reading::Foreign => {}
            reading => return if uri.starts_with(SPIFFE) { reading } else { Reading::Bad },
        }
        match read(&undisguised(rest)) {
            Reading::Foreign => Reading::Foreign,
            Reading::Bad | Reading::Peer(_) => Reading::Bad,
        }
    }

    /// What a DNS name is under the first template that has its form. Letters of either case are the same.
    pub(super) fn read_dns(&self, name: &str) -> Reading {
        read_labels(&self.dns, name)
    }

    /// What a common name is under the first template that has its form. Letters of either case are the same.
    pub(super) fn read_common_name(&self, name: &str) -> Reading {
        read_labels(&self.common, name)
    }
}

fn read_labels(templates: &[Template], name: &str) -> Reading {
    if !is_plain(name, LONGEST_DNS) {
        return Reading::Bad;
    }
    let name = name.to_ascii_lowercase();
    let read = |name: &str| first(templates, &name.split('.').collect::<Vec<_>>());
    // The root's dot is no part of a name in a certificate (RFC 5280, 4.2.1.6); others pass over it.
    match name.strip_suffix('.').map(read) {
        None | Some(Reading::Foreign) => read(&name),
        Some(Reading::Bad | Reading::Peer(_)) => Reading::Bad,
    }
}

/// Most bytes of a DNS name (RFC 1035, 2.3.4).
const LONGEST_DNS: usize = 253;

/// Most bytes of a SPIFFE ID (SPIFFE-ID, 2.3).
const LONGEST_URI: usize = 2048;

/// Whether a name has nothing that one reader stops at and another reads over: control characters, letters outside ASCII.
fn is_plain(name: &str, longest: usize) -> bool {
    !name.is_empty() && name.len() <= longest && name.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// What follows the scheme of a SPIFFE ID, in whatever case that is written.
pub(super) fn after_scheme(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_at_checked(SPIFFE.len())?;
    scheme.eq_ignore_ascii_case(SPIFFE).then_some(rest)
}

/// The identity as a lenient reader would take it.
fn undisguised(rest: &str) -> String {
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    format!("{host}/{}", decoded(path.trim_end_matches('/')))
}

/// Percent-decoded as far as it is ASCII.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let octet = part.split_at_checked(2).and_then(|(digits, rest)| {
            let octet = u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii)?;
            Some((char::from(octet), rest))
        });
        let (letter, rest) = octet.unwrap_or(('%', part));
        text.push(letter);
        text.push_str(rest);
    }
    text
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
        "dns or common_name template {0:?} must be labels with {{name}} and {{site}} once each, and end in a label of your own, as in \"{{name}}.{{site}}.collectors.example.com\""
    )]
    Dns(String),
    /// No template at all.
    #[error("neither spiffe, dns nor common_name has a template: nobody could be identified")]
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
        Templates::parse("td.test", &spiffe, &dns, &[]).unwrap()
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
            "spiffe://td.test/site/site-a/collector",
            "spiffe://td.test@evil/site/site-a/collector/procmond",
            "https://td.test/site/site-a/collector/procmond",
            "spiffe://td.test/site/site-a/collector/procmond/x",
            "spiffe:td.test/site/site-a/collector/procmond",
        ] {
            assert_eq!(templates.read_uri(uri), Reading::Foreign, "{uri}");
        }
        for name in [
            "a.collectors.example.com",
            "a.b.c.collectors.example.com",
            "a.b.collectors.example.com.evil.com",
            "*.example.com",
            "collectors.example.com.",
        ] {
            assert_eq!(templates.read_dns(name), Reading::Foreign, "{name:?}");
        }
    }

    #[test]
    fn an_identity_in_disguise_is_refused() {
        let templates = templates();
        for uri in [
            "SPIFFE://td.test/site/site-a/collector/procmond",
            "spiffe://TD.test/site/site-a/collector/procmond",
            "spiffe://td.test/site/site-a/collector/procmond/",
            "spiffe://td.test/site/site-a/collector/procmond//",
            "spiffe://root@td.test/site/site-a/collector/procmond",
            "spiffe://td.test:443/site/site-a/collector/procmond",
            "spiffe://td.test/site/site-a/collector/procmond?x=y",
            "spiffe://td.test/site/site-a/collector/procmond#x",
            "spiffe://td.test/%73ite/site-a/collector/procmond",
            "spiffe://td.test/site/site-a/collector/%70rocmond",
            "spiffe://td.test/site/site-a/collector/proc%00mond",
            "spiffe://td.test/site/site-a%2fcollector%2Fprocmond",
        ] {
            assert_eq!(templates.read_uri(uri), Reading::Bad, "{uri}");
        }
        for name in ["a.b.collectors.example.com.", "A.b.collectors.EXAMPLE.com."] {
            assert_eq!(templates.read_dns(name), Reading::Bad, "{name}");
        }
    }

    #[test]
    fn a_name_that_readers_differ_on_is_refused_whatever_its_form() {
        let templates = templates();
        let (long_dns, long_uri) = ("a.".repeat(127), format!("spiffe://td.test/{}", "a".repeat(2048)));
        for name in [
            "",
            "a\0b.example.org",
            "a.b.collectors.example.com\0.evil.com",
            "proc\u{43c}ond.site-a.collectors.example.com",
            "\u{212a}.site-a.collectors.example.com",
            "ä.example.org",
            "a\nb",
            long_dns.as_str(),
        ] {
            assert_eq!(templates.read_dns(name), Reading::Bad, "{name:?}");
        }
        for uri in ["", "spiffe://td.test/\0", "https://example.org/ä", long_uri.as_str()] {
            assert_eq!(templates.read_uri(uri), Reading::Bad, "{uri:?}");
        }
    }

    #[test]
    fn punycode_is_letters_like_others() {
        let read = templates().read_dns("xn--prcmond-11a.site-a.collectors.example.com");
        assert_eq!(read, peer("site-a", "xn--prcmond-11a"));
    }

    #[test]
    fn a_common_name_is_read_only_where_that_is_switched_on() {
        let own = "procmond.site-a.collectors.example.com";
        assert!(!templates().reads_common_names());
        assert_eq!(templates().read_common_name(own), Reading::Foreign);
        let form = ["{name}.{site}.collectors.example.com".to_owned()];
        let switched = Templates::parse("td.test", &[], &[], &form).unwrap();
        assert!(switched.reads_common_names());
        assert_eq!(switched.read_common_name(own), peer("site-a", "procmond"));
        assert_eq!(switched.read_common_name("site-a/procmond"), Reading::Foreign);
        assert_eq!(switched.read_common_name("*.site-a.collectors.example.com"), Reading::Bad);
        assert_eq!(switched.read_dns(own), Reading::Foreign);
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
        let spiffe = |text: &str| Templates::parse("td.test", &[text.to_owned()], &[], &[]);
        let dns = |text: &str| Templates::parse("td.test", &[], &[text.to_owned()], &[]);
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
        assert_eq!(Templates::parse("td.test", &[], &[], &[]).unwrap_err(), TemplateError::Empty);
        assert!(matches!(
            Templates::parse("", &[], &["x".to_owned()], &[]),
            Err(TemplateError::TrustDomain(_))
        ));
    }
}
