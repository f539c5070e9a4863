//! The relay between a gateway that does what a test says and local collectors that are real BUS/RT clients.

#![expect(clippy::significant_drop_tightening, reason = "a leaf lives as long as its test")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use busrt::{
    QoS,
    borrow::Cow,
    client::AsyncClient,
    ipc,
    rpc::{Rpc as _, RpcClient, RpcError, RpcEvent, RpcHandlers, RpcResult},
};
use daemoneye_proto::v1::{self, link_request::Frame as Said, link_response::Frame, reply::Outcome};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::{
    bus::{self, door, rpc::code},
    leaf::{Config, Leaf, health::Views},
    settings, spool,
    uplink::{
        self,
        tests::gateway::{Conversation, PATIENCE, Scripted},
    },
};

/// A leaf with its downlink, and the gateway that it dials.
struct Site {
    gateway: Scripted,
    socket: PathBuf,
    views: Views,
    stop: Arc<Notify>,
}

impl Site {
    async fn open() -> Self {
        let gateway = Scripted::open().await;
        let socket = gateway.folder.path().join("bus/leaf.sock");
        let text = format!(
            "health.enabled = false\nunix_socket.socket_path = \"{}\"\n[downlink]\nenabled = true\nreach = [\"engine\"]\ncalls = 2",
            socket.display()
        );
        let mut config: Config = settings::parse(&text, "bridge.toml").unwrap();
        config.uplink = gateway.config();
        config.spool = spool::Config::at(gateway.folder.path().join("spool"));
        let leaf = Leaf::build(config).await.unwrap();
        let (views, stop) = (leaf.views(), Arc::new(Notify::new()));
        let stopped = Arc::clone(&stop);
        gateway.leash.spawn(async move {
            leaf.run(async move { stopped.notified().await }, std::future::pending()).await;
        });
        Self { gateway, socket, views, stop }
    }

    fn open_calls(&self) -> u64 {
        self.views.downlink.as_ref().unwrap().counts.open.get()
    }

    /// A collector, attached at the gateway.
    async fn collector(&self, session: &mut Conversation, name: &str) -> Local {
        let local = self.local(name).await;
        let Some(Said::Attach(attach)) = session.next().await else { panic!("no attach") };
        assert!(attach.collectors.iter().any(|attached| attached == name), "{attach:?}");
        local
    }

    async fn mute(&self, session: &mut Conversation, name: &str) -> Mute {
        let mut client = self.connect(name).await;
        let heard = client.take_event_channel().unwrap();
        let Some(Said::Attach(_)) = session.next().await else { panic!("no attach") };
        Mute { _client: client, heard }
    }

    async fn connect(&self, name: &str) -> ipc::Client {
        let config = ipc::Config::new(self.socket.to_str().unwrap(), name);
        ipc::Client::connect(&config).await.unwrap()
    }

    async fn local(&self, name: &str) -> Local {
        let client = self.connect(name).await;
        let (seen, heard) = mpsc::channel(64);
        Local { rpc: RpcClient::new(client, Hands { seen }), heard }
    }
}

/// A local client that answers nothing.
struct Mute {
    _client: ipc::Client,
    heard: busrt::EventChannel,
}

impl Mute {
    async fn next(&self) -> busrt::Frame {
        timeout(PATIENCE, self.heard.recv()).await.expect("in time").expect("it is connected")
    }
}

/// A local collector.
struct Local {
    rpc: RpcClient,
    heard: mpsc::Receiver<String>,
}

impl Local {
    async fn call(&self, target: &str, method: &str) -> Result<Vec<u8>, (i16, String)> {
        let called = self.rpc.call(target, method, Cow::Borrowed(b"p"), QoS::Processed);
        let answer = timeout(PATIENCE, called).await.expect("in time");
        answer.map(|event| event.payload().to_vec()).map_err(|error| {
            (error.code(), String::from_utf8_lossy(error.data().unwrap_or_default()).into_owned())
        })
    }

    async fn next(&mut self) -> String {
        timeout(PATIENCE, self.heard.recv()).await.expect("in time").expect("it listens")
    }
}

/// What a collector does with what it hears.
struct Hands {
    seen: mpsc::Sender<String>,
}

#[async_trait]
impl RpcHandlers for Hands {
    async fn handle_call(&self, event: RpcEvent) -> RpcResult {
        match event.parse_method()? {
            "HealthCheck" => Ok(Some([event.sender().as_bytes(), b":", event.payload()].concat())),
            "Never" => {
                self.seen.send("called".into()).await.unwrap_or_default();
                std::future::pending().await
            }
            _ => Err(RpcError::method(None)),
        }
    }

