//! The batches of a connection that are not confirmed, in order.
//!
//! Kept true: batches are begun in the order they came, and confirmed in that order; when the link is lost all of them stand
//! at the beginning again.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    bus::{Taken, remote::speaker::FIRST_ID},
    event::{Event, Events},
    native::codec::{
        Code, Qos,
        client::{self, Head, TopicsOf},
    },
};

/// Most topics remembered as accepted by the broker; then it is asked again.
const ASKED: usize = 4096;

/// Most bytes of payload begun and not confirmed; one batch may always be.
const BYTES: usize = 4 << 20;

/// Batches that are not confirmed.
#[derive(Debug)]
pub(super) struct Ledger {
    batches: VecDeque<Batch>,
    /// How many of them, from the front, have been encoded for the present connection.
    begun: usize,
    /// Events of those.
    events: usize,
    /// Bytes of those.
    bytes: usize,
    most_events: usize,
    /// Topics whose first frame on this connection asked for an answer. A broker with access rules drops what is not
    /// allowed and answers only a frame that asks, so the barrier alone would not tell.
    asked: HashSet<Box<str>>,
    next_id: u32,
    /// How long the batch that was confirmed last had been under way.
    took: Option<Duration>,
}

#[derive(Debug)]
struct Batch {
    port: u64,
    prefix: Arc<str>,
    events: Events,
    /// `None` for a probe.
    done: Option<oneshot::Sender<Taken>>,
    /// Id of the frame whose answer confirms all of it.
    barrier: u32,
    /// When that answer is overdue.
    due: Option<Instant>,
    /// When it was begun on the present connection.
    begun: Option<Instant>,
    /// Whether it was begun on a former connection.
    again: bool,
}

/// What was encoded of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    /// Events published.
    pub(super) published: u64,
    /// Events that cannot be put into a frame: they have no topic.
    pub(super) discarded: u64,
    /// Whether the batch had been begun before.
    pub(super) again: bool,
}

impl Ledger {
    pub(super) fn new(most_events: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            begun: 0,
            events: 0,
            bytes: 0,
            most_events,
            asked: HashSet::new(),
            next_id: 1,
            took: None,
        }
    }

    /// Adds a batch at the end.
    pub(super) fn push(
        &mut self,
        port: u64,
        prefix: &Arc<str>,
        events: Events,
        done: oneshot::Sender<Taken>,
    ) {
        let prefix = Arc::clone(prefix);
        self.batches.push_back(Batch {
            port,
            prefix,
            events,
            done: Some(done),
            barrier: 0,
            due: None,
            begun: None,
            again: false,
        });
    }

    /// Adds a question that changes nothing, to see whether the broker answers.
    pub(super) fn push_probe(&mut self) {
        let (prefix, events) = (Arc::from(""), Events::default());
        self.batches.push_back(Batch {
            port: 0,
            prefix,
            events,
            done: None,
            barrier: 0,
            due: None,
            begun: None,
            again: false,
        });
    }

    /// Whether there is nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether a batch of `port` is not confirmed.
    pub(super) fn holds(&self, port: u64) -> bool {
        self.batches.iter().any(|batch| batch.port == port)
    }

    /// Whether another batch could be begun at once.
    pub(super) fn has_room(&self) -> bool {
        self.begun == self.batches.len() && self.is_below()
    }

    const fn is_below(&self) -> bool {
        self.begun == 0 || (self.events < self.most_events && self.bytes < BYTES)
    }

    /// Encodes the next batch, unless too much is unconfirmed.
    pub(super) fn begin(&mut self, into: &mut BytesMut, due: Instant) -> Option<Begun> {
        if !self.is_below() {
            return None;
        }
        let Self { batches, asked, next_id, .. } = self;
        let batch = batches.get_mut(self.begun)?;
        if asked.len() > ASKED {
            asked.clear();
        }
        let begun = Begun { again: batch.again, ..batch.encode(into, asked, next_id) };
        batch.due = Some(due);
        batch.begun = Some(Instant::now());
        self.begun += 1;
        self.events += batch.events.len();
        self.bytes += batch.events.payload_bytes();
        Some(begun)
    }

    /// Learns an answer. Says whether a batch is confirmed by it.
    ///
    /// # Errors
    ///
    /// The broker's code, if it is not that all is well. Then nothing is confirmed.
    pub(super) fn answered(&mut self, id: u32, code: Code) -> Result<bool, Code> {
        if code != Code::OK {
            return Err(code);
        }
        if self.begun == 0 || self.batches.front().is_none_or(|batch| batch.barrier != id) {
            return Ok(false);
        }
        let Some(batch) = self.batches.pop_front() else { return Ok(false) };
        self.forget_begun(&batch);
        self.took = batch.begun.map(|begun| begun.elapsed());
        Ok(batch.tell(Taken::All))
    }

    /// How long the batch that was confirmed last took from its first byte to its answer.
    pub(super) const fn took(&self) -> Option<Duration> {
        self.took
    }

    /// Whether an answer is overdue.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.batches.front().and_then(|batch| batch.due).is_some_and(|due| due <= now)
    }

    /// Drops the batches of a port that were not begun, and tells their tickets.
    pub(super) fn withdraw(&mut self, port: u64) {
        for batch in self.batches.split_off(self.begun) {
            if batch.port == port {
                batch.tell(Taken::Withdrawn);
            } else {
                self.batches.push_back(batch);
            }
        }
    }

    /// Learns that the connection is lost: probes are dropped, all else begins anew.
    pub(super) fn lose(&mut self) {
        self.batches.iter_mut().take(self.begun).for_each(|batch| batch.again = true);
        self.batches.retain(|batch| batch.done.is_some());
        self.batches.iter_mut().for_each(|batch| batch.due = None);
        (self.begun, self.events, self.bytes) = (0, 0, 0);
        self.asked.clear();
    }

    fn forget_begun(&mut self, batch: &Batch) {
        self.begun -= 1;
        self.events -= batch.events.len();
        self.bytes -= batch.events.payload_bytes();
    }
}

