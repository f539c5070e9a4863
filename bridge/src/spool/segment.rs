//! A segment file: a header, then blocks; and the walk through it that passes over damage.
//!
//! The header is 64 bytes: magic 8, version 4, class 1, 0 3, first number 8, time of the first event 8, marker 8, 0 20, crc
//! of all that 4. The name repeats class and first number, so that a folder listing is an index. A header that is damaged
//! costs nothing else: the marker of the spool is known from elsewhere.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    event::{Class, Seq},
    spool::{
        block::{Block, Marker, Parsed},
        fields::Fields,
        handle::{PerClass, VERSION},
    },
};

/// Bytes of the header.
pub(super) const HEADER: usize = 64;

/// Bytes that are read at a time.
pub(super) const WINDOW: usize = 256 * 1024;

const MAGIC: &[u8; 8] = b"DEspool\n";

/// Where segments lie, and what their blocks begin with.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    /// Of new segments; an older one may have another in its header.
    pub(super) marker: Marker,
}

impl Place {
    /// The file of the segment of `class` that begins with `first`.
    pub(super) fn path(&self, class: Class, first: Seq) -> PathBuf {
        self.directory.join(format!("{class}-{first:020}.seg"))
    }
}

/// The marker of the segments that were found, or, if none tells, a new one that nobody who writes payloads can know.
pub(super) fn find_marker(directory: &Path, found: &PerClass<BTreeMap<Seq, u64>>) -> Marker {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    let place = Place { directory: directory.to_owned(), marker: (high ^ low).to_le_bytes() };
    let all =
        Class::ALL.into_iter().flat_map(|class| found.of(class).keys().map(move |first| (class, *first)));
    let mut told = all.filter_map(|(class, first)| match Walk::open(&place, class, first).ok()?.header {
        Read::Header(header) => Some(header.marker),
        Read::Damaged | Read::Version(_) => None,
    });
    told.next().unwrap_or(place.marker)
}

/// Reads class and first number off a file's name, if it is a segment's.
pub(super) fn parse_name(name: &str) -> Option<(Class, Seq)> {
    let (class, first) = name.strip_suffix(".seg")?.split_once('-')?;
    let class = Class::ALL.into_iter().find(|known| known.as_str() == class)?;
    let digits = first.len() == 20 && first.bytes().all(|digit| digit.is_ascii_digit());
    let first = first.parse().ok().filter(|first| digits && *first > 0)?;
    Some((class, first))
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) class: Class,
    pub(super) first: Seq,
    /// When its first event happened, nanoseconds since the UNIX epoch.
    pub(super) time: u64,
    pub(super) marker: Marker,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[class_byte(self.class), 0, 0, 0]);
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.time.to_le_bytes());
        bytes.extend_from_slice(&self.marker);
        bytes.resize(HEADER - 4, 0);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.try_into().expect("the parts of a header are 64 bytes")
    }

    fn decode(bytes: &[u8]) -> Read {
        let mut fields = Fields(bytes);
        let decoded = (|| {
            let magic: [u8; 8] = fields.take()?;
            let version = u32::from_le_bytes(fields.take()?);
            let [class, ..]: [u8; 4] = fields.take()?;
            let first = u64::from_le_bytes(fields.take()?);
            let time = u64::from_le_bytes(fields.take()?);
            let marker = fields.take()?;
            let _reserved: [u8; 20] = fields.take()?;
            let crc = u32::from_le_bytes(fields.take()?);
            let intact = magic == *MAGIC && crc32fast::hash(bytes.get(..HEADER - 4)?) == crc;
            let class = Class::ALL.into_iter().find(|known| class_byte(*known) == class);
            intact.then_some((version, class, first, time, marker))
        })();
        match decoded {
            Some((VERSION, Some(class), first, time, marker)) => {
                Read::Header(Self { class, first, time, marker })
            }
            Some((version, ..)) if version != VERSION => Read::Version(version),
            _ => Read::Damaged,
        }
    }
}

