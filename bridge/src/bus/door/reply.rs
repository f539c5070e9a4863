//! Acks on their way to a client.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        door::inquiry::Inquiries,
        embedded::{Core, barrier::Outcome, member::Member},
    },
    native::codec::Code,
};

/// Acks that wait for the writer. As many as the client's frames ask for: the outbox that they go to is bounded.
#[derive(Debug)]
pub(super) struct Replies {
    waiting: Mutex<Vec<(u32, Code)>>,
    /// Whose writer is woken.
    member: Arc<Member>,
    /// Answers of the broker itself that are on their way, too.
    pub(super) inquiries: Inquiries,
}

impl Replies {
    pub(super) const fn new(member: Arc<Member>, core: Arc<Core>) -> Self {
        Self { waiting: Mutex::new(Vec::new()), member, inquiries: Inquiries::new(core) }
    }

    /// Adds acks and wakes the writer.
    pub(super) fn push(&self, acks: impl IntoIterator<Item = (u32, Code)>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(acks);
        self.member.wake.notify_one();
    }

    /// Takes all.
    pub(super) fn take(&self) -> Vec<(u32, Code)> {
        mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The acks of published frames that wait until consumers in this process have taken them.
pub(super) struct Acks {
    pub(super) ids: Vec<u32>,
    pub(super) replies: Arc<Replies>,
    /// Consumers in this process among those who heard them.
    pub(super) takers: Vec<u64>,
    /// Set when the bus has ended.
    pub(super) ended: CancellationToken,
    /// A place in the window of unsettled turns.
    pub(super) _place: OwnedSemaphorePermit,
}

impl Outcome for Acks {
    fn settle(&self, passed: &[u64]) {
        // Not passed: every consumer went away before it took them. When the bus ends, all go, and what one of them should
        // keep must not be confirmed because another has heard it.
        let all_took = self.takers.iter().all(|taker| passed.contains(taker));
        let is_taken = !passed.is_empty() && (all_took || !self.ended.is_cancelled());
        let code = if is_taken { Code::OK } else { Code::NOT_DELIVERED };
        self.replies.push(self.ids.iter().map(|id| (*id, code)));
    }
}
