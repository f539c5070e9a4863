//! Reloading: the material in force, and what replaces it.
//!
//! Files are looked at every few seconds, by what the path leads to now: Kubernetes swaps a symbolic link, so that neither
//! the path nor the modification time of the link says anything. SIGHUP looks at once.
//!
//! Kept true: what is in force was loaded whole; a failed reload changes nothing but the status, and says so there.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task, time};

use crate::trust::{Files, LoadError, Material, Role};

/// What a reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reload {
    /// New material is in force.
    Changed,
    /// The files hold what is in force already.
    Unchanged,
}

/// What became of the last reload.
#[derive(Clone, Debug)]
pub struct Status {
    /// Counts up with each change.
    pub generation: u64,
    /// When the material in force was loaded.
    pub loaded: SystemTime,
    /// Why the last reload was refused, and since when reloads are; `None` once one has succeeded.
    pub refused: Option<(String, SystemTime)>,
}

/// The material in force. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    role: Role,
    /// What the files looked like before the first load, so that a change since then is seen.
    marks: [Option<Mark>; 3],
    current: watch::Sender<Arc<Material>>,
    status: watch::Sender<Status>,
}

impl Store {
    /// Loads the first generation. Blocking: it reads files.
    ///
    /// # Errors
    ///
    /// [`LoadError`], as [`Material::load`].
    pub fn open(files: Files, role: Role) -> Result<Self, LoadError> {
        let marks = marks(&files);
        let first = Material::load(&files, role)?;
        let status = Status { generation: 1, loaded: SystemTime::now(), refused: None };
        Ok(Self(Arc::new(Inner {
            files,
            role,
            marks,
            current: watch::Sender::new(Arc::new(first)),
            status: watch::Sender::new(status),
        })))
    }

    /// The material in force.
    #[must_use]
    pub fn current(&self) -> Arc<Material> {
        Arc::clone(&self.0.current.borrow())
    }

    /// The material in force, and each that replaces it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Material>> {
        self.0.current.subscribe()
    }

    /// What became of the last reload.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Replaces the material if the files hold something new; on error the material in force stays.
    ///
    /// # Errors
    ///
    /// [`LoadError`], as [`Material::load`].
    pub async fn reload(&self) -> Result<Reload, LoadError> {
        let inner = Arc::clone(&self.0);
        let loaded = task::spawn_blocking(move || Material::load(&inner.files, inner.role)).await;
        match loaded {
            Ok(Ok(next)) => Ok(self.replace(next)),
            Ok(Err(error)) => {
                self.refuse(&error);
                Err(error)
            }
            // The runtime is shutting down: there is nothing to reload for.
            Err(_gone) => Ok(Reload::Unchanged),
        }
    }

    fn replace(&self, next: Material) -> Reload {
        let changed = self.0.current.send_if_modified(|current| {
            let differs = **current != next;
            if differs {
                *current = Arc::new(next);
            }
            differs
        });
        self.0.status.send_modify(|status| {
            status.refused = None;
            if changed {
                status.generation = status.generation.saturating_add(1);
                status.loaded = SystemTime::now();
            }
        });
        if changed { Reload::Changed } else { Reload::Unchanged }
    }

    fn refuse(&self, error: &LoadError) {
        self.0.status.send_modify(|status| {
            let since = status.refused.as_ref().map_or_else(SystemTime::now, |(_, since)| *since);
            status.refused = Some((explain(error), since));
        });
    }

    /// Reloads on SIGHUP and when a file changes; `observe` is told what became of each reload. Never ends.
    ///
    /// Cancel safe: dropping it stops the watching and nothing else.
    pub async fn follow(&self, every: Duration, mut observe: impl FnMut(&Result<Reload, LoadError>) + Send) {
        let mut hangup = Hangup::listen();
        let mut seen = self.0.marks.clone();
        let mut tick = time::interval(every.max(SHORTEST));
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                biased;
                // An operator's word before our own clock.
                () = hangup.heard() => true,
                _ = tick.tick() => false,
            };
            let now = self.marks().await;
            if asked || now != seen {
                let outcome = self.reload_settled().await;
                log(&outcome);
                observe(&outcome);
                seen = now;
            }
        }
    }

    /// Reloads, and once more a moment later if the files may have been caught in the middle of a change.
    async fn reload_settled(&self) -> Result<Reload, LoadError> {
        match self.reload().await {
            Err(error) if error.may_be_torn() => {
                time::sleep(SETTLE).await;
                self.reload().await
            }
            outcome => outcome,
        }
    }

    async fn marks(&self) -> [Option<Mark>; 3] {
        let inner = Arc::clone(&self.0);
        task::spawn_blocking(move || marks(&inner.files)).await.unwrap_or_default()
    }
}

fn marks(files: &Files) -> [Option<Mark>; 3] {
    let Files { cert_file, key_file, ca_file } = files;
    [cert_file, key_file, ca_file].map(|path| Mark::of(path))
}

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long whoever writes chain and key one after the other is given.
const SETTLE: Duration = Duration::from_millis(500);

/// The error with its causes, for a status that outlives it.
fn explain(error: &LoadError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

fn log(outcome: &Result<Reload, LoadError>) {
    match outcome {
        Ok(Reload::Changed) => tracing::info!("certificates reloaded"),
        Ok(Reload::Unchanged) => tracing::debug!("certificates unchanged"),
        Err(error) => {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "certificates not reloaded, the old ones stay in force");
        }
    }
}

/// What tells one content of a path from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    place: (u64, u64),
}

impl Mark {
    /// Follows symbolic links; `None` if there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let seen = std::fs::metadata(path).ok()?;
        Some(Self { modified: seen.modified().ok(), length: seen.len(), place: place(&seen) })
    }
}

#[cfg(unix)]
fn place(seen: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;

    // The change time moves with the mode too: `chmod 600` is a repair.
    (
        seen.ino(),
        seen.ctime()
            .unsigned_abs()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(seen.ctime_nsec().unsigned_abs()),
    )
}

#[cfg(not(unix))]
fn place(_seen: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}

/// SIGHUP, where there is one.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    #[cfg(unix)]
    fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};

        Self { signal: signal(SignalKind::hangup()).ok() }
    }

    #[cfg(not(unix))]
    const fn listen() -> Self {
        Self {}
    }

    /// Waits for the next one. Cancel safe: one that nobody waited for is seen by the next call.
    #[cfg(unix)]
    async fn heard(&mut self) {
        let heard = match &mut self.signal {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }

    #[cfg(not(unix))]
    async fn heard(&mut self) {
        std::future::pending::<()>().await;
    }
}
