//! What became of a batch, on the bus and on its way up.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use daemoneye_bridge::bus::{self, Taken};
use tokio::sync::oneshot;

/// Ends when a batch is taken: by the bus, and by the spool of the way up where it is relayed.
#[derive(Debug)]
#[must_use = "a batch whose ticket nobody reads is never acknowledged"]
pub struct Ticket {
    bus: bus::Ticket,
    /// What the bus has said, while the other is waited for.
    taken: Option<Taken>,
    stored: Option<oneshot::Receiver<()>>,
}

impl Ticket {
    pub(super) const fn new(bus: bus::Ticket, stored: Option<oneshot::Receiver<()>>) -> Self {
        Self { bus, taken: None, stored }
    }
}

impl Future for Ticket {
    type Output = Taken;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Taken> {
        let taken = match self.taken {
            Some(taken) => taken,
            None => ready!(Pin::new(&mut self.bus).poll(cx)),
        };
        self.taken = Some(taken);
        if let (Taken::All, Some(stored)) = (taken, &mut self.stored)
            && ready!(Pin::new(stored).poll(cx)).is_err()
        {
            return Poll::Ready(Taken::Withdrawn);
        }
        Poll::Ready(taken)
    }
}
