//! What outlives the segments: each class's stream and how far it is settled.
//!
//! One file of two slots, written in turn and each with a generation and a checksum, so that a write that is cut leaves
//! the slot before it. Writing in place needs no free disk block: a full disk must not keep the spool from noting what it
//! evicts to make room.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    event::{Class, Seq, StreamId},
    spool::{
        block::Marker,
        fields::Fields,
        folder,
        handle::{PerClass, SpoolError, VERSION},
    },
};

/// What is kept of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) stream: StreamId,
    /// All up to here is settled.
    pub(super) acked: Seq,
    /// No number below is given again.
    pub(super) next: Seq,
    /// All up to here that is not settled was evicted.
    pub(super) evicted: Seq,
}

/// Whether a write must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    No,
    Yes,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Meta {
    file: File,
    path: PathBuf,
    generation: u64,
    /// What blocks of this spool begin with.
    pub(super) marker: Marker,
}

/// Name of the file in the folder.
const NAME: &str = "streams.meta";

const MAGIC: &[u8; 8] = b"DEstream";

/// Bytes of a slot: magic 8, version 4, generation 8, marker 8, two classes of stream 16 and three numbers, zeros, crc 4. Magic,
/// version, size and the place of the crc are the same in all versions.
const SLOT: usize = 512;

/// Where the second slot begins: in a disk block of its own.
const STRIDE: u64 = 4096;

impl Meta {
    /// Opens the file, or makes it; then `marker` says what blocks begin with.
    ///
    /// Returns what it holds; nothing if it is new, or damaged in both slots, which is logged.
    pub(super) fn open(
        directory: &Path,
        marker: impl FnOnce() -> Marker,
    ) -> Result<(Self, Option<PerClass<Kept>>), SpoolError> {
        let path = directory.join(NAME);
        let failed = || SpoolError::io("open", &path);
        let fresh = !path.try_exists().map_err(failed())?;
        if fresh {
            create(directory, &path).map_err(SpoolError::io("create", &path))?;
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed())?;
        let mut bytes = Vec::new();
        (&mut file).take(2 * STRIDE).read_to_end(&mut bytes).map_err(SpoolError::io("read", &path))?;
        let mut best: Option<State> = None;
        for slot in bytes.chunks(usize::try_from(STRIDE).unwrap_or(SLOT)) {
            match decode(slot) {
                Slot::Version(found) => return Err(SpoolError::Version { path, found }),
                Slot::State(state) if best.is_none_or(|best| best.generation < state.generation) => {
                    best = Some(state);
                }
                Slot::State(_) | Slot::Damaged => {}
            }
        }
        if best.is_none() && !fresh {
            tracing::error!(file = %path.display(), "streams of the spool were unreadable: new ones begin");
        }
        let (generation, marker) = best.map_or_else(|| (0, marker()), |best| (best.generation, best.marker));
        Ok((Self { file, path, generation, marker }, best.map(|best| best.kept)))
    }

    /// Writes down `kept`, over the older slot.
    pub(super) fn save(&mut self, kept: &PerClass<Kept>, durable: Durable) -> Result<(), SpoolError> {
        let generation = self.generation + 1;
        let written = self
            .file
            .seek(SeekFrom::Start(generation % 2 * STRIDE))
            .and_then(|_| {
                self.file.write_all(&State { generation, marker: self.marker, kept: *kept }.encode())
            })
            .and_then(|()| if durable == Durable::Yes { self.file.sync_data() } else { Ok(()) });
        written.map_err(SpoolError::io("write", &self.path))?;
        self.generation = generation;
        Ok(())
    }
}

/// Makes the file with all of its blocks, so that no later write needs one; it appears whole or not at all.
fn create(directory: &Path, path: &Path) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = folder::private().write(true).create(true).truncate(true).open(&draft)?;
    file.write_all(&vec![0; usize::try_from(2 * STRIDE).unwrap_or(2 * SLOT)])?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    folder::sync(directory)
}

/// What a slot holds.
#[derive(Clone, Copy)]
struct State {
    generation: u64,
    marker: Marker,
    kept: PerClass<Kept>,
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SLOT);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.marker);
        for class in Class::ALL {
            let Kept { stream, acked, next, evicted } = self.kept.of(class);
            bytes.extend_from_slice(stream.as_bytes());
            for seq in [acked, next, evicted] {
                bytes.extend_from_slice(&seq.to_le_bytes());
            }
        }
        bytes.resize(SLOT - 4, 0);
        seal(bytes)
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let generation = u64::from_le_bytes(fields.take()?);
        let marker = fields.take()?;
        let critical = decode_kept(fields)?;
        let telemetry = decode_kept(fields)?;
        Some(Self { generation, marker, kept: PerClass { critical, telemetry } })
    }
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a slot turned out to be.
enum Slot {
    Damaged,
    State(State),
    Version(u32),
}

fn decode(slot: &[u8]) -> Slot {
    let mut fields = Fields(slot);
    let decoded = (|| {
        let magic: [u8; 8] = fields.take()?;
        let version = u32::from_le_bytes(fields.take()?);
        let (body, crc) = slot.get(..SLOT)?.split_last_chunk()?;
        (magic == *MAGIC && crc32fast::hash(body) == u32::from_le_bytes(*crc)).then_some(version)
    })();
    match decoded {
        None => Slot::Damaged,
        Some(VERSION) => State::decode(&mut fields).map_or(Slot::Damaged, Slot::State),
        Some(other) => Slot::Version(other),
    }
}

fn decode_kept(fields: &mut Fields<'_>) -> Option<Kept> {
    Some(Kept {
        stream: StreamId::from_slice(&fields.take::<16>()?)?,
        acked: u64::from_le_bytes(fields.take()?),
        next: u64::from_le_bytes(fields.take()?),
        evicted: u64::from_le_bytes(fields.take()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(next: Seq) -> PerClass<Kept> {
        PerClass::from_fn(|_| Kept { stream: StreamId::random(), acked: 1, next, evicted: 2 })
    }

    fn load(directory: &Path) -> Option<PerClass<Kept>> {
        Meta::open(directory, || [7; 8]).unwrap().1
    }

    #[test]
    fn the_newest_intact_slot_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (mut meta, none) = Meta::open(directory.path(), || [7; 8]).unwrap();
        assert!(none.is_none());
        let (older, newer) = (kept(5), kept(6));
        meta.save(&older, Durable::No).unwrap();
        meta.save(&newer, Durable::Yes).unwrap();
        assert_eq!(load(directory.path()).unwrap().telemetry, newer.telemetry);

        // Whatever byte of the newer slot is damaged, the older one is there.
        let path = directory.path().join(NAME);
        let intact = std::fs::read(&path).unwrap();
        for at in 0..SLOT {
            let mut bytes = intact.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(load(directory.path()).unwrap().critical, older.critical, "byte {at}");
        }
    }

    #[test]
    fn another_version_is_refused_and_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        Meta::open(directory.path(), || [7; 8]).unwrap().0.save(&kept(5), Durable::No).unwrap();
        let path = directory.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        let slot = usize::try_from(STRIDE).unwrap();
        bytes[slot + 8] = 9;
        let sealed = seal(bytes[slot..slot + SLOT - 4].to_vec());
        bytes[slot..slot + SLOT].copy_from_slice(&sealed);
        std::fs::write(&path, &bytes).unwrap();
        let refused = Meta::open(directory.path(), || [7; 8]).unwrap_err();
        assert!(matches!(refused, SpoolError::Version { found: 9, .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
