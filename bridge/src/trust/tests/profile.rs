//! The chain profile, a class of chains a test; the forms are those of C2SP/x509-limbo.

use std::slice::from_ref;

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;

use crate::trust::{
    Profile, RefusalReason as R, Role,
    explain::{Case, Explanation, moment},
    tests::forge::{
        ALTERNATIVES, AUTHORITY_KEY_ID, BASIC, BOTH, CERTIFIES, Extension, Forge, KEY_USAGE,
        NAME_CONSTRAINTS, POLICY_CONSTRAINTS, PURPOSES, RSA_MD5, RSA_SHA1, SIGNS, SUBJECT_KEY_ID, algorithm,
        dsa_key, element, explicit_curve_key, p192_key, rsa_key, sequence,
    },
};

/// A root, an authority below it, and keys for both and for a leaf.
struct World {
    root_key: KeyPair,
    between_key: KeyPair,
    leaf_key: KeyPair,
    profile: Profile,
}

impl World {
    fn new() -> Self {
        let key = || KeyPair::generate().unwrap();
        Self { root_key: key(), between_key: key(), leaf_key: key(), profile: Profile::default() }
    }

    fn root(&self) -> Forge {
        Forge::authority("root", "root", &self.root_key)
    }

    fn between(&self) -> Forge {
        Forge::authority("root", "between", &self.between_key)
    }

    fn leaf(&self) -> Forge {
        Forge::leaf("between", &self.leaf_key)
    }

    fn explain(&self, chain: &[CertificateDer<'static>], anchors: &[CertificateDer<'static>]) -> Explanation {
        let at = moment("2026-06-01T00:00:00Z").unwrap();
        let profile = &self.profile;
        let role = Role::Client;
        Case { role, chain, anchors, at, name: None, profile, lists: &[], key: None }.explain()
    }

    /// Judges leaf, intermediate and root, changed as told.
    fn verdict(&self, leaf: &Forge, between: &Forge, root: &Forge) -> Result<(), R> {
        let chain = [leaf.sign(&self.between_key), between.sign(&self.root_key)];
        self.explain(&chain, &[root.sign(&self.root_key)])
            .refused
            .map_or(Ok(()), |refused| Err(refused.reason))
    }

    fn of_leaf(&self, change: impl FnOnce(Forge) -> Forge) -> Result<(), R> {
        self.verdict(&change(self.leaf()), &self.between(), &self.root())
    }

    fn of_between(&self, change: impl FnOnce(Forge) -> Forge) -> Result<(), R> {
        self.verdict(&self.leaf(), &change(self.between()), &self.root())
    }

    fn of_root(&self, change: impl FnOnce(Forge) -> Forge) -> Result<(), R> {
        self.verdict(&self.leaf(), &self.between(), &change(self.root()))
    }
}

/// Permits one name of this kind and form.
fn permits(tag: u8, base: &[u8]) -> Vec<u8> {
    sequence(&[&element(0xa0, &[&sequence(&[&element(tag, &[base])])])])
}

const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const MAIL: u8 = 0x81;

#[test]
fn a_chain_in_order_is_accepted() {
    let world = World::new();
    assert_eq!(world.of_leaf(|leaf| leaf), Ok(()));
    // Both are optional where they are: usage on a leaf (4.2.1.3) and on an anchor that says nothing.
    assert_eq!(world.of_leaf(|leaf| leaf.without(KEY_USAGE)), Ok(()));
    assert_eq!(world.of_root(|root| root.without(KEY_USAGE)), Ok(()));
    assert_eq!(world.of_root(|root| root.without(AUTHORITY_KEY_ID)), Ok(()));
}

#[test]
fn key_usage_is_held_against_leaf_intermediate_and_anchor() {
    let world = World::new();
    assert_eq!(world.of_leaf(|leaf| leaf.with(KEY_USAGE, true, BOTH)), Err(R::KeyUsage));
    assert_eq!(world.of_leaf(|leaf| leaf.with(KEY_USAGE, true, CERTIFIES)), Err(R::KeyUsage));
    assert_eq!(world.of_leaf(|leaf| leaf.with(KEY_USAGE, true, &[3, 2, 5, 0x20])), Err(R::KeyUsage));
    assert_eq!(world.of_between(|between| between.with(KEY_USAGE, true, SIGNS)), Err(R::CaKeyUsage));
    assert_eq!(world.of_between(|between| between.without(KEY_USAGE)), Err(R::CaKeyUsage));
    assert_eq!(world.of_root(|root| root.with(KEY_USAGE, true, SIGNS)), Err(R::CaKeyUsage));
}

