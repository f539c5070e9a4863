use std::path::{Path, PathBuf};

use busrt::{
    QoS,
    broker::{AaaMap, Broker as Real, ClientAaa, ServerConfig},
    client::AsyncClient,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    runtime::Runtime,
};

use super::*;
use crate::{
    bus::{Ear, Filter, Heard, HeardAs, Message, Room, SendError, Taken},
    event::Events,
    lifecycle::Lifecycle,
    native::codec::greeting,
    topic::Topic,
};

const PATIENCE: Duration = Duration::from_secs(20);

type Work = Box<dyn FnOnce(Arc<Real>) -> BoxFuture<'static, ()> + Send>;

/// A real broker in a runtime of its own, so that it can be killed with all it holds.
struct Broker {
    runtime: Option<Runtime>,
    /// What its in-process subscriber of `#` hears: sender, topic, payload.
    heard: mpsc::Receiver<(String, String, Vec<u8>)>,
    /// Runs work with the broker.
    work: mpsc::Sender<Work>,
}

impl Broker {
    async fn start(path: &Path, config: ServerConfig) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (hear, heard) = mpsc::channel(100_000);
        let (work, mut works) = mpsc::channel::<Work>(8);
        let (ready, started) = oneshot::channel();
        let path = path.to_str().unwrap().to_owned();
        drop(runtime.spawn(async move {
            let mut broker = Real::new();
            broker.set_queue_size(100_000);
            let mut subscriber = broker.register_client("subscriber").await.unwrap();
            subscriber.subscribe("#", QoS::No).await.unwrap();
            let events = subscriber.take_event_channel().unwrap();
            broker.spawn_unix_server(&path, config).await.unwrap();
            ready.send(()).unwrap();
            let broker = Arc::new(broker);
            let _subscriber = subscriber;
            loop {
                tokio::select! {
                    Some(work) = works.recv() => work(Arc::clone(&broker)).await,
                    Ok(frame) = events.recv() => {
                        let topic = frame.topic().unwrap_or_default().to_owned();
                        if !topic.starts_with('.') {
                            let message = (frame.sender().to_owned(), topic, frame.payload().to_vec());
                            if hear.send(message).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        }));
        started.await.unwrap();
        Self { runtime: Some(runtime), heard, work }
    }

    async fn hear(&mut self, count: usize) -> Vec<(String, String, Vec<u8>)> {
        let mut heard = Vec::new();
        within(async {
            while heard.len() < count {
                heard.push(self.heard.recv().await.unwrap());
            }
        })
        .await;
        heard
    }

    async fn publish(&self, topic: &'static str, payload: Vec<u8>) {
        self.with(move |client| {
            Box::pin(async move {
                client.publish(topic, payload.into(), QoS::Processed).await.unwrap();
            })
        })
        .await;
    }

    /// Lets a local client of a passing name do something.
    async fn with<F>(&self, work: F)
    where
        F: FnOnce(&mut busrt::broker::Client) -> BoxFuture<'_, ()> + Send + 'static,
    {
        let (done, finished) = oneshot::channel();
        let task = Box::new(move |broker: Arc<Real>| {
            Box::pin(async move {
                let mut client = broker.register_client("passer").await.unwrap();
                work(&mut client).await;
                broker.unregister_client(&client).await;
                done.send(()).unwrap();
            }) as BoxFuture<'static, ()>
        });
        self.work.send(task).await.unwrap_or_else(|_| panic!("the broker is gone"));
        within(finished).await.unwrap();
    }

    /// Ends it at once, with all that it holds.
    async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        within(tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))).await.unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A bus under test, and who carries it.
struct World {
    _folder: tempfile::TempDir,
    path: PathBuf,
    life: Lifecycle,
    bus: Arc<Remote>,
}

impl World {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.sock");
        let mut config = Config {
            socket_path: path.clone(),
            connect_timeout: Duration::from_millis(300),
            confirm_timeout: Duration::from_millis(500),
            name_timeout: Duration::from_millis(500),
            ping_interval: Duration::from_millis(50),
            ..Config::default()
        };
        change(&mut config);
        let (bus, tasks) = open(config);
        let life = Lifecycle::new();
        for task in tasks {
            life.leash().spawn(task);
        }
        Self { _folder: folder, path, life, bus }
    }

    async fn broker(&self) -> Broker {
        Broker::start(&self.path, ServerConfig::new()).await
    }

    async fn port(&self, name: &str) -> Result<Port, PortError> {
        within(self.bus.port(&collector(name))).await
    }

    async fn link(&self, up: bool) {
        let mut state = self.bus.state();
        within(state.wait_for(|state| (state.link == Link::Up) == up)).await.unwrap();
    }

    fn counter(&self, name: &str) -> u64 {
        self.bus.counters().all().into_iter().find(|counter| counter.0 == name).unwrap().2
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    time::timeout(PATIENCE, future).await.expect("it does not take that long")
}

fn collector(name: &str) -> BusName {
    BusName::collector("site-a", name).unwrap()
}

/// A batch of one topic whose payloads are numbers.
fn batch(topic: &str, numbers: std::ops::Range<u32>) -> Events {
    let mut events = Events::default();
    let topic = Topic::parse(topic).unwrap();
    for number in numbers {
        events.push(&topic, Bytes::copy_from_slice(&number.to_le_bytes()), 0);
    }
    events
}

fn numbers(heard: &[(String, String, Vec<u8>)]) -> Vec<u32> {
    heard.iter().map(|(_, _, payload)| u32::from_le_bytes(payload.as_slice().try_into().unwrap())).collect()
}

/// A broker that greets whoever comes, and confirms nothing; returns what it was sent.
fn mute(path: &Path) -> impl Future<Output = ()> + use<> {
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path).unwrap();
    async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&greeting::opening()).await.unwrap();
            stream.read_exact(&mut [0; 3]).await.unwrap();
            stream.write_all(&[1]).await.unwrap();
            let length = stream.read_u16_le().await.unwrap();
            stream.read_exact(&mut vec![0; length.into()]).await.unwrap();
            stream.write_all(&[1]).await.unwrap();
            held.push(stream);
            assert!(held.len() < 100);
        }
    }
}

