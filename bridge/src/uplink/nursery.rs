//! The tasks of one connection, kept inside the future of the uplink.
//!
//! tonic and hyper start tasks of their own for a connection. They are handed here instead of to the runtime, so that
//! dropping the nursery drops the connection, whatever the peer does or leaves undone.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the tasks of one connection.
#[derive(Debug)]
pub(super) struct Nursery {
    tasks: FuturesUnordered<Task>,
    born: mpsc::Receiver<Task>,
}

/// Where a connection leaves its tasks.
#[derive(Clone, Debug)]
pub(super) struct Cradle(mpsc::Sender<Task>);

impl Nursery {
    pub(super) fn new() -> (Self, Cradle) {
        let (cradle, born) = mpsc::channel(CAPACITY);
        (Self { tasks: FuturesUnordered::new(), born }, Cradle(cradle))
    }

    /// Runs the tasks; ends when all have ended and none can be born any more.
    ///
    /// Cancel safe: the tasks go on with the next call.
    pub(super) async fn run(&mut self) {
        let mut open = true;
        while open || !self.tasks.is_empty() {
            tokio::select! {
                biased;
                task = self.born.recv(), if open => match task {
                    Some(task) => self.tasks.push(task),
                    None => open = false,
                },
                // Without tasks the stream is at its end and would be ready at once.
                Some(()) = self.tasks.next(), if !self.tasks.is_empty() => {}
            }
        }
    }

    /// Runs the tasks beside `work`, until that ends.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            () = self.run() => {}
        }
        // The connection is gone; `work` learns of it in its own way.
        work.await
    }

    /// Gives the tasks a moment to say goodbye, then drops them.
    pub(super) async fn wind_up(mut self) {
        let _cut = time::timeout(GOODBYE, self.run()).await;
    }
}

impl hyper::rt::Executor<Task> for Cradle {
    fn execute(&self, task: Task) {
        if self.0.try_send(task).is_err() {
            // A connection has a handful of tasks. Without one of them it fails, and is dialled anew.
            tracing::error!("connection task dropped, its nursery is full or gone");
        }
    }
}

/// Tasks of one connection that may wait to be picked up.
const CAPACITY: usize = 64;

/// For GOAWAY and the end of TLS.
const GOODBYE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use hyper::rt::Executor;

    use super::*;

    #[tokio::test]
    async fn tasks_run_beside_the_work_and_end_with_the_nursery() {
        let (mut nursery, cradle) = Nursery::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let alive = std::sync::Arc::new(());
        let held = std::sync::Arc::clone(&alive);
        cradle.execute(Box::pin(async move {
            tell.send(7).unwrap();
            std::future::pending::<()>().await;
            drop(held);
        }));
        assert_eq!(nursery.beside(told).await, Ok(7));
        drop(nursery);
        assert_eq!(std::sync::Arc::strong_count(&alive), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_will_not_end_does_not_hold_up_the_goodbye() {
        let (nursery, cradle) = Nursery::new();
        cradle.execute(Box::pin(std::future::pending()));
        drop(cradle);
        nursery.wind_up().await;
    }
}
