//! The reading itself: from files to events and gaps, away from the async threads.
//!
//! Whatever number below `next` has no intact event on disk lies in a gap: of reason `evicted` up to where the owner says
//! so, `corrupt` after it. So a hole need not be recorded to be found.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    event::{Class, Event, Events, Origin, Relayed, Seq},
    spool::{
        GapReason,
        block::{Block, Names},
        handle::{Shared, View},
        recover::UNREADABLE,
        segment::{WINDOW, Walk},
    },
    topic::Topic,
};

/// A place in a class, from which it is read on.
#[derive(Debug)]
pub(super) struct Cursor {
    shared: Arc<Shared>,
    class: Class,
    /// Number that is read next.
    pub(super) position: Seq,
    open: Option<Open>,
    topics: Topics,
    /// The last one read: they seldom change.
    collector: Option<Arc<str>>,
    origin: Option<Arc<Origin>>,
    /// Times in a row that the disk could not read what comes next.
    unread: u32,
}

#[derive(Debug)]
struct Open {
    first: Seq,
    walk: Walk,
}

/// What was read, in order.
#[derive(Debug)]
pub(super) enum Piece {
    Gap { first_seq: Seq, last_seq: Seq, reason: GapReason },
    Run { first_seq: Seq, collector: Option<Arc<str>>, relayed: Option<Box<Relayed>>, events: Events },
}

impl Piece {
    pub(super) const fn first_seq(&self) -> Seq {
        match self {
            Self::Gap { first_seq, .. } | Self::Run { first_seq, .. } => *first_seq,
        }
    }

    pub(super) const fn last_seq(&self) -> Seq {
        match self {
            Self::Gap { last_seq, .. } => *last_seq,
            Self::Run { first_seq, events, .. } => *first_seq + (events.len() as u64).saturating_sub(1),
        }
    }
}

/// Attempts at a place before the disk is believed that it cannot read it.
const ATTEMPTS: u32 = 3;

impl Cursor {
    pub(super) fn new(shared: Arc<Shared>, class: Class, from: Seq) -> Self {
        Self {
            shared,
            class,
            position: from.max(1),
            open: None,
            topics: Topics::default(),
            collector: None,
            origin: None,
            unread: 0,
        }
    }

    /// Reads on, one window or so; nothing, if all that is committed has been read.
    ///
    /// # Errors
    ///
    /// The operating system's; the next call tries again. A place that cannot be read time and again is passed over, a
    /// file that cannot be opened never is.
    pub(super) fn read(&mut self, into: &mut VecDeque<Piece>) -> io::Result<()> {
        let mut budget = WINDOW;
        while budget > 0 {
            let view = self.shared.views.of(self.class).borrow().clone();
            let acked = self.shared.acked.of(self.class).load(Ordering::Acquire);
            self.position = self.position.max(acked + 1);
            if self.position >= view.next {
                break;
            }
            if self.position <= view.evicted {
                self.gap(view.evicted, GapReason::Evicted, into);
                continue;
            }
            let Some((first, end, limit)) = locate(&view, self.position) else {
                let end = view.segments.first().copied().unwrap_or(view.next);
                self.gap(end - 1, GapReason::Corrupt, into);
                continue;
            };
            if !self.enter(first)? {
                // Removed since we looked, or gone for good.
                if self.shared.views.of(self.class).borrow().segments.contains(&first) {
                    self.gap(end - 1, GapReason::Corrupt, into);
                }
                continue;
            }
            match self.next_block(limit)? {
                Some(block) if block.first_seq < end => {
                    budget = budget.saturating_sub(block.len());
                    self.take(&block, end, into);
                }
                // The end of the file, or what was taken back and could not be cut off.
                _ => self.gap(end - 1, GapReason::Corrupt, into),
            }
        }
        Ok(())
    }