    async fn handle_frame(&self, frame: busrt::Frame) {
        let text = format!(
            "{}|{}|{}",
            frame.sender(),
            frame.topic().unwrap_or_default(),
            String::from_utf8_lossy(frame.payload())
        );
        self.seen.send(text).await.unwrap_or_default();
    }
}

fn call(id: u64, target: &str, method: &str) -> Frame {
    Frame::Call(v1::Call {
        id,
        target: target.into(),
        method: method.into(),
        params: "x".into(),
        budget: Duration::from_secs(1).try_into().ok(),
        caller: "engine".into(),
    })
}

async fn reply(session: &mut Conversation) -> (u64, Result<String, i32>) {
    match session.next().await {
        Some(Said::Reply(v1::Reply { id, outcome: Some(Outcome::Result(result)) })) => {
            (id, Ok(String::from_utf8(result.to_vec()).unwrap()))
        }
        Some(Said::Reply(v1::Reply { id, outcome: Some(Outcome::Error(error)) })) => (id, Err(error.code)),
        other => panic!("{other:?} is no reply"),
    }
}

#[tokio::test]
async fn collectors_are_attached_as_they_come_and_go_with_what_they_subscribe_to() {
    let mut site = Site::open().await;
    let (mut session, _) = site.gateway.welcomed(100).await;
    let first = site.collector(&mut session, "procmond-1").await;
    let _tool = site.local("cli.host.7").await;
    let client = first.rpc.client();
    client
        .lock()
        .await
        .subscribe_bulk(&["control/collector/procmond-1", "other"], QoS::Processed)
        .await
        .unwrap();
    let Some(Said::Subscriptions(wanted)) = session.next().await else { panic!("no subscriptions") };
    assert_eq!(
        (&*wanted.collector, wanted.patterns),
        ("procmond-1", vec!["control.collector.procmond-1".into()])
    );

    // Published for who asked, and not to the intake, which hears the same topics.
    session
        .say(Frame::Deliver(v1::Deliver {
            topic: "control.collector.procmond-1".into(),
            payload: "begin".into(),
            sender: "engine".into(),
            collector: "procmond-1".into(),
            command: 0,
        }))
        .await;
    let mut first = first;
    assert_eq!(first.next().await, "engine|control/collector/procmond-1|begin");
    assert_eq!(
        site.views.intake.heard.load(std::sync::atomic::Ordering::Relaxed),
        0,
        "nothing goes up again"
    );

    drop((client, first));
    let Some(Said::Attach(attach)) = session.next().await else { panic!("no attach") };
    assert_eq!(attach.collectors, Vec::<String>::new());
    site.stop.notify_one();
}

#[tokio::test]
async fn a_call_reaches_a_collector_and_ends_once_whatever_becomes_of_it() {
    let mut site = Site::open().await;
    let (mut session, _) = site.gateway.welcomed(100).await;
    let mut collector = site.collector(&mut session, "procmond-1").await;
    session.say(call(1, "procmond-1", "HealthCheck")).await;
    assert_eq!(reply(&mut session).await, (1, Ok("engine:x".into())));
    session.say(call(2, "procmond-1", "Nonsense")).await;
    assert_eq!(reply(&mut session).await, (2, Err(code::METHOD.into())));
    session.say(call(3, "procmond-9", "HealthCheck")).await;
    assert_eq!(reply(&mut session).await, (3, Err(code::ABSENT.into())));

    session.say(call(4, "procmond-1", "Never")).await;
    assert_eq!(reply(&mut session).await, (4, Err(code::TIMED_OUT.into())));
    session.say(call(5, "procmond-1", "Never")).await;
    session.say(call(6, "procmond-1", "Never")).await;
    session.say(call(7, "procmond-1", "Never")).await;
    assert_eq!(reply(&mut session).await, (7, Err(code::TOO_MANY.into())));
    // Cancelled: room for another, and no answer.
    session.say(Frame::Cancel(v1::Cancel { id: 5 })).await;
    session.say(call(8, "procmond-1", "HealthCheck")).await;
    assert_eq!(reply(&mut session).await, (8, Ok("engine:x".into())));
    for _ in 0..3 {
        assert_eq!(collector.next().await, "called");
    }
    assert_eq!(reply(&mut session).await, (6, Err(code::TIMED_OUT.into())));

    let mute = site.mute(&mut session, "procmond-2").await;
    session.say(call(9, "procmond-2", "HealthCheck")).await;
    mute.next().await;
    drop(mute);
    assert_eq!(reply(&mut session).await, (9, Err(code::CUT.into())), "it left while the call was out");
    assert_eq!(site.open_calls(), 0);
    site.stop.notify_one();
}

