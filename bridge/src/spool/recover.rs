//! What is found at open, and put in order: only headers and the last segment of each class are read.
//!
//! Kept true: no number is given again that a reader may have seen, nor one that was written down as given.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
};

use crate::{
    event::{Class, Seq, StreamId},
    spool::{
        age::Ages,
        folder,
        handle::SpoolError,
        lane::{Active, Segment},
        meta::Kept,
        segment::{Place, Read, Walk},
    },
};

/// The state of one class.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) kept: Kept,
    pub(super) segments: VecDeque<Segment>,
    /// The last of `segments`, if it can be written on.
    pub(super) active: Option<Active>,
    pub(super) ages: Ages,
}

/// Bytes that are passed over where the disk cannot read them.
pub(super) const UNREADABLE: u64 = 64 * 1024;

/// Puts in order what was found of `class`.
pub(super) fn recover(
    place: &Place,
    class: Class,
    mut found: BTreeMap<Seq, u64>,
    kept: Option<Kept>,
) -> Result<Recovered, SpoolError> {
    let mut kept = kept.unwrap_or_else(|| {
        let before = found.first_key_value().map_or(0, |(first, _)| first - 1);
        Kept { stream: StreamId::random(), acked: before, next: before + 1, evicted: 0 }
    });
    kept.next = kept.next.max(kept.acked + 1).max(kept.evicted + 1);
    let mut active = None;
    if let Some((first, bytes)) = found.pop_last() {
        kept.next = kept.next.max(first);
        let tail = Tail::examine(place, class, first, bytes)?;
        if let Some(bytes) = tail.repair(place, class)? {
            kept.next = kept.next.max(tail.end);
            active = tail.reopen(place, class)?;
            found.insert(first, bytes);
        }
    }
    let (segments, ages) = list(place, class, &found, &kept)?;
    if segments.is_empty() {
        active = None;
    }
    Ok(Recovered { kept, segments, active, ages })
}

/// Lists the segments that still count, and removes those that do not.
fn list(
    place: &Place,
    class: Class,
    found: &BTreeMap<Seq, u64>,
    kept: &Kept,
) -> Result<(VecDeque<Segment>, Ages), SpoolError> {
    let mut segments = VecDeque::with_capacity(found.len());
    let mut ages = Ages::default();
    let settled = kept.acked.max(kept.evicted);
    let ends = found.keys().skip(1).copied().chain([kept.next]);
    for ((&first, &bytes), end) in found.iter().zip(ends) {
        let path = place.path(class, first);
        // The last one stays, to be written on.
        if end <= settled + 1 && end != kept.next {
            folder::remove(&path);
            continue;
        }
        match Walk::open(place, class, first).map_err(SpoolError::io("open", &path))?.header {
            Read::Header(header) => ages.note(first, header.time),
            Read::Damaged => tracing::error!(file = %path.display(), "header of a spool segment is damaged"),
            Read::Version(found) => return Err(SpoolError::Version { path, found }),
        }
        segments.push_back(Segment { first, bytes });
    }
    Ok((segments, ages))
}

/// The last segment of a class.
struct Tail {
    first: Seq,
    /// Its size.
    bytes: u64,
    header: Read,
    /// Number after its last event.
    end: Seq,
    /// Where its last whole block ends.
    intact: u64,
    /// Whether the disk could not read some of it: then nothing is cut off.
    unreadable: bool,
}

impl Tail {
    fn examine(place: &Place, class: Class, first: Seq, bytes: u64) -> Result<Self, SpoolError> {
        let path = place.path(class, first);
        let mut walk = Walk::open(place, class, first).map_err(SpoolError::io("open", &path))?;
        let mut tail = Self { first, bytes, header: walk.header, end: first, intact: 0, unreadable: false };
        if let Read::Version(found) = walk.header {
            return Err(SpoolError::Version { path, found });
        }
        while walk.offset() < bytes {
            match walk.next(bytes) {
                Ok(Some(block)) => {
                    if block.first_seq >= tail.end {
                        tail.end = block.last_seq() + 1;
                    }
                    tail.intact = walk.offset();
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "part of a spool segment is unreadable");
                    tail.unreadable = true;
                    walk.skip(UNREADABLE);
                }
            }
        }
        Ok(tail)
    }

    /// Cuts off what was being written when the process died. Returns the size, or `None` if nothing was left.
    fn repair(&self, place: &Place, class: Class) -> Result<Option<u64>, SpoolError> {
        let path = place.path(class, self.first);
        if self.unreadable || self.intact == self.bytes {
            return Ok(Some(self.bytes));
        }
        if self.intact == 0 {
            tracing::warn!(file = %path.display(), bytes = self.bytes, "removed a spool segment without a whole block");
            folder::remove(&path);
            return Ok(None);
        }
        tracing::warn!(file = %path.display(), bytes = self.bytes - self.intact, "cut off a torn end of the spool");
        let cut = File::options().write(true).open(&path).and_then(|file| file.set_len(self.intact));
        cut.map_err(SpoolError::io("cut off the torn end of", &path))?;
        Ok(Some(self.intact))
    }

    /// Opens it to be written on; not where its header is damaged or its end could not be read.
    fn reopen(&self, place: &Place, class: Class) -> Result<Option<Active>, SpoolError> {
        let Read::Header(header) = self.header else { return Ok(None) };
        if self.unreadable {
            return Ok(None);
        }
        let path = place.path(class, self.first);
        let file =
            File::options().append(true).open(&path).map_err(SpoolError::io("open for writing", &path))?;
        Ok(Some(Active { file, marker: header.marker }))
    }
}
