//! What holds when nothing goes wrong, and across restarts and kills.

use super::*;

const T: Class = Class::Telemetry;
const C: Class = Class::Critical;

#[tokio::test]
async fn events_come_back_in_order_and_each_class_has_its_own_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.append((1..=10).flat_map(|seq| [event(C, seq), event(T, seq)]).collect()).await;
    open.fill(T, 1000, 7).await;
    assert_eq!(gaps(&open.read(C, 1).await), []);
    assert_eq!(open.gaps(T).await, []);
    assert_eq!((open.state(C).next, open.state(T).next), (11, 1011));
    open.close().await;
}

#[tokio::test]
async fn a_chunk_keeps_to_its_bounds_but_holds_at_least_one_event() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 200, 50).await;
    let mut reader = open.spool.reader(T, 1);
    let mut seen = 0;
    while seen < 200 {
        let Some(chunk @ Chunk::Events { .. }) = reader.next(7, 500).await else { panic!("a gap") };
        check(T, &chunk);
        let Chunk::Events { events, .. } = chunk else { return };
        assert!(events.len() <= 7 && (events.len() == 1 || events.payload_bytes() <= 500));
        seen += events.len();
    }
    let Some(Chunk::Events { events, .. }) = open.spool.reader(T, 5).next(0, 0).await else {
        panic!("a gap")
    };
    assert_eq!(events.len(), 1);
    open.close().await;
}

#[tokio::test]
async fn small_appends_are_read_as_large_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    for n in 0..100_u64 {
        open.append(vec![Record { collector: None, ..event(T, n) }]).await;
    }
    let Some(Chunk::Events { events, .. }) = open.spool.reader(T, 1).next(128, 1 << 20).await else {
        panic!("a gap")
    };
    assert_eq!((events.len(), events.topics.len()), (100, 3));
    assert!(events.events.iter().zip(0..).all(|(found, n)| found.payload == payload(T, n)));
    assert!(
        events
            .events
            .iter()
            .zip(0_u64..)
            .all(|(found, n)| { events.topic_of(found).unwrap().dotted() == format!("t.t{}", n % 3) })
    );
    open.close().await;
}

#[tokio::test]
async fn collectors_that_take_turns_are_brought_together_each_in_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    let turn = |n: u64| Record { collector: Some(format!("c{}", n % 2).into()), ..event(T, n) };
    open.append((0..100).map(turn).collect()).await;
    let mut reader = open.spool.reader(T, 1);
    for collector in ["c0", "c1"] {
        let Some(Chunk::Events { collector: found, events, .. }) = reader.next(100, 1 << 20).await else {
            panic!("a gap")
        };
        assert_eq!((found.as_deref(), events.len()), (Some(collector), 50));
        assert!(events.events.windows(2).all(|pair| pair[0].time < pair[1].time));
    }
    open.close().await;
}

#[tokio::test]
async fn a_reader_that_has_caught_up_waits_and_loses_nothing_when_it_is_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    let mut reader = open.spool.reader(T, 1);
    let mut position = 1;
    for round in 0..200_u64 {
        let writer = open.fill(T, 1 + round % 3, 1);
        let reading = async {
            // Dropped at whatever point it is in.
            while let Ok(Some(chunk)) =
                time::timeout(Duration::from_micros(round * 5), reader.next(2, 1000)).await
            {
                assert_eq!(chunk.first_seq(), position);
                check(T, &chunk);
                position = chunk.last_seq() + 1;
            }
        };
        tokio::join!(writer, reading);
    }
    while position < open.state(T).next {
        let chunk = chunk(&mut reader).await;
        assert_eq!(chunk.first_seq(), position);
        check(T, &chunk);
        position = chunk.last_seq() + 1;
    }
    open.close().await;
    assert_eq!(reader.next(1, 1).await, None);
}