impl Batch {
    /// Appends the batch; its last frame asks for an answer, and so does the first of each topic not asked about before.
    fn encode(&mut self, into: &mut BytesMut, asked: &mut HashSet<Box<str>>, next_id: &mut u32) -> Begun {
        let topics: Vec<_> = self.events.topics.iter().map(|topic| self.spell(topic.slashed())).collect();
        let is_new = |topic: &Cow<'_, str>| !asked.contains(&**topic) && asked.insert((&**topic).into());
        let mut new: Vec<bool> = topics.iter().map(is_new).collect();
        let place = |event: &Event| usize::try_from(event.topic).ok().filter(|place| *place < topics.len());
        let last = self.events.events.iter().rposition(|event| place(event).is_some());
        let mut begun = Begun::default();
        let mut barrier = None;
        for (index, event) in self.events.events.iter().enumerate() {
            let place = place(event);
            let Some(topic) = place.and_then(|place| topics.get(place)) else {
                begun.discarded += 1;
                continue;
            };
            let first = place.and_then(|place| new.get_mut(place)).is_some_and(mem::take);
            let qos = if first || last == Some(index) { Qos::Processed } else { Qos::No };
            let id = take_id(next_id);
            if client::publish(into, Head { id, qos }, topic, &event.payload).is_ok() {
                begun.published += 1;
                barrier = qos.needs_ack().then_some(id);
            } else {
                begun.discarded += 1;
            }
        }
        self.barrier = barrier.unwrap_or_else(|| {
            let id = take_id(next_id);
            ask(into, id);
            id
        });
        begun
    }

    fn spell<'a>(&self, topic: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() {
            Cow::Borrowed(topic)
        } else {
            Cow::Owned(format!("{}{topic}", self.prefix))
        }
    }

    /// Answers the ticket; says whether there is one.
    fn tell(self, taken: Taken) -> bool {
        let Some(done) = self.done else { return false };
        // An error means that nobody wants to know.
        done.send(taken).unwrap_or_default();
        true
    }
}

const fn take_id(next: &mut u32) -> u32 {
    let id = *next;
    // Above are the ids of what is no batch.
    *next = (id + 1) % FIRST_ID;
    id
}

