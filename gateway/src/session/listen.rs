//! `Subscribe`: what a peer may hear of the bus, at most once.
//!
//! The bus must never wait for a remote peer, so what finds no room is dropped here and counted, and the peer is told how
//! much it missed before it hears the next message.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use daemoneye_bridge::topic::Pattern;
use daemoneye_proto::{
    MAX_PATTERNS,
    v1::{self, subscribe_response::Frame},
};
use futures_util::{Stream, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use crate::{
    bus::{Heard, Hearing},
    policy::Rights,
    session::{Hall, http2::CutReason, metrics::Who, registry::Presence, status::Fault},
};

/// Most messages that wait for one subscriber.
const MOST_MESSAGES: usize = 1024;

/// Most bytes that wait for one subscriber; a message may be as large as all of it.
const MOST_BYTES: usize = 2 << 20;

/// A message, and the room it takes until it is on its way.
type Item = (Result<v1::SubscribeResponse, Status>, Option<OwnedSemaphorePermit>);

/// What the wire takes from a subscription.
pub(super) struct Inflow(mpsc::Receiver<Item>);

impl Stream for Inflow {
    type Item = Result<v1::SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|item| item.map(|(message, _room)| message))
    }
}

/// Reads the patterns of a request.
pub(super) fn patterns(texts: &[String]) -> Result<Vec<Pattern>, Fault> {
    if texts.is_empty() || texts.len() > MAX_PATTERNS {
        return Err(Fault::broken("patterns", format!("{}; must be 1 to {MAX_PATTERNS}", texts.len())));
    }
    let parse = |text: &String| {
        Pattern::parse(text).map_err(|error| {
            let shown: String = text.chars().take(64).collect();
            Fault::broken("patterns", format!("`{}`: {error}", shown.escape_debug()))
        })
    };
    texts.iter().map(parse).collect()
}

/// One subscription of a peer.
pub(super) struct Listener {
    pub(super) rights: Rights,
    pub(super) patterns: Vec<Pattern>,
    pub(super) hearing: Hearing,
    pub(super) cut: BoxFuture<'static, CutReason>,
    pub(super) presence: Presence,
}

/// The two ends of what waits for a subscriber.
pub(super) fn queue(who: Who) -> (Queue, Inflow) {
    let (wire, heard) = mpsc::channel(MOST_MESSAGES);
    (Queue { wire, room: Arc::new(Semaphore::new(MOST_BYTES)), missed: 0, who }, Inflow(heard))
}

/// What waits for a subscriber. When it is full, messages are dropped and counted.
pub(super) struct Queue {
    wire: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    /// Dropped since the peer was told last.
    missed: u64,
    who: Who,
}

impl Queue {
    /// Offers a message; says whether it was dropped.
    fn offer(&mut self, heard: Heard) -> bool {
        let taken = self.send(heard).is_some();
        if !taken {
            self.missed = self.missed.saturating_add(1);
        }
        !taken
    }

