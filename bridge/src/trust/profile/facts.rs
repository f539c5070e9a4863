//! What the profile looks at in one certificate, read once.
//!
//! Facts, not verdicts: [`rules`](super::rules) judge them. What x509-parser cannot read of an extension that it knows is a
//! fact too, because a verifier must not pass over what it does not understand.

use x509_parser::{
    certificate::X509Certificate,
    extensions::{ExtendedKeyUsage, GeneralName, NameConstraints, ParsedExtension, X509Extension},
    oid_registry::{self as oid, Oid},
};

use crate::trust::profile::strength::{Key, Signature};

/// What the profile looks at in one certificate.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not exclude one another")]
pub(in crate::trust) struct Facts {
    pub(super) version3: bool,
    pub(super) serial: Serial,
    pub(super) names_issuer: bool,
    pub(super) names_subject: bool,
    /// Subject and issuer are the same name.
    pub(super) self_issued: bool,
    pub(super) key: Key,
    pub(super) signature: Signature,
    pub(super) basic: Option<Basic>,
    pub(super) usage: Option<Usage>,
    pub(super) purposes: Option<Purposes>,
    pub(super) alternatives: Option<Alternatives>,
    pub(super) authority_key: Option<KeyId>,
    pub(super) subject_key: Option<KeyId>,
    pub(super) constraints: Option<Constraints>,
    /// Extensions that must not be critical, and are.
    pub(super) wrongly_critical: bool,
    /// Policy constraints that are not critical.
    pub(super) loose_policy: bool,
    /// A known extension cannot be read.
    pub(super) malformed: bool,
    /// A critical extension that nobody here understands.
    pub(super) unknown_critical: bool,
    /// An extension stands twice.
    pub(super) repeated: bool,
}

/// The serial number (RFC 5280, 4.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serial {
    Long,
    NotPositive,
    Sound,
}

/// Basic constraints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basic {
    pub(super) critical: bool,
    pub(super) authority: bool,
    pub(super) path_length: Option<u32>,
}

/// Key usage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) digital_signature: bool,
    pub(super) key_cert_sign: bool,
}

/// Extended key usage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purposes {
    pub(super) any: bool,
    pub(super) client: bool,
    pub(super) server: bool,
}

impl From<&ExtendedKeyUsage<'_>> for Purposes {
    fn from(usage: &ExtendedKeyUsage<'_>) -> Self {
        Self { any: usage.any, client: usage.client_auth, server: usage.server_auth }
    }
}

/// Subject alternative names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alternatives {
    pub(super) critical: bool,
    pub(super) empty: bool,
    /// A name is not of the syntax of its kind.
    pub(super) malformed: bool,
}

/// A key identifier.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyId {
    pub(super) critical: bool,
    pub(super) present: bool,
}

/// Name constraints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constraints {
    pub(super) critical: bool,
    pub(super) empty: bool,
    /// A base is not of the syntax of its kind.
    pub(super) malformed: bool,
    /// Kinds that webpki refuses without a look.
    pub(super) foreign: Option<&'static str>,
}

impl Facts {
    /// Reads them off `parsed`.
    pub(in crate::trust) fn of(parsed: &X509Certificate<'_>) -> Self {
        let mut facts = Self {
            version3: parsed.version().0 == 2,
            serial: serial(parsed.raw_serial()),
            names_issuer: parsed.issuer().iter().next().is_some(),
            names_subject: parsed.subject().iter().next().is_some(),
            self_issued: parsed.issuer().as_raw() == parsed.subject().as_raw(),
            key: Key::of(parsed.public_key()),
            signature: Signature::of(&parsed.signature_algorithm.algorithm),
            basic: None,
            usage: None,
            purposes: None,
            alternatives: None,
            authority_key: None,
            subject_key: None,
            constraints: None,
            wrongly_critical: false,
            loose_policy: false,
            malformed: false,
            unknown_critical: false,
            repeated: repeats(parsed.extensions()),
        };
        parsed.extensions().iter().for_each(|extension| facts.take(extension));
        facts
    }