#[test]
fn the_purpose_must_be_there_and_nothing_above_may_exclude_it() {
    let world = World::new();
    let purposes = |last: u8| sequence(&[&element(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 3, last]])]);
    let any = sequence(&[&element(0x06, &[&[0x55, 0x1d, 0x25, 0]])]);
    assert_eq!(world.of_leaf(|leaf| leaf.without(PURPOSES)), Err(R::NoPurpose));
    assert_eq!(world.of_leaf(|leaf| leaf.with(PURPOSES, false, &purposes(1))), Err(R::WrongPurpose));
    assert_eq!(world.of_leaf(|leaf| leaf.with(PURPOSES, false, &any)), Err(R::WrongPurpose));
    assert_eq!(world.of_leaf(|leaf| leaf.with(PURPOSES, false, &sequence(&[]))), Err(R::WrongPurpose));
    assert_eq!(world.of_between(|between| between.with(PURPOSES, false, &purposes(1))), Err(R::CaPurpose));
    assert_eq!(world.of_root(|root| root.with(PURPOSES, false, &purposes(3))), Err(R::CaPurpose));
    assert_eq!(world.of_root(|root| root.with(PURPOSES, false, &any)), Ok(()));
}

#[test]
fn weak_keys_are_refused_wherever_they_stand() {
    let world = World::new();
    for key in [rsa_key(1024), dsa_key(), p192_key(), explicit_curve_key()] {
        let weak = |forge: Forge| Forge { key: key.clone(), ..forge };
        assert_eq!(world.of_leaf(weak), Err(R::WeakKey));
        assert_eq!(world.of_between(weak), Err(R::WeakCaKey));
        assert_eq!(world.of_root(weak), Err(R::WeakCaKey));
    }
    assert_eq!(world.of_leaf(|leaf| Forge { key: rsa_key(2048), ..leaf }), Ok(()));
}

#[test]
fn weak_signatures_are_told_from_unknown_ones() {
    let world = World::new();
    for weak in [RSA_SHA1, RSA_MD5] {
        let forge = |leaf: Forge| Forge { signed_with: algorithm(weak, &[5, 0]), ..leaf };
        assert_eq!(world.of_leaf(forge), Err(R::WeakSignature));
        assert_eq!(world.of_between(forge), Err(R::WeakSignature));
    }
    let unknown = |leaf: Forge| Forge { signed_with: algorithm(&[0x2a, 3], &[]), ..leaf };
    assert_eq!(world.of_leaf(unknown), Err(R::UnsupportedAlgorithm));
}

#[test]
fn whatever_has_expired_has_a_reason_of_its_own() {
    let world = World::new();
    let old = |forge: Forge| Forge { years: (2020, 2025), ..forge };
    assert_eq!(world.of_leaf(old), Err(R::CertificateExpired));
    assert_eq!(world.of_between(old), Err(R::IntermediateExpired));
    assert_eq!(world.of_root(old), Err(R::AnchorExpired));
    let future = |forge: Forge| Forge { years: (2030, 2040), ..forge };
    assert_eq!(world.of_leaf(future), Err(R::CertificateNotYetValid));
    assert_eq!(world.of_between(future), Err(R::IntermediateNotYetValid));
    assert_eq!(world.of_root(future), Err(R::AnchorNotYetValid));
}

#[test]
fn a_renewed_anchor_is_found_beside_the_expired_one() {
    let world = World::new();
    let chain = [world.leaf().sign(&world.between_key), world.between().sign(&world.root_key)];
    let old = Forge { years: (2020, 2025), ..world.root() }.sign(&world.root_key);
    let new = world.root().sign(&world.root_key);
    for anchors in [[old.clone(), new.clone()], [new, old]] {
        assert!(world.explain(&chain, &anchors).is_accepted());
    }
}

#[test]
fn path_length_binds_intermediate_and_anchor() {
    let world = World::new();
    let none_below = sequence(&[&[1, 1, 0xff], &[2, 1, 0]]);
    assert_eq!(world.of_between(|between| between.with(BASIC, true, &none_below)), Ok(()));
    assert_eq!(world.of_root(|root| root.with(BASIC, true, &none_below)), Err(R::AnchorPathLength));
    // Two authorities below one that allows none.
    let (second_key, root) = (KeyPair::generate().unwrap(), world.root().sign(&world.root_key));
    let second = Forge::authority("between", "second", &second_key).sign(&world.between_key);
    let between = world.between().with(BASIC, true, &none_below).sign(&world.root_key);
    let leaf = Forge::leaf("second", &world.leaf_key).sign(&second_key);
    let refused = world.explain(&[leaf, second, between], &[root]).refused.unwrap();
    assert_eq!(refused.reason, R::PathLength);
    assert!(refused.detail.contains("intermediate `CN=between` allows 0"), "{}", refused.detail);
}

