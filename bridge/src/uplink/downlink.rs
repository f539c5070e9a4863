//! What a session carries besides events: calls, messages, subscriptions, both ways, for somebody who understands them.
//!
//! ```text
//!   relay ◄── Conversation ── inbound, bounded ◄── Wire ◄── session ◄── gateway
//!         ───────────────────► outbound, bounded ──► Wire ──► session ──► gateway
//! ```
//!
//! Each welcomed session hands out a conversation of its own, so that nothing of an older one is ever said on a newer. Kept
//! true: acknowledgements never wait for the relay, and events never for more than one frame of it. What the relay takes too
//! slowly is dropped and counted; each thing that can be lost so has a deadline at the gateway.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use daemoneye_proto::v1::{link_request, link_response, reply::Outcome};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Where the conversations of an uplink come out, one a session.
pub type Conversations = mpsc::Receiver<Conversation>;

/// The relay's end of a session.
#[derive(Debug)]
pub struct Conversation {
    /// What the gateway says; ends with the session.
    pub inbound: mpsc::Receiver<Heard>,
    /// What is said to the gateway; closed when the session has ended or is leaving.
    pub outbound: mpsc::Sender<link_request::Frame>,
    /// Where the gateway is, for people.
    pub gateway: String,
    /// Set by the relay: calls that are open. A session that is exchanged for another waits a moment for them.
    pub open_calls: Arc<AtomicUsize>,
}

/// A frame of the downlink, and the room that it takes.
#[derive(Debug)]
pub struct Heard {
    /// The frame.
    pub frame: link_response::Frame,
    /// Given back when the relay is done with it.
    _room: OwnedSemaphorePermit,
}

/// Where sessions leave their conversations. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outlet {
    conversations: mpsc::Sender<Conversation>,
    dropped: Arc<AtomicU64>,
}

/// Makes the way by which conversations come out of an uplink.
#[must_use]
pub fn outlet() -> (Outlet, Conversations) {
    let (conversations, taken) = mpsc::channel(CONVERSATIONS);
    (Outlet { conversations, dropped: Arc::default() }, taken)
}

impl Outlet {
    /// Frames from the gateway that were dropped because the relay took them too slowly.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Begins a conversation; the session keeps what is returned.
    pub(super) fn begin(&self, gateway: String) -> Wire {
        let (inbound, hears) = mpsc::channel(INBOUND);
        let (says, outbound) = mpsc::channel(OUTBOUND);
        let open_calls = Arc::new(AtomicUsize::new(0));
        let conversation =
            Conversation { inbound: hears, outbound: says, gateway, open_calls: Arc::clone(&open_calls) };
        if self.conversations.try_send(conversation).is_err() {
            // It takes the newest of all that wait, and there is room for several: it is gone.
            tracing::debug!("nobody relays for this session");
        }
        Wire {
            inbound,
            outbound,
            pending: None,
            room: Arc::new(Semaphore::new(INBOUND_BYTES)),
            open_calls,
            dropped: Arc::clone(&self.dropped),
        }
    }
}

/// The session's end.
#[derive(Debug)]
pub(super) struct Wire {
    inbound: mpsc::Sender<Heard>,
    outbound: mpsc::Receiver<link_request::Frame>,
    /// Taken from the relay, and not sent yet.
    pending: Option<link_request::Frame>,
    room: Arc<Semaphore>,
    open_calls: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl Wire {
    /// Hands a frame of the gateway's to the relay, or drops and counts it.
    pub(super) fn hear(&self, frame: link_response::Frame) {
        let permits = u32::try_from(weight(&frame)).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .is_ok_and(|room| self.inbound.try_send(Heard { frame, _room: room }).is_ok());
        if !taken && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "a frame of the downlink was dropped, for it is not taken fast enough; later ones are only counted"
            );
        }
    }

    /// Waits for something that the relay has to say.
    ///
    /// Cancel safe. Does not end while something waits to be [taken](Self::take), or when the relay is gone.
    pub(super) async fn fill(&mut self) {
        if self.pending.is_none()
            && let Some(frame) = self.outbound.recv().await
        {
            self.pending = Some(frame);
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Whether something waits to be sent.
    pub(super) const fn is_ready(&self) -> bool {
        self.pending.is_some()
    }

    /// What is to be sent next.
    pub(super) const fn take(&mut self) -> Option<link_request::Frame> {
        self.pending.take()
    }

    /// Whether no call is open and nothing waits to be said.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_none() && self.outbound.is_empty() && self.open_calls.load(Ordering::Acquire) == 0
    }
}

/// About what a frame takes of the room.
const fn weight(frame: &link_response::Frame) -> usize {
    let bytes = match frame {
        link_response::Frame::Deliver(deliver) => deliver.payload.len(),
        link_response::Frame::Call(call) => call.params.len(),
        link_response::Frame::Reply(reply) => match &reply.outcome {
            Some(Outcome::Result(result)) => result.len(),
            _ => 0,
        },
        link_response::Frame::Attached(attached) => attached.refused.len().saturating_mul(OVERHEAD),
        link_response::Frame::Subscribed(subscribed) => subscribed.refused.len().saturating_mul(OVERHEAD),
        _ => 0,
    };
    bytes.saturating_add(OVERHEAD)
}

/// Conversations that wait for the relay: it needs the newest only, and is never long about it.
const CONVERSATIONS: usize = 8;

/// Frames that wait for the relay, and their bytes.
const INBOUND: usize = 1024;
const INBOUND_BYTES: usize = 16 << 20;

/// Frames of the relay that wait for the session.
const OUTBOUND: usize = 64;

/// Names and numbers of a frame.
const OVERHEAD: usize = 256;
