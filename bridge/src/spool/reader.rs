//! Reading a class in order.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    task::{self, JoinHandle},
    time,
};

use crate::{
    event::{Class, Event, Events, Relayed, Seq},
    spool::{
        Chunk,
        cursor::{Cursor, Piece},
        handle::{Shared, View},
    },
};

/// Reads the events of one class in order, waiting for new ones when it has caught up.
///
/// What it has read ahead is bounded: a window of the file. The payloads of a chunk are parts of such a window, which stays
/// in memory as long as one of them does.
#[derive(Debug)]
pub struct Reader {
    view: watch::Receiver<View>,
    shared: Arc<Shared>,
    class: Class,
    /// Read and not yet handed out.
    ready: VecDeque<Piece>,
    /// Number after the last that was handed out.
    position: Seq,
    work: Work,
}

/// Where the cursor is: here, or away reading.
#[derive(Debug)]
enum Work {
    Away(JoinHandle<Done>),
    Here(Box<Cursor>),
}

#[derive(Debug)]
struct Done {
    cursor: Box<Cursor>,
    pieces: VecDeque<Piece>,
    outcome: io::Result<()>,
}

/// How long a disk that could not be read is left alone.
const PAUSE: Duration = Duration::from_millis(200);

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, class: Class, from: Seq) -> Self {
        let view = shared.views.of(class).clone();
        let cursor = Cursor::new(Arc::clone(&shared), class, from);
        let position = cursor.position;
        Self { view, shared, class, ready: VecDeque::new(), position, work: Work::Here(Box::new(cursor)) }
    }

    /// Number of the event that the next chunk begins with, unless it is settled before.
    #[must_use]
    pub const fn position(&self) -> Seq {
        self.position
    }

    /// Waits for events and hands out consecutive ones of one collector: at most `max_events`, and at most `max_bytes`
    /// of payload, but at least one event. `None` when the spool is closed and all has been read.
    ///
    /// Cancel safe: what was not handed out comes with the next call.
    pub async fn next(&mut self, max_events: usize, max_bytes: usize) -> Option<Chunk> {
        while self.ready.is_empty() {
            self.read().await?;
        }
        let chunk = take(&mut self.ready, max_events.max(1), max_bytes)?;
        self.position = chunk.last_seq() + 1;
        Some(chunk)
    }

    /// Reads a window, or waits until there is something to read; `None` when there never will be.
    async fn read(&mut self) -> Option<()> {
        let Work::Away(reading) = &mut self.work else {
            return self.depart().await;
        };
        let done = match reading.await {
            Ok(done) => done,
            Err(error) => {
                // The runtime is going away, or the reading panicked, which must not be tried for ever.
                tracing::error!(%error, class = %self.class, "reading the spool was cut");
                let cursor = Cursor::new(Arc::clone(&self.shared), self.class, self.position);
                self.work = Work::Here(Box::new(cursor));
                return None;
            }
        };
        self.ready = done.pieces;
        self.work = Work::Here(done.cursor);
        if let Err(error) = done.outcome {
            tracing::warn!(%error, class = %self.class, "could not read the spool");
            time::sleep(PAUSE).await;
        }
        Some(())
    }

    /// Sends the cursor away if there is something to read, and else waits until there is.
    async fn depart(&mut self) -> Option<()> {
        let Work::Here(cursor) = &mut self.work else { return Some(()) };
        if self.view.borrow_and_update().next <= cursor.position {
            return self.view.changed().await.ok();
        }
        let spare = Box::new(Cursor::new(Arc::clone(&self.shared), self.class, self.position));
        let mut cursor = std::mem::replace(cursor, spare);
        self.work = Work::Away(task::spawn_blocking(move || {
            let mut pieces = VecDeque::new();
            let outcome = cursor.read(&mut pieces);
            Done { cursor, pieces, outcome }
        }));
        Some(())
    }
}