#[tokio::test]
async fn a_collector_calls_the_datacentre_through_a_stand_in() {
    let mut site = Site::open().await;
    let local = site.local("procmond-1").await;
    let (mut session, _) = site.gateway.welcomed(100).await;
    let Some(Said::Attach(_)) = session.next().await else { panic!("no attach") };
    let answer = |id, outcome| Frame::Reply(v1::Reply { id, outcome: Some(outcome) });

    let gateway = async {
        let Some(Said::Call(call)) = session.next().await else { panic!("no call") };
        assert_eq!((&*call.target, &*call.method, &*call.caller), ("engine", "Ask", "procmond-1"));
        session.say(answer(call.id, Outcome::Result("yes".into()))).await;
        let Some(Said::Call(call)) = session.next().await else { panic!("no call") };
        let denied = v1::CallError { code: code::DENIED.into(), message: "not yours".into() };
        session.say(answer(call.id, Outcome::Error(denied))).await;
        let Some(Said::Send(send)) = session.next().await else { panic!("no message") };
        assert_eq!(
            (&*send.target, &send.payload[..], &*send.collector),
            ("engine", &b"\0hi"[..], "procmond-1")
        );
        // The link is cut while a call is out.
        let Some(Said::Call(_)) = session.next().await else { panic!("no call") };
        session.end(tonic::Status::unavailable("gone")).await;
    };
    let collector = async {
        assert_eq!(local.call("engine", "Ask").await, Ok(b"yes".to_vec()));
        assert_eq!(local.call("engine", "Ask").await, Err((code::DENIED, "not yours".into())));
        local.rpc.notify("engine", Cow::Borrowed(b"hi"), QoS::Processed).await.unwrap();
        local.call("engine", "Ask").await
    };
    let ((), cut) = tokio::join!(gateway, collector);
    assert_eq!(cut.unwrap_err().0, code::CUT);
    assert_eq!(site.open_calls(), 0);
    site.stop.notify_one();
}

#[tokio::test]
async fn a_held_command_is_received_once_the_door_has_written_it() {
    let mut site = Site::open().await;
    let (mut session, _) = site.gateway.welcomed(100).await;
    let collector = site.mute(&mut session, "procmond-1").await;
    let command = |command, collector: &str| {
        Frame::Deliver(v1::Deliver {
            topic: String::new(),
            payload: "restart".into(),
            sender: "cli".into(),
            collector: collector.into(),
            command,
        })
    };
    session.say(command(7, "procmond-9")).await;
    session.say(command(8, "procmond-1")).await;
    let Some(Said::Received(received)) = session.next().await else { panic!("not received") };
    assert_eq!(received.commands, [8], "one for a collector that is not here is kept by the gateway");
    let frame = collector.next().await;
    assert_eq!((frame.sender(), frame.payload()), ("daemoneye-downlink", &b"restart"[..]));
    site.stop.notify_one();
    let Some(Said::Attach(attach)) = session.next().await else { panic!("no farewell") };
    assert_eq!(
        attach.collectors,
        Vec::<String>::new(),
        "a leaf that goes away can no longer be called through"
    );
}

#[tokio::test]
async fn what_a_gateway_that_took_nothing_was_not_told_is_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket_path = folder.path().join("bus/leaf.sock");
    let routes = bus::Routes::new(Vec::new(), bus::Broker::Embedded).unwrap();
    let (bus, tasks) = bus::embedded::open(bus::embedded::Config::default(), routes);
    let life = crate::lifecycle::Lifecycle::new();
    let leash = life.leash();
    for task in tasks {
        leash.spawn(task);
    }
    let config = door::Config { socket_path: socket_path.clone(), ..door::Config::default() };
    leash.spawn(door::Door::bind(config, &bus).unwrap().run(leash.clone()));
    let (tell, conversations) = mpsc::channel(1);
    let relay = super::Downlink::open(super::Config::default(), bus, conversations).await.unwrap();
    let mut shown = relay.views().shown;
    leash.spawn(relay.run(leash.clone()));

    let ((outbound, mut said), (_inbound, inbound)) = (mpsc::channel(1), mpsc::channel(1));
    // There is room for no other word.
    outbound.try_send(Said::Cancel(v1::Cancel { id: 0 })).unwrap();
    let conversation =
        uplink::Conversation { inbound, outbound, gateway: "it".to_owned(), open_calls: Arc::default() };
    tell.send(conversation).await.unwrap();
    let path = socket_path.to_str().unwrap();
    let _procmond = ipc::Client::connect(&ipc::Config::new(path, "procmond-1")).await.unwrap();
    let lost = shown.wait_for(|shown| shown.collectors.len() == 1);
    drop(timeout(super::relay::PATIENCE * 2, lost).await.expect("it gives up").unwrap());
    assert!(matches!(said.recv().await, Some(Said::Cancel(_))));
    let again = timeout(PATIENCE, said.recv()).await.expect("it is said again");
    assert!(matches!(again, Some(Said::Attach(attach)) if attach.collectors == ["procmond-1"]));
}
