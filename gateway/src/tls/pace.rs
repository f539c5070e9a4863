//! Handshakes take turns, so that those who are already here do not wait for those who come.
//!
//! A step of a handshake is cryptography: with RSA or P-384, half a millisecond that no other task of its worker gets. Strangers come in
//! bunches, and the scheduler runs tasks in the order in which they became ready: behind ten handshakes, an ack waited five
//! milliseconds on a machine that was mostly idle.
//!
//! Kept true: of several workers one at least is in no handshake; after a step that took long, every other task that is ready has its turn before
//! the next handshake has, and so has what arrives on sockets.

use std::{pin::pin, sync::Arc, task::Poll, time::Duration};

use futures_util::{pending, poll};
use tokio::{runtime::Handle, sync::Semaphore, task, time::Instant};

/// A step that takes less is no cryptography, and needs no rest.
const SHORT: Duration = Duration::from_micros(50);

/// How many handshakes take a step at once; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pace(Arc<Semaphore>);

impl Pace {
    /// For the runtime this is called in: one less than its workers.
    pub(super) fn of_runtime() -> Self {
        Self::new(Handle::current().metrics().num_workers().saturating_sub(1).max(1))
    }

    fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Runs `handshake`, each step in its turn.
    ///
    /// Cancel safe, if `handshake` is.
    pub(super) async fn keep<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        loop {
            // It is never closed.
            let turn = self.0.acquire().await;
            let begun = Instant::now();
            let step = poll!(handshake.as_mut());
            let took_long = begun.elapsed() >= SHORT;
            if took_long {
                task::yield_now().await;
            }
            drop(turn);
            match step {
                Poll::Ready(outcome) => return outcome,
                // It may have been woken while it rested.
                Poll::Pending if took_long => {}
                Poll::Pending => pending!(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use futures_util::{FutureExt, future};
    use tokio::{
        sync::Barrier,
        task::{self, JoinSet},
    };

    use super::*;

    /// Goes to the end of the queue of those who are ready.
    async fn again() {
        let mut is_behind = false;
        future::poll_fn(|cx| {
            if std::mem::replace(&mut is_behind, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_worker_is_always_free_of_handshakes() {
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (pace, mut all) = (Pace::of_runtime(), JoinSet::new());
        for _ in 0..32 {
            let (pace, busy, most) = (pace.clone(), Arc::clone(&busy), Arc::clone(&most));
            all.spawn(async move {
                let steps = async {
                    for _ in 0..8 {
                        most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        busy.fetch_sub(1, Ordering::SeqCst);
                        task::yield_now().await;
                    }
                };
                pace.keep(steps).await;
            });
        }
        all.join_all().await;
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    /// Ten handshakes are ready at once, and one other task is always ready: it is never two handshakes behind.
    #[tokio::test]
    async fn whoever_is_ready_has_its_turn_between_two_handshakes() {
        const MANY: usize = 10;
        let (pace, gate) = (Pace::new(1), Arc::new(Barrier::new(MANY + 1)));
        let (steps, mut handshakes) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for _ in 0..MANY {
            let (pace, gate, steps) = (pace.clone(), Arc::clone(&gate), Arc::clone(&steps));
            handshakes.spawn(async move {
                gate.wait().await;
                let step = async {
                    thread::sleep(SHORT);
                    steps.fetch_add(1, Ordering::SeqCst)
                };
                pace.keep(step).await
            });
        }
        let mut other = JoinSet::new();
        other.spawn(async move {
            gate.wait().await;
            let (mut seen, mut most) = (0, 0);
            while seen < MANY {
                again().await;
                let now = steps.load(Ordering::SeqCst);
                (seen, most) = (now, most.max(now - seen));
            }
            most
        });
        handshakes.join_all().await;
        let most = other.join_all().await[0];
        assert_eq!(most, 1, "handshakes between two turns of another");
    }

    #[tokio::test]
    async fn a_handshake_that_is_given_up_gives_its_turn_on() {
        let pace = Pace::new(1);
        let held = Arc::clone(&pace.0).acquire_owned().await.unwrap();
        let mut waiting = Box::pin(pace.keep(future::ready(1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        drop(waiting);
        let mut resting = Box::pin(pace.keep(async { thread::sleep(SHORT) }));
        assert!(resting.as_mut().now_or_never().is_none());
        assert_eq!(pace.keep(future::ready(2)).now_or_never(), None, "it rests with its turn in hand");
        drop(resting);
        assert_eq!(pace.keep(future::ready(2)).now_or_never(), Some(2));
    }
}
