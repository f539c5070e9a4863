//! Bytes that are torn, flipped or gone.

use super::*;

const T: Class = Class::Telemetry;

/// A closed spool of `count` events and the folder it is in.
async fn filled(count: u64, batch: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, count, batch).await;
    open.close().await;
    directory
}

/// As [`filled`], but killed before it could note its numbers.
async fn filled_and_killed(count: u64, batch: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, count, batch).await;
    let copy = killed(directory.path());
    open.close().await;
    copy
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_loses_only_the_append_it_was_part_of() {
    let directory = filled_and_killed(12, 4).await;
    let [path] = &segments(directory.path(), T)[..] else { panic!("one segment") };
    let bytes = fs::read(path).unwrap();
    let mut nexts = Vec::new();
    for length in 0..=bytes.len() {
        let copy = killed(directory.path());
        fs::write(copy.path().join(path.file_name().unwrap()), &bytes[..length]).unwrap();
        let open = Open::at(copy.path());
        let next = open.state(T).next;
        // No gap is told: whether there were events behind the tear is not known, and none was promised.
        assert_eq!(open.gaps(T).await, [], "{length}");
        open.fill(T, 3, 3).await;
        assert_eq!(open.gaps(T).await, []);
        assert_eq!(open.state(T).next, next + 3);
        nexts.push(next);
        open.close().await;
        Open::at(copy.path()).close().await;
    }
    assert!(nexts.is_sorted());
    nexts.dedup();
    assert_eq!(nexts, [1, 5, 9, 13]);
}

#[tokio::test]
async fn a_flipped_byte_anywhere_loses_exactly_what_the_gap_says() {
    let directory = filled(12, 4).await;
    let [path] = &segments(directory.path(), T)[..] else { panic!("one segment") };
    let intact = fs::read(path).unwrap();
    for at in 0..intact.len() {
        let copy = killed(directory.path());
        let mut bytes = intact.clone();
        bytes[at] ^= 0x10;
        fs::write(copy.path().join(path.file_name().unwrap()), &bytes).unwrap();
        let open = match Open::with(small(copy.path())) {
            Ok(open) => open,
            Err(error) => panic!("byte {at}: {error}"),
        };
        assert_eq!(open.state(T).next, 13, "byte {at}");
        // Read checks that the rest is there and right.
        let lost: u64 = open.gaps(T).await.iter().map(|(first, last, _)| last - first + 1).sum();
        assert!(lost <= 4, "byte {at}: {lost} lost");
        assert!(lost > 0 || at < 64, "byte {at} is of no use");
        assert_eq!(open.read(T, 1).await.len(), open.read(T, 1).await.len());
        open.fill(T, 2, 1).await;
        assert_eq!(open.state(T).next, 15);
        open.read(T, 1).await;
        open.close().await;
    }
}

