//! A consumer of a route with `confirm = "consumer"`: it writes each event to a file, and answers when the disk has it.
//!
//! usage: `consumer SOCKET NAME FILE`
//!
//! Needs the crates `async-trait`, `busrt` (features `ipc` and `rpc`), `rmp-serde`, `serde`, `serde_json` and `tokio`. One line
//! of JSON an event; the same id may come twice (see confirm.md).

use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::Mutex,
    time::Duration,
};

use busrt::{
    async_trait,
    ipc::{Client, Config},
    rpc::{
        RPC_ERROR_CODE_INTERNAL, RPC_ERROR_CODE_INVALID_METHOD_PARAMS, Rpc, RpcClient, RpcError, RpcEvent,
        RpcHandlers, RpcResult,
    },
};
use serde::Deserialize;

/// What one call brings.
#[derive(Deserialize)]
struct Batch<'a> {
    stream: Option<&'a str>,
    collector: &'a str,
    topics: Vec<&'a str>,
    /// Sequence number, index into `topics`, nanoseconds since the epoch, payload.
    events: Vec<(Option<u64>, usize, u64, &'a [u8])>,
}

/// The crate serves each call in a task of its own; hence the lock.
struct Consumer(Mutex<File>);

impl Consumer {
    /// Returns when the disk has it.
    fn take(&self, batch: &Batch<'_>) -> std::io::Result<()> {
        let mut lines = Vec::new();
        for (seq, topic, nanoseconds, payload) in &batch.events {
            let line = serde_json::json!({
                "id": format!("{}/{}", batch.stream.unwrap_or_default(), seq.unwrap_or_default()),
                "collector": batch.collector,
                "topic": batch.topics.get(*topic),
                "time": nanoseconds,
                "payload": String::from_utf8_lossy(payload),
            });
            writeln!(lines, "{line}")?;
        }
        let mut file = self.0.lock().map_err(|_| std::io::ErrorKind::Other)?;
        file.write_all(&lines)?;
        file.sync_data()
    }
}

#[async_trait]
impl RpcHandlers for Consumer {
    async fn handle_call(&self, event: RpcEvent) -> RpcResult {
        if event.parse_method()? != "events.take" {
            return Err(RpcError::method(None));
        }
        // Nobody else can have such a name at the gateway's door.
        if !event.sender().starts_with("daemoneye.confirm.") {
            return Err(RpcError::new(-32000, Some(b"not for you".to_vec())));
        }
        let batch: Batch<'_> = rmp_serde::from_slice(event.payload()).map_err(|error| {
            RpcError::new(RPC_ERROR_CODE_INVALID_METHOD_PARAMS, Some(error.to_string().into_bytes()))
        })?;
        // A reply, empty or not, is the answer "taken"; after an error the batch comes again.
        self.take(&batch)
            .map(|()| None)
            .map_err(|error| RpcError::new(RPC_ERROR_CODE_INTERNAL, Some(error.to_string().into_bytes())))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [socket, name, path] = <[String; 3]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: consumer SOCKET NAME FILE")?;
    loop {
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        // Ends a line that a crash has cut off; it was never answered for.
        writeln!(file).ok();
        if let Ok(client) = Client::connect(&Config::new(&socket, &name)).await {
            let rpc = RpcClient::new(client, Consumer(Mutex::new(file)));
            while rpc.is_connected() {
                // The client says nothing by itself, and a broker may want a sign of life.
                rpc.client().lock().await.ping().await.ok();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        // The gateway is away, or still holds the name for the last connection.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
