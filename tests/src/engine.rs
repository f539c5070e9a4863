//! A detection engine that keeps the books: what it was given, in what order, how often.
//!
//! It hears a broker with the `busrt` crate's own client, comes back whenever the broker does, and expects `CloudEvents`
//! whose data is `{"n": number}`, as [`crate::producer`] makes them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use busrt::{
    EventChannel, FrameData, QoS,
    client::AsyncClient,
    ipc::{Client, Config},
};
use tokio::{sync::Notify, task::JoinHandle, time};

/// What an [`Engine`] has heard.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Frames, duplicates included.
    pub frames: usize,
    /// Frames whose id had been heard before.
    pub duplicates: u64,
    /// Events that came, for the first time, after a later one of their stream.
    pub disorder: u64,
    /// How often each number was heard under different ids, by producer.
    numbers: HashMap<String, Vec<u32>>,
    /// What has been heard of each stream; the index is the sequence number.
    streams: HashMap<String, Vec<bool>>,
}

impl Books {
    /// Of the first `confirmed` numbers of `producer`, those that never came.
    pub fn missing(&self, producer: &str, confirmed: usize) -> Vec<usize> {
        let heard = self.numbers.get(producer).map_or(&[][..], Vec::as_slice);
        (0..confirmed).filter(|n| heard.get(*n).is_none_or(|count| *count == 0)).collect()
    }

    /// How many distinct events (by id) carried a number that another one had carried.
    pub fn repeated(&self) -> u64 {
        self.numbers.values().flatten().map(|count| u64::from(count.saturating_sub(1))).sum()
    }

    /// Sequence numbers below the highest of their stream that never came.
    pub fn holes(&self) -> usize {
        self.streams.values().map(|heard| heard.iter().skip(1).filter(|heard| !**heard).count()).sum()
    }

    /// How many streams there were.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    fn enter(&mut self, sender: &str, payload: &[u8]) {
        let event: serde_json::Value = serde_json::from_slice(payload).expect("a CloudEvent is JSON");
        let (stream, seq) =
            event["id"].as_str().and_then(|id| id.split_once('/')).expect("an id is <stream>/<seq>");
        let seq: usize = seq.parse().expect("an id ends in a number");
        let n =
            event["data"]["n"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("the data has a number");
        self.frames += 1;
        let heard = self.streams.entry(stream.to_owned()).or_default();
        let later = heard.len() > seq;
        if !later {
            heard.resize(seq + 1, false);
        }
        if std::mem::replace(&mut heard[seq], true) {
            self.duplicates += 1;
            return;
        }
        self.disorder += u64::from(later);
        let numbers = self.numbers.entry(sender.to_owned()).or_default();
        if numbers.len() <= n {
            numbers.resize(n + 1, 0);
        }
        numbers[n] += 1;
    }
}

/// Hears `events/#` on a broker for as long as it lives.
#[derive(Debug)]
pub struct Engine {
    books: Arc<Mutex<Books>>,
    connected: Arc<AtomicBool>,
    leave: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Engine {
    /// Begins to hear, and comes back whenever the broker does.
    pub fn attach(socket: &Path) -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        let connected = Arc::new(AtomicBool::new(false));
        let leave = Arc::new(Notify::new());
        let ear = Ear {
            path: socket.to_owned(),
            books: Arc::clone(&books),
            connected: Arc::clone(&connected),
            leave: Arc::clone(&leave),
        };
        let task = tokio::spawn(ear.hear());
        Self { books, connected, leave, task }
    }

    /// Whether it is subscribed now.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// What it has heard so far.
    pub fn books(&self) -> Books {
        self.books.lock().expect("no reader panics").clone()
    }

    /// How many frames it has heard so far.
    pub fn frames(&self) -> usize {
        self.books.lock().expect("no reader panics").frames
    }

    /// Goes away in order: has its subscription ended, and takes all that was sent to it before.
    ///
    /// # Panics
    ///
    /// If the broker does not confirm that in time.
    pub async fn leave(mut self) -> Books {
        self.leave.notify_one();
        crate::eventually::soon("the engine leaves", &mut self.task)
            .await
            .expect("the engine does not panic");
        self.books()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The engine's task.
struct Ear {
    path: PathBuf,
    books: Arc<Mutex<Books>>,
    connected: Arc<AtomicBool>,
    leave: Arc<Notify>,
}

impl Ear {
    async fn hear(self) {
        let path = self.path.to_str().expect("test paths are UTF-8");
        loop {
            let config = Config::new(path, "engine").timeout(Duration::from_secs(10));
            if let Ok(mut client) = Client::connect(&config).await {
                let events = client.take_event_channel().expect("a new client has its channel");
                let asked = client.subscribe(FILTER, QoS::Processed).await;
                if let Ok(Some(confirmed)) = asked
                    && matches!(time::timeout(Duration::from_secs(10), confirmed).await, Ok(Ok(Ok(()))))
                {
                    self.connected.store(true, Ordering::Release);
                    let leaves = self.listen(&mut client, &events).await;
                    if leaves && self.say_goodbye(&mut client, &events).await {
                        return;
                    }
                    self.connected.store(false, Ordering::Release);
                }
            }
            // The broker is away; there is nothing to wait for but its return.
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Enters what is heard until the broker goes, or the engine shall leave.
    async fn listen(&self, client: &mut Client, events: &EventChannel) -> bool {
        // busrt's client says nothing by itself, and its broker sends away who says nothing: what is published then, while
        // the engine is on its way back, is heard by nobody.
        let mut pulse = time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                frame = events.recv() => match frame {
                    Ok(frame) => self.enter(&frame),
                    Err(_) => return false,
                },
                () = self.leave.notified() => return true,
                _ = pulse.tick() => {
                    if client.ping().await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// Ends the subscription; what came before the broker's confirmation is in the channel by then.
    async fn say_goodbye(&self, client: &mut Client, events: &EventChannel) -> bool {
        let Ok(Some(mut confirmed)) = client.unsubscribe(FILTER, QoS::Processed).await else { return false };
        let ended = loop {
            tokio::select! {
                frame = events.recv() => match frame {
                    Ok(frame) => self.enter(&frame),
                    Err(_) => break false,
                },
                ended = &mut confirmed => break matches!(ended, Ok(Ok(()))),
            }
        };
        while let Ok(frame) = events.try_recv() {
            self.enter(&frame);
        }
        ended
    }

    fn enter(&self, frame: &FrameData) {
        if frame.topic().is_some_and(|topic| topic.starts_with("events/")) {
            self.books.lock().expect("no reader panics").enter(frame.sender(), frame.payload());
        }
    }
}

/// What an engine hears.
const FILTER: &str = "events/#";
