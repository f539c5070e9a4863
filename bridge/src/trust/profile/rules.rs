//! The profile as a table: which certificates a rule binds, when it is broken, where it is written.
//!
//! What rustls and webpki check already is not repeated here; `docs/chain.md` has both halves on one page.
//!
//! Kept true: every rule that is enforced stands in [`RULES`], and `docs/chain.md` names each of them.

use crate::trust::{
    RefusalReason,
    profile::facts::{Facts, Serial},
};

/// Which certificates of a path a rule binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trust) enum Place {
    /// The authority that is trusted.
    Anchor,
    /// Between leaf and anchor.
    Intermediate,
    /// The peer's own.
    Leaf,
}

impl Place {
    /// The word for it.
    pub(in crate::trust) const fn as_str(self) -> &'static str {
        match self {
            Self::Anchor => "anchor",
            Self::Intermediate => "intermediate",
            Self::Leaf => "leaf",
        }
    }
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(in crate::trust) struct Rule {
    /// What `docs/chain.md` calls it.
    pub(in crate::trust) name: &'static str,
    /// Where it is written.
    pub(in crate::trust) source: &'static str,
    /// What whoever breaks it is refused for.
    pub(in crate::trust) reason: RefusalReason,
    /// What is wrong with a certificate that breaks it.
    pub(in crate::trust) says: &'static str,
    binds: &'static [Place],
    broken: fn(&Facts) -> bool,
}

impl Rule {
    /// Whether a certificate in this place breaks it.
    pub(in crate::trust) fn is_broken(&self, place: Place, facts: &Facts) -> bool {
        self.binds.contains(&place) && (self.broken)(facts)
    }
}

const ALL: &[Place] = &[Place::Anchor, Place::Intermediate, Place::Leaf];
const AUTHORITIES: &[Place] = &[Place::Anchor, Place::Intermediate];
const PRESENTED: &[Place] = &[Place::Intermediate, Place::Leaf];
const ANCHOR: &[Place] = &[Place::Anchor];
const INTERMEDIATE: &[Place] = &[Place::Intermediate];
const LEAF: &[Place] = &[Place::Leaf];

/// Writes a rule on one line.
const fn rule(
    (name, source): (&'static str, &'static str),
    reason: RefusalReason,
    binds: &'static [Place],
    broken: fn(&Facts) -> bool,
    says: &'static str,
) -> Rule {
    Rule { name, source, reason, says, binds, broken }
}

use RefusalReason as R;

