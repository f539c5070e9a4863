//! Events on their way: order, acks, rejections, duplicates, credit, rate.

use super::*;

#[tokio::test]
async fn what_is_taken_is_acknowledged_and_remembered() {
    let stage = Stage::new();
    let (mut peer, welcome) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    assert_eq!((welcome.peer.as_str(), welcome.resume[0].resume), ("site-a/x", 1));
    peer.batch(batch(1, 1, &["one", "two"])).await;
    peer.acked(2).await;
    peer.batch(batch(1, 3, &["three"])).await;
    peer.acked(3).await;
    assert_eq!(stage.taken(), ["one", "two", "three"]);
    drop(peer.frames);
    let (_, welcome) = stage.join("x", vec![state_of(1, 0, 4)]).await;
    assert_eq!(welcome.resume[0].resume, 4);
}

#[tokio::test]
async fn batches_that_are_here_together_go_to_the_bus_as_one() {
    let stage = Stage::new();
    let mut peer = stage.dial("x");
    peer.hello(vec![state_of(1, 0, 1)]).await;
    for seq in 1..=40 {
        peer.batch(batch(1, seq, &["e"])).await;
    }
    peer.welcome().await;
    peer.acked(40).await;
    assert_eq!(stage.taken().len(), 40);
    assert!(
        stage.taken.lock().unwrap().len() < 10,
        "40 batches of one event each were handed over one by one"
    );
}

#[tokio::test]
async fn a_peer_whose_acks_were_lost_sends_duplicates_that_are_not_published() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    peer.batch(batch(1, 1, &["one", "two"])).await;
    peer.acked(2).await;
    let (mut again, welcome) = stage.join("x", vec![state_of(1, 0, 4)]).await;
    assert_eq!(welcome.resume[0].resume, 3);
    again.batch(batch(1, 1, &["one", "two", "three"])).await;
    again.acked(3).await;
    assert_eq!(stage.taken(), ["one", "two", "three"]);
    assert_eq!(peer.end().await.0, Code::Aborted);
}

#[tokio::test]
async fn rejections_come_with_the_ack_and_again_with_the_next_welcome() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let mut sent = batch(1, 1, &["fine", "denied", "fine too"]);
    sent.topics.push("b".to_owned());
    sent.events[1].topic = 1;
    peer.batch(sent).await;
    let ack = peer.ack().await;
    assert_eq!((ack.acked, ack.rejected.len()), (3, 1));
    assert_eq!((ack.rejected[0].seq, ack.rejected[0].code()), (2, v1::RejectCode::TopicDenied));
    let (_again, welcome) = stage.join("x", vec![state_of(1, 0, 4)]).await;
    assert_eq!(welcome.resume[0].rejected, ack.rejected);
    assert_eq!(stage.taken(), ["fine", "fine too"]);
}

#[tokio::test]
async fn a_leaf_speaks_for_whom_it_may_and_one_name_has_one_owner() {
    let stage = Stage::new();
    let (mut leaf, _) = stage.join("leaf", vec![state_of(1, 0, 1)]).await;
    let (mut other, _) = stage.join("other", vec![state_of(2, 0, 1)]).await;
    leaf.batch(v1::Batch { collector: "other".to_owned(), ..batch(1, 1, &["asserted"]) }).await;
    leaf.acked(1).await;
    other.batch(batch(2, 1, &["itself"])).await;
    let ack = other.ack().await;
    assert_eq!(ack.rejected[0].code(), v1::RejectCode::AlreadyConnected);
    leaf.batch(v1::Batch { collector: "nobody".to_owned(), ..batch(1, 2, &["x"]) }).await;
    let ack = leaf.ack().await;
    assert_eq!(ack.rejected[0].code(), v1::RejectCode::CollectorDenied);
    assert_eq!(stage.taken(), ["asserted"]);
}

