//! The state file: a redb database of four tables.
//!
//! Kept true: a transaction is on the disk when [`Store::write`] returns; after an error of the disk the file is opened
//! anew before the next write, because redb refuses to go on with it.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use daemoneye_bridge::event::StreamId;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend};

use crate::state::{
    commands::COMMANDS,
    index::Key,
    mark::{Mark, Rejection, Saved},
};

/// Per peer and stream: highest settled sequence number, class, last use in seconds since the UNIX epoch.
const MARKS: TableDefinition<'_, (&str, [u8; 16]), (u64, &str, u64)> = TableDefinition::new("marks");

/// Per peer, stream and sequence number: code and reason.
const REJECTIONS: TableDefinition<'_, (&str, [u8; 16], u64), (i32, &str)> =
    TableDefinition::new("rejections");

/// Per target of the deny-list: the rest of its entry.
const DENIALS: TableDefinition<'_, &str, &str> = TableDefinition::new("denials");

/// redb would otherwise keep up to 1 GiB of the file in memory.
const CACHE_BYTES: usize = 8 << 20;

/// The state file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// `None` after an error of the disk, until the file could be opened anew.
    database: RwLock<Option<Database>>,
}

/// What the file says of a stream without its rejections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) stream: StreamId,
    /// Seconds since the UNIX epoch.
    pub(super) used: u64,
}

impl Store {
    /// Opens the file in `directory`, making both if they are missing.
    pub(super) fn open(directory: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| StateError::Directory { path: directory.to_owned(), source })?;
        let path = directory.join("gateway.redb");
        let database = open(&path)?;
        Ok(Self { path, database: RwLock::new(Some(database)) })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The streams of a peer.
    pub(super) fn streams(&self, peer: &str) -> Result<Vec<Row>, StoreError> {
        self.with(|database| {
            let marks = database.begin_read()?.open_table(MARKS)?;
            let mut rows = Vec::new();
            for row in marks.range((peer, [0; 16])..=(peer, [u8::MAX; 16]))? {
                let (key, value) = row?;
                rows.extend(
                    StreamId::from_slice(&key.value().1).map(|stream| Row { stream, used: value.value().2 }),
                );
            }
            Ok(rows)
        })
    }

    /// The mark of a stream, with its rejections.
    pub(super) fn load(&self, peer: &str, stream: StreamId) -> Result<Saved, StoreError> {
        let id = *stream.as_bytes();
        self.with(|database| {
            let read = database.begin_read()?;
            let hwm = read.open_table(MARKS)?.get((peer, id))?.map_or(0, |row| row.value().0);
            let table = read.open_table(REJECTIONS)?;
            let mut rejections = Vec::new();
            for row in table.range((peer, id, 0)..=(peer, id, u64::MAX))? {
                let (key, value) = row?;
                let (code, reason) = value.value();
                rejections.push(Rejection { seq: key.value().2, code, reason: reason.into() });
            }
            Ok(Saved { hwm, rejections, oldest: 0 })
        })
    }

    /// The streams that nobody has used since `before`, at most `most` of them.
    pub(super) fn idle(&self, before: u64, most: usize) -> Result<Vec<Key>, StoreError> {
        self.with(|database| {
            let marks = database.begin_read()?.open_table(MARKS)?;
            let mut idle = Vec::new();
            for row in marks.iter()? {
                let (key, value) = row?;
                let (peer, id) = key.value();
                if value.value().2 < before && idle.len() < most {
                    idle.extend(StreamId::from_slice(&id).map(|stream| (peer.into(), stream)));
                }
            }
            Ok(idle)
        })
    }

    /// Removes and writes in one transaction.
    pub(super) fn write(
        &self,
        forgotten: &HashSet<Key>,
        marks: &[(Arc<Mark>, Saved)],
        now: u64,
    ) -> Result<(), StoreError> {
        self.change(|database| write(database, forgotten, marks, now))
    }

    /// The deny-list.
    pub(super) fn denials(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(DENIALS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (target, entry) = row?;
                rows.push((target.value().to_owned(), entry.value().to_owned()));
            }
            Ok(rows)
        })
    }

    /// Writes a row of the deny-list, or removes it.
    pub(super) fn set_denial(&self, target: &str, row: Option<&str>) -> Result<(), StoreError> {
        self.change(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(DENIALS)?;
                match row {
                    Some(row) => drop(table.insert(target, row)?),
                    None => drop(table.remove(target)?),
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    pub(super) fn change(
        &self,
        work: impl FnOnce(&Database) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.reopen()?;
        let written = self.with(work);
        if written.is_err() {
            // A disk error poisons redb's handle for good.
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            // So that streams can be read meanwhile; the next write tries again if this fails.
            drop(self.reopen());
        }
        written
    }

    /// Lets go of the file, so that the next change has to open it.
    #[cfg(test)]
    pub(super) fn let_go(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some(open(&self.path).map_err(StoreError::Reopen)?);
        }
        drop(database);
        Ok(())
    }

    #[expect(clippy::significant_drop_tightening, reason = "the file must stay open while it is used")]
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(StoreError::Unopened)?;
        work(database).map_err(|source| StoreError::Access { path: self.path.clone(), source: source.into() })
    }
}

