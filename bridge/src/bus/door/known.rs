//! What a reader knows of a topic that its client publishes to.

use std::sync::Arc;

use crate::{
    bus::embedded::{
        Core,
        barrier::Barrier,
        member::{Member, OVERHEAD},
    },
    native::codec::Code,
};

/// A topic that was published to before.
pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) verdict: Result<(), Code>,
    pub(super) audience: Box<[Arc<Member>]>,
    pub(super) overhearers: Box<[Arc<Member>]>,
}

impl Known {
    /// The consumers in this process that hear it, or the one of them that it is meant for.
    pub(super) fn hearing<'a>(&'a self, receiver: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Member>> {
        self.held_up(receiver).filter(|member| member.is_in_process())
    }

    /// Those for whom this client waits while they are full, or the one of them that it is meant for.
    pub(super) fn held_up<'a>(&'a self, receiver: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Member>> {
        self.audience.iter().filter(move |member| {
            member.holds_up() && receiver.is_none_or(|receiver| *member.name == *receiver)
        })
    }

    /// Lets the other clients of the door that have just been sent something note when it is on their sockets. Consumers in
    /// this process do so by the barrier of the turn.
    pub(super) fn time(&self, receiver: Option<&str>) {
        let told = |member: &&Arc<Member>| {
            !member.is_in_process() && receiver.is_none_or(|receiver| *member.name == *receiver)
        };
        let mut told = self.audience.iter().filter(told).peekable();
        if told.peek().is_some() {
            let (_, own) = Barrier::raise(());
            told.for_each(|member| member.post(own.of(member.id)));
        }
    }
}

/// Bytes announced to those for whom publishers wait; taken back if they are not published, for else a client that is cut off
/// in the middle would leave their inboxes a little fuller for ever.
pub(super) struct Expected<'a> {
    core: &'a Core,
    known: &'a Known,
    receiver: Option<&'a str>,
    bytes: usize,
    pub(super) published: bool,
}

impl<'a> Expected<'a> {
    pub(super) fn announce(
        core: &'a Core,
        known: &'a Known,
        receiver: Option<&'a str>,
        payload: usize,
    ) -> Self {
        let bytes = payload + OVERHEAD;
        known.held_up(receiver).for_each(|member| member.expect(bytes));
        Self { core, known, receiver, bytes, published: false }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        for member in self.known.held_up(self.receiver) {
            if member.unload(self.bytes) {
                self.core.table.stir();
            }
        }
    }
}
