//! A bus client that is not ours: the `busrt` crate's own IPC client on a UNIX socket.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use busrt::{
    QoS,
    client::AsyncClient,
    ipc::{Client, Config},
};
use tokio::task::JoinHandle;

/// A frame as it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub sender: String,
    /// Its slashed topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Hears patterns and keeps every frame.
pub struct Subscriber {
    heard: Arc<Mutex<Vec<Heard>>>,
    reader: JoinHandle<()>,
    // Holds the connection open.
    _client: Client,
}

impl Subscriber {
    /// Connects to `socket` as `name` and hears `patterns` (slashed).
    ///
    /// # Panics
    ///
    /// If the broker does not admit it.
    pub async fn connect(socket: &Path, name: &str, patterns: &[&str]) -> Self {
        Self::try_connect(socket, name, patterns).await.expect("the broker admits a subscriber")
    }

    /// Connects to `socket` as `name` and hears `patterns` (slashed).
    ///
    /// # Errors
    ///
    /// The client's, if the broker does not admit it.
    pub async fn try_connect(socket: &Path, name: &str, patterns: &[&str]) -> Result<Self, busrt::Error> {
        let path = socket.to_str().expect("test paths are UTF-8");
        let mut client = Client::connect(&Config::new(path, name)).await?;
        let events = client.take_event_channel().expect("a new client has its channel");
        if let Some(confirmed) = client.subscribe_bulk(patterns, QoS::Processed).await? {
            confirmed.await.map_err(|_| busrt::Error::io("the broker went away"))??;
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let reader = tokio::spawn(async move {
            while let Ok(frame) = events.recv().await {
                // Announcements of the broker itself are no events.
                if frame.sender().starts_with('.') {
                    continue;
                }
                let next = Heard {
                    sender: frame.sender().to_owned(),
                    topic: frame.topic().unwrap_or_default().to_owned(),
                    payload: frame.payload().to_vec(),
                };
                kept.lock().expect("no reader panics").push(next);
            }
        });
        Ok(Self { heard, reader, _client: client })
    }

    /// How many frames were heard.
    ///
    /// # Panics
    ///
    /// Never: no reader panics.
    pub fn count(&self) -> usize {
        self.heard.lock().expect("no reader panics").len()
    }

    /// Every frame heard so far.
    ///
    /// # Panics
    ///
    /// Never: no reader panics.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no reader panics").clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
