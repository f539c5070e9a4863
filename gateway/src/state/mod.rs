//! What outlives a restart: how far each stream of each peer has been confirmed.
//!
//! Turns "this batch is confirmed" into a row of a file. The session advances a [`Mark`] in memory, without waiting; a
//! flusher writes every changed mark in one transaction, ten times a second. A crash therefore forgets at most the last
//! moments: those events come again and are duplicates, never losses.
//!
//! Beside the marks lie the deny-list, as rows that [`crate::deny`] reads and writes, and the [`audit`] of every change.
//!
//! Kept true: a mark on disk is never ahead of what was confirmed; a mark belongs to a peer *and* a stream, so no peer can
//! move another's; nobody can make the file grow without bound.

pub mod audit;

mod commands;
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

use bytes::Bytes;
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
            forget_after: Duration::from_hours(30 * 24),
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
        if file.forget_after < Duration::from_hours(1) {
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
        let Config { directory, flush_interval, max_streams_per_peer, forget_after } = config;
        let flusher = Flusher::new(Store::open(&directory)?, Index::new(max_streams_per_peer), metrics);
        let flusher = Arc::new(flusher);
        let run = Arc::clone(&flusher).run(flush_interval, forget_after);
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

    /// The rows of the deny-list: who is denied, and what else is known of that. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the file cannot be read.
    pub fn denials(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.0.flusher.store().denials()
    }

    /// Writes a row of the deny-list, or removes it; it is on the disk when this returns. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it cannot be written: nothing has changed.
    pub fn set_denial(&self, target: &str, row: Option<&str>) -> Result<(), StoreError> {
        self.0.flusher.store().set_denial(target, row)
    }
}

impl State {
    /// The held commands: number, what is known of each, payload. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the file cannot be read.
    pub fn commands(&self) -> Result<Vec<(u64, String, Bytes)>, StoreError> {
        self.0.flusher.store().commands()
    }