fn write(
    database: &Database,
    forgotten: &HashSet<Key>,
    changed: &[(Arc<Mark>, Saved)],
    now: u64,
) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut marks = write.open_table(MARKS)?;
        let mut rejections = write.open_table(REJECTIONS)?;
        // First, so that a stream forgotten and opened again stays.
        for (peer, stream) in forgotten {
            let (peer, id) = (&**peer, *stream.as_bytes());
            marks.remove((peer, id))?;
            rejections.retain_in((peer, id, 0)..=(peer, id, u64::MAX), |_, _| false)?;
        }
        for (mark, saved) in changed {
            let (peer, id) = (&**mark.peer(), *mark.stream().as_bytes());
            marks.insert((peer, id), (saved.hwm, mark.class().as_str(), now))?;
            for new in &saved.rejections {
                rejections.insert((peer, id, new.seq), (new.code, &*new.reason))?;
            }
            if !saved.rejections.is_empty() {
                rejections.retain_in((peer, id, 0)..(peer, id, saved.oldest), |_, _| false)?;
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// Opens or makes the file, readable by its owner only, with its tables.
fn open(path: &Path) -> Result<Database, StateError> {
    let unopened = |source| StateError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(unopened)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(unopened)?;
    // redb checks little of a file that is no longer what it wrote, and panics on the rest.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| -> Result<Database, redb::Error> {
        let backend = FileBackend::new(file).map_err(redb::Error::from)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(redb::Error::from)?;
        let write = database.begin_write()?;
        write.open_table(MARKS)?;
        write.open_table(REJECTIONS)?;
        write.open_table(DENIALS)?;
        write.open_table(COMMANDS)?;
        write.commit()?;
        Ok(database)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(StateError::from_redb(path, error)),
        Err(_panic) => Err(StateError::Damaged { path: path.to_owned(), source: None }),
    }
}

/// Why the state file could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Its content makes no sense.
    #[error(
        "state file {} is damaged; move it away to begin with an empty one: collectors then send again what they have not \
         seen acknowledged",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found, if it was not a panic.
        #[source]
        source: Option<Box<redb::Error>>,
    },
    /// The folder could not be made.
    #[error("could not make the state folder {}; make it, owned by the gateway's user, or set state.directory", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space left for state file {}; free some, or set state.directory to another disk", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// As the system says.
        #[source]
        source: Box<redb::Error>,
    },
    /// Another process has it open.
    #[error(
        "state file {} is in use by another process; stop that one, or set state.directory: two gateways cannot share one",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("could not open state file {}; it must be readable and writable by the gateway's user", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read or written.
    #[error("could not use state file {}", path.display())]
    Use {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// Made by a version that this one does not understand.
    #[error(
        "state file {} was made by another version; run that version, or move the file away to begin with an empty one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What differs.
        #[source]
        source: Box<redb::Error>,
    },
}

impl StateError {
    fn from_redb(path: &Path, source: redb::Error) -> Self {
        let path = path.to_owned();
        match source {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Locked { path },
            redb::Error::Io(ref io) if io.kind() == io::ErrorKind::StorageFull => {
                Self::Full { path, source: source.into() }
            }
            redb::Error::Corrupted(_) | redb::Error::RepairAborted => {
                Self::Damaged { path, source: Some(source.into()) }
            }
            redb::Error::Io(ref io)
                if matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Damaged { path, source: Some(source.into()) }
            }
            redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. } => Self::Version { path, source: source.into() },
            source => Self::Use { path, source: source.into() },
        }
    }
}

/// Why the state file could not be read or written while the gateway runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("could not access state file {}", path.display())]
    Access {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// The process is ending.
    #[error("the state is closed")]
    Ended,
    /// After an error the file could not be opened anew.
    #[error("could not open the state file anew after an error")]
    Reopen(#[source] StateError),
    /// The file is closed after an error, and not open again yet.
    #[error("the state file is closed after an error")]
    Unopened,
}
