use std::{
    fs,
    time::{Duration, SystemTime},
};

use crate::trust::{
    RefusalReason,
    revocation::{
        CrlError, Lists, ListsError, Need, Order, Source, SourceError, Stale,
        tests::{
            forge::{Forge, pem},
            site::{Site, refused},
        },
    },
    tests::pki::{Authority, numbered},
};

fn site(root: &Authority) -> Site {
    Site::new(&[root], Need::IfPresent, Stale::Fail)
}

fn refusal(site: &Site, older: &Lists) -> ListsError {
    site.lists(older, Order::Forward, SystemTime::now()).unwrap_err()
}

fn forced(site: &Site, older: &Lists) -> Lists {
    site.lists(older, Order::Any, SystemTime::now()).unwrap()
}

#[test]
fn a_list_that_goes_back_is_refused_unless_forced() {
    let root = Authority::root("root");
    let site = site(&root);
    site.put("a.crl", Forge::new(10, &[5]).by(&root));
    let first = site.lists(&Lists::default(), Order::Forward, SystemTime::now()).unwrap();

    site.put("a.crl", Forge::new(9, &[]).by(&root));
    let error = refusal(&site, &first);
    assert!(error.to_string().contains("(number 09) is older than the one in force (number 0a)"), "{error}");
    let back = forced(&site, &first);
    assert_ne!(back, first);

    let mut earlier = Forge::new(11, &[]);
    earlier.this_update -= Duration::from_hours(2);
    site.put("a.crl", earlier.by(&root));
    assert!(matches!(refusal(&site, &first), ListsError::WentBack { .. }));
    forced(&site, &first);

    site.put("a.crl", Forge::new(11, &[5]).by(&root));
    site.lists(&first, Order::Forward, SystemTime::now()).unwrap();
}

#[test]
fn a_list_that_disappears_is_missed_unless_forced() {
    let root = Authority::root("root");
    let site = site(&root);
    site.put("a.crl", Forge::new(10, &[5]).by(&root));
    let first = site.lists(&Lists::default(), Order::Forward, SystemTime::now()).unwrap();
    fs::remove_file(site.at("a.crl")).unwrap();
    let error = refusal(&site, &first).to_string();
    assert!(error.contains("revocation list of \"CN=root\", which is in force, is gone"), "{error}");
    assert!(forced(&site, &first).status(SystemTime::now()).is_empty());
}

#[test]
fn a_list_of_the_future_is_refused_unless_forced() {
    let root = Authority::root("root");
    let site = site(&root);
    let mut list = Forge::new(1, &[5]);
    list.this_update = SystemTime::now() + Duration::from_mins(10);
    site.put("a.crl", list.by(&root));
    assert!(matches!(refusal(&site, &Lists::default()), ListsError::Future { .. }));
    forced(&site, &Lists::default());
    // A clock may be a little behind.
    list.this_update = SystemTime::now() + Duration::from_mins(2);
    site.put("a.crl", list.by(&root));
    site.lists(&Lists::default(), Order::Forward, SystemTime::now()).unwrap();
}

#[test]
fn a_list_by_another_key_of_the_same_name_is_refused_or_waits_for_its_issuer() {
    let (root, stranger) = (Authority::root("root"), Authority::root("root"));
    let site = site(&root);
    let mut list = Forge::new(1, &[5]);
    list.key_id = false;
    site.put("a.crl", list.by(&stranger));
    assert!(matches!(refusal(&site, &Lists::default()), ListsError::Crl { source: CrlError::Signature, .. }));
    // One that says itself that it is another's is no forgery of this one's, and revokes nobody of this one's.
    site.put("a.crl", Forge::new(1, &[5]).by(&stranger));
    let material = site.load().unwrap();
    assert_eq!(refused(&material, &root.issue(&numbered(5))), None);
    // In the name of another it revokes nobody either.
    let other = Authority::root("other");
    site.put("a.crl", Forge::new(1, &[5]).signed(&other, &root));
    assert_eq!(refused(&site.load().unwrap(), &root.issue(&numbered(5))), None);
}

#[test]
fn of_several_lists_of_one_issuer_the_newest_counts() {
    let root = Authority::root("root");
    let site = site(&root);
    for (name, number, serial) in [("a.crl", 2, 6), ("b.crl", 3, 7), ("c.crl", 1, 5)] {
        site.put(name, Forge::new(number, &[serial]).by(&root));
    }
    let material = site.load().unwrap();
    let verdict = |serial| refused(&material, &root.issue(&numbered(serial)));
    assert_eq!([verdict(5), verdict(6)], [None, None]);
    assert_eq!(verdict(7), Some(RefusalReason::CertificateRevoked));
    assert_eq!(material.lists().status(SystemTime::now()).len(), 1);
}

#[test]
fn files_hold_der_or_pem_one_list_or_many_and_the_rest_of_a_folder_is_passed_over() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let site = Site::new(&[&root, &other], Need::Required, Stale::Fail);
    let both = [&root, &other].map(|by| pem(&Forge::new(1, &[5]).by(by))).concat();
    site.put("both.pem", both);
    site.put("README.txt", "no list");
    site.put(".hidden.crl", "no list");
    assert_eq!(site.load().unwrap().lists().status(SystemTime::now()).len(), 2);
}

#[test]
fn files_that_are_empty_cut_off_or_too_long_are_each_named() {
    let root = Authority::root("root");
    let site = site(&root);
    let error = |bytes: &[u8]| {
        site.put("a.crl", bytes);
        let error = refusal(&site, &Lists::default());
        assert!(error.to_string().contains("a.crl"), "{error}");
        error
    };
    assert!(matches!(error(b""), ListsError::Source(SourceError::NoList { .. })));
    assert!(matches!(error(b"hello"), ListsError::Source(SourceError::NoList { .. })));
    let whole = Forge::new(1, &[5]).by(&root);
    assert!(matches!(error(&whole[..40]), ListsError::Crl { source: CrlError::Malformed, .. }));
    assert!(error(&whole[..whole.len() - 1]).may_be_torn());
    let long = vec![0x30; usize::try_from(super::super::source::MAX_BYTES).unwrap() + 1];
    assert!(matches!(error(&long), ListsError::Source(SourceError::TooLong { .. })));
}

#[test]
fn a_file_that_is_missing_is_no_empty_source() {
    let root = Authority::root("root");
    let mut site = site(&root);
    site.plan.revocation.sources = vec![Source::Path(site.at("none.crl"))];
    assert!(matches!(refusal(&site, &Lists::default()), ListsError::Source(SourceError::Read { .. })));
}