#[tokio::test]
async fn a_hole_in_a_middle_segment_is_told_exactly_and_counted_once() {
    let directory = filled(600, 5).await;
    let paths = segments(directory.path(), T);
    assert!(paths.len() > 3);
    let mut bytes = fs::read(&paths[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3000].fill(0xAA);
    fs::write(&paths[1], bytes).unwrap();
    let open = Open::at(directory.path());
    let gaps = open.gaps(T).await;
    let [(first, last, GapReason::Corrupt)] = gaps[..] else { panic!("{gaps:?}") };
    assert!(first > first_of(&paths[1]) && last < first_of(&paths[2]) - 1 && last - first < 60, "{gaps:?}");
    assert_eq!(open.gaps(T).await, gaps);
    open.append(vec![event(T, 601)]).await;
    assert_eq!(open.stats().of(T).corrupt, last - first + 1);
    open.close().await;
}

#[tokio::test]
async fn a_segment_is_read_without_its_beginning() {
    let directory = filled(600, 5).await;
    let paths = segments(directory.path(), T);
    let named = |copy: &TempDir, n: usize| copy.path().join(paths[n].file_name().unwrap());
    // The first sector of every segment but one, and then what is kept of the streams as well.
    for streams in [true, false] {
        let copy = killed(directory.path());
        for n in 1..paths.len() {
            let mut bytes = fs::read(named(&copy, n)).unwrap();
            bytes[..512].fill(0);
            fs::write(named(&copy, n), bytes).unwrap();
        }
        if !streams {
            fs::remove_file(copy.path().join("streams.meta")).unwrap();
        }
        let open = Open::at(copy.path());
        let gaps = open.gaps(T).await;
        assert_eq!(
            gaps.iter().map(|gap| gap.0).collect::<Vec<_>>(),
            paths[1..].iter().map(|path| first_of(path)).collect::<Vec<_>>()
        );
        assert!(gaps.iter().all(|(first, last, _)| last - first < 10), "{gaps:?}");
        open.close().await;
    }
}

#[tokio::test]
async fn damage_loses_no_more_than_the_blocks_it_touches_wherever_reads_begin_and_end() {
    let directory = tempfile::tempdir().unwrap();
    // Segments of several windows, so that damage lies across their borders too.
    let config =
        |directory: &Path| Config { max_bytes: 64 << 20, segment_bytes: 1 << 20, ..small(directory) };
    let open = Open::with(config(directory.path())).unwrap();
    open.fill(T, 12_000, 8).await;
    open.close().await;
    let path = &segments(directory.path(), T)[0];
    let intact = fs::read(path).unwrap();
    assert!(intact.len() > 1 << 20);
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..30 {
        let copy = killed(directory.path());
        let mut bytes = intact.clone();
        let (length, count) = (random.usize(1..20), 12);
        for n in 0..count {
            // Near the borders of windows as often as anywhere.
            let at = if n % 2 == 0 {
                (n / 2 + 1) % 4 * (256 << 10) + random.usize(0..200)
            } else {
                random.usize(64..bytes.len())
            };
            let end = (at + length).min(bytes.len());
            bytes[at..end].fill(random.u8(..));
        }
        fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
        let open = Open::with(config(copy.path())).unwrap();
        let lost: u64 = open.gaps(T).await.iter().map(|(first, last, _)| last - first + 1).sum();
        assert!((1..=count as u64 * 16).contains(&lost), "round {round}: {lost} lost");
        open.close().await;
    }
}

#[tokio::test]
async fn segments_that_are_gone_empty_or_foreign_are_gaps() {
    let directory = filled(600, 5).await;
    let paths = segments(directory.path(), T);
    let whole = |n: usize| (first_of(&paths[n]), first_of(&paths[n + 1]) - 1, GapReason::Corrupt);
    for (n, path) in paths.iter().enumerate().take(3) {
        let gone = killed(directory.path());
        fs::remove_file(gone.path().join(path.file_name().unwrap())).unwrap();
        let open = Open::at(gone.path());
        assert_eq!(open.gaps(T).await, [whole(n)]);
        open.close().await;

        let empty = killed(directory.path());
        fs::write(empty.path().join(path.file_name().unwrap()), "").unwrap();
        let open = Open::at(empty.path());
        assert_eq!(open.gaps(T).await, [whole(n)]);
        // What is damaged is removed like anything else.
        open.spool.ack(T, 600).await;
        open.close().await;
        assert!(segments(empty.path(), T).len() <= 1);
    }
    // In one that was renamed the events keep their own numbers.
    let renamed = killed(directory.path());
    let named = |n: usize| renamed.path().join(paths[n].file_name().unwrap());
    fs::rename(named(2), named(1)).unwrap();
    let open = Open::at(renamed.path());
    assert_eq!(open.gaps(T).await, [whole(1)]);
    open.close().await;
}

#[tokio::test]
async fn a_segment_that_vanishes_under_a_reader_is_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::with(Config { max_bytes: 64 << 20, ..small(directory.path()) }).unwrap();
    open.fill(T, 6000, 50).await;
    let paths = segments(directory.path(), T);
    let mut reader = open.spool.reader(T, 1);
    chunk(&mut reader).await;
    for path in &paths {
        fs::remove_file(path).unwrap();
    }
    let mut last = None;
    while reader.position() < 6001 {
        last = Some(chunk(&mut reader).await);
    }
    assert!(matches!(last, Some(Chunk::Gap { last_seq: 6000, reason: GapReason::Corrupt, .. })), "{last:?}");
    open.close().await;
}

#[tokio::test]
async fn the_last_segment_gone_after_a_clean_end_is_a_gap_and_its_numbers_are_not_given_again() {
    let directory = filled(600, 5).await;
    let last = segments(directory.path(), T).pop().unwrap();
    fs::remove_file(&last).unwrap();
    let open = Open::at(directory.path());
    assert_eq!(open.state(T).next, 601);
    open.fill(T, 5, 5).await;
    assert_eq!(open.gaps(T).await, [(first_of(&last), 600, GapReason::Corrupt)]);
    open.close().await;
}

#[tokio::test]
async fn what_a_payload_imitates_is_not_taken_for_a_block() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.append(vec![event(T, 1)]).await;
    // A collector that has seen some other spool puts a block of it into a payload.
    let forged = fs::read(&segments(directory.path(), T)[0]).unwrap();
    open.close().await;

    let victim = tempfile::tempdir().unwrap();
    let open = Open::at(victim.path());
    let imitation = Record { collector: None, payload: forged[64..].to_vec().into(), ..event(T, 1) };
    open.append(vec![imitation]).await;
    open.append(vec![Record { collector: None, ..event(T, 2) }]).await;
    open.close().await;
    let path = &segments(victim.path(), T)[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[64 + 20] ^= 1;
    fs::write(path, bytes).unwrap();
    let open = Open::at(victim.path());
    let mut reader = open.spool.reader(T, 1);
    assert_eq!(
        chunk(&mut reader).await,
        Chunk::Gap { first_seq: 1, last_seq: 1, reason: GapReason::Corrupt }
    );
    assert!(matches!(chunk(&mut reader).await, Chunk::Events { first_seq: 2, collector: None, .. }));
    open.close().await;
}

#[tokio::test]
async fn streams_that_cannot_be_read_begin_anew_with_the_same_events() {
    let directory = filled(30, 5).await;
    let open = Open::at(directory.path());
    let before = open.state(T).stream;
    open.close().await;
    for content in [Some(vec![0xFF; 8192]), Some(vec![]), None] {
        let copy = killed(directory.path());
        let path = copy.path().join("streams.meta");
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let open = Open::at(copy.path());
        let state = open.state(T);
        assert_ne!(state.stream, before);
        assert_eq!((state.acked, state.next), (0, 31));
        assert_eq!(open.gaps(T).await, []);
        open.close().await;
    }
}
