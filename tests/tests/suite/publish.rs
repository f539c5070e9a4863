//! What a remote collector may say, and what it is told when it may not.

use daemoneye_proto::v1::{
    Hello, LinkRequest, Ping, PublishRequest, RejectCode, federation_client::FederationClient, link_request,
    link_response,
};
use daemoneye_tests::{
    eventually,
    peer::{Session, batch, new_stream},
    subscriber::Subscriber,
};
use tonic::Code;
use uuid::Uuid;

use crate::world;

/// Sequence numbers end below 2^63.
const TOO_HIGH: u64 = 1 << 63;

#[tokio::test]
async fn an_event_reaches_a_bus_client_under_the_verified_name_of_its_sender() {
    let mut world = world("");
    world.start().await;
    let subscriber = Subscriber::connect(&world.socket(), "engine", &["events/process/#"]).await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, welcome) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    assert_eq!(welcome.peer, "site-a/procmond-1");
    assert_eq!(welcome.resume[0].resume, 1);

    session.say(batch(stream, 1, "events.process.start", [b"one".to_vec(), b"two".to_vec()])).await;
    assert_eq!(session.acked(stream, 2).await.unwrap(), []);

    eventually("both events arrive", || subscriber.count() == 2).await;
    let heard = subscriber.heard();
    assert!(heard.iter().all(|frame| frame.sender == "collector.site-a.procmond-1"), "{heard:?}");
    assert!(heard.iter().all(|frame| frame.topic == "events/process/start"), "{heard:?}");
    assert_eq!(heard.iter().map(|frame| frame.payload.as_slice()).collect::<Vec<_>>(), [b"one", b"two"]);
}

#[tokio::test]
async fn a_stream_goes_on_where_the_gateway_confirmed_it_last() {
    let mut world = world("");
    world.start().await;
    let subscriber = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let credentials = world.credentials("site-a", "procmond-1");
    let stream = Uuid::new_v4();
    let channel = credentials.channel(world.address).await.unwrap();
    let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    session.say(batch(stream, 1, "events.process.start", vec![b"x".to_vec(); 10])).await;
    session.acked(stream, 10).await.unwrap();
    drop(session);

    // The peer has lost every ack: it offers all of it again, and is told where to go on.
    let channel = credentials.channel(world.address).await.unwrap();
    let mut again = new_stream(stream);
    again.next = 21;
    let (mut session, welcome) = Session::open(channel, vec![again]).await.unwrap();
    assert_eq!(welcome.resume[0].resume, 11);
    session.say(batch(stream, 11, "events.process.start", vec![b"y".to_vec(); 10])).await;
    session.acked(stream, 20).await.unwrap();
    eventually("all twenty arrive", || subscriber.count() == 20).await;

    // A peer whose disk was restored from an older copy is told that the gateway has seen more than it knows.
    let channel = credentials.channel(world.address).await.unwrap();
    let mut restored = new_stream(stream);
    restored.next = 5;
    let (_session, welcome) = Session::open(channel, vec![restored]).await.unwrap();
    assert_eq!(welcome.resume[0].resume, 21, "greater than its next: it must open a new stream");
}

#[tokio::test]
async fn an_event_that_is_not_allowed_is_rejected_and_the_rest_goes_on() {
    let mut world = world("");
    world.start().await;
    let subscriber = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let stream = Uuid::new_v4();
    let (mut session, welcome) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    let too_large = vec![b'x'; welcome.limits.as_ref().unwrap().max_payload as usize + 1];
    let cases: [(&str, Vec<u8>, RejectCode); 6] = [
        ("control.shutdown", b"{}".to_vec(), RejectCode::TopicDenied),
        ("Events.Process", b"{}".to_vec(), RejectCode::TopicMalformed),
        ("events.process.\0start", b"{}".to_vec(), RejectCode::TopicMalformed),
        ("a.b.c.d.e.f", b"{}".to_vec(), RejectCode::TopicMalformed),
        ("", b"{}".to_vec(), RejectCode::TopicMalformed),
        ("events.process.start", too_large, RejectCode::PayloadTooLarge),
    ];
    for (seq, (topic, payload, code)) in (1..).zip(cases) {
        session.say(batch(stream, seq, topic, [payload])).await;
        let rejected = session.acked(stream, seq).await.unwrap();
        assert_eq!(rejected.len(), 1, "{topic:?}");
        assert_eq!((rejected[0].seq, rejected[0].code()), (seq, code), "{topic:?}: {}", rejected[0].reason);
        assert!(!rejected[0].reason.is_empty(), "{topic:?}");
    }
    session.say(batch(stream, 7, "events.process.start", [Vec::new()])).await;
    assert_eq!(session.acked(stream, 7).await.unwrap(), [], "an empty payload is a payload");
    eventually("the allowed one arrives", || subscriber.count() == 1).await;
}

