//! What the broker says for itself: answers to calls of its own name, and announcements of who comes and goes.
//!
//! The names, values and `MessagePack` are those of the crate `busrt`, so that its tools and clients cannot tell the difference.

use std::{
    future,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    bus::{
        embedded::BROKER,
        memory::{Broker, Client, Hall, Queue, Traffic},
        rpc::{Rpc, code},
    },
    native::codec::server::Kind,
};

/// Where it is announced who comes and goes.
const NEWS: &str = ".broker/info";

/// Where it is announced that the bus ends. Every client hears it.
pub(super) const WARNINGS: &str = ".broker/warn";

/// What the federation's own codes have no name for: parameters that a method does not take.
const PARAMETERS: i16 = -32602;

/// A map of `ok` to true.
const FINE: &[u8] = &[0x81, 0xA2, b'o', b'k', 0xC3];

#[derive(Serialize)]
struct Event<'a> {
    s: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    t: u64,
}

#[derive(Serialize)]
struct Info {
    author: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Stats {
    uptime: u64,
    #[serde(flatten)]
    traffic: Counted,
}

#[derive(Serialize)]
struct Counted {
    r_frames: u64,
    r_bytes: u64,
    w_frames: u64,
    w_bytes: u64,
}

impl From<&Traffic> for Counted {
    fn from(traffic: &Traffic) -> Self {
        Self {
            r_frames: traffic.read_frames.load(Ordering::Relaxed),
            r_bytes: traffic.read_bytes.load(Ordering::Relaxed),
            w_frames: traffic.written_frames.load(Ordering::Relaxed),
            w_bytes: traffic.written_bytes.load(Ordering::Relaxed),
        }
    }
}

#[derive(Serialize)]
struct Clients {
    clients: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    kind: &'static str,
    source: Option<&'static str>,
    port: Option<&'static str>,
    #[serde(flatten)]
    traffic: Counted,
    queue: usize,
    instances: usize,
}

impl Broker {
    /// Registers the broker under its own name; what is returned answers calls of it, and never ends.
    pub(crate) fn speak(&mut self, queue: usize) -> impl Future<Output = ()> + Send + use<> {
        let client = self.register(BROKER, queue).and_then(|mut client| {
            let calls = client.take_queue()?;
            Some((Arc::new(client), calls))
        });
        self.speaker = client.as_ref().map(|(client, _)| Arc::clone(client));
        async move {
            if let Some((client, calls)) = client {
                answer(client, calls).await;
            }
            future::pending::<()>().await;
        }
    }

    /// Announces that a client has come (`reg`) or gone (`unreg`).
    pub(crate) async fn announce(&self, what: &str, name: &str) {
        self.publish(NEWS, what, Some(name)).await;
    }

    /// Tells every client that the bus ends.
    pub(crate) async fn end(&mut self) {
        self.publish(WARNINGS, "shutdown", None).await;
        self.speaker = None;
    }

    async fn publish(&self, topic: &str, what: &str, name: Option<&str>) {
        let Some(speaker) = &self.speaker else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event { s: what, d: name, t: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) };
        match rmp_serde::to_vec_named(&event) {
            Ok(event) => speaker.publish(topic, None, &event, false).await,
            Err(error) => tracing::warn!(%error, what, "announcement could not be written"),
        }
    }
}

async fn answer(client: Arc<Client>, calls: Queue) {
    let begun = Instant::now();
    while let Ok(frame) = calls.recv().await {
        if frame.kind() != Kind::Message {
            continue;
        }
        let payload = Bytes::copy_from_slice(frame.payload());
        // Nobody waits for an answer to number 0, and what is no call is passed over, as the crate does.
        let Ok(Rpc::Request { id, method, params }) = Rpc::decode(&payload) else { continue };
        if id == 0 {
            continue;
        }
        let reply = match call(&client.hall, begun, &method, params) {
            Ok(result) => Rpc::Reply { id, result },
            Err(code) => Rpc::failure(id, code, ""),
        };
        // Whoever is gone waits no more.
        client.send(frame.sender(), &reply.encode(), false).await.unwrap_or_default();
    }
}

fn call(hall: &Hall, begun: Instant, method: &str, params: Bytes) -> Result<Bytes, i16> {
    match method {
        "benchmark.test" => Ok(params),
        // A list can be asked for in part, by a pattern; that is not known here.
        "test" | "info" | "stats" | "client.list" if !params.is_empty() => Err(PARAMETERS),
        "test" => Ok(Bytes::from_static(FINE)),
        "info" => pack(&Info { author: env!("CARGO_PKG_AUTHORS"), version: env!("CARGO_PKG_VERSION") }),
        "stats" => pack(&Stats { uptime: begun.elapsed().as_secs(), traffic: (&hall.traffic).into() }),
        "client.list" => pack(&hall.list()),
        _ => Err(code::METHOD),
    }
}

fn pack(value: &impl Serialize) -> Result<Bytes, i16> {
    rmp_serde::to_vec_named(value).map(Bytes::from).map_err(|error| {
        tracing::warn!(%error, "answer could not be written");
        PARAMETERS
    })
}

impl Hall {
    fn list(&self) -> Clients {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        let row = |peer: &super::Peer| Row {
            name: (*peer.name).to_owned(),
            kind: "internal",
            source: None,
            port: None,
            traffic: (&peer.traffic).into(),
            queue: peer.queue.len(),
            instances: 1,
        };
        let mut clients: Vec<Row> = guests.entries.values().map(|entry| row(&entry.peer)).collect();
        drop(guests);
        clients.sort_by(|left, right| left.name.cmp(&right.name));
        Clients { clients }
    }
}