#[tokio::test]
async fn batches_arrive_in_order_under_the_name_of_their_port() {
    let world = World::new(|_| ());
    let mut broker = world.broker().await;
    world.link(true).await;
    let port = world.port("procmond-1").await.unwrap();
    let mut tickets = Vec::new();
    for start in 0..100 {
        tickets.push(port.submit(batch("events.process.start", start * 64..(start + 1) * 64)).await.unwrap());
    }
    for ticket in tickets {
        assert_eq!(within(ticket).await, Taken::All);
    }
    let heard = broker.hear(6400).await;
    assert_eq!(numbers(&heard), (0..6400).collect::<Vec<_>>());
    assert!(heard.iter().all(|(sender, topic, _)| {
        sender == "collector.site-a.procmond-1" && topic == "events/process/start"
    }));
    assert_eq!(world.counter("confirmed"), 100);
    assert_eq!(world.counter("published"), 6400);
    assert_eq!(world.counter("link_losses"), 0);
}

#[tokio::test]
async fn a_broker_that_confirms_nothing_is_given_up_and_all_is_sent_again_in_order() {
    let world = World::new(|_| ());
    let silent = Lifecycle::new();
    silent.leash().spawn(mute(&world.path));
    let port = world.port("x").await.unwrap();
    let mut tickets = Vec::new();
    for start in 0..5 {
        tickets.push(port.submit(batch("events.a", start * 10..(start + 1) * 10)).await.unwrap());
    }
    let mut state = world.bus.state();
    within(
        state.wait_for(|state| matches!(&state.link, Link::Down { cause, .. } if cause.contains("confirm"))),
    )
    .await
    .unwrap();
    silent.drain(Duration::ZERO, std::future::pending()).await;

    let mut broker = world.broker().await;
    for ticket in tickets {
        assert_eq!(within(ticket).await, Taken::All);
    }
    assert_eq!(numbers(&broker.hear(50).await), (0..50).collect::<Vec<_>>());
    world.link(true).await;
    assert!(world.counter("resubmitted") >= 5);
    assert!(world.counter("link_losses") >= 2, "the keeper's and the port's");
}

