//! How sessions end, and what the peer is told.

use super::*;

#[tokio::test]
async fn a_broken_protocol_ends_the_session_with_its_code() {
    use link_request::Frame as Sent;
    let broken = [
        Sent::Hello(v1::Hello { protocol: 1, ..v1::Hello::default() }),
        Sent::Batch(batch(1, 2, &["skips"])),
        Sent::Batch(batch(1, 0, &["zero"])),
        Sent::Batch(batch(1, 1 << 63, &["over"])),
        Sent::Batch(batch(2, 1, &["foreign stream"])),
        Sent::Batch(batch(1, 1, &[])),
        Sent::Batch(v1::Batch { topics: Vec::new(), ..batch(1, 1, &["x"]) }),
        Sent::Gap(v1::Gap { stream: stream(1), first_seq: 1, last_seq: 0, reason: 0 }),
        Sent::Gap(v1::Gap { stream: stream(1), first_seq: 1, last_seq: u64::MAX, reason: 0 }),
        Sent::Gap(v1::Gap { stream: stream(3), first_seq: 1, last_seq: 1, reason: 0 }),
        Sent::Attach(v1::Attach { collectors: vec!["other".to_owned(); 2] }),
        Sent::Call(v1::Call::default()),
        Sent::Subscriptions(v1::Subscriptions { patterns: vec!["a".to_owned(); 65], ..<_>::default() }),
        // What would be kept or echoed, however long.
        Sent::Subscriptions(v1::Subscriptions { patterns: vec!["a".repeat(257)], ..<_>::default() }),
        Sent::Subscriptions(v1::Subscriptions { collector: "a".repeat(257), ..<_>::default() }),
        Sent::Call(v1::Call { id: 1, caller: "a".repeat(257), ..<_>::default() }),
        Sent::Send(v1::Send { collector: "a".repeat(257), ..<_>::default() }),
    ];
    for frame in broken {
        let stage = Stage::new();
        let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
        let shown = format!("{frame:?}");
        peer.send(frame).await;
        let (given, message) = peer.end().await;
        assert_eq!(given, Code::InvalidArgument, "{shown}: {message}");
        assert!(stage.taken().is_empty(), "{shown} took effect");
    }
}

#[tokio::test]
async fn a_hole_names_what_was_expected_and_what_came() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    peer.batch(batch(1, 1, &["one"])).await;
    peer.batch(batch(1, 5, &["five"])).await;
    let (code, message) = peer.end().await;
    assert_eq!((code, message.as_str()), (Code::InvalidArgument, "first_seq: expected 2, got 5"));
}