const fn class_byte(class: Class) -> u8 {
    match class {
        Class::Critical => 1,
        Class::Telemetry => 2,
    }
}

/// What the first bytes of a segment turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Damaged,
    Header(Header),
    Version(u32),
}

/// Goes through the blocks of a segment, in order, and passes over what is damaged.
#[derive(Debug)]
pub(super) struct Walk {
    file: File,
    /// What the header says, for the listing; a damaged one says nothing.
    pub(super) header: Read,
    marker: Option<Marker>,
    window: Bytes,
    /// Where in the file the window begins.
    base: u64,
    /// Where in the window the next block begins.
    at: usize,
}

impl Walk {
    /// Opens the segment of `class` that begins with `first`.
    pub(super) fn open(place: &Place, class: Class, first: Seq) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).open(place.path(class, first))?;
        let mut walk =
            Self { file, header: Read::Damaged, marker: None, window: Bytes::new(), base: 0, at: 0 };
        let front = walk.read(0, HEADER)?;
        let header = Header::decode(&front);
        // A file that was renamed would give its events other numbers.
        walk.header = match header {
            Read::Header(header) if header.class != class || header.first != first => Read::Damaged,
            other => other,
        };
        walk.marker = match header {
            Read::Header(header) => Some(header.marker),
            Read::Damaged => Some(place.marker),
            Read::Version(_) => None,
        };
        walk.base = HEADER as u64;
        Ok(walk)
    }

    /// Where in the file the next block begins.
    pub(super) const fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The next intact block that ends at or before `limit`, or `None`; then more may come when the limit has grown.
    pub(super) fn next(&mut self, limit: u64) -> io::Result<Option<Block>> {
        let Some(marker) = self.marker else { return Ok(None) };
        loop {
            match Block::parse(&self.window, self.at, marker) {
                Parsed::Whole(block) => {
                    self.at += block.len();
                    return Ok(Some(block));
                }
                Parsed::Short(need) => {
                    if !self.refill(need, limit)? {
                        return Ok(None);
                    }
                }
                Parsed::Bad => self.seek_marker(marker),
            }
        }
    }

    /// Gives up what cannot be read: goes on `bytes` further.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.base = self.offset() + bytes;
        self.at = 0;
        self.window = Bytes::new();
    }

    /// Reads on from the next block, so that `need` bytes of it are there; where the file ends before, passes over what
    /// looked like its beginning. `false` at the limit.
    fn refill(&mut self, need: usize, limit: u64) -> io::Result<bool> {
        let offset = self.offset();
        let left = limit.saturating_sub(offset);
        if left == 0 {
            return Ok(false);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let window = if need <= most { self.read(offset, need.max(WINDOW).min(most))? } else { Bytes::new() };
        if window.len() >= need {
            (self.window, self.base, self.at) = (window, offset, 0);
            return Ok(true);
        }
        // No room for the block that its head tells of: torn, or not a head.
        let window = self.read(offset, WINDOW.min(most))?;
        if window.is_empty() {
            return Ok(false);
        }
        (self.window, self.base, self.at) = (window, offset, 0);
        match self.marker {
            Some(marker) => self.seek_marker(marker),
            None => self.at = self.window.len(),
        }
        Ok(true)
    }

    /// Goes on to the next marker after the present place, or to the end of what was read.
    fn seek_marker(&mut self, marker: Marker) {
        let from = self.at + 1;
        let rest = self.window.get(from..).unwrap_or_default();
        let found = rest.windows(marker.len()).position(|bytes| bytes == marker);
        // Without one, its beginning may still stand in the last bytes, to be looked at together with what follows.
        let beginning = rest.len().saturating_sub(marker.len() - 1);
        self.at = (from + found.unwrap_or(beginning)).min(self.window.len());
    }

    fn read(&mut self, offset: u64, most: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(most);
        self.file.seek(SeekFrom::Start(offset))?;
        (&mut self.file).take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}
