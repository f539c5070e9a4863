use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time;

use crate::trust::{
    Held, LoadError, Material, Part, RefusalReason, Reload, Store, Veto,
    revocation::{
        Difference, Need, Order, Source, Stale,
        tests::{
            forge::Forge,
            site::{Site, present, refused},
        },
    },
    tests::pki::{Authority, numbered, server},
};

fn site(root: &Authority) -> Site {
    let site = Site::new(&[root], Need::Required, Stale::Fail);
    site.put("root.crl", Forge::new(1, &[5]).by(root));
    site
}

#[tokio::test]
async fn a_reload_says_what_changed_and_what_it_takes_away() {
    let root = Authority::root("root");
    let site = site(&root);
    let store = site.store();
    let first = store.generation();
    let chain = present(first.material(), &root.issue(&numbered(7))).unwrap();
    assert_eq!(store.reload(Order::Forward).await.unwrap(), Reload::Unchanged);

    site.put("root.crl", Forge::new(2, &[5, 7]).by(&root));
    let changed = Reload::Changed { generation: 2, what: vec![Part::Lists] };
    assert_eq!(store.reload(Order::Forward).await.unwrap(), changed);
    site.put("root.crl", Forge::new(3, &[5, 7, 8]).by(&root));
    store.reload(Order::Forward).await.unwrap();

    let third = store.generation();
    assert_eq!(third.number(), 3);
    // Who slept through the second generation misses nothing.
    assert!(third.difference(&first).touches(chain.links()));
    assert_eq!(third.difference(&first).revoked().count(), 2);
    assert!(third.difference(&third).is_empty());

    let other = Authority::root("other");
    fs::write(&site.plan.files.ca_file, [root.pem(), other.pem()].concat()).unwrap();
    site.put("other.crl", Forge::new(1, &[]).by(&other));
    store.reload(Order::Forward).await.unwrap();
    let fourth = store.generation();
    assert!(fourth.difference(&third).is_empty(), "one more anchor takes nothing away");
    site.folder.write(&other.issue(&server()), other.pem());
    fs::remove_file(site.at("root.crl")).unwrap();
    store.reload(Order::Forward).await.unwrap();
    let fifth = store.generation();
    assert!(fifth.difference(&fourth).touches(chain.links()));
    assert_eq!(
        fifth.material().judge_links(chain.links(), SystemTime::now()),
        Err(RefusalReason::UnknownIssuer)
    );
}

/// Lets no anchor go.
#[derive(Debug)]
struct Never;

impl Veto for Never {
    fn ask(&self, _: &Material, _: &Difference) -> Result<(), Held> {
        Err(Held { cut: 43, connected: 212 })
    }
}

#[tokio::test]
async fn a_revocation_does_not_wait_with_anchors_that_are_held_back() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let site = Site::new(&[&root, &other], Need::IfPresent, Stale::Fail);
    site.put("root.crl", Forge::new(1, &[5]).by(&root));
    let store = site.store();
    store.ask_first(Arc::new(Never));
    let (ours, theirs) = (root.issue(&numbered(7)), other.issue(&numbered(9)));

    fs::write(&site.plan.files.ca_file, root.pem()).unwrap();
    site.put("root.crl", Forge::new(2, &[5, 7]).by(&root));
    site.put("other.crl", Forge::new(1, &[8]).by(&other));
    for _ in 0..2 {
        let error = store.reload(Order::Forward).await.unwrap_err();
        assert!(matches!(error, LoadError::Held(Held { cut: 43, connected: 212 })), "{error}");
        let current = store.generation();
        assert_eq!((current.number(), current.material().anchors().len()), (2, 2));
        assert_eq!(refused(current.material(), &ours), Some(RefusalReason::CertificateRevoked));
        assert_eq!(refused(current.material(), &theirs), None);
        assert_eq!(
            refused(current.material(), &other.issue(&numbered(8))),
            Some(RefusalReason::CertificateRevoked),
            "a list of the authority that is held counts"
        );
        assert!(store.status().borrow().refused.is_some());
    }
    store.reload(Order::Any).await.unwrap();
    assert_eq!(refused(&store.current(), &theirs), Some(RefusalReason::UnknownIssuer));
    assert!(store.status().borrow().refused.is_none());
}

#[tokio::test]
async fn what_is_refused_changes_nothing_and_the_next_good_one_recovers() {
    let root = Authority::root("root");
    let site = site(&root);
    let store = site.store();
    let whole = Forge::new(2, &[5, 6]).by(&root);
    for bad in [&b""[..], &whole[..50], &Forge::new(0, &[]).by(&root)] {
        site.put("root.crl", bad);
        let error = store.reload(Order::Forward).await.unwrap_err().to_string();
        assert!(error.contains("root.crl"), "{error}");
        assert!(store.status().borrow().refused.as_ref().unwrap().0.starts_with(&error));
        assert_eq!(
            refused(&store.current(), &root.issue(&numbered(5))),
            Some(RefusalReason::CertificateRevoked)
        );
        assert_eq!(refused(&store.current(), &root.issue(&numbered(6))), None);
    }
    site.put("root.crl", &whole);
    store.reload(Order::Forward).await.unwrap();
    assert!(store.status().borrow().refused.is_none());
    assert_eq!(refused(&store.current(), &root.issue(&numbered(6))), Some(RefusalReason::CertificateRevoked));
}

