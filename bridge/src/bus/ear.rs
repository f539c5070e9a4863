//! What is heard under a name that also speaks: published, broadcast, or sent to it.
//!
//! An [`Ear`] is its own queue, so that nobody ever waits for who listens. Kept true: what is published or broadcast never
//! takes the room of what is sent by name; every loss is counted; what is left comes out in the order in which it came in.

use std::{
    collections::VecDeque,
    fmt, mem,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardAs {
    /// Sent to a mask of names.
    Broadcast,
    /// Sent to this name.
    Message,
    /// Published to a topic that it subscribes to.
    Published,
}

/// A message that a name has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How it came.
    pub kind: HeardAs,
    /// Bus name of the sender.
    pub sender: Arc<str>,
    /// Slashed topic as it stands on the bus; empty unless published. Not judged by our grammar.
    pub topic: Arc<str>,
    /// The payload.
    pub payload: Bytes,
}

/// How much may wait in an ear: so much of what is published or broadcast, and as much again of what is sent by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub frames: NonZeroUsize,
    /// Bytes of their payloads; one message may always wait.
    pub bytes: NonZeroUsize,
}

impl Default for Room {
    /// 1,024 messages and 1 MiB.
    fn default() -> Self {
        let size = |less_one| NonZeroUsize::MIN.saturating_add(less_one);
        Self { frames: size((1 << 10) - 1), bytes: size((1 << 20) - 1) }
    }
}

/// Makes an ear and the drum that fills it; used by implementations of [`Bus`](crate::bus::Bus).
#[must_use]
pub fn ear(room: Room) -> (Drum, Ear) {
    let shared = Arc::new(Shared {
        room,
        queues: Mutex::default(),
        arrived: Notify::new(),
        gone: Notify::new(),
        deaf: AtomicBool::new(false),
        dropped: AtomicU64::new(0),
        sent: Arc::default(),
    });
    (Drum(Arc::clone(&shared)), Ear(shared))
}

/// What is heard under one name. At most once: what does not fit is dropped and counted. Of what is published or broadcast the
/// oldest goes; what is sent by name is refused, which its sender may be told.
///
/// Dropping it makes the name deaf; its [`Port`](crate::bus::Port) speaks on.
pub struct Ear(Arc<Shared>);

impl Ear {
    /// Waits for messages and appends at most `most` of them, at least one; `false` when there will be no more, because the
    /// port or the bus has ended.
    ///
    /// Cancel safe.
    pub async fn next(&mut self, into: &mut Vec<Heard>, most: usize) -> bool {
        loop {
            let arrived = self.0.arrived.notified();
            let (count, over) = self.0.take(into, most.max(1));
            if count > 0 || over {
                return count > 0;
            }
            arrived.await;
        }
    }

    /// How many messages were dropped since this was last asked.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.swap(0, Ordering::AcqRel)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.deaf.store(true, Ordering::Release);
        drop(mem::take(&mut *self.0.queues()));
        self.0.sent.store(0, Ordering::Release);
        self.0.gone.notify_one();
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear").finish_non_exhaustive()
    }
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what was dropped is to be counted"]
pub enum Beat {
    /// This, or so many older ones, were dropped.
    Dropped(u64),
    /// It waits.
    Queued,
}

/// The side of an ear that is beaten on. Dropping it ends the ear, once it has been read empty.
pub struct Drum(Arc<Shared>);

impl Drum {
    /// Puts a message into the ear.
    pub fn offer(&self, heard: Heard) -> Beat {
        let lost = self.0.put(heard);
        if lost == 0 {
            return Beat::Queued;
        }
        self.0.dropped.fetch_add(lost, Ordering::AcqRel);
        Beat::Dropped(lost)
    }

    /// Ends when nobody listens any more.
    ///
    /// Cancel safe; for one waiter.
    pub async fn deaf(&self) {
        while !self.is_deaf() {
            self.0.gone.notified().await;
        }
    }

    /// Whether nobody listens any more.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.0.deaf.load(Ordering::Acquire)
    }

    /// How many bytes wait of what was sent by name, and how many make it full. For who can tell a sender at once.
    pub(crate) fn load(&self) -> (Arc<AtomicUsize>, usize) {
        (Arc::clone(&self.0.sent), self.0.room.bytes.get())
    }
}

impl Drop for Drum {
    fn drop(&mut self) {
        self.0.queues().ended = true;
        self.0.arrived.notify_one();
    }
}

impl fmt::Debug for Drum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drum").finish_non_exhaustive()
    }
}

struct Shared {
    room: Room,
    queues: Mutex<Queues>,
    arrived: Notify,
    gone: Notify,
    deaf: AtomicBool,
    dropped: AtomicU64,
    /// Bytes that wait of what was sent by name; that there is no more room for messages counts as all of them.
    sent: Arc<AtomicUsize>,
}

/// What waits. Two queues, so that a flood of the one is no loss of the other.
#[derive(Default)]
struct Queues {
    /// Published and broadcast.
    public: Queue,
    /// Sent by name.
    sent: Queue,
    /// Number of the next message, so that the two come out as they came in.
    next: u64,
    ended: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Heard)>,
    bytes: usize,
}

impl Queue {
    fn fits(&self, payload: usize, room: Room) -> bool {
        let is_empty = self.waiting.is_empty();
        is_empty || self.waiting.len() < room.frames.get() && self.bytes + payload <= room.bytes.get()
    }

