//! The service through real HTTP/2, and the embedded bus behind it.

use std::io;

use daemoneye_bridge::bus::{BusName, embedded};
use daemoneye_proto::v1::{federation_client::FederationClient, subscribe_response};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::session::http2::Server;

const RULES: &str = r#"
[[role]]
name = "r"
match = { identity = ["x", "y"] }
publish = ["a.#"]
subscribe = ["a.#"]
"#;

/// A stage on the embedded bus, whose events nobody needs to hear.
fn embedded_stage() -> (Stage, Arc<embedded::Embedded>) {
    let life = Lifecycle::new();
    let rule = toml::from_str("pattern = \"#\"\nunheard = \"discard\"").unwrap();
    let routes = Routes::new(vec![rule], Broker::Embedded).unwrap();
    let (bus, tasks) = embedded::open(embedded::Config::default(), routes);
    for task in tasks {
        life.leash().spawn(task);
    }
    let stage = Stage::on(Arc::clone(&bus) as Arc<dyn Bus>, life, "", RULES);
    (stage, bus)
}

/// A client over a connection of its own.
async fn connect(stage: &Stage, name: &str) -> FederationClient<Channel> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let leash = stage.life.leash();
    let http2 = http2::Config::default();
    let server = Server::new(http2, stage.sessions.routes(), leash.clone(), CancellationToken::new());
    let peer = VerifiedPeer::assume(PeerId::new("site-a", name).unwrap());
    let caller = Caller::new(peer, "127.0.0.1:4711".parse().unwrap());
    leash.spawn(async move { server.converse(near, &caller).await });
    let mut far = Some(far);
    let connector = tower::service_fn(move |_| {
        let far = far.take().ok_or_else(|| io::Error::other("there is one connection only"));
        async { far.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://gateway.test");
    FederationClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn publish(topic: &str, payload: &'static str) -> v1::PublishRequest {
    v1::PublishRequest {
        topic: topic.to_owned(),
        payload: Bytes::from_static(payload.as_bytes()),
        ..v1::PublishRequest::default()
    }
}

#[tokio::test]
async fn a_link_reaches_the_bus_under_the_verified_name() {
    let (stage, bus) = embedded_stage();
    let local = BusName::parse("engine").unwrap();
    let mut heard = bus.subscribe(&local, &["a.#".parse().unwrap()]).await.unwrap();
    let mut client = connect(&stage, "x").await;
    let (frames, inbound) = mpsc::channel(8);
    let say = async |frame| frames.send(v1::LinkRequest { frame: Some(frame) }).await.unwrap();
    let streams = vec![state_of(1, 0, 1)];
    let hello = v1::Hello { protocol: 1, software: "test".to_owned(), streams };
    say(link_request::Frame::Hello(hello)).await;
    let mut answers = client.link(ReceiverStream::new(inbound)).await.unwrap().into_inner();
    assert!(matches!(answers.message().await.unwrap().unwrap().frame, Some(Frame::Welcome(_))));
    say(link_request::Frame::Batch(batch(1, 1, &["one", "two"]))).await;
    let mut messages = Vec::new();
    while messages.len() < 2 {
        assert!(heard.next(&mut messages, 10).await);
    }
    heard.taken();
    assert_eq!((&*messages[0].sender, &*messages[0].topic), ("collector.site-a.x", "a/b"));
    assert_eq!(messages[1].payload, "two");
    let Some(Frame::Ack(ack)) = answers.message().await.unwrap().unwrap().frame else { panic!("no ack") };
    assert_eq!(ack.acked, 2);
    drop(frames);
    assert!(answers.message().await.unwrap().is_none(), "a half-close ends well");
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_session_with_its_code() {
    let (stage, _bus) = embedded_stage();
    let mut client = connect(&stage, "x").await;
    let (frames, inbound) = mpsc::channel(8);
    let hello = v1::Hello { protocol: 1, software: String::new(), streams: vec![state_of(1, 0, 1)] };
    frames.send(v1::LinkRequest { frame: Some(link_request::Frame::Hello(hello)) }).await.unwrap();
    let mut answers = client.link(ReceiverStream::new(inbound)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let mut over = batch(1, 1, &["x"]);
    over.events[0].payload = vec![0; MAX_MESSAGE + 1].into();
    frames.send(v1::LinkRequest { frame: Some(link_request::Frame::Batch(over)) }).await.unwrap();
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let code = client.publish(publish("a", "still served")).await.map(|_| ());
    assert!(code.is_ok(), "the connection outlives the session: {code:?}");
}

#[tokio::test]
async fn a_subscriber_hears_what_it_may_and_nothing_else() {
    let (stage, _bus) = embedded_stage();
    let (mut speaker, mut listener) = (connect(&stage, "x").await, connect(&stage, "y").await);
    let ask = |patterns: &[&str]| v1::SubscribeRequest {
        patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
    };
    let code = async |mut client: FederationClient<Channel>, patterns: &[&str]| {
        client.subscribe(ask(patterns)).await.map(|_| ()).unwrap_err().code()
    };
    assert_eq!(code(listener.clone(), &["#"]).await, Code::PermissionDenied);
    assert_eq!(code(listener.clone(), &["a.*"]).await, Code::InvalidArgument);
    assert_eq!(code(listener.clone(), &[]).await, Code::InvalidArgument);
    let mut heard = listener.subscribe(ask(&["a.b.#"])).await.unwrap().into_inner();
    speaker.publish(publish("a.x", "not asked for")).await.unwrap();
    speaker.publish(publish("a.b", "asked for")).await.unwrap();
    let frame = heard.message().await.unwrap().unwrap().frame;
    let Some(subscribe_response::Frame::Deliver(deliver)) = frame else { panic!("{frame:?}") };
    assert_eq!((deliver.topic.as_str(), deliver.sender.as_str()), ("a.b", "collector.site-a.x"));
    assert_eq!(deliver.payload, "asked for");
    stage.judge.replace(policy(&RULES.replace("subscribe", "# subscribe")));
    assert_eq!(heard.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn who_has_no_role_is_refused_every_call() {
    let (stage, _bus) = embedded_stage();
    let mut stranger = connect(&stage, "z").await;
    let published = stranger.publish(publish("a", "x")).await.unwrap_err();
    assert_eq!(published.code(), Code::PermissionDenied);
    let linked = stranger.link(tokio_stream::empty::<v1::LinkRequest>()).await.unwrap_err();
    assert_eq!(linked.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_holds_up_nobody() {
    let (stage, _bus) = embedded_stage();
    let (mut speaker, mut listener) = (connect(&stage, "x").await, connect(&stage, "y").await);
    let ask = v1::SubscribeRequest { patterns: vec!["a.#".to_owned()] };
    let mut heard = listener.subscribe(ask).await.unwrap().into_inner();
    let (frames, inbound) = mpsc::channel(8);
    let hello = v1::Hello { protocol: 1, software: String::new(), streams: vec![state_of(1, 0, 1)] };
    frames.send(v1::LinkRequest { frame: Some(link_request::Frame::Hello(hello)) }).await.unwrap();
    let mut answers = speaker.link(ReceiverStream::new(inbound)).await.unwrap().into_inner();
    let rules =
        RULES.replace("publish", "events_per_second = 1000000\nbytes_per_second = \"1 GiB\"\npublish");
    stage.judge.replace(policy(&rules));
    let payload = Bytes::from(vec![b'x'; 2000]);
    let sending = async {
        for turn in 0..100 {
            let mut sent = batch(1, turn * 50 + 1, &[""; 50]);
            sent.events.iter_mut().for_each(|event| event.payload = payload.clone());
            let frame = Some(link_request::Frame::Batch(sent));
            frames.send(v1::LinkRequest { frame }).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        loop {
            match answers.message().await.unwrap().unwrap().frame {
                Some(Frame::Ack(ack)) if ack.acked == 5000 => break,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = sending => {}
        read = time::timeout(Duration::from_secs(30), reading) => read.expect("the bus waited for the subscriber"),
    }
    // Whoever reads at last is told what it missed, and hears on.
    let mut delivered = 0;
    let mut missed = 0;
    let mut client = connect(&stage, "x").await;
    while delivered + missed <= 5000 {
        if missed == 0 && delivered > 1000 {
            client.publish(publish("a", "one more, behind what was missed")).await.unwrap();
        }
        let next = time::timeout(Duration::from_secs(5), heard.message()).await;
        match next.expect("something to read").unwrap().unwrap().frame.unwrap() {
            subscribe_response::Frame::Deliver(_) => delivered += 1,
            subscribe_response::Frame::Dropped(many) => missed += many,
        }
    }
    assert!(missed > 0 && delivered > 1000, "delivered {delivered}, missed {missed}");
}
