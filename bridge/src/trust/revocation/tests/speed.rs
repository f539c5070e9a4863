//! What a hundred thousand entries cost. Bounds are wide, for these run without optimisation beside other tests.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::trust::{
    Reload,
    follow::Marks,
    revocation::{
        Evidence, Need, Order, Points, Stale,
        tests::{
            forge::Forge,
            site::{Site, present},
        },
    },
    tests::pki::{Authority, numbered},
};

const ENTRIES: u64 = 100_000;

#[test]
fn a_hundred_thousand_entries_are_loaded_once_and_searched_in_no_time() {
    let root = Authority::root("root");
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    let serials: Vec<u64> = (0..ENTRIES).map(|serial| serial.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let list = Forge::new(1, &serials).by(&root);
    let bytes = list.len();
    site.put("root.crl", list);

    let begun = Instant::now();
    let first = site.load().unwrap();
    let cold = begun.elapsed();
    let begun = Instant::now();
    let again = site.load_after(&first, Order::Forward).unwrap();
    let warm = begun.elapsed();
    assert_eq!(first, again);

    let chain = present(&first, &root.issue(&numbered(12_345))).unwrap();
    let anywhere = Points::default();
    let path = Evidence { links: chain.links(), points: &[&anywhere], between: &[] };
    let (rounds, begun) = (100_000_u32, Instant::now());
    for _ in 0..rounds {
        assert!(first.lists().judge(&path, SystemTime::UNIX_EPOCH).is_ok());
    }
    let each = begun.elapsed() / rounds;

    let mut more = serials;
    more.push(12_345);
    site.put("root.crl", Forge::new(2, &more).by(&root));
    let begun = Instant::now();
    let next = site.load_after(&again, Order::Forward).unwrap();
    let changed = begun.elapsed();
    let begun = Instant::now();
    let difference = next.difference(&again);
    let compared = begun.elapsed();
    assert!(difference.touches(chain.links()) && difference.revoked().count() == 1);
    println!(
        "{ENTRIES} entries, {bytes} bytes: loaded in {cold:?}, unchanged in {warm:?}, changed in {changed:?}, \
         compared in {compared:?}, a path judged in {each:?}"
    );
    let unoptimised = if cfg!(debug_assertions) { 20 } else { 1 };
    assert!(each.as_micros() < unoptimised, "{each:?}");
}

/// What following costs while nothing changes.
#[test]
fn a_look_at_the_files_costs_next_to_nothing() {
    let root = Authority::root("root");
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    for number in 1..7 {
        site.put(&format!("{number}.crl"), Forge::new(number, &[]).by(&root));
    }
    let (rounds, begun) = (1000_u32, Instant::now());
    let first = Marks::of(&site.plan);
    for _ in 0..rounds {
        assert_eq!(Marks::of(&site.plan), first);
    }
    let each = begun.elapsed() / rounds;
    println!("a look at nine files and a folder: {each:?}");
    assert!(each < Duration::from_millis(10), "{each:?}");
}

#[tokio::test]
async fn from_rename_to_a_new_generation_takes_a_fraction_of_a_second() {
    let root = Authority::root("root");
    let site = Site::new(&[&root], Need::Required, Stale::Fail);
    let serials: Vec<u64> = (0..ENTRIES).collect();
    let mut lists = (1..5).map(|number| Forge::new(number, &serials).by(&root));
    site.put("root.crl", lists.next().unwrap());
    let store = site.store();
    let mut generations = store.watch();
    generations.mark_unchanged();
    let follow = store.follow(Duration::from_millis(100), |outcome| {
        assert!(matches!(outcome, Ok(Reload::Changed { .. })), "{outcome:?}");
    });
    let measure = async {
        for list in lists {
            site.put("root.crl", list);
            let begun = Instant::now();
            generations.changed().await.unwrap();
            println!("in force after {:?}", begun.elapsed());
        }
    };
    tokio::select! {
        () = follow => panic!("following never ends"),
        () = measure => {}
    }
    assert_eq!(store.generation().number(), 4);
}
