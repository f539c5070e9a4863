//! The door as local clients see it, spoken to with our own codec.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    bus::{
        Broker, Bus, BusName, Port, Room, Routes, SendError, Subscription, Taken, Ticket,
        embedded::{self, member::Member, open_over},
        rpc::Rpc,
    },
    event::Events,
    lifecycle::Lifecycle,
    native::codec::{
        Code, Qos,
        client::{self, Head, TopicsOf},
        greeting,
        server::{self, Delivery, Kind, ServerFrame},
    },
    topic::Topic,
};

const MOST: usize = 1 << 24;

struct House {
    bus: Arc<Embedded>,
    life: Lifecycle,
    path: PathBuf,
    clients: watch::Receiver<Arc<Vec<LocalClient>>>,
    _root: tempfile::TempDir,
}

fn house(change: impl FnOnce(&mut Config)) -> House {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("bus/broker.sock");
    let mut config = Config { socket_path: path.clone(), ..Config::default() };
    change(&mut config);
    let routes = Routes::new(Vec::new(), Broker::Embedded).unwrap();
    let (bus, tasks) = open_over(ENGINE, embedded::Config::default(), routes);
    let life = Lifecycle::new();
    let leash = life.leash();
    for task in tasks {
        leash.spawn(task);
    }
    let door = Door::bind(config, &bus).unwrap();
    let clients = door.clients();
    leash.spawn(door.run(leash.clone()));
    House { bus, life, path, clients, _root: root }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(10), what).await.expect("in time")
}

async fn stays_open(ticket: &mut Ticket) -> bool {
    time::timeout(Duration::from_millis(50), ticket).await.is_err()
}

fn name(name: &str) -> BusName {
    BusName::parse(name).unwrap()
}

impl House {
    async fn guest(&self, name: &str) -> Guest {
        Guest::connect(&self.path, name).await.unwrap()
    }

    async fn port(&self, called: &str) -> Port {
        soon(self.bus.port(&name(called))).await.unwrap()
    }

    async fn hear(&self, called: &str, pattern: &str) -> Subscription {
        soon(self.bus.subscribe(&name(called), &[pattern.parse().unwrap()])).await.unwrap()
    }

    fn client(&self, name: &str) -> Option<LocalClient> {
        self.clients.borrow().iter().find(|client| client.name == name).cloned()
    }