/// Appends a question that changes nothing: nothing was ever excluded.
pub(super) fn ask(into: &mut BytesMut, id: u32) {
    let head = Head { id, qos: Qos::Processed };
    client::topics(into, head, TopicsOf::Unexclude, &["daemoneye/probe"]).expect("it fits into a frame");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        native::codec::client::{ClientFrame, Request},
        topic::Topic,
    };

    const OK: Code = Code::OK;

    fn events(topics: &[&str]) -> Events {
        let mut events = Events::default();
        for topic in topics {
            events.push(&Topic::parse(topic).unwrap(), Bytes::from_static(b"x"), 0);
        }
        events
    }

    fn push(ledger: &mut Ledger, port: u64, topics: &[&str]) -> oneshot::Receiver<Taken> {
        let (done, taken) = oneshot::channel();
        ledger.push(port, &Arc::from(""), events(topics), done);
        taken
    }

    /// Begins all that may be begun and returns its frames.
    fn begin(ledger: &mut Ledger) -> Vec<ClientFrame> {
        let mut bytes = BytesMut::new();
        let due = Instant::now() + Duration::from_secs(1);
        while let Some(begun) = ledger.begin(&mut bytes, due) {
            assert_eq!(begun.discarded, 0);
        }
        std::iter::from_fn(|| client::decode(&mut bytes, 4096).unwrap()).collect()
    }

    fn asks(frames: &[ClientFrame]) -> Vec<bool> {
        frames.iter().map(|frame| frame.qos.needs_ack()).collect()
    }

    #[tokio::test]
    async fn only_the_last_frame_and_new_topics_ask_for_an_answer() {
        let mut ledger = Ledger::new(100);
        let _one = push(&mut ledger, 1, &["a", "a", "b", "b", "a"]);
        let _two = push(&mut ledger, 1, &["a", "b", "a"]);
        let frames = begin(&mut ledger);
        assert_eq!(asks(&frames), [true, false, true, false, true, false, false, true]);
        assert!(matches!(&frames[2].request, Request::Publish { topic, .. } if topic.as_str() == "b"));
    }

    #[tokio::test]
    async fn a_batch_is_confirmed_by_its_barrier_and_not_before() {
        let mut ledger = Ledger::new(100);
        let mut one = push(&mut ledger, 1, &["a", "a"]);
        let mut two = push(&mut ledger, 1, &["a"]);
        let ids: Vec<u32> = begin(&mut ledger).iter().map(|frame| frame.id).collect();
        assert_eq!(ledger.answered(ids[0], OK), Ok(false));
        assert!(one.try_recv().is_err());
        assert_eq!(ledger.answered(ids[1], OK), Ok(true));
        assert_eq!(one.try_recv(), Ok(Taken::All));
        assert_eq!(ledger.answered(ids[2], Code::ACCESS), Err(Code::ACCESS));
        assert!(two.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_answer_of_a_former_connection_confirms_nothing() {
        let mut ledger = Ledger::new(100);
        let _one = push(&mut ledger, 1, &["a"]);
        let former = begin(&mut ledger)[0].id;
        ledger.lose();
        assert_eq!(ledger.answered(former, OK), Ok(false));
        let present = begin(&mut ledger)[0].id;
        assert_eq!(ledger.answered(former, OK), Ok(false));
        assert_eq!(ledger.answered(present, OK), Ok(true));
    }

    #[tokio::test]
    async fn what_was_lost_begins_anew_in_order() {
        let mut ledger = Ledger::new(100);
        let _tickets = [push(&mut ledger, 1, &["a"]), push(&mut ledger, 1, &["b"])];
        ledger.push_probe();
        let first = begin(&mut ledger);
        assert_eq!(first.len(), 3);
        assert!(ledger.is_overdue(Instant::now() + Duration::from_secs(2)));
        ledger.lose();
        assert!(!ledger.is_overdue(Instant::now() + Duration::from_secs(2)));
        let again = begin(&mut ledger);
        assert_eq!(again.len(), 2);
        assert_eq!(asks(&again), [true, true], "topics are asked about anew");
        assert_eq!(again[0].request, first[0].request);
    }

    #[tokio::test]
    async fn what_is_unconfirmed_is_bounded_but_one_batch_always_goes() {
        let mut ledger = Ledger::new(3);
        let _tickets = [push(&mut ledger, 1, &["a"; 5]), push(&mut ledger, 1, &["a"])];
        let frames = begin(&mut ledger);
        assert_eq!(frames.len(), 5);
        assert!(!ledger.has_room());
        ledger.answered(frames[4].id, OK).unwrap();
        assert_eq!(begin(&mut ledger).len(), 1);
        assert!(ledger.has_room());
    }

    #[tokio::test]
    async fn a_withdrawn_port_keeps_what_was_begun() {
        let mut ledger = Ledger::new(1);
        let mut begun = push(&mut ledger, 1, &["a"]);
        let mut waiting = push(&mut ledger, 1, &["a"]);
        let mut other = push(&mut ledger, 2, &["a"]);
        let frames = begin(&mut ledger);
        ledger.withdraw(1);
        assert_eq!(waiting.try_recv(), Ok(Taken::Withdrawn));
        assert!(begun.try_recv().is_err() && other.try_recv().is_err());
        assert!(ledger.holds(1));
        ledger.answered(frames[0].id, OK).unwrap();
        assert!(!ledger.holds(1) && ledger.holds(2));
    }

    #[tokio::test]
    async fn events_without_a_topic_are_counted_and_an_empty_batch_is_confirmed() {
        let mut ledger = Ledger::new(100);
        let mut broken = events(&["a"]);
        broken.events[0].topic = 7;
        let (done, mut taken) = oneshot::channel();
        ledger.push(1, &Arc::from("from/x/"), broken, done);
        let mut bytes = BytesMut::new();
        let begun = ledger.begin(&mut bytes, Instant::now()).unwrap();
        assert_eq!(begun, Begun { published: 0, discarded: 1, again: false });
        let frame = client::decode(&mut bytes, 100).unwrap().unwrap();
        assert!(matches!(frame.request, Request::Unexclude(_)));
        assert_eq!(ledger.answered(frame.id, OK), Ok(true));
        assert_eq!(taken.try_recv(), Ok(Taken::All));
    }
}