    /// Writes a held command, or removes it; it is on the disk when this returns. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if it cannot be written: nothing has changed.
    pub fn set_command(&self, number: u64, row: Option<(&str, &[u8])>) -> Result<(), StoreError> {
        self.0.flusher.store().set_command(number, row)
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

#[cfg(test)]
impl State {
    /// Lets go of the state file, so that the next change has to open it.
    pub(crate) fn let_go(&self) -> &Path {
        self.0.flusher.store().let_go();
        self.path()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;
    use crate::state::mark::{Dirty, Saved};

    const PEER: &str = "site-a/procmond-1";

    fn config(directory: &Path) -> Config {
        Config { directory: directory.to_owned(), ..Config::default() }
    }

    /// Opens without the flusher's task: what is written is what a test flushes.
    fn open(directory: &Path) -> State {
        State::open(config(directory), Metrics::default()).unwrap().0
    }

    async fn stream(state: &State, peer: &str, stream: StreamId) -> Arc<Mark> {
        state.stream(peer, stream, Class::Critical).await.unwrap()
    }

    /// Writes streams that were used last at the given second.
    fn saved(directory: &Path, streams: &[(StreamId, u64)]) {
        let store = Store::open(directory).unwrap();
        for (stream, used) in streams {
            let key = (Arc::from(PEER), *stream);
            let mark = Mark::new(key, Class::Telemetry, Saved::default(), Arc::new(Dirty::default()));
            let row = Saved { hwm: 9, ..Saved::default() };
            store.write(&HashSet::new(), &[(mark, row)], *used).unwrap();
        }
    }

    #[tokio::test]
    async fn a_mark_and_its_rejections_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let id = StreamId::random();
        let state = open(folder.path());
        let mark = stream(&state, PEER, id).await;
        mark.reject(7, 2, "not allowed");
        mark.advance(9);
        mark.advance(3);
        state.close().await.unwrap();
        drop((mark, state));

        let state = open(folder.path());
        let mark = stream(&state, PEER, id).await;
        assert_eq!(mark.hwm(), 9);
        assert_eq!(mark.rejections(), [Rejection { seq: 7, code: 2, reason: "not allowed".into() }]);
        assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_flushed_mark_survives_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let id = StreamId::random();
        let (state, flusher) = State::open(config(folder.path()), Metrics::default()).unwrap();
        let life = daemoneye_bridge::lifecycle::Lifecycle::new();
        life.leash().spawn(flusher);
        stream(&state, PEER, id).await.advance(41);
        let copy = tempfile::tempdir().unwrap();
        // The file as a kill would leave it: copied while it is open.
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                fs::copy(state.path(), copy.path().join("gateway.redb")).unwrap();
                let after = open(copy.path());
                if stream(&after, PEER, id).await.hwm() == 41 {
                    break;
                }
                task::yield_now().await;
            }
        })
        .await
        .unwrap();
        drop(state);
        let cut = life.drain(Duration::from_secs(10), std::future::pending()).await;
        assert_eq!(cut, 0, "the flusher ends with the last handle");
    }

    #[tokio::test]
    async fn a_stream_belongs_to_its_peer() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        let id = StreamId::random();
        stream(&state, "site-a/x", id).await.advance(1 << 63);
        assert_eq!(stream(&state, "site-b/x", id).await.hwm(), 0);
        assert_eq!(stream(&state, "site-a/x1", id).await.hwm(), 0);
    }

    #[tokio::test]
    async fn a_stream_in_use_has_one_mark() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        let id = StreamId::random();
        let (one, two) = tokio::join!(stream(&state, PEER, id), stream(&state, PEER, id));
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[tokio::test]
    async fn the_longest_idle_stream_makes_room_and_one_in_use_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let [old, older, oldest] = [StreamId::random(), StreamId::random(), StreamId::random()];
        saved(folder.path(), &[(older, 20), (oldest, 10), (old, 30)]);
        let max_streams_per_peer = NonZeroUsize::new(3).unwrap();
        let config = Config { max_streams_per_peer, ..config(folder.path()) };
        let (state, _flusher) = State::open(config, Metrics::default()).unwrap();

        let used = stream(&state, PEER, oldest).await;
        let new = stream(&state, PEER, StreamId::random()).await;
        assert_eq!(stream(&state, PEER, old).await.hwm(), 9);
        assert_eq!(used.hwm(), 9);
        // What has not been written yet counts as in use.
        state.0.flusher.flush().unwrap();
        let again = stream(&state, PEER, older).await;
        assert_eq!(again.hwm(), 0, "it was forgotten");

        let more = state.stream(PEER, StreamId::random(), Class::Critical).await;
        assert!(matches!(more, Err(StreamError::TooMany { max: 3, .. })), "{more:?}");
        assert!(state.stream("site-a/other", StreamId::random(), Class::Critical).await.is_ok());
        drop(new);
        state.close().await.unwrap();
    }

    #[tokio::test]
    async fn idle_streams_are_forgotten_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [idle, used, fresh] = [StreamId::random(), StreamId::random(), StreamId::random()];
        saved(folder.path(), &[(idle, 10), (used, 10), (fresh, 30)]);
        let state = open(folder.path());
        let mark = stream(&state, PEER, used).await;
        state.0.flusher.sweep(20);
        state.0.flusher.flush().unwrap();
        assert_eq!(stream(&state, PEER, idle).await.hwm(), 0);
        assert_eq!(stream(&state, PEER, fresh).await.hwm(), 9);
        assert_eq!(mark.hwm(), 9);
        drop((mark, state));
        let store = Store::open(folder.path()).unwrap();
        assert!(store.idle(20, usize::MAX).unwrap().is_empty(), "a stream in use was recorded as used now");
    }

    #[tokio::test]
    async fn rejections_are_bounded_in_number_and_length() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        let id = StreamId::random();
        let mark = stream(&state, PEER, id).await;
        for round in 0..3 {
            for seq in 1..=200 {
                mark.reject(round * 200 + seq, 1, &"ü".repeat(1000));
            }
            state.0.flusher.flush().unwrap();
        }
        state.close().await.unwrap();
        drop((mark, state));
        let kept = Store::open(folder.path()).unwrap().load(PEER, id).unwrap().rejections;
        assert_eq!(kept.len(), Mark::MAX_REJECTIONS);
        assert_eq!(kept.first().unwrap().seq, 600 - 255);
        assert_eq!(kept.first().unwrap().reason.len(), Mark::MAX_REASON);
    }

    #[test]
    fn a_file_in_use_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let _state = open(folder.path());
        let second = State::open(config(folder.path()), Metrics::default()).err().unwrap();
        assert!(matches!(second, StateError::Locked { .. }), "{second}");
    }

    #[test]
    fn a_damaged_file_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.redb");
        drop(open(folder.path()));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, vec![b'x'; 9000]).unwrap();
        let error = State::open(config(folder.path()), Metrics::default()).err().unwrap();
        assert!(matches!(error, StateError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");

        for length in [1, 8, 100, 4096, whole.len() / 2] {
            fs::write(&path, &whole[..length]).unwrap();
            let error = State::open(config(folder.path()), Metrics::default()).err();
            assert!(matches!(error, Some(StateError::Damaged { .. })), "{length}: {error:?}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = State::open(config(&file.join("state")), Metrics::default()).err().unwrap();
        assert!(matches!(error, StateError::Directory { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_full_disk_stops_nobody_and_is_caught_up() {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        if !mount.is_ok_and(|status| status.success()) {
            // Past the harness, which shows what is printed by tests that fail only.
            drop(std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: a small tmpfs cannot be mounted (needs root)\n",
            ));
            return;
        }
        let _unmount = Unmount(folder.path().to_owned());
        let state = open(&folder.path().join("state"));
        let id = StreamId::random();
        let mark = stream(&state, PEER, id).await;
        mark.advance(1);
        state.0.flusher.flush().unwrap();

        let ballast = folder.path().join("ballast");
        fs::write(&ballast, vec![0; 20 << 20]).unwrap_err();
        // Until the file has to grow and cannot.
        let mut seq = 1;
        let failed = loop {
            seq += 1;
            mark.advance(seq);
            for peer in 0..20 {
                let peer = format!("site-{seq}/{peer}");
                if let Ok(other) = state.stream(&peer, StreamId::random(), Class::Critical).await {
                    (1..50).for_each(|seq| other.reject(seq, 1, &"r".repeat(256)));
                }
            }
            if let Err(error) = state.0.flusher.flush() {
                break error;
            }
        };
        assert!(matches!(*state.health().borrow(), Health::Failing { .. }), "{failed}");
        assert!(matches!(failed, StoreError::Access { .. }), "{failed}");
        mark.advance(1000);
        assert!(state.0.flusher.flush().is_err());
        assert_eq!(stream(&state, PEER, id).await.hwm(), 1000, "the gateway goes on");

        fs::remove_file(&ballast).unwrap();
        state.0.flusher.flush().unwrap();
        assert_eq!(*state.health().borrow(), Health::Healthy);
        let path = state.path().parent().unwrap().to_owned();
        drop((mark, state));
        assert_eq!(Store::open(&path).unwrap().load(PEER, id).unwrap().hwm, 1000);
    }

    /// Unmounts when a test ends, however it ends.
    struct Unmount(PathBuf);

    impl Drop for Unmount {
        fn drop(&mut self) {
            drop(Command::new("umount").arg("-l").arg(&self.0).status());
        }
    }

    #[test]
    fn the_defaults_are_what_an_empty_section_gives() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config.flush_interval, Duration::from_millis(100));
        let refused = toml::from_str::<Config>("flush_interval = '1ms'").unwrap_err();
        assert!(refused.to_string().contains("flush_interval"), "{refused}");
        assert!(toml::from_str::<Config>("max_streams_per_peer = 0").is_err());
        assert!(toml::from_str::<Config>("directori = 'x'").is_err());
    }
}
