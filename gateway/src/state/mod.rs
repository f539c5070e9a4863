//! What outlives a restart: how far each stream of each peer has been confirmed.
//!
//! Turns "this batch is confirmed" into a row of a file. The session advances a [`Mark`] in memory, without waiting; a
//! flusher writes every changed mark in one transaction, ten times a second. A crash therefore forgets at most the last
//! moments: those events come again and are duplicates, never losses.
//!
//! Kept true: a mark on disk is never ahead of what was confirmed; a mark belongs to a peer *and* a stream, so no peer can
//! move another's; nobody can make the file grow without bound.

mod flush;
mod index;
mod mark;
mod metrics;
mod store;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use daemoneye_bridge::event::{Class, StreamId};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::{sync::watch, task};

use self::{flush::Flusher, index::Index, store::Store};
pub use self::{
    flush::Health,
    mark::{Mark, Rejection},
    metrics::Metrics,
    store::{StateError, StoreError},
};

/// Settings of the state; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where the state file lies.
    pub directory: PathBuf,
    /// How often changed marks are written.
    pub flush_interval: Duration,
    /// Most streams kept for one peer.
    pub max_streams_per_peer: NonZeroUsize,
    /// How long a stream that nobody uses is remembered.
    pub forget_after: Duration,
}

/// The section `[state]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Folder of the state file, made with mode 0700 if it is missing. Default: `/var/lib/daemoneye/gateway`.
    directory: PathBuf,
    /// How often changed marks are written; what a crash may make come twice. Default 100 ms, 10 ms to 10 s.
    #[serde(with = "humantime_serde")]
    flush_interval: Duration,
    /// Most streams kept for one peer; over it the longest idle one is forgotten. Default 64, 1 to 4,096.
    max_streams_per_peer: usize,
    /// How long a stream that nobody uses is remembered. Default 30 days, at least 1 h.
    #[serde(with = "humantime_serde")]
    forget_after: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/daemoneye/gateway"),
            flush_interval: Duration::from_millis(100),
            max_streams_per_peer: 64,
            forget_after: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let max_streams_per_peer = NonZeroUsize::new(file.max_streams_per_peer)
            .filter(|max| max.get() <= 4096)
            .ok_or("max_streams_per_peer must be 1 to 4096")?;
        if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&file.flush_interval) {
            return Err("flush_interval must be 10 ms to 10 s".to_owned());
        }
        if file.forget_after < Duration::from_secs(3600) {
            return Err("forget_after must be at least 1 h".to_owned());
        }
        if !file.directory.is_absolute() {
            return Err("directory must be an absolute path".to_owned());
        }
        Ok(Self {
            directory: file.directory,
            flush_interval: file.flush_interval,
            max_streams_per_peer,
            forget_after: file.forget_after,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

/// The marks of all streams. Cheap to clone; when the last clone is gone, what is left is written and the flusher ends.
#[derive(Clone, Debug)]
pub struct State(Arc<Handle>);

/// Ends the flusher when the last [`State`] is dropped.
#[derive(Debug)]
struct Handle {
    flusher: Arc<Flusher>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.flusher.end();
    }
}

impl State {
    /// Opens the state file, making it if it is missing, and returns the future that keeps it up to date.
    ///
    /// # Errors
    ///
    /// [`StateError`] names the file and a remedy.
    pub fn open(config: Config, metrics: Metrics) -> Result<(Self, BoxFuture<'static, ()>), StateError> {
        let store = Store::open(&config.directory)?;
        let index = Index::new(config.max_streams_per_peer);
        let flusher = Arc::new(Flusher::new(store, index, metrics));
        let run = Arc::clone(&flusher).run(config.flush_interval, config.forget_after);
        Ok((Self(Arc::new(Handle { flusher })), Box::pin(run)))
    }

    /// The mark of a peer's stream; a new one stands at 0. Over the peer's cap the longest idle stream that nobody uses is
    /// forgotten. Peers are named `<site>/<name>`.
    ///
    /// Cancel safe: a dropped call opens nothing, or a mark that nobody uses.
    ///
    /// # Errors
    ///
    /// [`StreamError`], if all of the peer's streams are in use, or the file cannot be read.
    pub async fn stream(&self, peer: &str, stream: StreamId, class: Class) -> Result<Arc<Mark>, StreamError> {
        let flusher = Arc::clone(&self.0.flusher);
        let peer: Arc<str> = peer.into();
        // A page of the file may have to be read from the disk.
        let opened = task::spawn_blocking(move || flusher.stream(&peer, stream, class));
        opened.await.map_err(|_| StreamError::Ended)?
    }

    /// Whether the file can be written.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.flusher.health()
    }

    /// Writes what is left and ends the flusher. Marks may still be advanced, but nobody writes them any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it could not be written: those events will come again after the restart.
    pub async fn close(&self) -> Result<(), StoreError> {
        let flusher = Arc::clone(&self.0.flusher);
        flusher.end();
        task::spawn_blocking(move || flusher.flush().map(|_| ())).await.unwrap_or(Err(StoreError::Ended))
    }

    /// The state file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.flusher.path()
    }
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The process is ending.
    #[error("the state is closed")]
    Ended,
    /// The file could not be read.
    #[error("could not read the marks of {peer}")]
    Read {
        /// Whose.
        peer: Arc<str>,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Every stream that the peer may have is in use.
    #[error("{peer} uses {max} streams already")]
    TooMany {
        /// Who.
        peer: Arc<str>,
        /// The cap.
        max: usize,
    },
}