#[test]
fn depth_is_bounded_by_the_profile() {
    let mut world = World::new();
    world.profile.max_depth = 1;
    assert_eq!(world.of_leaf(|leaf| leaf), Ok(()));
    world.profile.max_depth = 0;
    assert_eq!(world.of_leaf(|leaf| leaf), Err(R::PathTooDeep));
}

#[test]
fn a_leaf_may_be_valid_for_so_long_and_no_longer() {
    let mut world = World::new();
    world.profile.max_leaf_lifetime = Some(std::time::Duration::from_hours(24 * 365));
    assert_eq!(world.of_leaf(|leaf| leaf), Err(R::LifetimeTooLong));
    assert_eq!(world.of_leaf(|leaf| Forge { years: (2026, 2027), ..leaf }), Ok(()));
}

#[test]
fn leaves_and_authorities_do_not_stand_in_for_each_other() {
    let world = World::new();
    assert_eq!(world.of_between(|between| between.without(BASIC)), Err(R::LeafAsCa));
    assert_eq!(world.of_root(|root| root.without(BASIC)), Err(R::LeafAsCa));
    assert_eq!(world.of_leaf(|leaf| leaf.with(BASIC, true, &sequence(&[&[1, 1, 0xff]]))), Err(R::CaAsLeaf));
}

#[test]
fn name_constraints_bind_and_those_of_other_kinds_always_refuse() {
    let world = World::new();
    let dns = element(DNS, &[b"a.example.com"]);
    let leaf = || world.leaf().with(ALTERNATIVES, false, &sequence(&[&dns]));
    let under = |constraint: Vec<u8>| {
        let between = world.between().with(NAME_CONSTRAINTS, true, &constraint);
        world.verdict(&leaf(), &between, &world.root())
    };
    assert_eq!(under(permits(DNS, b"example.com")), Ok(()));
    assert_eq!(under(permits(DNS, b"example.org")), Err(R::NameConstraint));
    let by_uri = world.between().with(NAME_CONSTRAINTS, true, &permits(URI, b"td"));
    assert_eq!(world.verdict(&world.leaf(), &by_uri, &world.root()), Err(R::NameConstraintUri));
    let mail = world.leaf().with(ALTERNATIVES, false, &sequence(&[&element(MAIL, &[b"a@example.com"])]));
    let by_mail = world.root().with(NAME_CONSTRAINTS, true, &permits(MAIL, b"example.com"));
    assert_eq!(world.verdict(&mail, &world.between(), &by_mail), Err(R::NameConstraintUri));
}

#[test]
fn name_constraints_have_a_place_and_a_form() {
    let world = World::new();
    let dns = permits(DNS, b"example.com");
    assert_eq!(world.of_leaf(|leaf| leaf.with(NAME_CONSTRAINTS, true, &dns)), Err(R::NonConforming));
    assert_eq!(
        world.of_between(|between| between.with(NAME_CONSTRAINTS, false, &dns)),
        Err(R::NonConforming)
    );
    for base in [&b".example.com"[..], b"*.example.com"] {
        let root = world.root().with(NAME_CONSTRAINTS, true, &permits(DNS, base));
        assert!(world.verdict(&world.leaf(), &world.between(), &root).is_err());
    }
}

