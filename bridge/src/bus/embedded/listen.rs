//! Ports that hear: the pump between the broker's queue and an [`Ear`](crate::bus::Ear), and the port's place in the table.
//!
//! The pump drains the broker's queue at all times; the ear has the rule for what does not fit. The port's publisher owns the
//! broker's client, so whichever ends first, publisher or pump, gives the place in the table up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    bus::{
        Beat, Drum, Heard, HeardAs,
        embedded::{
            ANNOUNCED, Core,
            broker::{Frame, Queue},
            member::Member,
            table::Seat,
        },
    },
    native::codec::server::Kind,
};

/// Frames that the broker queues for a port that hears, before whoever publishes yields to its pump: four times as many as a
/// publisher publishes before it looks.
pub(super) const EAR_QUEUE: usize = 128;

/// Most names remembered, so that each need not be allocated again.
const REMEMBERED: usize = 1024;

/// A port that hears, from its publisher's side. Dropped, it is deaf, and gone from the table.
pub(super) struct Listener {
    pub(super) member: Arc<Member>,
    place: Arc<Place>,
}

/// A seat that two may give up.
struct Place(Mutex<Option<Seat>>);

impl Place {
    fn give_up(&self) {
        let seat = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Outside the lock, for it ends the member.
        drop(seat);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.place.give_up();
    }
}

/// Gives up the place, however the pump ends.
struct End(Arc<Place>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Takes a place in the table, and makes the pump that fills the ear behind `drum`.
pub(super) fn open(
    core: &Arc<Core>,
    (id, name): (u64, &str),
    queue: Queue,
    drum: Drum,
) -> (Listener, BoxFuture<'static, ()>) {
    let member = Arc::new(Member::listening(id, name.into(), queue.clone(), drum.load()));
    let seat = Seat::take(Arc::clone(core), Arc::clone(&member));
    let place = Arc::new(Place(Mutex::new(Some(seat))));
    let pump = pump(Arc::clone(core), End(Arc::clone(&place)), queue, drum).boxed();
    (Listener { member, place }, pump)
}

/// Drains the broker's queue until the port, the ear or the bus is gone.
async fn pump(core: Arc<Core>, end: End, queue: Queue, drum: Drum) {
    let mut names = Names::default();
    loop {
        tokio::select! {
            biased;
            frame = queue.recv() => match frame {
                Some(frame) => {
                    let rest = (0..queue.len()).map_while(|_| queue.try_recv());
                    let is_told = |frame: &Frame| frame.topic().is_some_and(|topic| topic.starts_with(ANNOUNCED));
                    for frame in std::iter::once(frame).chain(rest).filter(|frame| !is_told(frame)) {
                        if let Beat::Dropped(count) = drum.offer(names.heard(frame)) {
                            core.counters.inbox_dropped.add(count);
                        }
                    }
                }
                // Closed with the port.
                None => break,
            },
            () = drum.deaf() => break,
            () = core.ended.cancelled() => break,
        }
    }
    drop(end);
}

/// Names that came before.
#[derive(Default)]
struct Names(HashMap<Box<str>, Arc<str>>);

impl Names {
    fn heard(&mut self, frame: Frame) -> Heard {
        let kind = match frame.kind() {
            Some(Kind::Publish) => HeardAs::Published,
            Some(Kind::Broadcast) => HeardAs::Broadcast,
            _ => HeardAs::Message,
        };
        let sender = self.name(frame.sender());
        let topic = self.name(frame.topic().unwrap_or_default());
        let payload = match frame.header() {
            None => Bytes::from_owner(Payload(frame)),
            Some(header) => [header, frame.payload()].concat().into(),
        };
        Heard { kind, sender, topic, payload }
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let made: Arc<str> = name.into();
        self.0.insert(name.into(), Arc::clone(&made));
        made
    }
}

/// A frame's payload, without copying it.
struct Payload(Frame);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.0.payload()
    }
}