#[tokio::test]
async fn many_callers_at_once_lose_and_double_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = small(directory.path());
    config.max_bytes = 64 << 20;
    config.sync = crate::spool::Sync::Always;
    let open = Open::with(config).unwrap();
    let callers = (0..64_u64).map(|caller| {
        let spool = open.spool.clone();
        async move {
            for n in 0..20 {
                let record =
                    Record { collector: Some(format!("c{caller}").into()), time: n, ..event(T, caller) };
                spool.append(vec![record]).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let mut next = std::collections::HashMap::new();
    let mut reader = open.spool.reader(T, 1);
    while reader.position() < open.state(T).next {
        let Chunk::Events { collector, events, .. } = chunk(&mut reader).await else { panic!("a gap") };
        let next = next.entry(collector).or_insert(0);
        for event in events.events {
            assert_eq!(event.time, *next);
            *next += 1;
        }
    }
    assert!(next.len() == 64 && next.values().all(|next| *next == 20), "{next:?}");
    open.close().await;
}

#[tokio::test]
async fn an_ack_trims_whole_segments_and_numbers_are_never_given_again() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 500, 10).await;
    assert!(segments(directory.path(), T).len() > 3);
    open.spool.ack(T, 300).await;
    assert_eq!(open.state(T).acked, 300);
    assert_eq!(open.read(T, 1).await[0].first_seq(), 301);
    // Numbers that were never given settle what there is, and no more.
    open.spool.ack(T, Seq::MAX).await;
    assert_eq!((open.state(T).acked, open.state(T).next), (500, 501));
    open.spool.ack(T, 7).await;
    assert_eq!(open.state(T).acked, 500);
    open.close().await;
    assert!(segments(directory.path(), T).len() <= 1);

    let open = Open::at(directory.path());
    assert_eq!((open.state(T).acked, open.state(T).next, open.state(T).opened), (500, 501, 501));
    open.close().await;
    for path in segments(directory.path(), T) {
        fs::remove_file(path).unwrap();
    }
    let open = Open::at(directory.path());
    assert_eq!(open.state(T).next, 501);
    open.fill(T, 10, 10).await;
    assert_eq!(open.gaps(T).await, []);
    open.close().await;
}

#[tokio::test]
async fn a_kill_at_any_moment_keeps_what_was_appended() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    let stream = open.state(T).stream;
    for round in 1..20 {
        open.fill(T, 23, 5).await;
        open.spool.ack(T, round * 10).await;
        let copy = killed(directory.path());
        let restarted = Open::at(copy.path());
        let state = restarted.state(T);
        assert_eq!((state.stream, state.next), (stream, open.state(T).next));
        assert!(state.acked <= round * 10);
        assert_eq!(restarted.gaps(T).await, []);
        restarted.fill(T, 5, 5).await;
        assert_eq!(restarted.gaps(T).await, []);
        restarted.close().await;
    }
    open.close().await;
}

#[tokio::test]
async fn a_renewed_stream_has_a_new_name_and_the_same_events() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 30, 5).await;
    open.spool.ack(T, 10).await;
    let (before, other) = (open.state(T), open.state(C).stream);
    let renewed = open.spool.renew(T).await.unwrap();
    assert_ne!(renewed.stream, before.stream);
    assert_eq!((renewed.acked, renewed.next), (10, 31));
    assert_eq!(open.read(T, 1).await[0].first_seq(), 11);
    // It holds after a kill, too.
    let copy = killed(directory.path());
    let restarted = Open::at(copy.path());
    assert_eq!((restarted.state(T).stream, restarted.state(C).stream), (renewed.stream, other));
    restarted.close().await;
    open.close().await;
}

#[tokio::test]
async fn an_older_copy_of_the_disk_shows_itself_by_its_opened_number() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 30, 5).await;
    let older = killed(directory.path());
    open.fill(T, 30, 5).await;
    open.close().await;
    // A gateway has seen 60 by now; the copy appends 40 new ones before it gets to say hello.
    let restored = Open::at(older.path());
    restored.fill(T, 40, 5).await;
    let state = restored.state(T);
    assert_eq!((state.opened, state.next), (31, 71));
    restored.spool.ack(T, state.opened - 1).await;
    restored.spool.renew(T).await.unwrap();
    let chunks = restored.read(T, 1).await;
    assert_eq!((chunks[0].first_seq(), gaps(&chunks)), (31, vec![]));
    restored.close().await;
}

#[tokio::test]
async fn rejected_events_are_kept_as_lines_within_a_bound() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 900, 30).await;
    open.spool.reject(T, vec![(3, 2, "topic denied".into()), (60, 3, "too \"large\"\n".into())]).await;
    // Backwards, and one that is not there.
    open.spool.reject(T, vec![(2, 2, String::new()), (5000, 2, "ü".repeat(5000))]).await;
    let path = directory.path().join("dead-letters.jsonl");
    let lines: Vec<serde_json::Value> =
        fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[1]["seq"], &lines[1]["code"]), (&60.into(), &3.into()));
    assert_eq!(lines[1]["collector"], "procmond");
    assert_eq!(lines[1]["topic"], "t.t0");
    assert_eq!(lines[1]["stream"], open.state(T).stream.to_string());
    let data = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        lines[1]["data_base64"].as_str().unwrap(),
    );
    assert_eq!(data.unwrap(), payload(T, 60));
    assert!(lines[3].get("data_base64").is_none());

    // Torn by a crash, then far over the bound.
    fs::write(&path, "{\"seq\":").unwrap();
    open.close().await;
    let open = Open::at(directory.path());
    for _ in 0..3 {
        open.spool.reject(T, (1..=900).map(|seq| (seq, 2, "topic denied".into())).collect()).await;
    }
    // A letter for which there is no room tells of its event all the same.
    open.append(vec![Record { payload: vec![7; 8 << 10].into(), ..event(T, 901) }; 8]).await;
    open.spool.reject(T, (901..=908).map(|seq| (seq, 3, String::new())).collect()).await;
    open.spool.reject(T, vec![(900, 2, "topic denied".into())]).await;
    let size = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
    assert!(size("dead-letters.jsonl") <= 32 << 10 && size("dead-letters.1.jsonl") <= 32 << 10);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    let newest: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(newest["seq"], 900);
    assert_eq!(open.stats().of(T).rejected, 2709);
    open.close().await;
}