    fn take(&mut self, extension: &X509Extension<'_>) {
        let critical = extension.critical;
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => {
                let path_length = basic.path_len_constraint;
                self.basic = Some(Basic { critical, authority: basic.ca, path_length });
            }
            ParsedExtension::KeyUsage(usage) => {
                let (digital_signature, key_cert_sign) = (usage.digital_signature(), usage.key_cert_sign());
                self.usage = Some(Usage { digital_signature, key_cert_sign });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => self.purposes = Some(usage.into()),
            ParsedExtension::SubjectAlternativeName(names) => {
                self.alternatives = Some(alternatives(critical, &names.general_names));
            }
            ParsedExtension::NameConstraints(given) => {
                self.constraints = Some(constraints(critical, given));
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let present = id.key_identifier.is_some();
                self.authority_key = Some(KeyId { critical, present });
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                self.subject_key = Some(KeyId { critical, present: !id.0.is_empty() });
            }
            ParsedExtension::AuthorityInfoAccess(_) | ParsedExtension::SubjectInfoAccess(_) => {
                self.wrongly_critical |= critical;
            }
            ParsedExtension::PolicyConstraints(_) => self.loose_policy |= !critical,
            ParsedExtension::ParseError { .. } => self.malformed |= is_judged(&extension.oid),
            ParsedExtension::UnsupportedExtension { .. } => self.unknown_critical |= critical,
            _ => {}
        }
    }

    /// Whether its key may sign certificates, as its basic constraints have it.
    pub(in crate::trust) fn is_authority(&self) -> bool {
        self.basic.is_some_and(|basic| basic.authority)
    }

    /// Whether subject and issuer are the same name.
    pub(in crate::trust) const fn is_self_issued(&self) -> bool {
        self.self_issued
    }

    /// How many authorities may stand below it.
    pub(in crate::trust) fn path_length(&self) -> Option<u32> {
        self.basic.and_then(|basic| basic.path_length)
    }

    /// Which kind of name it is constrained by that nobody here can judge.
    pub(in crate::trust) fn foreign_constraint(&self) -> Option<&'static str> {
        self.constraints.and_then(|constraints| constraints.foreign)
    }

    /// What its key is.
    pub(in crate::trust) const fn key(&self) -> &Key {
        &self.key
    }

    /// How it was signed.
    pub(in crate::trust) const fn signature(&self) -> Signature {
        self.signature
    }
}

/// Extensions that are not read here may be of any form.
fn is_judged(oid: &Oid<'_>) -> bool {
    [
        oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        oid::OID_X509_EXT_KEY_USAGE,
        oid::OID_X509_EXT_SUBJECT_ALT_NAME,
        oid::OID_X509_EXT_BASIC_CONSTRAINTS,
        oid::OID_X509_EXT_NAME_CONSTRAINTS,
        oid::OID_X509_EXT_POLICY_CONSTRAINTS,
        oid::OID_X509_EXT_EXTENDED_KEY_USAGE,
        oid::OID_PKIX_AUTHORITY_INFO_ACCESS,
    ]
    .contains(oid)
}

