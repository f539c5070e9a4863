//! Consumers in this process: a shelf between the broker's queue and [`Subscription`](crate::bus::Subscription).
//!
//! The pump drains the broker's queue onto the shelf at all times, so that the broker never waits; publishers look at how
//! full the shelf is before they publish. What is sent to the consumer by name has no publisher who could wait: beyond
//! twice the bound it is dropped and counted. So is what is overheard, beyond the bound.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};

use crate::{
    bus::{
        Inbox, Message,
        embedded::{
            ANNOUNCED, Core,
            barrier::Token,
            broker::{Client, Frame, Queue},
            member::{Member, OVERHEAD},
            table::Seat,
        },
    },
    native::codec::server::Kind,
};

/// Most names remembered, so that each need not be allocated again.
const REMEMBERED: usize = 4096;

/// What lies on a shelf.
enum Item {
    Frame(Frame),
    Token(Token),
}

/// What the pump and the consumer share.
struct Shelf {
    core: Arc<Core>,
    member: Arc<Member>,
    /// Given up by whichever ends first, pump or consumer.
    seat: Mutex<Option<Seat>>,
    content: Mutex<Content>,
    /// Tells the consumer that something came.
    arrived: Notify,
}

struct Content {
    items: VecDeque<Item>,
    /// Whether the consumer has taken all that it was handed.
    caught_up: bool,
    ended: bool,
}

/// Makes a consumer and the pump that feeds it.
pub(super) fn open(
    core: Arc<Core>,
    member: Arc<Member>,
    client: Client,
    queue: Queue,
) -> (Consumer, BoxFuture<'static, ()>) {
    core.counters.inboxes_opened.add(1);
    let content = Content { items: VecDeque::new(), caught_up: true, ended: false };
    let seat = Mutex::new(Some(Seat::take(Arc::clone(&core), Arc::clone(&member))));
    let shelf = Arc::new(Shelf { core, member, seat, content: Mutex::new(content), arrived: Notify::new() });
    let pump = pump(End(Arc::clone(&shelf)), client, queue).boxed();
    let consumer = Consumer { shelf, handed: Vec::new(), names: HashMap::new() };
    (consumer, pump)
}

/// Drives all pumps; ends with the bus.
pub(super) async fn run(core: Arc<Core>, mut begun: mpsc::Receiver<BoxFuture<'static, ()>>) {
    let mut pumps = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = pumps.next(), if !pumps.is_empty() => {}
            Some(pump) = begun.recv() => pumps.push(pump),
            // Last, and each pump sees it too: what was begun is finished first.
            () = core.ended.cancelled(), if pumps.is_empty() => return,
        }
    }
}

/// Drains the broker's queue until the consumer or the bus is gone.
async fn pump(end: End, client: Client, queue: Queue) {
    let shelf = Arc::clone(&end.0);
    let ended = shelf.core.ended.clone();
    let member = Arc::clone(&shelf.member);
    loop {
        tokio::select! {
            biased;
            frame = queue.recv() => match frame {
                Some(frame) => shelf.gather(Some(frame), &queue),
                // Closed by the consumer.
                None => break,
            },
            () = member.wake.notified() => shelf.gather(None, &queue),
            () = ended.cancelled() => break,
        }
    }
    shelf.gather(None, &queue);
    drop(end);
    shelf.core.unregister(client, None).await;
}

