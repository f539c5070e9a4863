//! The last word in a handshake: who has no name is nobody, and who is denied stays out.

use std::{sync::Arc, time::SystemTime};

use daemoneye_bridge::trust::{Finding, Judge, RefusalReason, VerifiedChain, quoted};
use tokio::sync::watch;

use crate::{deny::Denials, identity::Directory};

/// Stands at the door. Asked in the handshake already, so that every refusal is the same alert.
#[derive(Debug)]
pub(super) struct Porter {
    directory: Arc<Directory>,
    denials: watch::Receiver<Arc<Denials>>,
}

impl Porter {
    pub(super) const fn new(directory: Arc<Directory>, denials: watch::Receiver<Arc<Denials>>) -> Self {
        Self { directory, denials }
    }
}

impl Judge for Porter {
    fn judge(&self, chain: &VerifiedChain) -> Result<(), Finding> {
        self.directory.judge(chain)?;
        let peer = self.directory.identify(chain)?;
        let denials = Arc::clone(&self.denials.borrow());
        denials.find(peer.id(), chain, SystemTime::now()).map_or(Ok(()), |entry| {
            tracing::debug!(peer = %peer.id(), by = %entry.target(), reason = entry.reason(), "peer is denied");
            let target = entry.target().to_string();
            let says = format!("the deny-list has {} ({})", quoted(&target), quoted(entry.reason()));
            Err(Finding::new(RefusalReason::Denied, says))
        })
    }
}
