//! Where rejected events go: JSON lines that a person can read and a script can send again.
//!
//! A line has `class`, `stream`, `seq`, `code`, `reason`, `rejected_at`, and of the event `collector`, `topic`, `time` and
//! `data_base64`; the times are nanoseconds since the UNIX epoch. Two files share the bound: when one has its half, it
//! takes the place of the older.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    event::{Class, Events, Relayed, Seq, StreamId},
    spool::{
        age,
        cursor::{Cursor, Piece},
        folder,
        handle::{PerClass, Shared},
    },
};

/// The files, and where the next rejected event is likely to be found.
#[derive(Debug)]
pub(super) struct DeadLetters {
    shared: Arc<Shared>,
    /// Opened with the first letter.
    file: Option<Open>,
    sources: PerClass<Option<Source>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

/// One line.
#[derive(Debug, Serialize)]
struct Letter<'a> {
    class: Class,
    stream: String,
    seq: Seq,
    code: i32,
    reason: &'a str,
    rejected_at: u64,
    #[serde(flatten)]
    event: Option<Rejected>,
}

/// What is left of the event.
#[derive(Debug, Serialize)]
struct Rejected {
    #[serde(skip_serializing_if = "Option::is_none")]
    collector: Option<String>,
    /// Of a relayed event: its collector's site, and its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    time: u64,
    data_base64: String,
}

const NAME: &str = "dead-letters.jsonl";
const OLDER: &str = "dead-letters.1.jsonl";

/// Lines are written in pieces of about this size.
const PIECE: usize = 256 * 1024;

/// Most bytes of a reason that are kept.
const REASON: usize = 1024;

impl DeadLetters {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, file: None, sources: PerClass::default() }
    }

    /// Copies the events, as far as they are still there.
    pub(super) fn keep(&mut self, class: Class, rejected: &[(Seq, i32, String)]) -> io::Result<()> {
        let half = self.shared.config.dead_letter_bytes / 2;
        if half == 0 {
            return Ok(());
        }
        let stream = self.shared.views.of(class).borrow().stream;
        let (mut lines, mut next) = (Vec::new(), Vec::new());
        for (seq, code, reason) in rejected {
            let event = self.find(class, *seq)?;
            let mut letter = letter(class, stream, (*seq, *code, reason), event);
            line(&letter, &mut next)?;
            if next.len() as u64 > half {
                // Too large to be kept: say at least that it was.
                letter.event = None;
                line(&letter, &mut next)?;
            }
            if lines.len() + next.len() > PIECE || (lines.len() + next.len()) as u64 > half {
                self.write(&lines, half)?;
                lines.clear();
            }
            lines.append(&mut next);
        }
        self.write(&lines, half)
    }

    fn find(&mut self, class: Class, seq: Seq) -> io::Result<Option<Rejected>> {
        let source = self.sources.of_mut(class).get_or_insert_with(|| Source::at(&self.shared, class, seq));
        if source.front() > seq {
            *source = Source::at(&self.shared, class, seq);
        }
        source.find(seq)
    }

    /// Appends whole lines; first turns the files over if they do not fit.
    fn write(&mut self, lines: &[u8], half: u64) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let directory = &self.shared.config.directory;
        let path = directory.join(NAME);
        let mut open = match self.file.take() {
            Some(open) => open,
            None => Open::at(&path)?,
        };
        if open.bytes > 0 && open.bytes + lines.len() as u64 > half {
            fs::rename(&path, directory.join(OLDER))?;
            open = Open::at(&path)?;
        }
        if let Err(error) = open.file.write_all(lines) {
            open.file.set_len(open.bytes)?;
            return Err(error);
        }
        open.bytes += lines.len() as u64;
        self.file = Some(open);
        Ok(())
    }
}

impl Open {
    /// Opens the file to be written on, with what a crash has left of a last line ended.
    fn at(path: &Path) -> io::Result<Self> {
        let path: PathBuf = path.to_owned();
        let mut file = folder::private().read(true).append(true).create(true).open(path)?;
        let mut bytes = file.metadata()?.len();
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(bytes - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Self { file, bytes })
    }
}

fn letter(
    class: Class,
    stream: StreamId,
    (seq, code, reason): (Seq, i32, &str),
    event: Option<Rejected>,
) -> Letter<'_> {
    let reason = reason.get(..reason.floor_char_boundary(REASON)).unwrap_or_default();
    Letter { class, stream: stream.to_string(), seq, code, reason, rejected_at: age::now(), event }
}

fn line(letter: &Letter<'_>, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    serde_json::to_writer(&mut *into, letter)?;
    into.push(b'\n');
    Ok(())
}

/// Reads a class again behind its reader. Rejections come in order, so it seldom goes back.
#[derive(Debug)]
struct Source {
    cursor: Cursor,
    pieces: VecDeque<Piece>,
}

impl Source {
    fn at(shared: &Arc<Shared>, class: Class, seq: Seq) -> Self {
        Self { cursor: Cursor::new(Arc::clone(shared), class, seq), pieces: VecDeque::new() }
    }

    /// The first number that it can still give.
    fn front(&self) -> Seq {
        self.pieces.front().map_or(self.cursor.position, Piece::first_seq)
    }

    fn find(&mut self, seq: Seq) -> io::Result<Option<Rejected>> {
        loop {
            while self.pieces.pop_front_if(|piece| piece.last_seq() < seq).is_some() {}
            match self.pieces.front() {
                Some(Piece::Run { first_seq, collector, relayed, events }) => {
                    let at = seq.checked_sub(*first_seq).and_then(|at| usize::try_from(at).ok());
                    let speaker = (collector.as_deref(), relayed.as_deref());
                    return Ok(at.and_then(|at| rejected(speaker, events, at)));
                }
                Some(Piece::Gap { .. }) => return Ok(None),
                None => {}
            }
            let before = self.cursor.position;
            if before > seq {
                return Ok(None);
            }
            self.cursor.read(&mut self.pieces)?;
            if self.pieces.is_empty() && self.cursor.position == before {
                return Ok(None);
            }
        }
    }
}

fn rejected(
    (collector, relayed): (Option<&str>, Option<&Relayed>),
    events: &Events,
    at: usize,
) -> Option<Rejected> {
    let event = events.events.get(at)?;
    Some(Rejected {
        collector: collector.map(ToOwned::to_owned),
        site: relayed.map(|relayed| relayed.origin.site.as_ref().to_owned()),
        id: relayed.and_then(|relayed| relayed.id(at)),
        topic: events.topic_of(event).map(|topic| topic.dotted().to_owned()),
        time: event.time,
        data_base64: STANDARD.encode(&event.payload),
    })
}