    /// Sends a message, and before it how much was missed, if there is room for all of that.
    fn send(&mut self, heard: Heard) -> Option<()> {
        let bytes = u32::try_from(heard.payload.len().clamp(1, MOST_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()?;
        let mut places = self.wire.try_reserve_many(if self.missed == 0 { 1 } else { 2 }).ok()?;
        if self.missed > 0 {
            let frame = v1::SubscribeResponse { frame: Some(Frame::Dropped(self.missed)) };
            places.next()?.send((Ok(frame), None));
            self.missed = 0;
        }
        let deliver = v1::Deliver {
            topic: heard.topic.dotted().to_owned(),
            payload: heard.payload,
            sender: heard.sender.as_ref().to_owned(),
            collector: String::new(),
            command: 0,
        };
        let frame = v1::SubscribeResponse { frame: Some(Frame::Deliver(deliver)) };
        places.next()?.send((Ok(frame), Some(room)));
        Some(())
    }
}

/// Serves a subscription to its end.
pub(super) async fn run(hall: Arc<Hall>, mut listener: Listener, mut queue: Queue) {
    let fault = serve(&hall, &mut listener, &mut queue).await;
    drop(listener.presence);
    tracing::debug!(reason = fault.reason(), "subscription ended");
    // Full means that the peer does not read; it is not waited for.
    let _told = queue.wire.try_send((Err(fault.into()), None));
}

async fn serve(hall: &Hall, listener: &mut Listener, queue: &mut Queue) -> Fault {
    let mut policy = hall.judge.watch();
    // It may have changed before it was watched.
    if let Err(fault) = rejudge(hall, listener) {
        return fault;
    }
    let wire = queue.wire.clone();
    loop {
        let (mut dropped, mut heard) = (0_u64, 0_u64);
        tokio::select! {
            biased;
            reason = &mut listener.cut => return Fault::Cut(reason),
            () = hall.leash.draining() => return hall.draining(),
            () = policy.changed() => if let Err(fault) = rejudge(hall, listener) {
                return fault;
            },
            () = wire.closed() => return Fault::Lost,
            alive = listener.hearing.next(|each| {
                dropped += u64::from(queue.offer(each));
                heard += 1;
            }) => {
                hall.metrics.delivered(heard.saturating_sub(dropped));
                if dropped > 0 {
                    hall.metrics.dropped(&queue.who, dropped);
                }
                if !alive {
                    return Fault::BusGone;
                }
            }
        }
    }
}

/// Asks whether the peer may still hear all of it. What the bus delivers is then what the new permit allows, so that there
/// is nothing to spend it on.
fn rejudge(hall: &Hall, listener: &mut Listener) -> Result<(), Fault> {
    let rights = hall.judge.renew(&listener.rights)?;
    drop(rights.subscribe(listener.patterns.clone())?);
    listener.rights = rights;
    Ok(())
}

#[cfg(test)]
mod tests {
    use daemoneye_bridge::topic::Topic;
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::session::metrics::Metrics;

    fn heard(size: usize) -> Heard {
        Heard { topic: Topic::parse("a.b").unwrap(), sender: "x".into(), payload: vec![0; size].into() }
    }

    fn next(heard: &mut Inflow) -> Option<Frame> {
        heard.next().now_or_never()?.unwrap().unwrap().frame
    }

    #[test]
    fn a_peer_that_reads_too_slowly_is_told_how_much_it_missed() {
        let (mut queue, mut told) = queue(Metrics::default().who("r".to_owned(), "s"));
        assert!(!queue.offer(heard(MOST_BYTES - 10)));
        assert!(!queue.offer(heard(10)));
        assert!(queue.offer(heard(1)), "no room for its bytes");
        assert!(queue.offer(heard(1)));
        assert!(matches!(next(&mut told), Some(Frame::Deliver(_))));
        assert!(!queue.offer(heard(1)));
        assert!(matches!(next(&mut told), Some(Frame::Deliver(_))));
        assert_eq!(next(&mut told), Some(Frame::Dropped(2)));
        assert!(matches!(next(&mut told), Some(Frame::Deliver(_))));
        assert_eq!(next(&mut told), None);
    }

    #[test]
    fn many_small_messages_are_bounded_too() {
        let (mut queue, _told) = queue(Metrics::default().who("r".to_owned(), "s"));
        let dropped = (0..MOST_MESSAGES * 2).filter(|_| queue.offer(heard(0))).count();
        assert_eq!(dropped, MOST_MESSAGES);
    }

    #[test]
    fn patterns_are_read_or_complained_of() {
        assert_eq!(patterns(&["a.#".to_owned()]).unwrap().len(), 1);
        assert!(patterns(&[]).is_err());
        assert!(patterns(&vec!["a".to_owned(); 65]).is_err());
        let long = patterns(&[format!("{}\0", "a".repeat(10_000))]).unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
    }
}
