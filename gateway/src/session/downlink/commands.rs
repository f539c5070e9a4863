//! Held commands of one collector, on their way to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use daemoneye_proto::v1::{self, link_response::Frame};
use tokio::sync::watch;

use crate::{
    held::{Entry, Handle, HoldError},
    identity::PeerId,
    session::downlink::relay::{Done, Relay},
};

/// Held commands of one collector.
pub(super) struct Commands {
    held: Handle,
    collector: PeerId,
    changes: watch::Receiver<Arc<BTreeMap<u64, Arc<Entry>>>>,
    /// Told on this session: not told twice, and taken for received only then.
    sent: BTreeSet<u64>,
}

impl Commands {
    pub(super) fn new(held: Handle, collector: PeerId) -> Self {
        let changes = held.watch();
        Self { held, collector, changes, sent: BTreeSet::new() }
    }

    /// Waits for a command that was not told yet.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<Entry> {
        loop {
            self.changes.borrow_and_update();
            if let Some(entry) = self.held.next_for(&self.collector, &self.sent) {
                return entry;
            }
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Relay {
    /// Tells the collector a command; it comes again on another session unless it is received.
    pub(super) fn command(&mut self, entry: &Entry) {
        self.commands.sent.insert(entry.number());
        self.hall.metrics.downlink.delivered();
        self.say(Frame::Deliver(v1::Deliver {
            topic: String::new(),
            payload: entry.payload().clone(),
            sender: SENDER.to_owned(),
            collector: self.wire.clone(),
            command: entry.number(),
        }));
    }

    /// The peer says that commands are safe, or never will be taken.
    pub(super) fn received(&mut self, numbers: &[u64]) {
        let sent: Vec<u64> = numbers.iter().copied().filter(|n| self.commands.sent.contains(n)).collect();
        for number in sent {
            let (held, collector) = (self.commands.held.clone(), self.id.clone());
            let handed = self.hand_over(async move {
                match held.received(number, &collector).await {
                    Ok(_) | Err(HoldError::Absent(_)) => {}
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::error!(
                            error,
                            number,
                            "a received command is still held, and will come again"
                        );
                    }
                }
                Done::Answered
            });
            if !handed {
                tracing::debug!(number, "a received command is still held, and will come again");
            }
        }
    }
}

/// Who sends held commands; no client may have a name that begins with a dot.
const SENDER: &str = ".gateway";