/// Tells the consumer, however the pump ends, that no more will come.
struct End(Arc<Shelf>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Shelf {
    fn end(&self) {
        let seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner).take();
        if seat.is_some() {
            self.core.counters.inboxes_closed.add(1);
        }
        drop(seat);
        self.content.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.arrived.notify_one();
    }

    /// Puts `first` and all that is in the queue on the shelf, then the tokens that were posted before.
    fn gather(&self, first: Option<Frame>, queue: &Queue) {
        let mut tokens = Vec::new();
        self.member.collect(&mut tokens);
        // Counted after the tokens were taken: every frame they stand behind is among these.
        let queued = queue.len();
        let mut came = false;
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = (0..queued).map_while(|_| queue.try_recv());
        for frame in first.into_iter().chain(rest) {
            if frame.topic().is_some_and(|topic| topic.starts_with(ANNOUNCED)) {
                continue;
            }
            // What no publisher has announced, and none waits with.
            let overheard = self.member.overhears();
            if overheard || frame.kind() != Some(Kind::Publish) {
                if self.member.is_overfull() || overheard && self.member.is_full() {
                    self.core.counters.inbox_dropped.add(1);
                    continue;
                }
                self.member.expect(cost(&frame));
            }
            came = true;
            content.items.push_back(Item::Frame(frame));
        }
        let passes = content.caught_up && content.items.is_empty();
        if !passes {
            content.items.extend(mem::take(&mut tokens).into_iter().map(Item::Token));
        }
        drop(content);
        if came {
            self.arrived.notify_one();
        }
        tokens.into_iter().for_each(Token::pass);
    }
}

fn cost(frame: &Frame) -> usize {
    frame.payload().len() + frame.header().map_or(0, <[u8]>::len) + OVERHEAD
}

/// The consumer's end.
pub(super) struct Consumer {
    shelf: Arc<Shelf>,
    /// Tokens that stand behind what was handed out last.
    handed: Vec<Token>,
    names: HashMap<Box<str>, Arc<str>>,
}

impl Consumer {
    /// Moves at most `most` messages off the shelf; `None` when there will be no more.
    fn take(&mut self, into: &mut Vec<Message>, most: usize) -> Option<usize> {
        let (mut bytes, mut frames) = (0, Vec::new());
        let mut content = self.shelf.content.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(item) = content.items.pop_front() {
            match item {
                Item::Frame(frame) if frames.len() < most => {
                    bytes += cost(&frame);
                    frames.push(frame);
                }
                Item::Token(token) => self.handed.push(token),
                frame @ Item::Frame(_) => {
                    content.items.push_front(frame);
                    break;
                }
            }
        }
        content.caught_up = frames.is_empty();
        let over = content.ended && content.items.is_empty();
        drop(content);
        if self.shelf.member.unload(bytes) {
            self.shelf.core.table.stir();
        }
        let count = frames.len();
        self.shelf.core.counters.inbox_taken.add(count as u64);
        into.extend(frames.into_iter().map(|frame| self.message(frame)));
        if count == 0 {
            self.handed.drain(..).for_each(Token::pass);
        }
        (count > 0 || !over).then_some(count)
    }

    fn message(&mut self, frame: Frame) -> Message {
        let sender = self.name(frame.sender());
        let topic = self.name(frame.topic().unwrap_or_default());
        let payload = match frame.header() {
            None => Bytes::from_owner(Payload(frame)),
            Some(header) => [header, frame.payload()].concat().into(),
        };
        Message { sender, topic, payload }
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= REMEMBERED {
            self.names.clear();
        }
        let made: Arc<str> = name.into();
        self.names.insert(name.into(), Arc::clone(&made));
        made
    }
}

impl Inbox for Consumer {
    fn next<'a>(&'a mut self, into: &'a mut Vec<Message>, most: usize) -> BoxFuture<'a, bool> {
        async move {
            self.taken();
            loop {
                match self.take(into, most.max(1)) {
                    None => return false,
                    Some(0) => self.shelf.arrived.notified().await,
                    Some(_) => return true,
                }
            }
        }
        .boxed()
    }

    fn taken(&mut self) {
        self.handed.drain(..).for_each(Token::pass);
        let mut leading = Vec::new();
        let mut content = self.shelf.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.caught_up = true;
        while let Some(Item::Token(_)) = content.items.front() {
            if let Some(Item::Token(token)) = content.items.pop_front() {
                leading.push(token);
            }
        }
        drop(content);
        leading.into_iter().for_each(Token::pass);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Closing ends the pump, which frees the name. All tokens go before the seat, so that their batches are back with
        // their publishers before the table shows the member gone.
        self.shelf.member.close();
        let items = mem::take(&mut self.shelf.content.lock().unwrap_or_else(PoisonError::into_inner).items);
        drop(items);
        self.handed.clear();
        self.shelf.end();
    }
}

/// A frame's payload, without copying it.
struct Payload(Frame);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.0.payload()
    }
}