/// Takes from the front what belongs into one chunk.
fn take(ready: &mut VecDeque<Piece>, max_events: usize, max_bytes: usize) -> Option<Chunk> {
    let (first_seq, collector, mut relayed, events) = match ready.pop_front()? {
        Piece::Gap { first_seq, last_seq, reason } => {
            return Some(Chunk::Gap { first_seq, last_seq, reason });
        }
        Piece::Run { first_seq, collector, relayed, events } => (first_seq, collector, relayed, events),
    };
    let fits = events.len() <= max_events && events.payload_bytes() <= max_bytes;
    let mut room = Room { events: max_events, bytes: max_bytes };
    let mut chunk = if fits {
        // The common case: a block is handed out as it was written.
        room.events -= events.len();
        room.bytes -= events.payload_bytes();
        events
    } else {
        let mut chunk = Events::default();
        let rest = room.fill(&mut chunk, events);
        let first_seq = first_seq + chunk.len() as u64;
        let behind = relayed.as_mut().map(|relayed| Box::new(relayed.split_off(chunk.len())));
        ready.push_front(Piece::Run {
            first_seq,
            collector: collector.clone(),
            relayed: behind,
            events: rest,
        });
        room.events = 0;
        chunk
    };
    // Small appends make small blocks: bring them together.
    while room.events > 0 {
        let Some(Piece::Run { collector: next, relayed: origin, .. }) = ready.front() else { break };
        if *next != collector || !Relayed::is_same(origin.as_deref(), relayed.as_deref()) {
            break;
        }
        let Some(Piece::Run { first_seq: next_seq, collector: next, relayed: mut more, events }) =
            ready.pop_front()
        else {
            break;
        };
        let before = chunk.len();
        let rest = room.fill(&mut chunk, events);
        let taken = chunk.len() - before;
        let behind = more.as_mut().map(|more| Box::new(more.split_off(taken)));
        if let (Some(relayed), Some(more)) = (&mut relayed, more) {
            relayed.seqs.extend(more.seqs);
        }
        if !rest.is_empty() {
            let first_seq = next_seq + taken as u64;
            ready.push_front(Piece::Run { first_seq, collector: next, relayed: behind, events: rest });
            break;
        }
    }
    Some(Chunk::Events { first_seq, collector, relayed, events: chunk })
}

/// What still fits into a chunk.
struct Room {
    events: usize,
    bytes: usize,
}

impl Room {
    /// Moves events from the front of `from` as long as they fit, at least one into an empty chunk; returns the rest.
    fn fill(&mut self, chunk: &mut Events, from: Events) -> Events {
        // Topics are looked up once a run, not once an event.
        let mut indices: Vec<Option<u32>> = vec![None; from.topics.len()];
        let mut rest = from.events.into_iter().peekable();
        while let Some(Event { topic, payload, time }) =
            rest.next_if(|event| self.admits(&event.payload, chunk))
        {
            self.events -= 1;
            self.bytes = self.bytes.saturating_sub(payload.len());
            let at = topic as usize;
            let known = indices.get(at).copied().flatten();
            let topic =
                known.unwrap_or_else(|| from.topics.get(at).map_or(u32::MAX, |topic| index_of(chunk, topic)));
            if let Some(index) = indices.get_mut(at) {
                *index = Some(topic);
            }
            chunk.events.push(Event { topic, payload, time });
        }
        Events { topics: from.topics, events: rest.collect(), numbers: None }
    }

    const fn admits(&self, payload: &Bytes, chunk: &Events) -> bool {
        chunk.is_empty() || (self.events > 0 && payload.len() <= self.bytes)
    }
}

/// The index of a topic in a chunk, which gets it if need be.
fn index_of(chunk: &mut Events, topic: &crate::topic::Topic) -> u32 {
    let known = chunk.topics.iter().rposition(|known| known == topic);
    let index = known.unwrap_or_else(|| {
        chunk.topics.push(topic.clone());
        chunk.topics.len() - 1
    });
    u32::try_from(index).unwrap_or(u32::MAX)
}
