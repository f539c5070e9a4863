//! Attacks on the spool: restarts, kills, damage, full disks, strange folders.

#![expect(
    clippy::significant_drop_tightening,
    reason = "an open spool is closed, and what is dropped after that matters not"
)]

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time;

use super::{Chunk, ClassRule, Config, GapReason, Record, Spool, SpoolError, Stats};
use crate::{
    event::{Class, Origin, Seq, StreamId},
    lifecycle::Lifecycle,
    topic::Topic,
};

mod behaviour;
mod damage;
mod folder;
mod full;
mod model;

/// A small spool: segments of 16 KiB, 256 KiB in all; topics below `c` are critical.
fn small(directory: &Path) -> Config {
    Config {
        max_bytes: 256 << 10,
        segment_bytes: 16 << 10,
        classes: vec![ClassRule { pattern: "c.#".parse().unwrap(), class: Class::Critical }],
        dead_letter_bytes: 64 << 10,
        ..Config::at(directory)
    }
}

/// An open spool with its owner at work.
struct Open {
    spool: Spool,
    life: Lifecycle,
}

impl Open {
    fn with(config: Config) -> Result<Self, SpoolError> {
        let (spool, owner) = Spool::open(config)?;
        let life = Lifecycle::new();
        life.leash().spawn(owner);
        Ok(Self { spool, life })
    }

    fn at(directory: &Path) -> Self {
        Self::with(small(directory)).unwrap()
    }

    async fn close(self) {
        self.spool.close().await;
        assert_eq!(self.life.drain(Duration::from_secs(10), std::future::pending()).await, 0);
    }

    async fn append(&self, records: Vec<Record>) {
        self.spool.append(records).await.unwrap();
    }

    /// Appends `count` events of the class, whose payloads tell their numbers, in calls of `batch`.
    async fn fill(&self, class: Class, count: u64, batch: u64) {
        let mut next = self.state(class).next;
        let end = next + count;
        while next < end {
            // Not across a change of collector: those of one append are brought together.
            let upto = end.min(next + batch).min((next / 50 + 1) * 50);
            self.append((next..upto).map(|seq| event(class, seq)).collect()).await;
            next = upto;
        }
    }

    fn state(&self, class: Class) -> super::StreamState {
        self.spool.streams().into_iter().find(|state| state.class == class).unwrap()
    }

    /// All that is there from `from` on, checked to be without a hole and to be what was appended.
    async fn read(&self, class: Class, from: Seq) -> Vec<Chunk> {
        let next = self.state(class).next;
        let mut reader = self.spool.reader(class, from);
        let mut chunks = Vec::new();
        let mut position = None;
        while reader.position() < next && self.state(class).acked + 1 < next {
            let chunk = chunk(&mut reader).await;
            assert_eq!(chunk.first_seq(), position.unwrap_or_else(|| chunk.first_seq()), "{chunk:?}");
            position = Some(chunk.last_seq() + 1);
            check(class, &chunk);
            chunks.push(chunk);
        }
        assert_eq!(position.unwrap_or(next), next);
        chunks
    }

    /// The gaps among them.
    async fn gaps(&self, class: Class) -> Vec<(Seq, Seq, GapReason)> {
        gaps(&self.read(class, 1).await)
    }

    fn stats(&self) -> Stats {
        self.spool.stats().borrow().clone()
    }
}

/// What the folder would be after a kill at this moment.
fn killed(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_files(directory, copy.path());
    close_to_others(copy.path());
    copy
}

async fn chunk(reader: &mut super::Reader) -> Chunk {
    let next = time::timeout(Duration::from_secs(20), reader.next(100, 1 << 20));
    next.await.expect("there is something to read").expect("the spool is open")
}

fn gaps(chunks: &[Chunk]) -> Vec<(Seq, Seq, GapReason)> {
    let gap = |chunk: &Chunk| match chunk {
        Chunk::Gap { first_seq, last_seq, reason } => Some((*first_seq, *last_seq, *reason)),
        Chunk::Events { .. } => None,
    };
    chunks.iter().filter_map(gap).collect()
}

/// An event that tells its number, of a size that varies.
fn event(class: Class, seq: Seq) -> Record {
    let topic = match class {
        Class::Critical => format!("c.t{}", seq % 3),
        Class::Telemetry => format!("t.t{}", seq % 3),
    };
    Record {
        collector: (seq / 50 % 2 == 1).then(|| "procmond".into()),
        origin: None,
        topic: Topic::parse(&topic).unwrap(),
        payload: payload(class, seq),
        time: seq,
    }
}

fn payload(class: Class, seq: Seq) -> Bytes {
    let filling = "x".repeat(usize::try_from(seq % 200).unwrap());
    format!("{class} {seq} {filling}").into()
}

fn check(class: Class, chunk: &Chunk) {
    let Chunk::Events { first_seq, events, collector, .. } = chunk else { return };
    assert!(!events.is_empty());
    for (seq, found) in (*first_seq..).zip(&events.events) {
        let wanted = event(class, seq);
        assert_eq!(events.topic_of(found), Some(&wanted.topic));
        assert_eq!((&found.payload, found.time, collector), (&wanted.payload, seq, &wanted.collector));
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // A segment may have been trimmed since.
        if entry.file_name() != "lock" && entry.path().exists() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Copies are made by tests into folders that are not closed, as a restore might; that has its own test.
fn close_to_others(directory: &Path) {
    #[cfg(unix)]
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}

/// The segments of a class, oldest first.
fn segments(directory: &Path, class: Class) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(class.as_str()))
        .collect();
    found.sort();
    found
}

/// The first number of a segment.
fn first_of(path: &Path) -> Seq {
    super::segment::parse_name(path.file_name().unwrap().to_str().unwrap()).unwrap().1
}

fn bytes_on_disk(directory: &Path) -> u64 {
    Class::ALL
        .into_iter()
        .flat_map(|class| segments(directory, class))
        .map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
        .sum()
}