/// The rules, those whose breach says most first.
pub(in crate::trust) const RULES: &[Rule] = &[
    rule(
        ("key-strength", "NIST SP 800-57"),
        R::WeakKey,
        ALL,
        |c| !c.key.is_strong(),
        "has a key that is too weak or not accepted",
    ),
    rule(
        ("leaf-no-cert-sign", "4.2.1.3, 4.2.1.9"),
        R::KeyUsage,
        LEAF,
        |c| c.usage.is_some_and(|usage| usage.key_cert_sign),
        "has key usage keyCertSign, but is no authority",
    ),
    rule(
        ("leaf-digital-signature", "4.2.1.3"),
        R::KeyUsage,
        LEAF,
        |c| c.usage.is_some_and(|usage| !usage.digital_signature),
        "lacks key usage digitalSignature",
    ),
    rule(
        ("ca-cert-sign", "4.2.1.3, 6.1.4 (n)"),
        R::CaKeyUsage,
        AUTHORITIES,
        |c| c.usage.is_some_and(|usage| !usage.key_cert_sign),
        "lacks key usage keyCertSign",
    ),
    rule(
        ("ca-key-usage-present", "4.2.1.3"),
        R::CaKeyUsage,
        INTERMEDIATE,
        |c| c.usage.is_none(),
        "has no key usage",
    ),
    rule(
        ("anchor-is-authority", "4.2.1.9, 6.1.4 (k)"),
        R::LeafAsCa,
        ANCHOR,
        |c| !c.is_authority(),
        "is no authority",
    ),
    rule(
        ("anchor-critical-extensions", "4.2"),
        R::UnsupportedExtension,
        ANCHOR,
        |c| c.unknown_critical,
        "has a critical extension that is not understood",
    ),
    rule(("version-3", "4.1.2.1"), R::NonConforming, ALL, |c| !c.version3, "is not of version 3"),
    rule(("extensions-once", "4.2"), R::NonConforming, ALL, |c| c.repeated, "has an extension twice"),
    rule(
        ("extensions-readable", "4.2"),
        R::NonConforming,
        ALL,
        |c| c.malformed,
        "has an extension that cannot be read",
    ),
    rule(
        ("serial-positive", "4.1.2.2"),
        R::NonConforming,
        PRESENTED,
        |c| c.serial == Serial::NotPositive,
        "has a serial number that is not positive",
    ),
    rule(
        ("serial-length", "4.1.2.2"),
        R::NonConforming,
        PRESENTED,
        |c| c.serial == Serial::Long,
        "has a serial number of more than 20 octets",
    ),
    rule(("issuer-named", "4.1.2.4"), R::NonConforming, ALL, |c| !c.names_issuer, "names no issuer"),
    rule(
        ("ca-subject-named", "4.1.2.6"),
        R::NonConforming,
        AUTHORITIES,
        |c| !c.names_subject,
        "names no subject",
    ),
    rule(
        ("authority-key-id", "4.2.1.1"),
        R::NonConforming,
        PRESENTED,
        |c| !c.self_issued && !c.authority_key.is_some_and(|id| id.present),
        "lacks an authority key identifier",
    ),
    rule(
        ("anchor-authority-key-id", "4.2.1.1"),
        R::NonConforming,
        ANCHOR,
        |c| !c.self_issued && !c.authority_key.is_some_and(|id| id.present),
        "is issued by another authority, and lacks an authority key identifier",
    ),
    rule(
        ("authority-key-id-not-critical", "4.2.1.1"),
        R::NonConforming,
        ALL,
        |c| c.authority_key.is_some_and(|id| id.critical),
        "has a critical authority key identifier",
    ),
    rule(
        ("ca-subject-key-id", "4.2.1.2"),
        R::NonConforming,
        AUTHORITIES,
        |c| !c.subject_key.is_some_and(|id| id.present),
        "lacks a subject key identifier",
    ),
    rule(
        ("subject-key-id-not-critical", "4.2.1.2"),
        R::NonConforming,
        ALL,
        |c| c.subject_key.is_some_and(|id| id.critical),
        "has a critical subject key identifier",
    ),
    rule(
        ("names-critical-without-subject", "4.2.1.6"),
        R::NonConforming,
        LEAF,
        |c| !c.names_subject && c.alternatives.is_some_and(|names| !names.critical),
        "names no subject, and its alternative names are not critical",
    ),
    rule(
        ("names-present", "4.2.1.6"),
        R::NonConforming,
        PRESENTED,
        |c| c.alternatives.is_some_and(|names| names.empty),
        "has an empty list of alternative names",
    ),
    rule(
        ("names-syntax", "4.2.1.6"),
        R::BadName,
        PRESENTED,
        |c| c.alternatives.is_some_and(|names| names.malformed),
        "has an alternative name that is not of the syntax of its kind",
    ),
    rule(
        ("ca-basic-constraints-critical", "4.2.1.9"),
        R::NonConforming,
        AUTHORITIES,
        |c| c.basic.is_some_and(|basic| !basic.critical),
        "has basic constraints that are not critical",
    ),
    rule(
        ("leaf-no-name-constraints", "4.2.1.10"),
        R::NonConforming,
        LEAF,
        |c| c.constraints.is_some(),
        "has name constraints, but is no authority",
    ),
    rule(
        ("name-constraints-critical", "4.2.1.10"),
        R::NonConforming,
        AUTHORITIES,
        |c| c.constraints.is_some_and(|names| !names.critical),
        "has name constraints that are not critical",
    ),
    rule(
        ("name-constraints-not-empty", "4.2.1.10"),
        R::NonConforming,
        AUTHORITIES,
        |c| c.constraints.is_some_and(|names| names.empty),
        "has name constraints that constrain nothing",
    ),
    rule(
        ("name-constraints-syntax", "4.2.1.10"),
        R::NonConforming,
        AUTHORITIES,
        |c| c.constraints.is_some_and(|names| names.malformed),
        "has a name constraint that is not of the syntax of its kind",
    ),
    rule(
        ("policy-constraints-critical", "4.2.1.11"),
        R::NonConforming,
        PRESENTED,
        |c| c.loose_policy,
        "has policy constraints that are not critical",
    ),
    rule(
        ("access-not-critical", "4.2.2.1, 4.2.2.2"),
        R::NonConforming,
        ALL,
        |c| c.wrongly_critical,
        "has a critical authority or subject information access",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_stands_on_the_page_with_its_source_and_code() {
        let page = include_str!("../../../../docs/chain.md");
        for rule in RULES {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", rule.name)));
            let row = row.unwrap_or_else(|| panic!("docs/chain.md lacks {}", rule.name));
            let end = format!("{} | {} | `{}` |", rule.says, rule.source, rule.reason);
            assert!(row.ends_with(&end), "{row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, RULES.len(), "docs/chain.md has a rule that is not enforced");
    }
}