#[tokio::test]
async fn a_spool_whose_owner_is_gone_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, owner) = Spool::open(small(directory.path())).unwrap();
    // The owner is running and then dropped, as by the end of a process' patience.
    let life = Lifecycle::new();
    life.leash().spawn(owner);
    spool.append(vec![event(T, 1)]).await.unwrap();
    let mut reader = spool.reader(T, 2);
    assert_eq!(life.drain(Duration::ZERO, std::future::pending()).await, 1);
    assert_eq!(reader.next(1, 1).await, None);
    assert!(matches!(spool.append(vec![event(T, 2)]).await, Err(SpoolError::Closed)));
    assert!(matches!(spool.renew(T).await, Err(SpoolError::Closed)));
    spool.ack(T, 1).await;
    spool.reject(T, vec![(1, 1, String::new())]).await;
    spool.close().await;
    // The folder is free again.
    Open::at(directory.path()).close().await;
}

#[tokio::test]
async fn the_owner_ends_with_the_last_handle() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 5, 5).await;
    let Open { spool, life } = open;
    drop(spool);
    assert_eq!(life.drain(Duration::from_secs(10), std::future::pending()).await, 0);
    let open = Open::at(directory.path());
    assert_eq!(open.state(T).next, 6);
    open.close().await;
}

#[tokio::test]
async fn what_cannot_be_held_is_refused_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    let large = Record { payload: vec![0; (8 << 10) + 1].into(), ..event(T, 1) };
    assert!(matches!(open.spool.append(vec![event(T, 1), large]).await, Err(SpoolError::TooLarge { .. })));
    let named = Record { collector: Some("x".repeat(256).into()), ..event(T, 1) };
    assert!(matches!(open.spool.append(vec![named]).await, Err(SpoolError::CollectorTooLong { bytes: 256 })));
    open.append(vec![]).await;
    assert_eq!(open.state(T).next, 1);
    let largest = Record { payload: vec![7; 8 << 10].into(), ..event(T, 1) };
    open.append(vec![largest.clone(), largest]).await;
    let mut reader = open.spool.reader(T, 1);
    let Some(Chunk::Events { events, .. }) = reader.next(1, 1).await else { panic!("a gap") };
    assert_eq!(events.payload_bytes(), 8 << 10);
    open.close().await;
}

#[tokio::test]
async fn stats_tell_what_waits() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(T, 300, 10).await;
    open.spool.ack(T, 120).await;
    // Answered after the ack, so that the figures are of then.
    open.spool.renew(T).await.unwrap();
    let mut stats = open.spool.stats();
    let stats = stats.wait_for(|stats| stats.of(T).events == 180).await.unwrap().clone();
    let telemetry = stats.of(T);
    assert_eq!((telemetry.appended, telemetry.evicted, telemetry.corrupt), (300, 0, 0));
    assert_eq!(stats.bytes, bytes_on_disk(directory.path()));
    assert!(telemetry.oldest.is_some_and(|time| (100..=121).contains(&time)), "{telemetry:?}");
    assert_eq!(stats.of(C).oldest, None);
    open.close().await;
}

#[tokio::test]
async fn relayed_events_come_out_with_their_origins_however_they_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    let origin = |site: &str| {
        Arc::new(Origin { site: site.into(), stream: Some(StreamId::random()), hops: vec!["region".into()] })
    };
    let origins = [Some(origin("site-a")), Some(origin("site-b")), None];
    let of = |n: usize| origins[n / 5 % 3].clone().map(|origin| (origin, 1000 + n as u64));
    for from in (0..300_usize).step_by(10) {
        let record = |n| Record { collector: None, origin: of(n), time: n as u64, ..event(T, 1) };
        open.append((from..from + 10).map(record).collect()).await;
    }
    for most in [1, 3, 7, 64] {
        let mut reader = open.spool.reader(T, 1);
        let mut seen = 0;
        while seen < 300 {
            let Some(Chunk::Events { relayed, events, .. }) = reader.next(most, 1 << 20).await else {
                panic!("a gap")
            };
            for (at, event) in events.events.iter().enumerate() {
                let found = relayed.as_ref().map(|relayed| (Arc::clone(&relayed.origin), relayed.seqs[at]));
                assert_eq!(found, of(usize::try_from(event.time).unwrap()), "chunks of {most}");
                seen += 1;
            }
        }
    }
    open.close().await;
}