#[tokio::test]
async fn a_bad_hello_is_answered_with_its_code() {
    let stage = Stage::new();
    let mut peer = stage.dial("x");
    let hello = v1::Hello { protocol: 9, ..v1::Hello::default() };
    peer.send(link_request::Frame::Hello(hello)).await;
    assert_eq!(peer.end().await.0, Code::FailedPrecondition);
    let mut peer = stage.dial("x");
    peer.batch(batch(1, 1, &["first"])).await;
    assert_eq!(peer.end().await.0, Code::InvalidArgument);
    let mut peer = stage.dial("x");
    peer.frames.send(Err(Status::internal("no message"))).await.unwrap();
    assert_eq!(peer.end().await.0, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn who_says_no_hello_is_sent_away_and_who_falls_silent_too() {
    let stage = Stage::new();
    let mut mute = stage.dial("x");
    assert_eq!(mute.end().await.0, Code::InvalidArgument);
    let (mut silent, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let begun = time::Instant::now();
    assert!(matches!(silent.next().await, Ok(Some(Frame::Ping(_)))));
    assert_eq!(silent.end().await.0, Code::Unavailable);
    let lasted = begun.elapsed();
    assert!((Duration::from_secs(89)..Duration::from_secs(92)).contains(&lasted), "{lasted:?}");
}

#[tokio::test]
async fn a_newer_session_waits_until_the_older_has_settled() {
    let stage = Stage::new();
    let (mut older, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    older.batch(batch(1, 1, &["one"])).await;
    older.acked(1).await;
    stage.open.send_replace(false);
    older.batch(batch(1, 2, &["two"])).await;
    older.send(link_request::Frame::Ping(v1::Ping { nonce: 1 })).await;
    while !matches!(older.next().await, Ok(Some(Frame::Pong(_)))) {}
    // The bus is stuck, so the older session's batch is withdrawn: it is not settled and will be sent again.
    let (mut newer, welcome) = stage.join("x", vec![state_of(1, 1, 3)]).await;
    assert_eq!(welcome.resume[0].resume, 2);
    assert_eq!(older.end().await.0, Code::Aborted);
    stage.open.send_replace(true);
    newer.batch(batch(1, 2, &["two"])).await;
    newer.acked(2).await;
    assert_eq!(stage.taken(), ["one", "two"]);
}

#[tokio::test]
async fn another_peer_with_the_same_stream_id_disturbs_nobody() {
    let stage = Stage::new();
    let (mut victim, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    victim.batch(batch(1, 1, &["one"])).await;
    victim.acked(1).await;
    let (mut thief, welcome) = stage.join("y", vec![state_of(1, 0, 1)]).await;
    assert_eq!(welcome.resume[0].resume, 1, "another's mark was shown");
    thief.batch(batch(1, 1 << 63, &["x"])).await;
    assert_eq!(thief.end().await.0, Code::InvalidArgument);
    victim.batch(batch(1, 2, &["two"])).await;
    victim.acked(2).await;
    assert_eq!(stage.taken(), ["one", "two"]);
}

#[tokio::test]
async fn caps_are_met_with_resource_exhausted() {
    let stage = Stage::configured("max_sessions_per_site = 4", POLICY);
    let _first = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let _second = stage.join("x", vec![state_of(2, 0, 1)]).await;
    let _third = stage.join("x", vec![state_of(3, 0, 1)]).await;
    let mut fourth = stage.dial("x");
    fourth.hello(vec![state_of(4, 0, 1)]).await;
    let (code, message) = fourth.end().await;
    assert_eq!((code, message.as_str()), (Code::ResourceExhausted, "too many sessions of this peer"));
    let _other = stage.join("y", Vec::new()).await;
    let mut fifth = stage.dial("z");
    fifth.hello(Vec::new()).await;
    assert_eq!(fifth.end().await, (Code::ResourceExhausted, "too many sessions of this site".to_owned()));
}

#[tokio::test]
async fn a_peer_that_loses_its_right_is_cut_and_one_that_loses_a_topic_is_not() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    peer.batch(batch(1, 1, &["one"])).await;
    peer.acked(1).await;
    stage.judge.replace(policy(&POLICY.replace("a.#", "b.#")));
    // The order is on its way: until it is heard the old verdict stands.
    let mut seq = 2;
    while {
        peer.batch(batch(1, seq, &["more"])).await;
        peer.ack().await.rejected.is_empty()
    } {
        seq += 1;
    }
    stage.judge.replace(policy(&POLICY.replace("\"*\"", "\"y\"")));
    assert_eq!(peer.end().await.0, Code::PermissionDenied);
}

#[tokio::test]
async fn a_cut_connection_withdraws_what_the_bus_has_not_taken() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    stage.open.send_replace(false);
    peer.batch(batch(1, 1, &["one"])).await;
    peer.send(link_request::Frame::Ping(v1::Ping { nonce: 1 })).await;
    while !matches!(peer.next().await, Ok(Some(Frame::Pong(_)))) {}
    assert!(peer.cut.cut(CutReason::Revoked));
    assert_eq!(peer.end().await.0, Code::PermissionDenied);
    stage.open.send_replace(true);
    let (_, welcome) = stage.join("x", vec![state_of(1, 0, 2)]).await;
    assert_eq!(welcome.resume[0].resume, 1);
    assert!(stage.taken().is_empty());
}

#[tokio::test]
async fn only_who_has_lost_its_right_has_its_events_withheld() {
    for reason in CutReason::ALL {
        let stage = Stage::new();
        let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
        stage.open.send_replace(false);
        peer.batch(batch(1, 1, &["one", "two"])).await;
        peer.heard().await;
        assert!(peer.cut.cut(*reason));
        peer.end().await;
        // Who is old, or has a gateway that goes away, sends the same events again.
        let dropped = if matches!(reason, CutReason::Aged | CutReason::Draining) { 0 } else { 2 };
        assert_eq!(stage.sessions.0.metrics.tally().withheld.get(), dropped, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_tells_the_peer_settles_and_ends_well() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    peer.batch(batch(1, 1, &["one"])).await;
    let Stage { life, taken, .. } = stage;
    let drained = life.drain(Duration::from_secs(25), std::future::pending());
    let peer = async {
        loop {
            match peer.next().await.unwrap() {
                Some(Frame::Drain(drain)) => {
                    assert!(drain.reconnect_after.unwrap().seconds <= 12);
                    break;
                }
                Some(_) => {}
                None => panic!("the session ended without a Drain"),
            }
        }
        peer.batch(batch(1, 2, &["on its way"])).await;
        drop(peer.frames);
        while let Some(answer) = peer.answers.recv().await {
            answer.unwrap();
        }
    };
    let (cut, ()) = tokio::join!(drained, peer);
    assert_eq!(cut, 2, "only the test's bus and the flusher are left");
    assert_eq!(taken.lock().unwrap().iter().map(Events::len).sum::<usize>(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stopped_reading_does_not_delay_a_drain() {
    let stage = Stage::new();
    let (peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    for seq in 1..=100 {
        peer.batch(batch(1, seq, &["e"])).await;
        peer.send(link_request::Frame::Ping(v1::Ping { nonce: seq })).await;
    }
    stage.open.send_replace(false);
    let begun = time::Instant::now();
    let Stage { life, sessions, .. } = stage;
    let mut gone = sessions.view();
    let emptied = async {
        gone.wait_for(|picture| !picture.gone.is_empty()).await.unwrap();
        begun.elapsed()
    };
    let (_, taken) = tokio::join!(life.drain(Duration::from_secs(25), std::future::pending()), emptied);
    assert!(taken < Duration::from_secs(15), "{taken:?}");
    drop(peer);
}

#[tokio::test]
async fn the_newest_of_two_sessions_wins_if_it_is_so_configured_and_the_older_is_settled() {
    let stage = Stage::configured("same_identity = \"newest-wins\"", POLICY);
    let (mut older, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let (mut other, _) = stage.join("y", vec![state_of(1, 0, 1)]).await;
    older.batch(batch(1, 1, &["one"])).await;
    // Another stream: nothing but the name is the same.
    let (mut newer, _) = stage.join("x", vec![state_of(2, 0, 1)]).await;
    older.acked(1).await;
    let (code, message) = older.end().await;
    assert_eq!(code, Code::Aborted, "{message}");
    newer.batch(batch(2, 1, &["two"])).await;
    newer.acked(1).await;
    // And one without a stream is a session too.
    let (_newest, _) = stage.join("x", Vec::new()).await;
    assert_eq!(newer.end().await.0, Code::Aborted);
    other.batch(batch(1, 1, &["three"])).await;
    other.acked(1).await;
    assert_eq!(stage.taken(), ["one", "two", "three"]);
}

#[tokio::test]
async fn a_role_may_ask_for_the_newest_session_alone_or_allow_several() {
    let role = |name: &str, whom: &str, word: &str| {
        format!(
            "[[role]]\nname = \"{name}\"\nmatch = {{ identity = \"{whom}\" }}\npublish = [\"a.#\"]\n\
             connections = 3\nsame_identity = \"{word}\"\n"
        )
    };
    let stage = Stage::configured("", &(role("r", "*", "newest") + &role("s", "y", "allow")));
    let (mut older, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let (_newer, _) = stage.join("x", vec![state_of(2, 0, 1)]).await;
    assert_eq!(older.end().await.0, Code::Aborted);
    // Of several roles the widest holds.
    let (mut older, _) = stage.join("y", vec![state_of(1, 0, 1)]).await;
    let (_newer, _) = stage.join("y", vec![state_of(2, 0, 1)]).await;
    older.batch(batch(1, 1, &["one"])).await;
    older.acked(1).await;
    // What the gateway's settings say is for those whose roles say nothing.
    let stage = Stage::configured("same_identity = \"newest-wins\"", &role("r", "*", "allow"));
    let (mut older, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let (_newer, _) = stage.join("x", vec![state_of(2, 0, 1)]).await;
    older.batch(batch(1, 1, &["one"])).await;
    older.acked(1).await;
}

#[tokio::test]
async fn two_sessions_of_one_peer_may_be_here_by_default() {
    let stage = Stage::new();
    let (mut older, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let (mut newer, _) = stage.join("x", vec![state_of(2, 0, 1)]).await;
    older.batch(batch(1, 1, &["one"])).await;
    older.acked(1).await;
    newer.batch(batch(2, 1, &["two"])).await;
    newer.acked(1).await;
}