    fn push(&mut self, number: u64, heard: Heard) {
        self.bytes += heard.payload.len();
        self.waiting.push_back((number, heard));
    }

    fn pop(&mut self) -> Option<Heard> {
        let (_, heard) = self.waiting.pop_front()?;
        self.bytes -= heard.payload.len();
        Some(heard)
    }

    fn first(&self) -> u64 {
        self.waiting.front().map_or(u64::MAX, |(number, _)| *number)
    }

    /// Bytes, or more than there may be if no further message fits.
    fn load(&self, room: Room) -> usize {
        if self.waiting.len() < room.frames.get() { self.bytes } else { usize::MAX }
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages were lost by this one.
    fn put(&self, heard: Heard) -> u64 {
        let mut queues = self.queues();
        if self.deaf.load(Ordering::Acquire) {
            return 1;
        }
        let (number, size) = (queues.next, heard.payload.len());
        queues.next += 1;
        let mut lost = 0;
        if heard.kind == HeardAs::Message {
            if !queues.sent.fits(size, self.room) {
                return 1;
            }
            queues.sent.push(number, heard);
            self.sent.store(queues.sent.load(self.room), Ordering::Release);
        } else {
            while !queues.public.fits(size, self.room) {
                lost += u64::from(queues.public.pop().is_some());
            }
            queues.public.push(number, heard);
        }
        drop(queues);
        self.arrived.notify_one();
        lost
    }

    /// How many were appended, and whether there will be no more.
    fn take(&self, into: &mut Vec<Heard>, most: usize) -> (usize, bool) {
        let mut queues = self.queues();
        let mut count = 0;
        while count < most {
            let next = if queues.sent.first() < queues.public.first() {
                queues.sent.pop()
            } else {
                queues.public.pop()
            };
            let Some(heard) = next else { break };
            into.push(heard);
            count += 1;
        }
        self.sent.store(queues.sent.load(self.room), Ordering::Release);
        (count, queues.ended)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn heard(kind: HeardAs, payload: &'static str) -> Heard {
        Heard {
            kind,
            sender: "engine".into(),
            topic: "".into(),
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    fn room(frames: usize, bytes: usize) -> Room {
        Room { frames: NonZeroUsize::new(frames).unwrap(), bytes: NonZeroUsize::new(bytes).unwrap() }
    }

    fn payloads(ear: &mut Ear) -> Vec<String> {
        let mut all = Vec::new();
        assert_eq!(ear.next(&mut all, 100).now_or_never(), Some(true));
        all.iter().map(|heard| String::from_utf8(heard.payload.to_vec()).unwrap()).collect()
    }

    #[test]
    fn what_is_published_pushes_out_the_oldest_and_leaves_messages_alone() {
        let (drum, mut ear) = ear(room(2, 100));
        assert_eq!(drum.offer(heard(HeardAs::Message, "m1")), Beat::Queued);
        assert_eq!(drum.offer(heard(HeardAs::Published, "p1")), Beat::Queued);
        assert_eq!(drum.offer(heard(HeardAs::Broadcast, "b1")), Beat::Queued);
        assert_eq!(drum.offer(heard(HeardAs::Published, "p2")), Beat::Dropped(1));
        assert_eq!(drum.offer(heard(HeardAs::Message, "m2")), Beat::Queued);
        assert_eq!(drum.load().0.load(Ordering::Acquire), usize::MAX, "a sender is to be told");
        assert_eq!(drum.offer(heard(HeardAs::Message, "m3")), Beat::Dropped(1));
        assert_eq!(payloads(&mut ear), ["m1", "b1", "p2", "m2"]);
        assert_eq!((ear.dropped(), ear.dropped()), (2, 0));
        assert_eq!(drum.load().0.load(Ordering::Acquire), 0);
    }

    #[test]
    fn bytes_are_bounded_but_one_message_always_fits() {
        let (drum, mut ear) = ear(room(10, 4));
        assert_eq!(drum.offer(heard(HeardAs::Published, "longer")), Beat::Queued);
        assert_eq!(drum.offer(heard(HeardAs::Published, "ab")), Beat::Dropped(1));
        assert_eq!(drum.offer(heard(HeardAs::Published, "cd")), Beat::Queued);
        assert_eq!(drum.offer(heard(HeardAs::Published, "efg")), Beat::Dropped(2));
        assert_eq!(payloads(&mut ear), ["efg"]);
    }

    #[tokio::test]
    async fn an_ear_ends_when_it_is_empty_and_a_drum_when_nobody_listens() {
        let (drum, mut first) = ear(Room::default());
        assert_eq!(first.next(&mut Vec::new(), 1).now_or_never(), None);
        assert_eq!(drum.offer(heard(HeardAs::Message, "last")), Beat::Queued);
        drop(drum);
        assert_eq!(payloads(&mut first), ["last"]);
        assert_eq!(first.next(&mut Vec::new(), 1).now_or_never(), Some(false));

        let (drum, second) = ear(Room::default());
        assert_eq!(drum.deaf().now_or_never(), None);
        drop(second);
        drum.deaf().await;
        assert_eq!(drum.offer(heard(HeardAs::Message, "x")), Beat::Dropped(1));
    }
}
