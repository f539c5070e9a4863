//! Plain calls.

use super::*;

fn request(payload: &'static str, seq: u64) -> v1::PublishRequest {
    v1::PublishRequest {
        topic: "a.b".to_owned(),
        payload: Bytes::from_static(payload.as_bytes()),
        stream: if seq == 0 { Bytes::new() } else { stream(1) },
        seq,
        ..v1::PublishRequest::default()
    }
}

async fn publish(stage: &Stage, name: &str, request: v1::PublishRequest) -> Result<bool, Status> {
    let peer = VerifiedPeer::assume(PeerId::new("site-a", name).unwrap());
    let caller = Caller::new(peer, "127.0.0.1:4444".parse().unwrap());
    let answer = call::publish(Arc::clone(&stage.sessions.0), &caller, request).await;
    answer.map(|answer| answer.duplicate).map_err(Status::from)
}

#[tokio::test]
async fn a_numbered_event_is_published_once() {
    let stage = Stage::new();
    assert!(!publish(&stage, "x", request("one", 1)).await.unwrap());
    assert!(publish(&stage, "x", request("one", 1)).await.unwrap());
    assert!(!publish(&stage, "x", request("two", 2)).await.unwrap());
    let ahead = publish(&stage, "x", request("four", 4)).await.unwrap_err();
    assert_eq!((ahead.code(), ahead.message()), (Code::OutOfRange, "seq: expected 3 at most, got 4"));
    assert!(!publish(&stage, "y", request("another's", 1)).await.unwrap());
    assert_eq!(stage.taken(), ["one", "two", "another's"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_gave_up_still_moves_the_mark() {
    let stage = Stage::new();
    stage.open.send_replace(false);
    let unconfirmed = publish(&stage, "x", request("one", 1)).await.unwrap_err();
    assert_eq!(unconfirmed.code(), Code::Unavailable);
    let again = publish(&stage, "x", request("one", 1));
    let opening = async {
        time::sleep(Duration::from_secs(1)).await;
        stage.open.send_replace(true);
    };
    let (again, ()) = tokio::join!(again, opening);
    assert!(again.unwrap(), "the first call has published it");
    assert_eq!(stage.taken(), ["one"]);
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let stage = Stage::new();
    let code = async |request| publish(&stage, "x", request).await.unwrap_err().code();
    assert_eq!(
        code(v1::PublishRequest { topic: "A".to_owned(), ..request("x", 0) }).await,
        Code::InvalidArgument
    );
    assert_eq!(
        code(v1::PublishRequest { topic: "b".to_owned(), ..request("x", 0) }).await,
        Code::PermissionDenied
    );
    assert_eq!(
        code(v1::PublishRequest { collector: "nobody".to_owned(), ..request("x", 0) }).await,
        Code::PermissionDenied
    );
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    assert_eq!(code(v1::PublishRequest { payload: large, ..request("x", 0) }).await, Code::InvalidArgument);
    assert_eq!(
        code(v1::PublishRequest { stream: stream(1), ..request("x", 0) }).await,
        Code::InvalidArgument
    );
    assert!(stage.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn over_the_rate_a_call_is_told_when_to_try_again() {
    let rules = POLICY.replace("events_per_second = 1000000", "events_per_second = 2");
    let stage = Stage::configured("", &rules);
    for _ in 0..3 {
        publish(&stage, "x", request("e", 0)).await.unwrap();
    }
    let over = publish(&stage, "x", request("e", 0)).await.unwrap_err();
    assert_eq!(over.code(), Code::ResourceExhausted);
    let wait = tonic_types::StatusExt::get_details_retry_info(&over).unwrap().retry_delay.unwrap();
    time::sleep(wait).await;
    publish(&stage, "x", request("e", 0)).await.unwrap();
}

#[tokio::test]
async fn a_call_and_a_session_of_one_collector_share_its_name() {
    let stage = Stage::new();
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    peer.batch(batch(1, 1, &["session"])).await;
    peer.acked(1).await;
    publish(&stage, "x", request("call", 0)).await.unwrap();
    let held = publish(&stage, "x", request("call", 1)).await.unwrap_err();
    assert_eq!(held.code(), Code::Unavailable, "the session holds the stream");
    peer.batch(batch(1, 2, &["session again"])).await;
    peer.acked(2).await;
    assert_eq!(stage.taken(), ["session", "call", "session again"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_bus_does_not_take_does_not_hold_up_the_end() {
    let stage = Stage::new();
    stage.open.send_replace(false);
    let unconfirmed = publish(&stage, "x", request("one", 0)).await.unwrap_err();
    assert_eq!(unconfirmed.code(), Code::Unavailable);
    let room = Arc::clone(&stage.sessions.0.call_room);
    assert_eq!(room.available_permits(), call::MOST_BYTES - 3);
    let begun = time::Instant::now();
    let settled = async {
        let all = room.acquire_many(u32::try_from(call::MOST_BYTES).unwrap()).await.map(|_| ());
        all.map(|()| begun.elapsed())
    };
    let Stage { life, .. } = stage;
    let (_, taken) = tokio::join!(life.drain(Duration::from_secs(25), std::future::pending()), settled);
    assert!(taken.unwrap() < Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_bus_never_takes_is_withdrawn() {
    let stage = Stage::new();
    stage.open.send_replace(false);
    let (one, two) = (publish(&stage, "x", request("one", 0)), publish(&stage, "x", request("two", 1)));
    let (one, two) = tokio::join!(one, two);
    assert_eq!((one.unwrap_err().code(), two.unwrap_err().code()), (Code::Unavailable, Code::Unavailable));
    let all = u32::try_from(call::MOST_BYTES).unwrap();
    let room = time::timeout(Duration::from_secs(15), stage.sessions.0.call_room.acquire_many(all));
    drop(room.await.expect("the calls end").unwrap());
    stage.open.send_replace(true);
    assert!(!publish(&stage, "x", request("two", 1)).await.unwrap(), "it was never published");
    assert_eq!(stage.taken(), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_has_not_taken_is_withdrawn_when_its_peer_loses_its_right() {
    let stage = Stage::new();
    stage.open.send_replace(false);
    let peer = VerifiedPeer::assume(PeerId::new("site-a", "x").unwrap());
    let caller = Caller::new(peer, "127.0.0.1:4444".parse().unwrap());
    let calling = call::publish(Arc::clone(&stage.sessions.0), &caller, request("one", 1));
    let room = Arc::clone(&stage.sessions.0.call_room);
    let cutting = async {
        while room.available_permits() == call::MOST_BYTES {
            tokio::task::yield_now().await;
        }
        let _first = caller.cut().cut(CutReason::Revoked);
        let all = room.acquire_many(u32::try_from(call::MOST_BYTES).unwrap());
        drop(time::timeout(Duration::from_secs(1), all).await.expect("it is not waited for").unwrap());
    };
    let (refused, ()) = tokio::join!(calling, cutting);
    assert_eq!(Status::from(refused.unwrap_err()).code(), Code::PermissionDenied);
    stage.open.send_replace(true);
    assert!(
        !publish(&stage, "x", request("again", 1)).await.unwrap(),
        "no duplicate: it was never published"
    );
    assert_eq!(stage.taken(), ["again"]);
}

#[tokio::test(start_paused = true)]
async fn one_peer_does_not_take_the_room_of_all() {
    let stage = Stage::new();
    stage.open.send_replace(false);
    let large = || v1::PublishRequest { payload: Bytes::from(vec![b'x'; 1 << 20]), ..request("", 0) };
    let most = call::MOST_BYTES_OF_ONE >> 20;
    let calls = futures_util::future::join_all((0..=most).map(|_| publish(&stage, "x", large())));
    let codes: Vec<_> = calls.await.into_iter().map(|answer| answer.unwrap_err().code()).collect();
    assert_eq!(codes[..most], vec![Code::Unavailable; most], "they wait for the bus");
    assert_eq!(codes[most], Code::ResourceExhausted);
    assert_eq!(publish(&stage, "y", large()).await.unwrap_err().code(), Code::Unavailable);
    stage.open.send_replace(true);
    time::sleep(Duration::from_mins(1)).await;
    publish(&stage, "x", large()).await.expect("what they took is given back");
}