    /// Opens the segment that begins with `first`, unless it is open; `false` if there is no such file.
    fn enter(&mut self, first: Seq) -> io::Result<bool> {
        if self.open.as_ref().is_some_and(|open| open.first == first) {
            return Ok(true);
        }
        self.open = None;
        match Walk::open(&self.shared.place, self.class, first) {
            Ok(walk) => {
                self.open = Some(Open { first, walk });
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn next_block(&mut self, limit: u64) -> io::Result<Option<Block>> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let next = open.walk.next(limit);
        match &next {
            Ok(_) => self.unread = 0,
            Err(error) => {
                self.unread += 1;
                if self.unread >= ATTEMPTS {
                    let path = self.shared.place.path(self.class, open.first);
                    tracing::error!(file = %path.display(), %error, "part of a spool segment is unreadable");
                    open.walk.skip(UNREADABLE);
                    self.unread = 0;
                }
            }
        }
        next
    }

    /// Hands out the events of a block that are due, and gaps for those that are missing before or in it.
    fn take(&mut self, block: &Block, end: Seq, into: &mut VecDeque<Piece>) {
        if block.last_seq() < self.position {
            return;
        }
        let Some(topics) = block.names().and_then(|names| self.learn(names)) else {
            self.gap(block.last_seq().min(end - 1), GapReason::Corrupt, into);
            return;
        };
        if block.first_seq > self.position {
            self.gap(block.first_seq - 1, GapReason::Corrupt, into);
        }
        let events = Vec::with_capacity(block.events as usize);
        let mut run = Events { topics: topics.clone(), events, numbers: None };
        let mut seqs = Vec::new();
        for (entry, seq) in block.entries().zip(block.first_seq..end) {
            if seq < self.position + run.len() as u64 {
                continue;
            }
            if entry.intact && usize::from(entry.topic) < topics.len() {
                let topic = u32::from(entry.topic);
                if self.origin.is_some() {
                    seqs.push(entry.origin_seq);
                }
                run.events.push(Event { topic, payload: entry.payload, time: entry.time });
            } else {
                let empty = Events { topics: topics.clone(), ..Events::default() };
                self.run(std::mem::replace(&mut run, empty), std::mem::take(&mut seqs), into);
                self.gap(seq, GapReason::Corrupt, into);
            }
        }
        self.run(run, seqs, into);
    }

    /// Remembers who speaks in a block, and finds its topics.
    fn learn(&mut self, names: Names<'_>) -> Option<Vec<Topic>> {
        let Names { collector, origin, topics } = names;
        let topics = topics.into_iter().map(|topic| self.topics.find(topic)).collect::<Option<Vec<_>>>()?;
        if self.collector.as_deref() != collector {
            self.collector = collector.map(Into::into);
        }
        if self.origin.as_deref() != origin.as_ref() {
            self.origin = origin.map(Arc::new);
        }
        Some(topics)
    }

    fn run(&mut self, events: Events, seqs: Vec<Seq>, into: &mut VecDeque<Piece>) {
        if !events.is_empty() {
            let first_seq = self.position;
            self.position += events.len() as u64;
            let relayed = self.origin.clone().map(|origin| Box::new(Relayed { origin, seqs }));
            into.push_back(Piece::Run { first_seq, collector: self.collector.clone(), relayed, events });
        }
    }

    /// Says that all from the position to `last` is missing; joins what was said before.
    fn gap(&mut self, last: Seq, reason: GapReason, into: &mut VecDeque<Piece>) {
        let first = self.position;
        self.position = last + 1;
        if reason == GapReason::Corrupt {
            self.shared.count_corrupt(self.class, first, last);
        }
        match into.back_mut() {
            Some(Piece::Gap { last_seq, reason: before, .. })
                if *before == reason && *last_seq + 1 == first =>
            {
                *last_seq = last;
            }
            _ => into.push_back(Piece::Gap { first_seq: first, last_seq: last, reason }),
        }
    }
}

/// The segment in which `position` must lie: its first number, the number after its last, and how far it may be read.
fn locate(view: &View, position: Seq) -> Option<(Seq, Seq, u64)> {
    let after = view.segments.partition_point(|first| *first <= position);
    let first = *view.segments.get(after.checked_sub(1)?)?;
    let tail = (first, view.next, view.tail_bytes);
    Some(view.segments.get(after).map_or(tail, |end| (first, *end, u64::MAX)))
}

/// Topics by their text, so that events share them.
#[derive(Debug, Default)]
struct Topics(HashMap<Box<str>, Topic>);

impl Topics {
    /// Bound of the map; it starts anew when it is met.
    const MOST: usize = 1024;

    fn find(&mut self, text: &str) -> Option<Topic> {
        if let Some(topic) = self.0.get(text) {
            return Some(topic.clone());
        }
        let topic = Topic::parse(text).ok()?;
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert(text.into(), topic.clone());
        Some(topic)
    }
}