#[test]
fn what_breaks_rfc_5280_is_refused() {
    let world = World::new();
    let key_id = sequence(&[&element(0x80, &[&[1; 20]])]);
    let serial = |octets: &'static [u8]| move |forge: Forge| Forge { serial: octets.to_vec(), ..forge };
    for (rule, verdict) in [
        ("no authority key identifier", world.of_leaf(|leaf| leaf.without(AUTHORITY_KEY_ID))),
        ("nor in an intermediate", world.of_between(|between| between.without(AUTHORITY_KEY_ID))),
        ("no subject key identifier", world.of_between(|between| between.without(SUBJECT_KEY_ID))),
        ("nor in an anchor", world.of_root(|root| root.without(SUBJECT_KEY_ID))),
        ("serial zero", world.of_leaf(serial(&[0]))),
        ("serial negative", world.of_leaf(serial(&[0x80]))),
        ("serial of 21 octets", world.of_leaf(serial(&[1; 21]))),
        (
            "basic constraints not critical",
            world.of_root(|root| root.with(BASIC, false, &sequence(&[&[1, 1, 0xff]]))),
        ),
        (
            "policy constraints",
            world.of_between(|it| it.with(POLICY_CONSTRAINTS, false, &sequence(&[&[0x80, 1, 0]]))),
        ),
        ("names not critical", world.of_leaf(|leaf| Forge { subject: "", ..leaf })),
    ] {
        assert_eq!(verdict, Err(R::NonConforming), "{rule}");
    }
    assert!(world.of_leaf(|leaf| leaf.with(AUTHORITY_KEY_ID, true, &key_id)).is_err());
    assert!(world.of_leaf(|leaf| Forge { version: 1, ..leaf }).is_err());
    assert!(world.of_root(|root| Forge { subject: "", ..root }).is_err());
}

#[test]
fn names_that_are_none_are_refused() {
    let world = World::new();
    for name in ["a_b.example.com", "", "a..b", "a*.example.com"] {
        let names = sequence(&[&element(DNS, &[name.as_bytes()])]);
        assert_eq!(world.of_leaf(|leaf| leaf.with(ALTERNATIVES, false, &names)), Err(R::BadName), "{name:?}");
    }
}

#[test]
fn critical_extensions_that_nobody_knows_are_refused_in_anchors_too() {
    let world = World::new();
    let unknown = |forge: Forge| forge.with(99, true, &[5, 0]);
    assert_eq!(world.of_leaf(unknown), Err(R::UnsupportedExtension));
    assert_eq!(world.of_between(unknown), Err(R::UnsupportedExtension));
    assert_eq!(world.of_root(unknown), Err(R::UnsupportedExtension));
    let twice = |mut leaf: Forge| {
        leaf.extensions.push(Extension { arc: KEY_USAGE, critical: true, value: SIGNS.to_vec() });
        leaf
    };
    assert!(world.of_leaf(twice).is_err());
}

#[test]
fn a_broken_link_is_named() {
    let world = World::new();
    let (leaf, root) = (world.leaf().sign(&world.between_key), world.root().sign(&world.root_key));
    let refused = world.explain(from_ref(&leaf), from_ref(&root)).refused.unwrap();
    assert_eq!(refused.reason, R::UnknownIssuer);
    assert!(refused.detail.contains("the leaf was issued by `CN=between`"), "{}", refused.detail);
    let foreign = Forge::authority("elsewhere", "between", &world.between_key).sign(&world.leaf_key);
    let refused = world.explain(&[leaf.clone(), foreign], from_ref(&root)).refused.unwrap();
    assert!(
        refused.detail.contains("intermediate `CN=between` was issued by `CN=elsewhere`"),
        "{}",
        refused.detail
    );
    let other = KeyPair::generate().unwrap();
    let imposter = Forge::authority("root", "root", &other).sign(&other);
    let between = world.between().sign(&world.root_key);
    assert_eq!(world.explain(&[leaf, between], &[imposter]).refused.unwrap().reason, R::BadSignature);
}

#[test]
fn a_clock_that_may_be_wrong_is_asked_about() {
    let world = World::new();
    let chain = [
        Forge { years: (2027, 2040), ..world.leaf() }.sign(&world.between_key),
        world.between().sign(&world.root_key),
    ];
    let refused = world.explain(&chain, &[world.root().sign(&world.root_key)]).refused.unwrap();
    assert_eq!(refused.detail, "leaf `CN=leaf` is not valid before 214 days from now: is a clock wrong?");
}

#[test]
fn every_link_is_told_with_what_is_wrong_with_it() {
    let world = World::new();
    let chain = [
        world.leaf().with(KEY_USAGE, true, BOTH).without(AUTHORITY_KEY_ID).sign(&world.between_key),
        world.between().sign(&world.root_key),
    ];
    let told = world.explain(&chain, &[world.root().sign(&world.root_key)]);
    let places: Vec<&str> = told.steps.iter().map(|step| step.place).collect();
    assert_eq!(places, ["leaf", "intermediate", "anchor"]);
    let breaches: Vec<&str> = told.steps[0].breaches.iter().map(|breach| breach.rule).collect();
    assert_eq!(breaches, ["leaf-no-cert-sign", "authority-key-id"]);
    let text = told.to_string();
    assert!(text.contains("signed   yes") && text.contains("refused: key_usage"), "{text}");
}
