//! A local collector that publishes numbered events at a leaf's door, and knows which were confirmed.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use busrt::{
    ErrorKind, QoS,
    client::AsyncClient,
    ipc::{Client, Config},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{self, Instant},
};

/// Publishes `{"n": 0}`, `{"n": 1}`, … with `QoS::Processed`, pipelined; what was not confirmed when the link broke is
/// published again.
#[derive(Debug)]
pub struct Producer {
    confirmed: Arc<AtomicUsize>,
    repeated: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Producer {
    /// Begins to publish `topic` (slashed) at the door at `socket`, as fast as confirmations allow, or at `rate` a second.
    pub fn attach(socket: &Path, name: &str, topic: &str, rate: Option<u32>) -> Self {
        Self::resume(socket, name, topic, rate, 0)
    }

    /// Goes on where another producer ended: its first number is `first`.
    pub fn resume(socket: &Path, name: &str, topic: &str, rate: Option<u32>, first: usize) -> Self {
        let confirmed = Arc::new(AtomicUsize::new(first));
        let repeated = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            socket: socket.to_owned(),
            name: name.to_owned(),
            topic: topic.to_owned(),
            rate,
            confirmed: Arc::clone(&confirmed),
            repeated: Arc::clone(&repeated),
            stop: Arc::clone(&stop),
        };
        Self { confirmed, repeated, stop, task: tokio::spawn(work.run()) }
    }

    /// How many were confirmed so far: all numbers below.
    pub fn confirmed(&self) -> usize {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Stops publishing, waits for what is under way, and returns how many were confirmed, and how many were published
    /// more than once because a link broke.
    pub async fn finish(mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::Release);
        crate::eventually::soon("the producer ends", &mut self.task)
            .await
            .expect("the producer does not panic");
        (self.confirmed(), self.repeated.load(Ordering::Acquire))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Work {
    socket: PathBuf,
    name: String,
    topic: String,
    rate: Option<u32>,
    confirmed: Arc<AtomicUsize>,
    repeated: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Work {
    async fn run(self) {
        let path = self.socket.to_str().expect("test paths are UTF-8").to_owned();
        let begun = Instant::now();
        while !self.is_done() {
            let config = Config::new(&path, &self.name).timeout(Duration::from_secs(10));
            match Client::connect(&config).await {
                Ok(client) => self.publish(client, begun).await,
                // The leaf is away; there is nothing to wait for but its return.
                Err(_) => time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn is_done(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Publishes until told to stop or the link breaks; then what is under way has its answer or never will.
    async fn publish(&self, mut client: Client, begun: Instant) {
        let first = self.confirmed.load(Ordering::Acquire);
        let mut next = first;
        let mut under_way = VecDeque::new();
        loop {
            let may_go = !self.is_done() && under_way.len() < WINDOW;
            if may_go {
                if let Some(rate) = self.rate {
                    time::sleep_until(
                        begun + Duration::from_secs(1) * u32::try_from(next).unwrap_or(u32::MAX) / rate,
                    )
                    .await;
                }
                let payload = format!("{{\"n\":{next}}}").into_bytes();
                match client.publish(&self.topic, payload.into(), QoS::Processed).await {
                    Ok(Some(confirmed)) => under_way.push_back(confirmed),
                    _ => break,
                }
                next += 1;
                continue;
            }
            let Some(oldest) = under_way.pop_front() else { return };
            match answer(&client, oldest).await {
                Some(Ok(())) => self.confirmed.fetch_add(1, Ordering::AcqRel),
                // The bus ended before the event was kept; what came after it was not kept either.
                Some(Err(error)) if error.kind() == ErrorKind::NotDelivered => break,
                Some(Err(error)) => panic!("the door refused a publication: {error}"),
                None => break,
            };
        }
        let lost = next - self.confirmed.load(Ordering::Acquire);
        self.repeated.fetch_add(lost, Ordering::AcqRel);
    }
}

/// What the door said of a publication, or `None` if the link broke before it did. A door that cannot keep an event
/// (its disk is full, say) is silent until it can; how long that may last is the test's own affair.
async fn answer(client: &Client, mut confirmed: Confirmed) -> Option<Result<(), busrt::Error>> {
    loop {
        // busrt's client never answers what was under way when a link died; hence the look.
        match time::timeout(Duration::from_secs(1), &mut confirmed).await {
            Ok(Ok(result)) => return Some(result),
            Ok(Err(_gone)) => return None,
            Err(_elapsed) if client.is_connected() => {}
            Err(_elapsed) => return None,
        }
    }
}

/// What resolves when the broker has answered.
type Confirmed = oneshot::Receiver<Result<(), busrt::Error>>;

/// How many may be under way.
const WINDOW: usize = 512;