    async fn until_shown(&self, name: &str, is_so: impl Fn(&LocalClient) -> bool + Send + Sync) {
        soon(async {
            while !self.client(name).is_some_and(|client| is_so(&client)) {
                time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    async fn until(&self, counted: impl Fn(&crate::bus::Counters) -> bool + Send + Sync) {
        let counters = self.bus.counters();
        soon(async {
            while !counted(&counters) {
                time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

fn batch(topic: &str, payloads: impl IntoIterator<Item = Vec<u8>>) -> Events {
    let topic = Topic::parse(topic).unwrap();
    let mut events = Events::default();
    for payload in payloads {
        events.push(&topic, Bytes::from(payload), 0);
    }
    events
}

/// A local client.
struct Guest {
    stream: UnixStream,
    heard: BytesMut,
    /// Deliveries that came before an ack.
    early: std::collections::VecDeque<Delivery>,
    id: u32,
}

impl Guest {
    async fn connect(path: &Path, name: &str) -> Result<Self, Code> {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let mut opening = [0; greeting::OPENING];
        soon(stream.read_exact(&mut opening)).await.map_err(|_| Code::IO)?;
        greeting::judge(opening).unwrap();
        stream.write_all(&greeting::opening()).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), Code::OK.0);
        let mut wire = BytesMut::new();
        greeting::put_name(&mut wire, name).unwrap();
        stream.write_all(&wire).await.unwrap();
        let code = Code(soon(stream.read_u8()).await.unwrap());
        if code == Code::OK {
            Ok(Self { stream, heard: BytesMut::new(), early: <_>::default(), id: 0 })
        } else {
            Err(code)
        }
    }

    fn head(&mut self, qos: Qos) -> Head {
        self.id += 1;
        Head { id: self.id, qos }
    }

    /// Writes one frame and returns its id.
    async fn send(&mut self, qos: Qos, encode: impl FnOnce(&mut BytesMut, Head)) -> u32 {
        let head = self.head(qos);
        let mut wire = BytesMut::new();
        encode(&mut wire, head);
        self.stream.write_all(&wire).await.unwrap();
        head.id
    }

    /// Writes one frame and returns what its ack says.
    async fn ask(&mut self, encode: impl FnOnce(&mut BytesMut, Head)) -> Code {
        let id = self.send(Qos::Processed, encode).await;
        loop {
            match self.frame().await {
                ServerFrame::Ack { id: answered, code } => {
                    assert_eq!(answered, id);
                    return code;
                }
                ServerFrame::Delivery(delivery) => self.early.push_back(delivery),
                ServerFrame::Ping => {}
            }
        }
    }

    async fn topics(&mut self, of: TopicsOf, topics: &[&str]) -> Code {
        self.ask(|wire, head| client::topics(wire, head, of, topics).unwrap()).await
    }

    async fn publish(&mut self, topic: &str, payload: &[u8]) -> Code {
        self.ask(|wire, head| client::publish(wire, head, topic, payload).unwrap()).await
    }

    async fn frame(&mut self) -> ServerFrame {
        loop {
            match server::decode(&mut self.heard, MOST).unwrap() {
                Some(ServerFrame::Ping) => {}
                Some(frame) => return frame,
                None => {
                    let read = soon(self.stream.read_buf(&mut self.heard)).await.unwrap();
                    assert_ne!(read, 0, "sent away");
                }
            }
        }
    }

    async fn delivery(&mut self) -> Delivery {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        match self.frame().await {
            ServerFrame::Delivery(delivery) => delivery,
            other => panic!("{other:?}"),
        }
    }

    /// Reads until the door closes the connection.
    async fn farewell(mut self) {
        let mut rest = vec![0; 1 << 16];
        while soon(self.stream.read(&mut rest)).await.is_ok_and(|count| count > 0) {}
    }
}

#[tokio::test]
async fn a_local_client_hears_a_collector_under_its_name() {
    let house = house(|_| {});
    let mut engine = house.guest("engine").await;
    assert_eq!(engine.topics(TopicsOf::Subscribe, &["events/#", "control/health/+"]).await, Code::OK);
    let port = house.port("collector.site-a.procmond-1").await;
    let ticket =
        port.submit(batch("events.process.start", [b"\0one".to_vec(), b"two".to_vec()])).await.unwrap();
    let first = engine.delivery().await;
    assert_eq!(first.kind, Kind::Publish);
    assert_eq!(first.sender.as_str(), "collector.site-a.procmond-1");
    assert_eq!(first.topic.as_str(), "events/process/start");
    assert_eq!(&first.payload[..], b"\0one");
    assert_eq!(&engine.delivery().await.payload[..], b"two");
    assert_eq!(soon(ticket).await, Taken::All, "written to its socket");

    assert_eq!(engine.topics(TopicsOf::Exclude, &["events/process/+"]).await, Code::OK);
    let passed = port.submit(batch("events.process.start", [b"excluded".to_vec()])).await.unwrap();
    assert_eq!(soon(passed).await, Taken::All);
    assert_eq!(engine.topics(TopicsOf::Unexclude, &["events/process/+"]).await, Code::OK);
    let _heard = port.submit(batch("events.process.start", [b"again".to_vec()])).await.unwrap();
    assert_eq!(&engine.delivery().await.payload[..], b"again");
    assert_eq!(engine.topics(TopicsOf::Unsubscribe, &["events/#"]).await, Code::OK);
    assert_eq!(house.bus.counters().passed_over.get(), 1);
}

#[tokio::test]
async fn processed_means_taken_by_the_consumers_in_this_process() {
    let house = house(|_| {});
    let mut spool = house.hear("spool", "events.#").await;
    let mut procmond = house.guest("procmond").await;
    // The unconfirmed first frame stands behind the same barrier as the second.
    procmond
        .send(Qos::No, |wire, head| client::publish(wire, head, "events/process/start", b"1").unwrap())
        .await;
    let id = procmond
        .send(Qos::Processed, |wire, head| client::publish(wire, head, "SENSORS/other", b"2").unwrap())
        .await;
    let mut messages = Vec::new();
    assert!(soon(spool.next(&mut messages, 10)).await);
    assert_eq!((&*messages[0].sender, &*messages[0].topic), ("procmond", "events/process/start"));
    assert!(time::timeout(Duration::from_millis(50), procmond.frame()).await.is_err(), "acked too early");
    spool.taken();
    assert_eq!(procmond.frame().await, ServerFrame::Ack { id, code: Code::OK });
    assert_eq!(procmond.publish("nobody/hears/this", b"x").await, Code::OK);

    let id = procmond
        .send(Qos::Processed, |wire, head| client::publish(wire, head, "events/a", b"3").unwrap())
        .await;
    assert!(soon(spool.next(&mut messages, 10)).await);
    drop(spool);
    assert_eq!(procmond.frame().await, ServerFrame::Ack { id, code: Code::NOT_DELIVERED });
}

#[tokio::test]
async fn clients_talk_to_each_other_by_name_and_mask() {
    let house = house(|_| {});
    let (mut left, mut right) = (house.guest("talk.left").await, house.guest("talk.right").await);
    let message = |to: &'static str| {
        move |wire: &mut BytesMut, head| client::message(wire, head, to, b"hello").unwrap()
    };
    assert_eq!(left.ask(message("talk.right")).await, Code::OK);
    let heard = right.delivery().await;
    assert_eq!(
        (heard.kind, heard.sender.as_str(), &heard.payload[..]),
        (Kind::Message, "talk.left", &b"hello"[..])
    );
    assert_eq!(left.ask(message("nobody")).await, Code::NOT_REGISTERED);
    let _port = house.port("collector.site-a.x").await;
    assert_eq!(left.ask(message("collector.site-a.x")).await, Code::NOT_DELIVERED);

    assert_eq!(
        left.ask(|wire, head| client::broadcast(wire, head, "talk.*", b"all").unwrap()).await,
        Code::OK
    );
    assert_eq!(right.delivery().await.kind, Kind::Broadcast);

    assert_eq!(right.topics(TopicsOf::Subscribe, &["t"]).await, Code::OK);
    assert_eq!(left.ask(|w, head| client::publish_for(w, head, "t", "other", b"x").unwrap()).await, Code::OK);
    assert_eq!(
        left.ask(|w, head| client::publish_for(w, head, "t", "talk.right", b"y").unwrap()).await,
        Code::OK
    );
    assert_eq!(&right.delivery().await.payload[..], b"y");
    left.send(Qos::Realtime, |wire, head| client::publish(wire, head, "t", b"z").unwrap()).await;
    assert!(right.delivery().await.realtime);
}

/// Writes a call of `method` to the broker itself.
fn call(wire: &mut BytesMut, head: Head, id: u32, method: &[u8]) {
    let request = [&[1][..], &id.to_le_bytes(), method, b"\0"].concat();
    client::message(wire, head, ".broker", &request).unwrap();
}

#[tokio::test]
async fn the_broker_answers_its_clients_and_tells_them_who_comes_and_goes() {
    let House { bus, life, path, _root, .. } = house(|_| {});
    let mut left = Guest::connect(&path, "left").await.unwrap();
    assert_eq!(left.ask(|wire, head| call(wire, head, 7, b"test")).await, Code::OK);
    let heard = left.delivery().await;
    assert_eq!(
        (heard.sender.as_str(), &heard.payload[..]),
        (".broker", &b"\x11\x07\0\0\0\x81\xa2ok\xc3"[..])
    );
    assert_eq!(left.topics(TopicsOf::Subscribe, &[".broker/info"]).await, Code::OK);
    let right = Guest::connect(&path, "right").await.unwrap();
    let came = left.delivery().await;
    assert!(
        came.topic.as_str() == ".broker/info" && came.payload.starts_with(b"\x83\xa1s\xa3reg\xa1d\xa5right")
    );
    drop(right);
    assert!(left.delivery().await.payload.starts_with(b"\x83\xa1s\xa5unreg\xa1d\xa5right"));
    bus.close();
    let end = left.delivery().await;
    assert!(end.topic.as_str() == ".broker/warn" && end.payload.starts_with(b"\x82\xa1s\xa8shutdown"));
    left.farewell().await;
    assert_eq!(life.drain(Duration::from_secs(5), std::future::pending()).await, 0);
}

#[tokio::test]
async fn calls_to_the_broker_are_answered_a_few_at_a_time() {
    let house = house(|_| {});
    let places = house.bus.core().inquiries.available_permits();
    let mut loud = house.guest("loud").await;
    let mut wire = BytesMut::new();
    for id in 1..=1000 {
        call(&mut wire, Head { id, qos: Qos::Processed }, id, b"test");
    }
    loud.stream.write_all(&wire).await.unwrap();
    let (mut acks, mut promised, mut busy, mut answers) = (0, 0, 0, 0);
    while acks < 1000 || answers < promised {
        match loud.frame().await {
            ServerFrame::Ack { code: Code::OK, .. } => (acks, promised) = (acks + 1, promised + 1),
            ServerFrame::Ack { code, .. } => {
                assert_eq!(code, Code::BUSY);
                (acks, busy) = (acks + 1, busy + 1);
            }
            ServerFrame::Delivery(delivery) => {
                assert_eq!(delivery.sender.as_str(), ".broker");
                answers += 1;
            }
            ServerFrame::Ping => {}
        }
    }
    assert!(busy > 0 && promised >= places, "{promised} promised, {busy} busy");
    call(&mut wire, Head { id: 1, qos: Qos::No }, 1, b"test");
    loud.stream.write_all(&wire).await.unwrap();
    drop(loud);
    soon(async {
        while house.bus.core().inquiries.available_permits() != places {
            time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_taken_or_forged_is_refused() {
    let house = house(|_| {});
    let _first = house.guest("engine").await;
    let refusal = async |name: &str| Guest::connect(&house.path, name).await.err();
    assert_eq!(refusal("engine").await, Some(Code::BUSY));
    assert_eq!(refusal("collector.site-a.procmond-1").await, Some(Code::ACCESS));
    assert_eq!(refusal("engine%%1").await, Some(Code::DATA));
    assert_eq!(refusal(&"a.".repeat(30)).await, Some(Code::DATA));
    assert_eq!(refusal(&"a".repeat(60_000)).await, Some(Code::DATA));
    assert_eq!(refusal("").await, Some(Code::DATA));
    house.until(|counters| counters.door_refused.get() == 6).await;
}

#[tokio::test]
async fn a_name_is_free_again_after_its_client_left() {
    let house = house(|_| {});
    drop(house.guest("engine").await);
    house.until(|counters| counters.door_closed.get() == 1).await;
    house.guest("engine").await;
}

#[tokio::test]
async fn harmful_frames_are_answered_and_do_no_harm() {
    let house = house(|config| config.max_subscriptions = 3);
    let mut hostile = house.guest("hostile").await;
    let deep = "a/".repeat(3500);
    assert_eq!(hostile.topics(TopicsOf::Subscribe, &[&deep]).await, Code::DATA);
    assert_eq!(hostile.topics(TopicsOf::Subscribe, &["a/#/b"]).await, Code::DATA);
    assert_eq!(hostile.topics(TopicsOf::Exclude, &[&deep]).await, Code::DATA);
    assert_eq!(hostile.publish(&deep, b"x").await, Code::DATA);
    assert_eq!(hostile.publish("", b"x").await, Code::DATA);
    assert_eq!(hostile.publish(".broker/warn", b"x").await, Code::ACCESS);
    assert_eq!(hostile.topics(TopicsOf::Subscribe, &["a", "b", "c", "d"]).await, Code::BUSY);
    assert_eq!(hostile.topics(TopicsOf::Exclude, &["a", "b", "c", "d"]).await, Code::BUSY);
    let mask = "a.".repeat(200);
    assert_eq!(hostile.ask(|w, head| client::broadcast(w, head, &mask, b"x").unwrap()).await, Code::DATA);
    assert_eq!(hostile.topics(TopicsOf::Subscribe, &["a", "b", "c"]).await, Code::OK);
}

#[tokio::test]
async fn a_client_that_breaks_the_wire_is_cut_off() {
    let house = house(|config| config.max_frame = 1000);
    let mut big = house.guest("big").await;
    big.send(Qos::No, |wire, head| client::publish(wire, head, "a", &[0; 2000]).unwrap()).await;
    big.farewell().await;
    let mut odd = house.guest("odd").await;
    odd.stream.write_all(&[1, 0, 0, 0, 0x3F, 0, 0, 0, 0]).await.unwrap();
    odd.farewell().await;
    house.until(|counters| counters.door_closed.get() == 2).await;
}

#[tokio::test]
async fn too_many_clients_and_silent_ones_are_turned_away() {
    let house = house(|config| {
        config.max_connections = NonZeroUsize::new(2).unwrap();
        config.connection_timeout = Duration::from_millis(100);
    });
    let _one = house.guest("one").await;
    let silent = UnixStream::connect(&house.path).await.unwrap();
    house.until(|counters| counters.door_refused.get() == 1).await;
    let _two = house.guest("two").await;
    assert_eq!(Guest::connect(&house.path, "three").await.err(), Some(Code::IO));
    drop(silent);
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_up_its_own_acks_until_it_is_sent_away() {
    let house = house(|config| config.slow_reader_timeout = Duration::from_millis(700));
    let mut stuck = house.guest("stuck").await;
    stuck.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let mut brisk = house.guest("brisk").await;
    brisk.topics(TopicsOf::Subscribe, &["events/#", "control/#"]).await;
    let port = house.port("port").await;
    // More than a socket buffer takes.
    let mut ticket = port.submit(batch("events.a", (0..4000).map(|_| vec![7; 1000]))).await.unwrap();
    for _ in 0..4000 {
        brisk.delivery().await;
    }
    assert!(stays_open(&mut ticket).await, "one of two has not taken it");
    let other = port.submit(batch("control.a", [b"x".to_vec()])).await.unwrap();
    assert_eq!(soon(other).await, Taken::All, "what the stuck one does not hear goes on");
    assert_eq!(soon(ticket).await, Taken::All, "it was sent away");
    house.until(|counters| counters.door_slow_readers.get() == 1).await;
    let undelivered = house.bus.counters().door_undelivered.get();
    assert!((1..4000).contains(&undelivered));
    for _ in undelivered..4000 {
        stuck.delivery().await;
    }
    stuck.farewell().await;
}

#[tokio::test]
async fn a_client_whose_outbox_overflows_is_sent_away_and_memory_stays_bounded() {
    let house = house(|config| config.outbox_bytes = 1 << 20);
    let mut stuck = house.guest("stuck").await;
    stuck.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = house.port("port").await;
    // Batches that alone are over the bound.
    let ticket = port.submit(batch("events.a", (0..4000).map(|_| vec![7; 1000]))).await.unwrap();
    house.until(|counters| counters.door_slow_readers.get() == 1).await;
    stuck.farewell().await;
    soon(port.close()).await;
    assert_eq!(ticket.now_or_never(), Some(Taken::Withdrawn), "nobody has taken it");
}

#[tokio::test]
async fn a_client_that_reads_slowly_slows_its_publishers_and_stays() {
    let house = house(|config| config.outbox_bytes = 1 << 20);
    let mut slow = house.guest("slow").await;
    slow.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = house.port("port").await;
    let mut tickets = Vec::new();
    for _ in 0..200 {
        tickets.push(port.submit(batch("events.a", (0..100).map(|_| vec![7; 1000]))).await.unwrap());
    }
    for _ in 0..20_000 {
        slow.delivery().await;
    }
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    assert_eq!(house.bus.counters().door_slow_readers.get(), 0);
}

#[tokio::test]
async fn a_client_that_pauses_beside_another_loses_nothing() {
    let house = house(|config| config.outbox_bytes = 1 << 20);
    let mut paused = house.guest("paused").await;
    paused.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let mut brisk = house.guest("brisk").await;
    brisk.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = house.port("port").await;
    let mut tickets = Vec::new();
    for _ in 0..100 {
        tickets.push(port.submit(batch("events.a", (0..100).map(|_| vec![7; 1000]))).await.unwrap());
    }
    let brisk = async {
        for _ in 0..10_000 {
            brisk.delivery().await;
        }
    };
    let paused = async {
        // Longer than a pause that is worth a word, shorter than the patience of the door.
        let sent_away = house.until(|counters| counters.door_slow_readers.get() > 0);
        assert!(time::timeout(Duration::from_millis(2500), sent_away).await.is_err());
        for _ in 0..10_000 {
            paused.delivery().await;
        }
    };
    tokio::join!(brisk, paused);
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    assert_eq!(house.bus.counters().door_undelivered.get(), 0);
}

#[tokio::test]
async fn a_client_under_drop_oldest_loses_the_oldest_is_told_and_holds_nobody_up() {
    let house = house(|config| {
        config.outbox_bytes = 1 << 20;
        config.slow_reader_timeout = Duration::from_millis(100);
        config.clients =
            vec![ClientRule { name: "dashboard-*".to_owned(), slow_reader: SlowReader::DropOldest }];
    });
    let mut slow = house.guest("dashboard-1").await;
    slow.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = house.port("port").await;
    let mut held = port.submit(batch("events.a", [b"held".to_vec()])).await.unwrap();
    assert!(stays_open(&mut held).await, "it is no audience");
    let mut brisk = house.guest("brisk").await;
    brisk.topics(TopicsOf::Subscribe, &["events/#"]).await;
    assert_eq!(&brisk.delivery().await.payload[..], b"held");
    assert_eq!(soon(held).await, Taken::All);
    assert_eq!(&slow.delivery().await.payload[..], b"held", "it hears what others hear");

    for n in 0..100_u32 {
        let events = (0..100).map(|_| [&n.to_le_bytes()[..], &[7; 1000]].concat());
        let ticket = port.submit(batch("events.a", events)).await.unwrap();
        for _ in 0..100 {
            assert_eq!(brisk.delivery().await.payload[..4], n.to_le_bytes());
        }
        assert_eq!(soon(ticket).await, Taken::All);
    }
    house.until_shown("dashboard-1", |client| client.is_slow && client.dropped > 0).await;
    let shown = house.client("dashboard-1").unwrap();
    assert_eq!((shown.slow_reader, shown.slow_episodes), (SlowReader::DropOldest, 1));
    assert!(shown.waiting_bytes > 1 << 18 && shown.waiting_bytes <= 1 << 20, "{shown:?}");
    assert_eq!(house.client("brisk").unwrap().dropped, 0);

    let (mut heard, mut told, mut last) = (0_u64, 0_u64, 0);
    while heard + told < 10_000 {
        let delivery = slow.delivery().await;
        if delivery.topic.as_str() == "daemoneye/gap" {
            assert_eq!(delivery.sender.as_str(), "daemoneye");
            let record: serde_json::Value = serde_json::from_slice(&delivery.payload).unwrap();
            assert!(record["since_unix_ms"].as_u64().unwrap() > 1_700_000_000_000);
            told += record["dropped"].as_u64().unwrap();
        } else {
            let n = u32::from_le_bytes(delivery.payload[..4].try_into().unwrap());
            assert!(n >= last, "order");
            last = n;
            heard += 1;
        }
    }
    assert_eq!((heard + told, last), (10_000, 99), "what was dropped is told, to the last one");
    let counters = house.bus.counters();
    assert_eq!(counters.door_dropped.get(), told);
    house.until_shown("dashboard-1", |client| !client.is_slow && client.waiting_bytes == 0).await;
    let shown = house.client("dashboard-1").unwrap();
    assert_eq!((shown.dropped, shown.delivered, shown.slow_episodes), (told, heard + 1, 1));
    assert_eq!((counters.door_slow_readers.get(), counters.door_slow_episodes.get()), (0, 1));
}

#[tokio::test]
async fn a_client_under_block_holds_up_all_its_publishers_and_loses_nothing() {
    let house = house(|config| {
        config.outbox_bytes = 1 << 20;
        config.slow_reader = SlowReader::Block;
        config.slow_reader_timeout = Duration::ZERO;
    });
    let mut slow = house.guest("slow").await;
    slow.topics(TopicsOf::Subscribe, &["events/#", "own/#"]).await;
    let port = house.port("port").await;
    let mut tickets = Vec::new();
    for _ in 0..100 {
        tickets.push(port.submit(batch("events.a", (0..100).map(|_| vec![7; 1000]))).await.unwrap());
    }
    house.until_shown("slow", |client| client.is_slow).await;
    assert!(house.bus.counters().published.get() < 2000, "publishers wait");
    // Another client's publications, which nobody must confirm, wait too.
    let mut other = house.guest("other").await;
    for _ in 0..3 {
        other.send(Qos::No, |wire, head| client::publish(wire, head, "own/a", b"x").unwrap()).await;
    }
    let id =
        other.send(Qos::Processed, |wire, head| client::publish(wire, head, "own/a", b"last").unwrap()).await;
    assert!(time::timeout(Duration::from_millis(300), other.frame()).await.is_err(), "not yet");
    for _ in 0..10_004 {
        slow.delivery().await;
    }
    assert_eq!(other.frame().await, ServerFrame::Ack { id, code: Code::OK });
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    let counters = house.bus.counters();
    assert_eq!((counters.door_slow_readers.get(), counters.door_dropped.get()), (0, 0));
    house.until_shown("slow", |client| !client.is_slow && client.delivered == 10_004).await;
}

#[tokio::test]
async fn a_client_under_block_is_sent_away_when_its_time_is_over() {
    let house = house(|config| {
        config.outbox_bytes = 1 << 20;
        config.slow_reader = SlowReader::Block;
        config.slow_reader_timeout = Duration::from_millis(300);
    });
    let mut stuck = house.guest("stuck").await;
    stuck.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let mut brisk = house.guest("brisk").await;
    brisk.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = house.port("port").await;
    let tickets: Vec<_> = (0..50)
        .map(|_| port.try_submit(port.lane(), batch("events.a", (0..100).map(|_| vec![7; 1000]))).unwrap())
        .collect();
    for _ in 0..5000 {
        brisk.delivery().await;
    }
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
    assert_eq!(house.bus.counters().door_slow_readers.get(), 1);
    stuck.farewell().await;
    assert!(house.client("stuck").is_none());
}

#[tokio::test]
async fn who_is_in_is_shown_with_user_and_process() {
    let house = house(|_| {});
    let _engine = house.guest("engine").await;
    house.until_shown("engine", |_| true).await;
    let shown = house.client("engine").unwrap();
    assert_eq!(shown.pid, i32::try_from(std::process::id()).ok());
    assert_eq!(shown.uid, std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&house.path).unwrap()));
    assert_eq!((shown.slow_reader, shown.is_slow, shown.slow_episodes), (SlowReader::Disconnect, false, 0));
}

#[tokio::test]
async fn what_the_only_subscriber_did_not_take_goes_to_the_next() {
    let house = house(|_| {});
    let mut first = house.guest("engine").await;
    first.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = house.port("port").await;
    let mut tickets = Vec::new();
    for n in 0..40_u8 {
        tickets.push(port.submit(batch("events.a", (0..100).map(|_| vec![n; 1000]))).await.unwrap());
    }
    first.delivery().await;
    house.until(|counters| counters.published.get() == 4000).await;
    drop(first);
    house.until(|counters| counters.door_closed.get() == 1).await;
    let mut confirmed = 0;
    while tickets.get_mut(confirmed).is_some_and(|ticket| ticket.now_or_never().is_some()) {
        confirmed += 1;
    }
    assert!(confirmed < 40, "a socket buffer does not take it all");

    let mut second = house.guest("engine").await;
    second.topics(TopicsOf::Subscribe, &["events/#"]).await;
    for n in confirmed..40 {
        for _ in 0..100 {
            let delivery = second.delivery().await;
            assert_eq!(usize::from(delivery.payload[0]), n);
        }
    }
    for ticket in tickets.drain(confirmed..) {
        assert_eq!(soon(ticket).await, Taken::All);
    }
}

#[tokio::test]
async fn a_full_consumer_pauses_the_client_that_feeds_it_and_nobody_else() {
    let house = house(|_| {});
    let mut spool = house.hear("spool", "events.#").await;
    let mut loud = house.guest("loud").await;
    let mut quiet = house.guest("quiet").await;
    let path = house.path.clone();
    let feeding = async {
        for n in 0..400_u32 {
            let mut payload = vec![0; 100_000];
            payload[..4].copy_from_slice(&n.to_le_bytes());
            loud.send(Qos::No, |wire, head| client::publish(wire, head, "events/a", &payload).unwrap()).await;
        }
        // Behind all of it, so that its ack says that all was taken.
        assert_eq!(loud.publish("events/b", b"last").await, Code::OK);
        assert!(path.exists());
    };
    let watching = async {
        assert_eq!(quiet.publish("control/a", b"x").await, Code::OK);
        let (mut messages, mut heard) = (Vec::new(), 0_u32);
        while heard <= 400 {
            messages.clear();
            soon(spool.next(&mut messages, 16)).await;
            for message in &messages {
                if heard < 400 {
                    assert_eq!(message.payload[..4], heard.to_le_bytes());
                }
                heard += 1;
            }
        }
        spool.taken();
    };
    soon(async { tokio::join!(feeding, watching) }).await;
}

#[tokio::test]
async fn the_door_closes_when_the_bus_ends_and_owes_nothing() {
    let House { bus, life, path, _root, .. } = house(|_| {});
    let mut engine = Guest::connect(&path, "engine").await.unwrap();
    engine.topics(TopicsOf::Subscribe, &["events/#"]).await;
    let port = bus.port(&name("port")).await.unwrap();
    bus.close();
    let ticket = port.submit(batch("events.a", [b"last".to_vec()])).await.unwrap();
    assert_eq!(soon(ticket).await, Taken::All);
    soon(port.close()).await;
    assert_eq!(&engine.delivery().await.payload[..], b"last");
    engine.farewell().await;
    assert_eq!(life.drain(Duration::from_secs(5), std::future::pending()).await, 0);
    assert!(!path.exists());
}

#[test]
fn the_configuration_is_read_with_its_own_names() {
    let text = r#"
        socket_path = "/run/x/broker.sock"
        max_connections = 7
        connection_timeout = "3s"
        file_permissions = "0660"
        directory_permissions = "0750"
        max_message = "2 MiB"
    "#;
    let config: Config = settings::parse(text, "test").unwrap();
    assert_eq!(config.file_permissions.bits(), 0o660);
    assert_eq!((config.max_connections.get(), config.connection_timeout), (7, Duration::from_secs(3)));
    let long = format!("socket_path = \"/{}\"", "x".repeat(107));
    let error = settings::parse::<Config>(&long, "test").unwrap_err().to_string();
    assert!(error.contains("107"), "{error}");
    let rules = r#"
        slow_reader = "block"
        slow_reader_timeout = "0s"
        [[client]]
        name = "dashboard-*"
        slow_reader = "drop_oldest"
    "#;
    let config: Config = settings::parse(rules, "test").unwrap();
    assert_eq!(config.rule("dashboard-7"), SlowReader::DropOldest);
    assert_eq!(config.rule("engine"), SlowReader::Block);
    let forever = rules.replace("drop_oldest", "disconnect");
    let error = settings::parse::<Config>(&forever, "test").unwrap_err().to_string();
    assert!(error.contains("slow_reader_timeout"), "{error}");
    let error = settings::parse::<Config>("max_connections = 0", "test").unwrap_err().to_string();
    assert!(error.contains("max_connections"), "{error}");
}

#[tokio::test]
async fn a_local_client_calls_an_attached_name_and_is_called_by_it() {
    let house = house(|_| ());
    let target = "collector.site-a.procmond-1";
    let (port, mut ear) = soon(house.bus.attach(&name(target), Room::default())).await.unwrap();
    let mut engine = house.guest("engine").await;
    // Its place in the table is taken after it was told that it is in.
    soon(async {
        while house.bus.user_of("engine").is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(house.bus.user_of("nobody"), None);

    let call = Rpc::Request { id: 7, method: "HealthCheck".into(), params: "deep".into() }.encode();
    assert_eq!(engine.ask(|wire, head| client::message(wire, head, target, &call).unwrap()).await, Code::OK);
    let mut heard = Vec::new();
    assert!(soon(ear.next(&mut heard, 1)).await);
    assert_eq!((&*heard[0].sender, Rpc::decode(&heard[0].payload)), ("engine", Rpc::decode(&call)));
    let reply = Rpc::Reply { id: 7, result: "well".into() }.encode();
    soon(port.send("engine", reply.clone())).await.unwrap();
    let delivery = engine.delivery().await;
    assert_eq!((delivery.kind, delivery.sender.as_str(), delivery.payload), (Kind::Message, target, reply));

    let gone = house.bus.departure("engine").expect("it is there");
    drop(engine);
    soon(gone).await;
    assert_eq!(soon(port.send("engine", "x".into())).await, Err(SendError::NoClient));
}

#[tokio::test]
async fn the_end_of_the_bus_confirms_nothing_that_its_keeper_has_not_taken() {
    let house = house(|_| {});
    let mut intake = house.hear("intake", "events.#").await;
    let mut engine = house.guest("engine").await;
    assert_eq!(engine.topics(TopicsOf::Subscribe, &["events/#"]).await, Code::OK);
    let mut procmond = house.guest("procmond").await;
    let publish = |wire: &mut BytesMut, head| client::publish(wire, head, "events/a", b"x").unwrap();
    let id = procmond.send(Qos::Processed, publish).await;
    assert_eq!(engine.delivery().await.payload, Bytes::from_static(b"x"));
    let mut heard = Vec::new();
    assert!(soon(intake.next(&mut heard, 8)).await);
    house.bus.close();
    soon(house.bus.core().ended.cancelled()).await;
    drop(intake);
    let answer = loop {
        match procmond.frame().await {
            ServerFrame::Delivery(delivery) => {
                assert_eq!(delivery.sender.as_str(), ".broker", "{delivery:?}");
            }
            frame => break frame,
        }
    };
    assert_eq!(answer, ServerFrame::Ack { id, code: Code::NOT_DELIVERED });
}

#[tokio::test]
async fn what_is_read_after_the_end_of_the_bus_is_not_confirmed_for_want_of_hearers() {
    let house = house(|_| {});
    let mut intake = house.hear("intake", "events.#").await;
    let core = Arc::clone(house.bus.core());
    let (mut client, id) = core.register("late", 128).await.unwrap();
    let queue = client.take_queue().unwrap();
    house.bus.close();
    assert!(!soon(intake.next(&mut Vec::new(), 8)).await, "the intake has gone with the bus");
    let member = Member::new(id, "late".into(), queue, (embedded::member::Kind::Door, MOST));
    let member = Arc::new(member);
    let replies = Arc::new(reply::Replies::new(Arc::clone(&member), Arc::clone(&core)));
    let mut wire = BytesMut::new();
    client::publish(&mut wire, Head { id: 7, qos: Qos::Processed }, "events/a", b"x").unwrap();
    let mut late = reader::Reader {
        source: &wire[..],
        client,
        core,
        member,
        replies: Arc::clone(&replies),
        window: Arc::new(Semaphore::new(reader::WINDOW)),
        config: Arc::new(Config::default()),
        memory: reader::Memory::default(),
    };
    assert!(matches!(soon(late.run()).await, Leaving::Gone));
    assert_eq!(replies.take(), [(7, Code::NOT_DELIVERED)]);
}

#[tokio::test]
async fn who_takes_a_name_over_does_not_answer_for_who_had_it() {
    let house = house(|_| {});
    let relay = house.port("relay").await;
    let first = house.guest("procmond").await;
    let addressee = house.bus.addressee("procmond").unwrap();
    drop(first);
    house.until(|counters| counters.door_closed.get() == 1).await;
    let mut second = house.guest("procmond").await;
    soon(relay.send("procmond", Bytes::from_static(b"command"))).await.unwrap();
    assert!(!soon(addressee.written()).await);
    let addressee = house.bus.addressee("procmond").unwrap();
    assert_eq!(second.delivery().await.payload, Bytes::from_static(b"command"));
    assert!(soon(addressee.written()).await);
    assert!(house.bus.addressee("relay").is_none(), "not of the door");
}