#[tokio::test]
async fn going_back_is_for_those_who_insist() {
    let root = Authority::root("root");
    let site = site(&root);
    let store = site.store();
    site.put("root.crl", Forge::new(0, &[]).by(&root));
    store.reload(Order::Forward).await.unwrap_err();
    assert!(matches!(store.reload(Order::Any).await.unwrap(), Reload::Changed { generation: 2, .. }));
    assert_eq!(refused(&store.current(), &root.issue(&numbered(5))), None);
}

#[tokio::test]
async fn a_folder_that_kubernetes_swaps_is_followed() {
    let root = Authority::root("root");
    let mut site = site(&root);
    let home = site.folder.dir.path().to_owned();
    for (name, number, serials) in [("..1", 1, &[5][..]), ("..2", 2, &[5, 6])] {
        fs::create_dir(home.join(name)).unwrap();
        fs::write(home.join(name).join("root.crl"), Forge::new(number, serials).by(&root)).unwrap();
    }
    let mounted = home.join("mounted");
    fs::create_dir(&mounted).unwrap();
    symlink("../..1", mounted.join("..data")).unwrap();
    symlink("..data/root.crl", mounted.join("root.crl")).unwrap();
    site.plan.revocation.sources = vec![Source::Path(mounted.clone())];
    let store = site.store();
    let mut generations = store.watch();
    generations.mark_unchanged();
    // As the kubelet does it: a new link, renamed over the old one.
    symlink("../..2", mounted.join("..next")).unwrap();
    fs::rename(mounted.join("..next"), mounted.join("..data")).unwrap();
    tokio::select! {
        () = store.follow(Duration::from_millis(50), |_| {}) => panic!("following never ends"),
        changed = time::timeout(Duration::from_secs(20), generations.changed()) => changed.unwrap().unwrap(),
    }
    assert_eq!(refused(&store.current(), &root.issue(&numbered(6))), Some(RefusalReason::CertificateRevoked));
}

/// The host's clock is behind when a new list comes, and is put right without any file changing.
#[tokio::test]
async fn a_reload_that_failed_is_tried_again_without_another_change() {
    let root = Authority::root("root");
    let site = site(&root);
    let store = site.store();
    let mut generations = store.watch();
    generations.mark_unchanged();
    let mut list = Forge::new(2, &[5, 6]);
    list.this_update = SystemTime::now() + Duration::from_secs(5 * 60 + 3);
    site.put("root.crl", list.by(&root));
    let mut failed = 0;
    tokio::select! {
        () = store.follow(Duration::from_millis(50), |outcome| failed += u32::from(outcome.is_err())) => {
            panic!("following never ends")
        }
        changed = time::timeout(Duration::from_secs(30), generations.changed()) => changed.unwrap().unwrap(),
    }
    assert!(failed > 0);
    assert_eq!(refused(&store.current(), &root.issue(&numbered(6))), Some(RefusalReason::CertificateRevoked));
}

/// Readers verify all the while; none may see an own pair that does not fit, or a revoked certificate let in.
#[test]
fn readers_always_see_a_whole_generation_however_fast_it_rotates() {
    let root = Authority::root("root");
    let site = site(&root);
    let store = site.store();
    let (revoked, good) = (root.issue(&numbered(5)), root.issue(&numbered(9)));
    let done = AtomicBool::new(false);
    let judged = std::thread::scope(|scope| {
        let read = || {
            let mut judged = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let material = store.current();
                assert_eq!(refused(&material, &revoked), Some(RefusalReason::CertificateRevoked));
                assert_eq!(refused(&material, &good), None);
                judged += 1;
            }
            judged
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        let rotated = scope.spawn(|| rotate(&store, &site, &root)).join();
        done.store(true, Ordering::Relaxed);
        rotated.unwrap();
        readers.map(|reader| reader.join().unwrap())
    });
    assert!(judged.iter().all(|judged| *judged > 0), "{judged:?}");
    assert_eq!(store.generation().number(), 51);
}

fn rotate(store: &Store, site: &Site, root: &Authority) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 2..52_u64 {
        site.put("root.crl", Forge::new(round, &[5, round + 100]).by(root));
        site.folder.write(&root.issue(&server()), root.pem());
        let done = runtime.block_on(store.reload(Order::Forward)).unwrap();
        assert!(matches!(done, Reload::Changed { .. }), "{done:?}");
    }
}
