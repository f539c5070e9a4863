//! Orders to a session: a flag each, and one waker.
//!
//! A session looks at its bell each time round its loop, so looking must cost next to nothing: no lock, no allocation, and
//! nothing that other sessions touch.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU8, Ordering},
    task::Poll,
};

use futures_util::task::AtomicWaker;

/// What a session may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Announce the end, settle and leave.
    Drain = 1,
    /// Make way for a newer session of the same stream.
    Fence = 2,
    /// The policy has changed: look at your rights again.
    Rejudge = 4,
}

/// Rung from outside, heard by one session.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicU8,
    waker: AtomicWaker,
}

/// The orders given since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orders(u8);

impl Orders {
    pub(super) const fn has(self, order: Order) -> bool {
        self.0 & order as u8 != 0
    }
}

impl Bell {
    /// Gives an order.
    pub(super) fn ring(&self, order: Order) {
        self.rung.fetch_or(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Waits for orders and takes them.
    ///
    /// Cancel safe. One waits at a time.
    pub(super) async fn rung(&self) -> Orders {
        poll_fn(|cx| {
            if self.rung.load(Ordering::Acquire) == 0 {
                self.waker.register(cx.waker());
            }
            // Looked at again after registering, or an order given in between would not be heard.
            match self.rung.swap(0, Ordering::AcqRel) {
                0 => Poll::Pending,
                orders => Poll::Ready(Orders(orders)),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_given_before_and_while_waiting_are_heard_once() {
        let bell = Bell::default();
        bell.ring(Order::Drain);
        bell.ring(Order::Rejudge);
        let orders = bell.rung().await;
        assert!(orders.has(Order::Drain) && orders.has(Order::Rejudge) && !orders.has(Order::Fence));
        let (orders, ()) = tokio::join!(bell.rung(), async { bell.ring(Order::Fence) });
        assert!(orders.has(Order::Fence));
        assert!(futures_util::FutureExt::now_or_never(bell.rung()).is_none());
    }
}
