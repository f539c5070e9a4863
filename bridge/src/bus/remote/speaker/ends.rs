//! How ports end, and connections.

use tokio::sync::oneshot;

use crate::{
    bus::remote::{
        speaker::{Role, Speaker, tell},
        wire::LinkError,
    },
    settings::Chain,
};

impl Speaker {
    pub(super) fn close(&mut self, port: u64, done: Option<oneshot::Sender<()>>) {
        if let Some(member) = self.ports.get_mut(&port) {
            member.open = false;
        }
        self.ledger.withdraw(port);
        self.closing.push((port, done));
    }

    /// Lets go of closed ports of which nothing is unconfirmed. The port of an own connection goes with the connection.
    pub(super) fn settle(&mut self) {
        if self.role == Role::Own || self.closing.is_empty() {
            return;
        }
        let closing = std::mem::take(&mut self.closing);
        let (waiting, closed): (Vec<_>, Vec<_>) =
            closing.into_iter().partition(|(port, _)| self.ledger.holds(*port));
        self.closing = waiting;
        for (port, done) in closed {
            self.ports.remove(&port);
            tell(done);
        }
    }

    /// Whether nobody needs the connection.
    pub(super) fn is_finished(&self) -> bool {
        match self.role {
            Role::Keeper => !self.joining && self.ports.is_empty(),
            Role::Own => self.closing.first().is_some_and(|(port, _)| !self.ledger.holds(*port)),
        }
    }

    pub(super) fn lose(&mut self, error: &LinkError) {
        let cause = Chain(error).to_string();
        if self.role == Role::Keeper {
            self.shared.down(&cause);
        } else if matches!(error, LinkError::Refused(_) | LinkError::Unconfirmed) {
            tracing::warn!(name = %self.name, error = cause, "connection to the broker given up");
        } else {
            tracing::debug!(name = %self.name, error = cause, "connection to the broker lost");
        }
        self.shared.counters.link_losses.add(1);
        self.aside.lose();
        self.ledger.lose();
        for (port, _) in &self.closing {
            self.ledger.withdraw(*port);
        }
        self.settle();
    }
}