fn repeats(extensions: &[X509Extension<'_>]) -> bool {
    // At most a few dozen: the certificate is bounded by the handshake message.
    let mut rest = extensions;
    while let Some((first, behind)) = rest.split_first() {
        if behind.iter().any(|other| other.oid == first.oid) {
            return true;
        }
        rest = behind;
    }
    false
}

fn serial(octets: &[u8]) -> Serial {
    let significant = crate::trust::significant(octets);
    if significant.is_empty() || octets.first().is_some_and(|first| first & 0x80 != 0) {
        Serial::NotPositive
    } else if significant.len() > LONGEST_SERIAL {
        Serial::Long
    } else {
        Serial::Sound
    }
}

/// Most octets of a serial number (RFC 5280, 4.1.2.2).
const LONGEST_SERIAL: usize = 20;

fn alternatives(critical: bool, names: &[GeneralName<'_>]) -> Alternatives {
    Alternatives { critical, empty: names.is_empty(), malformed: !names.iter().all(is_name) }
}

/// Whether a name is of the syntax of its kind (RFC 5280, 4.2.1.6). A wildcard may stand for the first label.
fn is_name(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::DNSName(name) => is_host(name.strip_prefix("*.").unwrap_or(name)),
        GeneralName::RFC822Name(mail) => is_mailbox(mail),
        GeneralName::IPAddress(octets) => matches!(octets.len(), 4 | 16),
        GeneralName::URI(uri) => uri.is_ascii() && uri.contains(':'),
        GeneralName::Invalid(..) => false,
        _ => true,
    }
}

fn constraints(critical: bool, given: &NameConstraints<'_>) -> Constraints {
    let (permitted, excluded) = (&given.permitted_subtrees, &given.excluded_subtrees);
    let subtrees = || permitted.iter().chain(excluded).flatten().map(|subtree| &subtree.base);
    Constraints {
        critical,
        empty: subtrees().next().is_none(),
        malformed: !subtrees().all(is_base),
        foreign: subtrees().find_map(foreign),
    }
}

/// Whether a constraint is of the syntax of its kind (RFC 5280, 4.2.1.10).
fn is_base(base: &GeneralName<'_>) -> bool {
    match base {
        GeneralName::DNSName(name) => name.is_empty() || is_host(name),
        GeneralName::RFC822Name(mail) if mail.contains('@') => is_mailbox(mail),
        GeneralName::RFC822Name(host) => is_host(host.strip_prefix('.').unwrap_or(host)),
        GeneralName::IPAddress(octets) => matches!(octets.len(), 8 | 32),
        GeneralName::Invalid(..) => false,
        _ => true,
    }
}

const fn foreign(base: &GeneralName<'_>) -> Option<&'static str> {
    match base {
        GeneralName::DNSName(_) | GeneralName::IPAddress(_) => None,
        GeneralName::URI(_) => Some("URI"),
        GeneralName::RFC822Name(_) => Some("e-mail address"),
        GeneralName::DirectoryName(_) => Some("directory name"),
        _ => Some("a kind of name that is not known here"),
    }
}

fn is_mailbox(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && user.is_ascii() && is_host(host))
}

/// Labels of letters, digits and inner hyphens (RFC 1034, 3.5, as RFC 1123, 2.1 has it).
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_positive_and_of_twenty_octets_at_most() {
        assert_eq!(serial(&[0]), Serial::NotPositive);
        assert_eq!(serial(&[0x80]), Serial::NotPositive);
        assert_eq!(serial(&[0, 0x80]), Serial::Sound);
        assert_eq!(serial(&[1; 20]), Serial::Sound);
        assert_eq!(serial(&[1; 21]), Serial::Long);
    }

    #[test]
    fn names_are_of_the_syntax_of_their_kind() {
        for name in ["a", "a-1.example.com", "*.example.com", "xn--bcher-kva.example"] {
            assert!(is_name(&GeneralName::DNSName(name)), "{name}");
        }
        for name in
            ["", "a_b.example.com", "a..b", "-a.com", "*", "f*.example.com", "a.*.com", "bücher.example"]
        {
            assert!(!is_name(&GeneralName::DNSName(name)), "{name}");
        }
        assert!(!is_name(&GeneralName::RFC822Name("a@b@example.com")));
        assert!(!is_base(&GeneralName::DNSName(".example.com")));
        assert!(!is_base(&GeneralName::DNSName("*.example.com")));
        assert!(!is_base(&GeneralName::IPAddress(&[127, 0, 0, 1])));
    }
}