#[tokio::test]
async fn a_gap_is_acknowledged_after_what_came_before_it() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    stage.open.send_replace(false);
    peer.batch(batch(1, 1, &["one"])).await;
    let gap = v1::Gap { stream: stream(1), first_seq: 2, last_seq: 100, reason: 1 };
    peer.send(link_request::Frame::Gap(gap)).await;
    peer.batch(batch(1, 101, &["after"])).await;
    peer.send(link_request::Frame::Ping(v1::Ping { nonce: 5 })).await;
    assert!(matches!(peer.next().await, Ok(Some(Frame::Pong(v1::Pong { nonce: 5 })))));
    stage.open.send_replace(true);
    peer.acked(101).await;
    assert_eq!(stage.taken(), ["one", "after"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_ignores_its_credit_is_not_read() {
    let config = "min_credit_events = 16\nmax_credit_events = 4096\nin_flight_events = 4096";
    let stage = Stage::configured(config, POLICY);
    stage.sessions.0.budget.add_busy(1 << 20);
    let (mut peer, welcome) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    assert_eq!(welcome.credit.unwrap().events, 16);
    stage.open.send_replace(false);
    let mut sent = 0;
    loop {
        let frame = Some(link_request::Frame::Batch(batch(1, sent * 4 + 1, &["1", "2", "3", "4"])));
        let sending = peer.frames.send(Ok(v1::LinkRequest { frame }));
        if time::timeout(Duration::from_secs(5), sending).await.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 1000, "a peer without credit was read on and on");
    }
    // What fills the pipe to the session, and what it read before it stopped.
    assert!((256..=256 + 16).contains(&sent), "{sent}");
    stage.open.send_replace(true);
    peer.acked(sent * 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_no_answers_to_its_attaches_is_not_read() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let mut sent = 0;
    loop {
        let frame = Some(link_request::Frame::Attach(v1::Attach { collectors: vec!["nobodys".to_owned()] }));
        let sending = peer.frames.send(Ok(v1::LinkRequest { frame }));
        if time::timeout(Duration::from_secs(5), sending).await.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 1000, "a peer that reads nothing was read on and on");
    }
    // What fills the pipes to and from the session, and what waits in it.
    assert!((256..=256 + 32).contains(&sent), "{sent}");
    let mut answered = 0;
    while answered < sent {
        if let Some(Frame::Attached(attached)) = peer.next().await.unwrap() {
            assert_eq!(attached.refused.len(), 1);
            answered += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn over_its_rate_a_peer_is_held_back_and_still_answered() {
    let rules = POLICY.replace("events_per_second = 1000000", "events_per_second = 100");
    let stage = Stage::configured("", &rules);
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    let begun = time::Instant::now();
    for place in 0..50 {
        peer.batch(batch(1, place * 10 + 1, &["e"; 10])).await;
    }
    peer.send(link_request::Frame::Ping(v1::Ping { nonce: 9 })).await;
    loop {
        match peer.next().await.unwrap() {
            Some(Frame::Pong(pong)) => break assert_eq!(pong.nonce, 9),
            Some(_) => {}
            None => panic!("the session ended"),
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "the ping waited for the rate");
    peer.acked(500).await;
    let taken = begun.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&taken), "{taken:?}");
}

#[tokio::test]
async fn the_picture_shows_who_is_here() {
    let stage = Stage::configured("snapshot_interval = '100ms'", POLICY);
    let (mut peer, welcome) = stage.join("x", vec![state_of(1, 0, 10)]).await;
    peer.batch(batch(1, 1, &["one", "two"])).await;
    peer.acked(2).await;
    let mut view = stage.sessions.view();
    let seen =
        view.wait_for(|picture| picture.live.first().is_some_and(|row| row.events == 2)).await.unwrap();
    let row = seen.live.first().unwrap().clone();
    drop(seen);
    assert_eq!((row.peer.as_str(), row.session), ("site-a/x", welcome.session));
    assert_eq!((row.streams[0].acked, row.streams[0].backlog), (2, 7));
    drop(peer.frames);
    assert_eq!(peer.answers.recv().await.map(|_| ()), None);
    let seen = view.wait_for(|picture| !picture.gone.is_empty()).await.unwrap();
    let (live, gone) = (seen.live.len(), seen.gone[0].reason.clone());
    drop(seen);
    assert_eq!((live, gone.as_str()), (0, "done"));
}
