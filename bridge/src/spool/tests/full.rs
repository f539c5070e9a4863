//! The bound of the spool, and of the disk.

use super::*;

const T: Class = Class::Telemetry;
const C: Class = Class::Critical;

#[tokio::test]
async fn the_oldest_telemetry_goes_first_and_the_gap_says_which() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(C, 300, 5).await;
    open.fill(T, 5000, 5).await;
    assert!(bytes_on_disk(directory.path()) <= 256 << 10);
    assert_eq!(open.gaps(C).await, []);
    let gaps = open.gaps(T).await;
    let [(1, evicted, GapReason::Evicted)] = gaps[..] else { panic!("{gaps:?}") };
    assert_eq!(open.stats().of(T).evicted, evicted);
    assert_eq!(open.stats().of(T).events, 5000 - evicted);
    // A kill does not turn it into damage.
    let copy = killed(directory.path());
    let restarted = Open::at(copy.path());
    assert_eq!(restarted.gaps(T).await, gaps);
    restarted.close().await;
    open.close().await;
}

#[tokio::test]
async fn critical_events_take_the_room_of_telemetry_and_then_of_their_own_oldest() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 300, 5).await;
    open.fill(C, 900, 5).await;
    assert_eq!(open.gaps(C).await, []);
    let before = open.stats().of(T).evicted;
    open.fill(C, 3000, 5).await;
    let gaps = open.gaps(C).await;
    assert!(matches!(gaps[..], [(1, _, GapReason::Evicted)]), "{gaps:?}");
    assert_eq!(open.gaps(T).await, [(1, 300, GapReason::Evicted)]);
    assert!(before <= 300 && open.stats().of(T).evicted == 300);
    // Telemetry that comes now has nothing to take the room of: it is numbered, and said to be gone.
    open.fill(T, 500, 5).await;
    let gaps = open.gaps(T).await;
    assert!(matches!(gaps[..], [(1, last, GapReason::Evicted)] if last >= 790), "{gaps:?}");
    assert!(bytes_on_disk(directory.path()) <= 256 << 10);
    let copy = killed(directory.path());
    let restarted = Open::at(copy.path());
    assert_eq!(restarted.state(T).next, 801);
    assert_eq!(restarted.gaps(T).await, gaps);
    restarted.close().await;
    // With room again, telemetry is kept again.
    open.spool.ack(C, open.state(C).next - 1).await;
    open.fill(T, 10, 5).await;
    assert_eq!(open.gaps(T).await, gaps);
    assert_eq!(open.read(T, 801).await.iter().map(Chunk::last_seq).max(), Some(810));
    open.close().await;
}

#[tokio::test]
async fn what_is_settled_goes_before_anything_that_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(C, 60, 5).await;
    open.spool.ack(C, 60).await;
    while !segments(directory.path(), C).is_empty() {
        open.fill(T, 5, 5).await;
        assert_eq!(open.stats().of(T).evicted, 0);
    }
    assert_eq!(open.gaps(T).await, []);
    assert!(open.stats().bytes > 230 << 10);
    open.fill(C, 1, 1).await;
    assert_eq!(open.state(C).next, 62);
    open.close().await;
}

#[tokio::test]
async fn a_reader_that_is_overtaken_by_eviction_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 500, 5).await;
    let mut reader = open.spool.reader(T, 1);
    let mut position = chunk(&mut reader).await.last_seq() + 1;
    open.fill(T, 10_000, 50).await;
    let mut evicted = 0;
    while position < open.state(T).next {
        let chunk = chunk(&mut reader).await;
        assert_eq!(chunk.first_seq(), position);
        check(T, &chunk);
        position = chunk.last_seq() + 1;
        evicted += u64::from(matches!(chunk, Chunk::Gap { reason: GapReason::Evicted, .. }));
    }
    assert_eq!(evicted, 1);
    open.close().await;
}

#[tokio::test]
async fn one_append_larger_than_the_spool_keeps_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.append((1..=6000).map(|seq| Record { collector: None, ..event(T, seq) }).collect()).await;
    assert!(bytes_on_disk(directory.path()) <= 256 << 10);
    let mut reader = open.spool.reader(T, 1);
    let gap = chunk(&mut reader).await;
    assert!(
        matches!(gap, Chunk::Gap { first_seq: 1, last_seq: ..5900, reason: GapReason::Evicted }),
        "{gap:?}"
    );
    while reader.position() <= 6000 {
        let Chunk::Events { first_seq, events, .. } = chunk(&mut reader).await else { panic!("a gap") };
        assert!(events.events.iter().zip(first_seq..).all(|(found, seq)| found.payload == payload(T, seq)));
    }
    open.close().await;
}

/// A file system of its own, so small that it fills; unmounted when dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(directory)),
            _ => {
                // Past the harness, which shows what is printed by tests that fail only.
                drop(std::io::Write::write_all(
                    &mut std::io::stderr(),
                    b"SKIPPED: needs root to mount a small tmpfs\n",
                ));
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a test that fails leaves its owner thread at work in it.
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("could not unmount {}", self.0.path().display());
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_appends_whole_and_harms_nothing() {
    let Some(disk) = Tmpfs::mount("128k") else { return };
    let directory = disk.0.path().join("spool");
    for sync in [crate::spool::Sync::Os, crate::spool::Sync::Always] {
        let open = Open::with(Config { sync, ..small(&directory) }).unwrap();
        let mut next = open.state(T).next;
        let error = loop {
            // Both classes in one append: neither is there if one is not.
            match open.spool.append(vec![event(T, next), event(C, next)]).await {
                Ok(()) => next += 1,
                Err(error) => break error,
            }
            // Telemetry makes room for critical ones; else the loop would end sooner.
            assert!(next < 10_000);
        };
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            error.to_string().starts_with("could not ") && source.contains("No space left"),
            "{error}: {source}"
        );
        assert_eq!((open.state(T).next, open.state(C).next), (next, next));
        open.spool.stats().wait_for(|stats| stats.disk_error.is_some()).await.unwrap();
        assert_eq!(open.gaps(C).await, []);
        open.read(T, 1).await;

        // What was settled makes room, though the disk is full.
        open.spool.ack(C, next - 1).await;
        open.spool.ack(T, next - 1).await;
        open.spool.renew(T).await.unwrap();
        for seq in next..next + 20 {
            open.append(vec![event(T, seq), event(C, seq)]).await;
        }
        assert_eq!(open.stats().disk_error, None);
        assert_eq!((open.gaps(T).await, open.gaps(C).await), (vec![], vec![]));
        open.close().await;
        let open = Open::at(&directory);
        assert_eq!((open.state(T).next, open.state(C).next), (next + 20, next + 20));
        assert_eq!((open.gaps(T).await, open.gaps(C).await), (vec![], vec![]));
        open.spool.ack(C, next + 19).await;
        open.spool.ack(T, next + 19).await;
        open.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_gives_critical_events_the_room_of_telemetry() {
    let Some(disk) = Tmpfs::mount("160k") else { return };
    let directory = disk.0.path().join("spool");
    let open = Open::at(&directory);
    let mut next = 1;
    while open.spool.append(vec![event(T, next)]).await.is_ok() {
        next += 1;
    }
    assert_eq!(open.gaps(T).await, []);
    open.fill(C, 100, 5).await;
    assert_eq!(open.gaps(C).await, []);
    let gaps = open.gaps(T).await;
    assert!(matches!(gaps[..], [(1, _, GapReason::Evicted)]), "{gaps:?}");
    open.close().await;
}