#[tokio::test]
async fn a_broken_protocol_ends_the_session_and_says_where() {
    let mut world = world("");
    world.start().await;
    let _subscriber = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let credentials = world.credentials("site-a", "procmond-1");
    let (stream, other) = (Uuid::new_v4(), Uuid::new_v4());
    let event = || [b"x".to_vec()];
    let mut out_of_range = batch(stream, 1, "events.process.start", event());
    if let link_request::Frame::Batch(batch) = &mut out_of_range {
        batch.events[0].topic = 1;
    }
    let mut short_id = batch(stream, 1, "events.process.start", event());
    if let link_request::Frame::Batch(batch) = &mut short_id {
        batch.stream.truncate(15);
    }
    let hello = link_request::Frame::Hello(Hello { protocol: 1, ..Hello::default() });
    let cases = [
        ("a hole in the numbers", batch(stream, 2, "events.process.start", event())),
        ("a number of 2^63", batch(stream, TOO_HIGH, "events.process.start", event())),
        ("number 0", batch(stream, 0, "events.process.start", event())),
        ("a stream that Hello did not list", batch(other, 1, "events.process.start", event())),
        ("a batch without events", batch(stream, 1, "events.process.start", [])),
        ("a topic index out of range", out_of_range),
        ("a stream id of 15 bytes", short_id),
        ("a second Hello", hello),
    ];
    for (what, frame) in cases {
        let channel = credentials.channel(world.address).await.unwrap();
        let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
        session.say(frame).await;
        let status = session.ended().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert!(!status.message().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_session_begins_with_a_hello_that_the_gateway_understands() {
    let mut world = world("");
    world.start().await;
    let credentials = world.credentials("site-a", "procmond-1");
    let hello = |protocol, streams| {
        link_request::Frame::Hello(Hello { protocol, software: "tests".to_owned(), streams })
    };
    let twice = new_stream(Uuid::new_v4());
    let mut short = new_stream(Uuid::new_v4());
    short.stream.truncate(3);
    let mut behind = new_stream(Uuid::new_v4());
    behind.acked = 5;
    let many = (0..65).map(|_| new_stream(Uuid::new_v4())).collect();
    let cases = [
        ("no Hello first", link_request::Frame::Ping(Ping { nonce: 1 }), Code::InvalidArgument),
        ("an unknown version", hello(99, vec![]), Code::FailedPrecondition),
        ("the same stream twice", hello(1, vec![twice.clone(), twice]), Code::InvalidArgument),
        ("a stream id of 3 bytes", hello(1, vec![short]), Code::InvalidArgument),
        ("next not above acked", hello(1, vec![behind]), Code::InvalidArgument),
        ("65 streams", hello(1, many), Code::InvalidArgument),
    ];
    for (what, frame, code) in cases {
        let channel = credentials.channel(world.address).await.unwrap();
        let mut session = Session::call(channel, LinkRequest { frame: Some(frame) }).await;
        let status = session.ended().await;
        assert_eq!(status.code(), code, "{what}: {status:?}");
    }
}

#[tokio::test]
async fn nobody_can_advance_anothers_stream() {
    let mut world = world("");
    world.start().await;
    let subscriber = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let stream = Uuid::new_v4();
    let victim = world.credentials("site-a", "procmond-1");
    let channel = victim.channel(world.address).await.unwrap();
    let (mut session, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    session.say(batch(stream, 1, "events.process.start", vec![b"x".to_vec(); 5])).await;
    session.acked(stream, 5).await.unwrap();

    // The attacker sends a number of 2^63, then claims to be far ahead in the same stream.
    let attacker = world.credentials("site-a", "procmond-2");
    let channel = attacker.channel(world.address).await.unwrap();
    let (mut hostile, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    hostile.say(batch(stream, TOO_HIGH, "events.process.start", [b"x".to_vec()])).await;
    assert_eq!(hostile.ended().await.code(), Code::InvalidArgument);
    let channel = attacker.channel(world.address).await.unwrap();
    let mut ahead = new_stream(stream);
    (ahead.acked, ahead.next) = (1_000_000, 1_000_001);
    let (mut hostile, _) = Session::open(channel, vec![ahead]).await.unwrap();
    hostile.say(batch(stream, 1_000_001, "events.process.start", [b"hostile".to_vec()])).await;
    hostile.acked(stream, 1_000_001).await.unwrap();

    // The victim's session lives on, and a new one resumes where the victim was.
    session.say(batch(stream, 6, "events.process.start", vec![b"x".to_vec(); 5])).await;
    session.acked(stream, 10).await.unwrap();
    drop(session);
    let channel = victim.channel(world.address).await.unwrap();
    let (_session, welcome) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    assert_eq!(welcome.resume[0].resume, 11);
    eventually("the victim's ten and the attacker's own one arrive", || subscriber.count() == 11).await;
    let own = subscriber.heard().iter().filter(|frame| frame.sender == "collector.site-a.procmond-1").count();
    assert_eq!(own, 10);
}

#[tokio::test]
async fn a_newer_session_fences_the_older() {
    let mut world = world("");
    world.start().await;
    let subscriber = Subscriber::connect(&world.socket(), "engine", &["#"]).await;
    let credentials = world.credentials("site-a", "procmond-1");
    let stream = Uuid::new_v4();
    let channel = credentials.channel(world.address).await.unwrap();
    let (mut older, _) = Session::open(channel, vec![new_stream(stream)]).await.unwrap();
    older.say(batch(stream, 1, "events.process.start", vec![b"x".to_vec(); 3])).await;
    older.acked(stream, 3).await.unwrap();

    let channel = credentials.channel(world.address).await.unwrap();
    let mut known = new_stream(stream);
    known.next = 7;
    let (mut newer, welcome) = Session::open(channel, vec![known]).await.unwrap();
    assert_eq!(welcome.resume[0].resume, 4);
    assert_eq!(older.ended().await.code(), Code::Aborted);
    newer.say(batch(stream, 4, "events.process.start", vec![b"x".to_vec(); 3])).await;
    newer.acked(stream, 6).await.unwrap();
    eventually("six arrive", || subscriber.count() == 6).await;
}

#[tokio::test]
async fn an_event_can_be_published_by_a_plain_call() {
    let mut world = world("");
    world.start().await;
    let subscriber = Subscriber::connect(&world.socket(), "engine", &["events/#"]).await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let mut client = FederationClient::new(channel);
    let plain = PublishRequest {
        topic: "events.process.start".to_owned(),
        payload: "{}".into(),
        ..Default::default()
    };
    assert!(!client.publish(plain.clone()).await.unwrap().into_inner().duplicate);

    let stream = bytes::Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
    let numbered = PublishRequest { stream, seq: 1, ..plain.clone() };
    assert!(!client.publish(numbered.clone()).await.unwrap().into_inner().duplicate);
    assert!(
        client.publish(numbered.clone()).await.unwrap().into_inner().duplicate,
        "a retry is not published again"
    );
    let ahead = client.publish(PublishRequest { seq: 3, ..numbered.clone() }).await.unwrap_err();
    assert_eq!(ahead.code(), Code::OutOfRange, "{ahead:?}");

    let denied = PublishRequest { topic: "control.shutdown".to_owned(), ..plain.clone() };
    assert_eq!(client.publish(denied).await.unwrap_err().code(), Code::PermissionDenied);
    for (what, wrong) in [
        ("a malformed topic", PublishRequest { topic: "Events".to_owned(), ..plain.clone() }),
        ("a number without a stream", PublishRequest { seq: 1, ..plain.clone() }),
        ("a stream without a number", PublishRequest { seq: 0, ..numbered.clone() }),
        ("a number of 2^63", PublishRequest { seq: TOO_HIGH, ..numbered.clone() }),
        ("a payload over the limit", PublishRequest { payload: vec![0; 1_048_577].into(), ..plain.clone() }),
    ] {
        let status = client.publish(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
    }
    eventually("two events arrive", || subscriber.count() == 2).await;
}

#[tokio::test]
async fn a_ping_is_answered_with_its_number() {
    let mut world = world("");
    world.start().await;
    let channel = world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap();
    let (mut session, _) = Session::open(channel, vec![]).await.unwrap();
    session.say(link_request::Frame::Ping(Ping { nonce: 77 })).await;
    let answer = session.next().await.unwrap();
    assert!(matches!(&answer, link_response::Frame::Pong(pong) if pong.nonce == 77), "{answer:?}");
}