#[tokio::test]
async fn a_killed_broker_loses_nothing_that_was_not_confirmed() {
    let world = World::new(|_| ());
    let mut broker = world.broker().await;
    world.link(true).await;
    let port = world.port("x").await.unwrap();
    let (mut next, mut confirmed) = (0, 0);
    for _ in 0..5 {
        // Some of these are confirmed, some are under way when the broker is killed.
        let mut tickets = Vec::new();
        for _ in 0..20 {
            tickets.push(port.submit(batch("events.a", next..next + 50)).await.unwrap());
            next += 50;
        }
        assert_eq!(within(tickets.remove(0)).await, Taken::All);
        broker.kill().await;
        tickets.push(port.submit(batch("events.a", next..next + 50)).await.unwrap());
        next += 50;
        broker = world.broker().await;
        for ticket in tickets {
            assert_eq!(within(ticket).await, Taken::All);
        }
        // What the new broker hears is all that the old one had not confirmed.
        let mut heard = Vec::new();
        while heard.last() != Some(&(next - 1)) {
            heard.extend(numbers(&broker.hear(1).await));
        }
        assert!(heard.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, without a hole: {heard:?}");
        assert!(heard.len() >= 50);
        confirmed += 21;
    }
    assert_eq!(world.counter("confirmed"), confirmed);
    assert!(world.counter("link_losses") >= 5);
}

#[tokio::test]
async fn while_the_broker_is_away_batches_wait_and_ports_can_close() {
    let world = World::new(|_| ());
    let port = world.port("x").await.unwrap();
    let mut tickets = Vec::new();
    // More than any queue on the way holds.
    for start in 0..200 {
        tickets.push(within(port.submit(batch("events.a", start..start + 1))).await.unwrap());
    }
    let other = world.port("y").await.unwrap();
    let waits = other.submit(batch("events.b", 7..8)).await.unwrap();
    within(port.close()).await;
    for ticket in tickets {
        assert_eq!(within(ticket).await, Taken::Withdrawn);
    }
    let mut broker = world.broker().await;
    assert_eq!(within(waits).await, Taken::All);
    let heard = broker.hear(1).await;
    assert_eq!(numbers(&heard), [7], "nothing of a closed port is published");
}

#[tokio::test]
async fn a_socket_that_accepts_and_never_answers_holds_up_nobody() {
    let world = World::new(|_| ());
    let _deaf = UnixListener::bind(&world.path).unwrap();
    let port = world.port("x").await.unwrap();
    let ticket = port.submit(batch("events.a", 0..1)).await.unwrap();
    let mut state = world.bus.state();
    within(
        state.wait_for(|state| matches!(&state.link, Link::Down { cause, .. } if cause.contains("greet"))),
    )
    .await
    .unwrap();
    within(port.close()).await;
    assert_eq!(within(ticket).await, Taken::Withdrawn);
}

#[tokio::test]
async fn closing_a_port_waits_for_what_was_sent_and_frees_the_name() {
    let world = World::new(|_| ());
    let mut broker = world.broker().await;
    for round in 0..10 {
        let port = world.port("x").await.unwrap();
        let ticket = port.submit(batch("events.a", round..round + 1)).await.unwrap();
        assert_eq!(world.port("x").await.err(), Some(PortError::Taken));
        within(port.close()).await;
        let taken = within(ticket).await;
        if taken == Taken::All {
            assert_eq!(numbers(&broker.hear(1).await), [round]);
        }
    }
    let dropped = world.port("x").await.unwrap();
    drop(dropped);
    within(async {
        while world.port("x").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_another_client_has_is_taken_until_it_leaves() {
    let world = World::new(|_| ());
    let broker = world.broker().await;
    let (leave, stay) = oneshot::channel::<()>();
    let (there, entered) = oneshot::channel();
    let squat = broker.work.send(Box::new(move |real| {
        Box::pin(async move {
            let client = real.register_client("collector.site-a.x").await.unwrap();
            there.send(()).unwrap();
            stay.await.unwrap();
            real.unregister_client(&client).await;
        })
    }));
    squat.await.unwrap_or_else(|_| panic!("the broker is gone"));
    within(entered).await.unwrap();
    assert_eq!(world.port("x").await.err(), Some(PortError::Taken));
    let again = world.port("x");
    let freed = async { leave.send(()).unwrap() };
    let (port, ()) = tokio::join!(again, freed);
    assert!(port.is_ok(), "it is asked for again for a while");
    assert_eq!(world.port("x").await.err(), Some(PortError::Taken));
}

#[tokio::test]
async fn shared_names_put_the_origin_before_the_topic() {
    let world = World::new(|config| config.names = Names::Shared("from/{site}/{name}/".parse().unwrap()));
    let mut broker = world.broker().await;
    let (x, y) = (world.port("x").await.unwrap(), world.port("y").await.unwrap());
    assert_eq!(world.port("x").await.err(), Some(PortError::Taken));
    let ticket = x.submit(batch("events.a", 1..2)).await.unwrap();
    assert_eq!(within(ticket).await, Taken::All);
    let ticket = y.submit(batch("events.a", 2..3)).await.unwrap();
    within(y.close()).await;
    assert_eq!(within(ticket).await, Taken::All);
    let heard = broker.hear(2).await;
    let origin = |index: usize| (heard[index].0.as_str(), heard[index].1.as_str());
    assert_eq!(origin(0), ("daemoneye-federation", "from/site-a/x/events/a"));
    assert_eq!(origin(1), ("daemoneye-federation", "from/site-a/y/events/a"));
    world.port("y").await.unwrap();
}

#[tokio::test]
async fn a_topic_that_the_broker_denies_is_not_confirmed() {
    let world = World::new(|_| ());
    let rules = AaaMap::default();
    rules.lock().insert("collector.site-a.x".to_owned(), ClientAaa::new().allow_publish_to(&["events/fine"]));
    let mut broker = Broker::start(&world.path, ServerConfig::new().aaa_map(rules)).await;
    let port = world.port("x").await.unwrap();
    let mut events = batch("events.fine", 0..2);
    events.push(&Topic::parse("events.secret").unwrap(), Bytes::from_static(b"?"), 0);
    events.push(&Topic::parse("events.fine").unwrap(), Bytes::from_static(b"1234"), 0);
    let mut ticket = port.submit(events).await.unwrap();
    broker.hear(3).await;
    within(async {
        while world.counter("link_losses") == 0 {
            tokio::select! {
                taken = &mut ticket => panic!("{taken:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    within(port.close()).await;
    assert_eq!(within(ticket).await, Taken::Withdrawn);
}

#[tokio::test]
async fn a_subscription_survives_its_broker() {
    let world = World::new(|_| ());
    let name = BusName::parse("engine").unwrap();
    let patterns = ["events.process.#".parse().unwrap()];
    let broker = world.broker().await;
    let mut subscription = within(world.bus.subscribe(&name, &patterns)).await.unwrap();
    assert!(within(world.bus.subscribe(&name, &patterns)).await.is_err());
    broker.publish("events/process/start", b"one".to_vec()).await;
    broker.publish("events/process", b"two".to_vec()).await;
    broker.publish("events/network/dns", b"other".to_vec()).await;
    let mut messages: Vec<Message> = Vec::new();
    while messages.len() < 2 {
        assert!(within(subscription.next(&mut messages, 10)).await);
    }
    assert_eq!(&*messages[0].topic, "events/process/start");
    assert_eq!((&*messages[0].sender, &messages[1].payload[..]), ("passer", &b"two"[..]));
    broker.kill().await;

    let broker = world.broker().await;
    messages.clear();
    // It resumes when it does: until then what is published is heard by nobody.
    within(async {
        while messages.is_empty() {
            broker.publish("events/process/start", b"three".to_vec()).await;
            let heard = subscription.next(&mut messages, 10);
            drop(time::timeout(Duration::from_millis(20), heard).await);
        }
    })
    .await;
    assert_eq!(&messages[0].payload[..], b"three");
    assert!(world.counter("link_losses") >= 1);
}

#[tokio::test]
async fn a_reader_that_pauses_stays_subscribed() {
    let world = World::new(|config| config.subscription_queue = 2);
    // The broker cuts a client that shows no sign of life for 1.25 times this.
    let config = ServerConfig::new().timeout(Duration::from_millis(400));
    let broker = Broker::start(&world.path, config).await;
    let name = BusName::parse("engine").unwrap();
    let mut subscription = within(world.bus.subscribe(&name, &[Pattern::all()])).await.unwrap();
    let port = world.port("x").await.unwrap();
    for number in 0..50_u32 {
        broker.publish("events/a", number.to_le_bytes().to_vec()).await;
    }
    // Not a wait for something: that nothing is done for so long is what is tried.
    time::sleep(Duration::from_millis(1500)).await;
    let mut messages = Vec::new();
    while messages.len() < 50 {
        assert!(within(subscription.next(&mut messages, 7)).await);
    }
    let payloads: Vec<_> = messages.iter().map(|message| message.payload[0]).collect();
    assert_eq!(payloads, (0..50).collect::<Vec<u8>>());
    assert_eq!(within(port.submit(batch("events.a", 0..1)).await.unwrap()).await, Taken::All);
    assert_eq!(world.counter("link_losses"), 0, "neither the pausing one nor the idle port");
}

#[tokio::test]
async fn what_others_send_to_a_port_neither_grows_it_nor_breaks_it() {
    let world = World::new(|_| ());
    let mut broker = world.broker().await;
    let port = world.port("x").await.unwrap();
    broker
        .with(|client| {
            Box::pin(async move {
                for _ in 0..20 {
                    let junk = vec![0xFE; 3 << 20];
                    client.send("collector.site-a.x", junk.into(), QoS::Processed).await.unwrap();
                }
            })
        })
        .await;
    assert_eq!(within(port.submit(batch("events.a", 3..4)).await.unwrap()).await, Taken::All);
    assert_eq!(numbers(&broker.hear(1).await), [3]);
    assert_eq!(world.counter("link_losses"), 0);
}

#[tokio::test]
async fn the_bus_ends_with_its_last_handle() {
    let world = World::new(|_| ());
    let _broker = world.broker().await;
    world.link(true).await;
    let name = BusName::parse("engine").unwrap();
    let mut subscription = within(world.bus.subscribe(&name, &[Pattern::all()])).await.unwrap();
    let port = world.port("x").await.unwrap();
    let World { bus, life, .. } = world;
    drop(bus);
    assert!(!within(subscription.next(&mut Vec::new(), 1)).await);
    within(port.close()).await;
    assert_eq!(life.drain(PATIENCE, std::future::pending()).await, 0, "nothing had to be cut");
}

async fn heard(ear: &mut Ear, count: usize) -> Vec<Heard> {
    let mut heard = Vec::new();
    while heard.len() < count {
        assert!(within(ear.next(&mut heard, 100)).await);
    }
    heard
}

fn filters(filters: &[&str]) -> Vec<Filter> {
    filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect()
}

#[tokio::test]
async fn an_attached_name_hears_and_sends_over_every_outage() {
    let world = World::new(|_| ());
    let broker = world.broker().await;
    let attach =
        async |name: &str| within(world.bus.attach(&collector(name), Room::default())).await.unwrap();
    let ((one, mut ear), (two, _deaf)) = (attach("one").await, attach("two").await);
    let target = "collector.site-a.one";
    within(one.hear(filters(&["task/#"]))).await.unwrap();
    within(one.exclude(filters(&["task/noise"]))).await.unwrap();
    within(two.send(target, "by name".into())).await.unwrap();
    assert_eq!(within(two.send("nobody", "x".into())).await, Err(SendError::NoClient));
    broker.publish("task/noise", b"n".to_vec()).await;
    broker.publish("task/scan", b"t".to_vec()).await;
    within(two.broadcast("collector.site-a.*", "all".into())).await.unwrap();
    within(two.publish_for(&Topic::parse("task.own").unwrap(), target, "o".into())).await.unwrap();
    let all = heard(&mut ear, 4).await;
    let said: Vec<_> = all.iter().map(|heard| (heard.kind, &*heard.sender, &*heard.topic)).collect();
    let sender = "collector.site-a.two";
    assert_eq!(
        said,
        [
            (HeardAs::Message, sender, ""),
            (HeardAs::Published, "passer", "task/scan"),
            (HeardAs::Broadcast, sender, ""),
            (HeardAs::Published, sender, "task/own"),
        ]
    );

    broker.kill().await;
    world.link(false).await;
    within(async {
        while two.send(target, "x".into()).await != Err(SendError::Lost) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within(one.unhear(filters(&["task/#"]))).await.unwrap();
    within(one.hear(filters(&["other/+"]))).await.unwrap();
    let broker = world.broker().await;
    within(async {
        while two.send(target, "again".into()).await.is_err() {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Both ask for it anew on their connections; a message may overtake that.
    assert_eq!(&heard(&mut ear, 1).await[0].payload[..], b"again");
    within(one.hear(Vec::new())).await.unwrap();
    within(one.hear(filters(&["other/+"]))).await.unwrap();
    broker.publish("task/scan", b"no".to_vec()).await;
    broker.publish("other/a", b"yes".to_vec()).await;
    assert_eq!(&heard(&mut ear, 1).await[0].payload[..], b"yes");
}

#[tokio::test]
async fn an_ear_that_is_not_read_holds_up_neither_broker_nor_port() {
    let world = World::new(|_| ());
    let broker = world.broker().await;
    let (port, ear) = within(world.bus.attach(&collector("one"), Room::default())).await.unwrap();
    within(port.hear(filters(&["flood"]))).await.unwrap();
    broker
        .with(|client| {
            Box::pin(async {
                for _ in 0..5_000 {
                    client.publish("flood", vec![0; 100].into(), QoS::Processed).await.unwrap();
                }
            })
        })
        .await;
    assert_eq!(within(port.submit(batch("events.a", 0..3)).await.unwrap()).await, Taken::All);
    let left = 1024;
    within(async {
        let mut dropped = 0;
        while dropped < 5_000 - left {
            dropped += ear.dropped();
            tokio::task::yield_now().await;
        }
        assert_eq!(dropped, 5_000 - left);
    })
    .await;
}

#[tokio::test]
async fn a_bus_with_one_name_for_all_says_that_nobody_can_be_addressed() {
    let world = World::new(|config| config.names = Names::Shared("from/{site}/{name}/".parse().unwrap()));
    let _broker = world.broker().await;
    let attached = within(world.bus.attach(&collector("one"), Room::default())).await;
    assert_eq!(attached.unwrap_err(), PortError::Shared);
    assert!(world.port("one").await.is_ok(), "what failed left nothing behind");
}
