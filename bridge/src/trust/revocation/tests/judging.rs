use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CrlDistributionPoint};

use crate::trust::{
    RefusalReason,
    revocation::{
        IssuerRule, ListWord, Need, Order, Stale,
        tests::{
            forge::{Entry, Forge, extension, pem, point, tlv},
            site::{Site, finding, present, present_at, refused},
        },
    },
    tests::pki::{Authority, numbered},
};

#[test]
fn a_revoked_certificate_is_refused_and_its_neighbours_are_not() {
    let root = Authority::root("root");
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    site.put("root.crl", Forge::new(1, &[5, 300]).by(&root));
    let material = site.load().unwrap();
    assert_eq!(refused(&material, &root.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
    assert_eq!(refused(&material, &root.issue(&numbered(300))), Some(RefusalReason::CertificateRevoked));
    assert_eq!(refused(&material, &root.issue(&numbered(6))), None);
}

#[test]
fn the_same_serial_number_of_another_issuer_is_another_certificate() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let site = Site::new(&[&one, &two], Need::IfPresent, Stale::Fail);
    site.put("one.pem", pem(&Forge::new(1, &[5]).by(&one)));
    let material = site.load().unwrap();
    assert_eq!(refused(&material, &one.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
    assert_eq!(refused(&material, &two.issue(&numbered(5))), None);
}

#[test]
fn lists_of_two_issuers_of_one_name_are_told_apart_by_key_in_both_orders() {
    let (one, two) = (Authority::root("same"), Authority::root("same"));
    for (first, second) in [("a.crl", "b.crl"), ("b.crl", "a.crl")] {
        for key_id in [true, false] {
            let site = Site::new(&[&one, &two], Need::Required, Stale::Fail);
            let list = |serial| Forge { key_id, ..Forge::new(1, &[serial]) };
            site.put(first, list(5).by(&one));
            site.put(second, list(6).by(&two));
            let material = site.load().unwrap();
            let verdicts = [(&one, 5), (&one, 6), (&two, 5), (&two, 6)]
                .map(|(issuer, serial)| refused(&material, &issuer.issue(&numbered(serial))).is_some());
            assert_eq!(verdicts, [true, false, false, true], "{first} {key_id}");
        }
    }
}

#[test]
fn what_an_issuer_without_a_list_means_is_a_matter_of_its_rule() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let leaf = other.issue(&numbered(1));
    let site = |need| {
        let site = Site::new(&[&root, &other], need, Stale::Fail);
        site.put("root.crl", Forge::new(1, &[]).by(&root));
        site
    };
    assert_eq!(refused(&site(Need::IfPresent).load().unwrap(), &leaf), None);
    let error = site(Need::Required).load().unwrap_err().to_string();
    assert!(error.contains("no revocation list is by \"CN=other\""), "{error}");

    // The leaf is valid for a hundred years.
    let material = site(Need::ShortLived(Duration::from_hours(24))).load().unwrap();
    assert_eq!(refused(&material, &leaf), Some(RefusalReason::RevocationUnknown));
    let mut short = numbered(2);
    short.not_before = rcgen::date_time_ymd(2026, 1, 1);
    short.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let material = site(Need::ShortLived(Duration::from_hours(366 * 24))).load().unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
    assert!(present_at(&material, &other.issue(&short), at).is_ok());
}

#[test]
fn a_stale_list_refuses_or_is_borne_as_its_rule_says() {
    let root = Authority::root("root");
    let leaf = root.issue(&numbered(1));
    let late = SystemTime::now() + Duration::from_hours(30);
    let verdict = |stale, serial| {
        let site = Site::new(&[&root], Need::Required, stale);
        site.put("root.crl", Forge::new(1, &[2]).by(&root));
        let material = site.load().unwrap();
        assert!(present(&material, &leaf).is_ok());
        let leaf = root.issue(&numbered(serial));
        let word = material.lists().status(late).first().unwrap().word;
        (present_at(&material, &leaf, late).err(), word)
    };
    // The list's next was due after 24 hours.
    assert_eq!(verdict(Stale::Fail, 1), (Some(RefusalReason::CrlStale), ListWord::Stale));
    assert_eq!(verdict(Stale::Warn, 1), (None, ListWord::Stale));
    assert_eq!(verdict(Stale::Grace(Duration::from_hours(7)), 1), (None, ListWord::Grace));
    assert_eq!(
        verdict(Stale::Grace(Duration::from_hours(5)), 1),
        (Some(RefusalReason::CrlStale), ListWord::Stale)
    );
    // What it revokes stays revoked, however old it is.
    assert_eq!(verdict(Stale::Warn, 2).0, Some(RefusalReason::CertificateRevoked));
}

#[test]
fn a_live_session_outlives_a_stale_list_but_not_its_revocation() {
    let root = Authority::root("root");
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    site.put("root.crl", Forge::new(1, &[2]).by(&root));
    let material = site.load().unwrap();
    let chain = present(&material, &root.issue(&numbered(1))).unwrap();
    let late = SystemTime::now() + Duration::from_hours(30);
    assert_eq!(material.judge_links(chain.links(), late), Ok(()));

    site.put("root.crl", Forge::new(2, &[1, 2]).by(&root));
    let next = site.load_after(&material, Order::Forward).unwrap();
    assert_eq!(next.judge_links(chain.links(), SystemTime::now()), Err(RefusalReason::CertificateRevoked));
    let difference = next.difference(&material);
    assert!(difference.touches(chain.links()));
    assert_eq!(difference.revoked().count(), 1);
    let century = SystemTime::now() + Duration::from_hours(24 * 366 * 100);
    assert_eq!(material.judge_links(chain.links(), century), Err(RefusalReason::CertificateExpired));
}

#[test]
fn a_revoked_intermediate_takes_all_below_it_along() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let serial = crate::trust::Certificate::parse(between.own()).unwrap().serial_bytes().to_vec();
    let site = Site::new(&[&root], Need::IfPresent, Stale::Fail);
    let mut list = Forge::new(1, &[]);
    list.entries.push(Entry(serial, Vec::new()));
    site.put("root.crl", list.by(&root));
    let material = site.load().unwrap();
    let leaf = between.issue(&numbered(1));
    assert_eq!(refused(&material, &leaf), Some(RefusalReason::IntermediateRevoked));
}

#[test]
fn a_list_of_an_intermediate_waits_until_that_is_met_and_is_known_from_then_on() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let site = Site::new(&[&root], Need::IfPresent, Stale::Fail);
    site.put("between.crl", Forge::new(1, &[5]).by(&between));
    let first = site.load().unwrap();
    assert_eq!(first.lists().status(SystemTime::now())[0].word, ListWord::Waiting);
    assert_eq!(refused(&first, &between.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
    assert_eq!(first.lists().status(SystemTime::now())[0].word, ListWord::Fresh);
    let chain = present(&first, &between.issue(&numbered(6))).unwrap();

    // That it was met is no change of what was loaded.
    assert_eq!(first.changed_from(&site.load_after(&first, Order::Forward).unwrap()), []);
    // Nobody presents it to the next generation, and still it is known who is revoked.
    site.put("between.crl", Forge::new(2, &[5, 6]).by(&between));
    let second = site.load_after(&first, Order::Forward).unwrap();
    assert!(second.difference(&first).touches(chain.links()));
    assert_eq!(second.judge_links(chain.links(), SystemTime::now()), Err(RefusalReason::CertificateRevoked));
    site.put("between.crl", Forge::new(1, &[5]).by(&between));
    assert!(site.load_after(&second, Order::Forward).unwrap_err().to_string().contains("is older than"));
}

/// Whoever knows a public key can write a certificate around it, and present that beside the real one.
#[test]
fn a_forged_certificate_beside_the_path_does_not_hide_the_list_of_its_key() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let site = Site::new(&[&root], Need::IfPresent, Stale::Fail);
    site.put("between.crl", Forge::new(1, &[5]).by(&between));
    let material = site.load().unwrap();
    let mut forged = between.own().to_vec();
    let at = forged.windows(7).position(|text| text == b"between").unwrap();
    forged[at..at + 7].copy_from_slice(b"nowhere");
    for decoy in [forged.into(), between.certified_by(&Authority::root("root"))] {
        let mut leaf = between.issue(&numbered(5));
        leaf.chain.insert(1, decoy);
        assert_eq!(refused(&material, &leaf), Some(RefusalReason::CertificateRevoked));
    }
    assert_eq!(refused(&material, &between.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
}

/// Another authority of the same fleet certifies the key of `between`, and takes the right to sign lists off it.
#[test]
fn a_second_certificate_of_an_intermediate_neither_hides_its_list_nor_holds_up_reloads() {
    let root = Authority::root("root");
    let (between, rogue) = (root.intermediate("between", 2099), root.intermediate("rogue", 2099));
    let site = Site::new(&[&root], Need::IfPresent, Stale::Fail);
    site.put("between.crl", Forge::new(1, &[5]).by(&between));
    let first = site.load().unwrap();
    let detour = |serial| {
        let mut leaf = between.issue(&numbered(serial));
        leaf.chain.splice(1.., [between.certified_by(&rogue), rogue.own().clone()]);
        leaf
    };
    assert_eq!(refused(&first, &detour(5)), Some(RefusalReason::CertificateRevoked));
    let chain = present(&first, &detour(6)).unwrap();
    site.put("between.crl", Forge::new(2, &[5, 6]).by(&between));
    let second = site.load_after(&first, Order::Forward).unwrap();
    assert_eq!(second.judge_links(chain.links(), SystemTime::now()), Err(RefusalReason::CertificateRevoked));
}

/// Lists are fetched in the clear: a forged one in the name of an issuer that is not known waits, and must not bring
/// down every reload once that issuer is met.
#[test]
fn a_forged_list_in_the_name_of_an_intermediate_that_was_met_waits_for_ever() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let site = Site::new(&[&root], Need::IfPresent, Stale::Fail);
    let forged = Forge { key_id: false, ..Forge::new(9, &[]) };
    site.put("forged.crl", forged.signed(&between, &Authority::root("between")));
    site.put("between.crl", Forge::new(1, &[5]).by(&between));
    let first = site.load().unwrap();
    assert_eq!(refused(&first, &between.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
    site.put("between.crl", Forge::new(2, &[5, 6]).by(&between));
    let second = site.load_after(&first, Order::Forward).unwrap();
    assert_eq!(refused(&second, &between.issue(&numbered(6))), Some(RefusalReason::CertificateRevoked));
    let words: Vec<_> = second.lists().status(SystemTime::now()).iter().map(|list| list.word).collect();
    assert!(words.contains(&ListWord::Waiting) && words.contains(&ListWord::Fresh), "{words:?}");
}

#[test]
fn a_rule_may_name_an_intermediate_and_demand_its_list() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let mut site = Site::new(&[&root], Need::IfPresent, Stale::Fail);
    let issuer_file = site.folder.dir.path().join("between.pem");
    std::fs::write(&issuer_file, &between.issue(&numbered(9)).pem).unwrap();
    site.plan.revocation.issuers = vec![IssuerRule {
        issuer_file: issuer_file.clone(),
        revocation: Need::Required,
        stale_crl: Stale::Fail,
    }];
    let leaf_is_no_issuer = site.load();
    assert!(leaf_is_no_issuer.is_err());
    std::fs::write(&issuer_file, pem_of(between.own())).unwrap();
    assert!(site.load().unwrap_err().to_string().contains("no revocation list is by \"CN=between\""));
    site.put("between.crl", Forge::new(1, &[5]).by(&between));
    let material = site.load().unwrap();
    assert_eq!(material.lists().status(SystemTime::now())[0].word, ListWord::Fresh);
    assert_eq!(refused(&material, &between.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
    assert_eq!(refused(&material, &root.issue(&numbered(5))), None);
}

#[test]
fn a_list_of_end_entities_says_nothing_of_authorities() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let mut list = Forge::new(1, &[5]);
    list.extensions.push(point(&tlv(0x81, &[0xff])));
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    site.put("users.crl", list.by(&root));
    let material = site.load().unwrap();
    let on = |serial| root.issue(&on_point(serial, "http://pki.example.com/a.crl"));
    assert_eq!(refused(&material, &on(5)), Some(RefusalReason::CertificateRevoked));
    assert_eq!(refused(&material, &on(6)), None);
    // Whether the intermediate is revoked nobody has said.
    let below = refused(&material, &between.issue(&numbered(1)));
    assert_eq!(below, Some(RefusalReason::RevocationUnknown));
}

/// RFC 5280, section 6.3.3 (b) (2) (i).
#[test]
fn a_list_of_one_distribution_point_covers_no_certificate_of_another() {
    let root = Authority::root("root");
    let mut list = Forge::new(1, &[5]);
    list.extensions.push(point(&[]));
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    site.put("a.crl", list.by(&root));
    let material = site.load().unwrap();
    let verdict = |serial, point: &str| refused(&material, &root.issue(&on_point(serial, point)));
    assert_eq!(verdict(6, "http://pki.example.com/a.crl"), None);
    assert_eq!(verdict(6, "http://pki.example.com/b.crl"), Some(RefusalReason::RevocationUnknown));
    assert_eq!(refused(&material, &root.issue(&numbered(6))), Some(RefusalReason::RevocationUnknown));
    // Wherever it stands, a serial number that the issuer has revoked is revoked.
    assert_eq!(verdict(5, "http://pki.example.com/b.crl"), Some(RefusalReason::CertificateRevoked));
    // A complete list covers all.
    site.put("b.crl", Forge::new(2, &[]).by(&root));
    let material = site.load().unwrap();
    assert_eq!(refused(&material, &root.issue(&numbered(6))), None);
}

#[test]
fn a_refusal_by_a_list_says_which_certificate_and_why() {
    let root = Authority::root("root");
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    let mut list = Forge::new(1, &[]);
    list.entries.push(Entry(vec![5], vec![extension(21, false, &[0x0a, 1, 1])]));
    site.put("root.crl", list.by(&root));
    let material = site.load().unwrap();
    let says = finding(&material, &root.issue(&numbered(5)), SystemTime::now());
    assert!(says.starts_with("leaf `CN=collector` (serial number 05) was revoked at 20"), "{says}");
    assert!(says.ends_with("(keyCompromise)"), "{says}");
    let late = SystemTime::now() + Duration::from_hours(30);
    let says = finding(&material, &root.issue(&numbered(6)), late);
    assert!(
        says.starts_with("leaf `CN=collector` (serial number 06) is on a revocation list whose next was due"),
        "{says}"
    );
}

/// A collector's certificate that stands on the lists of `point`.
fn on_point(serial: u64, point: &str) -> CertificateParams {
    let mut params = numbered(serial);
    params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![point.to_owned()] }];
    params
}

fn pem_of(der: &[u8]) -> String {
    pem(der).replace("X509 CRL", "CERTIFICATE")
}
