//! Held commands, on a real state file.

use tempfile::TempDir;

use super::*;
use crate::state::{self, audit::Audit};

fn open(folder: &TempDir) -> Handle {
    let config = state::Config { directory: folder.path().to_path_buf(), ..state::Config::default() };
    let (state, _flusher) = State::open(config, state::Metrics::default()).unwrap();
    let audit = Audit::open(folder.path()).unwrap();
    Handle::open(state, audit, Metrics::default()).unwrap()
}

fn order(name: &str, seconds: u64) -> Order {
    let collector = PeerId::new("site-a", name).unwrap();
    Order { collector, payload: Bytes::from_static(b"rescan"), hold_for: Duration::from_secs(seconds) }
}

#[tokio::test]
async fn a_command_outlives_a_restart_until_its_collector_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let held = open(&folder);
    let (one, two) = (
        held.hold(order("a", 60), "uid 0").await.unwrap(),
        held.hold(order("b", 60), "uid 0").await.unwrap(),
    );
    assert!(two.number() > one.number());
    drop(held);

    let held = open(&folder);
    let a = PeerId::new("site-a", "a").unwrap();
    let next = held.next_for(&a, &BTreeSet::new()).unwrap();
    assert_eq!((next.number(), &next.payload()[..], next.actor()), (one.number(), &b"rescan"[..], "uid 0"));
    assert!(held.next_for(&a, &BTreeSet::from([one.number()])).is_none(), "sent already");
    assert!(matches!(held.received(two.number(), &a).await, Err(HoldError::Absent(_))), "another's");
    held.received(one.number(), &a).await.unwrap();
    held.cancel(two.number(), "uid 0").await.unwrap();
    drop(held);
    assert!(open(&folder).list().is_empty());
    let recorded = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let actions = ["command_held", "command_ended"].map(|action| recorded.matches(action).count());
    assert_eq!(actions, [2, 2]);
    assert!(!recorded.contains("rescan"), "a payload may be a secret");
}

#[tokio::test]
async fn what_is_over_is_forgotten_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let held = open(&folder);
    held.hold(order("a", 1), "uid 0").await.unwrap();
    let mut changes = held.watch();
    let run = held.clone().run();
    let forgotten = changes.wait_for(|table| table.is_empty());
    tokio::select! {
        () = run => {}
        forgotten = time::timeout(Duration::from_secs(20), forgotten) => assert!(forgotten.is_ok_and(|table| table.is_ok())),
    }
    assert_eq!(held.counts(), Counts { received: 0, expired: 1, cancelled: 0 });
}

#[tokio::test]
async fn commands_are_bounded_per_collector_and_in_size_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let held = open(&folder);
    for _ in 0..Handle::MOST_OF_ONE {
        held.hold(order("a", 60), "uid 0").await.unwrap();
    }
    assert!(matches!(held.hold(order("a", 60), "uid 0").await, Err(HoldError::FullOf(_))));
    assert!(held.hold(order("b", 60), "uid 0").await.is_ok());
    for seconds in [0, 31 * 24 * 3600] {
        assert!(matches!(held.hold(order("b", seconds), "uid 0").await, Err(HoldError::Time)));
    }
    let large = Order { payload: vec![0; Handle::MOST_PAYLOAD + 1].into(), ..order("b", 60) };
    assert!(matches!(held.hold(large, "uid 0").await, Err(HoldError::TooLarge { .. })));
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_told_as_failed_or_is_owed_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let held = open(&folder);
    let a = PeerId::new("site-a", "a").unwrap();
    let (one, two) = (
        held.hold(order("a", 60), "uid 0").await.unwrap().number(),
        held.hold(order("a", 60), "uid 0").await.unwrap().number(),
    );
    // The file is away, and something that is no state file has its name.
    let file = held.0.state.let_go().to_owned();
    let aside = folder.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let recorded = || {
        let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
        ["command_held", "command_ended", "command_failed"].map(|action| text.matches(action).count())
    };
    assert!(matches!(held.hold(order("a", 60), "uid 0").await, Err(HoldError::State(_))));
    assert_eq!(recorded(), [3, 0, 1], "what was not done is told");
    assert!(matches!(held.cancel(two, "uid 0").await, Err(HoldError::State(_))));
    assert_eq!(recorded(), [3, 1, 2]);
    held.received(one, &a).await.unwrap();
    assert!(matches!(held.received(one, &a).await, Err(HoldError::Absent(_))), "it has ended");
    held.0.settle();
    assert_eq!(recorded(), [3, 2, 2], "told once, however often the disk is tried");
    assert_eq!(held.next_for(&a, &BTreeSet::new()).unwrap().number(), two, "not taken back");

    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    held.0.settle();
    held.0.state.let_go();
    drop(held);
    let left: Vec<u64> = open(&folder).list().keys().copied().collect();
    assert_eq!((left, recorded()), (vec![two], [3, 2, 2]));
}
