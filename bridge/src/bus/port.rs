//! The mouth of a name, and what it asks of the task that speaks for it.
//!
//! Kept true: what is asked through one port is done in the order in which it was asked, but that a batch may have to wait
//! for its audience; then later batches of its lane wait too, through whichever port, and nothing else does.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    bus::{
        BusName, PortError,
        ear::{Drum, Ear, Room, ear},
        filter::{self, Filter},
    },
    event::Events,
    topic::Topic,
};

/// What keeps an order on the bus: the batches of one lane wait for each other, and for nobody else. A stream has one, through
/// whichever ports it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(u64);

impl LaneId {
    /// One that nobody else in this process has.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a port asks of the publisher task that serves it.
///
/// An implementation of [`Bus`](crate::bus::Bus) owns the receiving end.
#[derive(Debug)]
pub enum Command {
    /// Publish a batch of the port.
    Submit {
        /// Which port.
        port: u64,
        /// Whose order it keeps.
        lane: LaneId,
        /// What to publish.
        events: Events,
        /// Where the ticket listens.
        done: oneshot::Sender<Taken>,
    },
    /// Do something at once that is no batch.
    Ask {
        /// Which port.
        port: u64,
        /// What.
        ask: Ask,
        /// Told what became of it.
        done: oneshot::Sender<Result<(), SendError>>,
    },
    /// Let the port hear from now on.
    Attach {
        /// Which port.
        port: u64,
        /// What is beaten on when something is heard.
        drum: Drum,
        /// Told when the name can be addressed.
        done: oneshot::Sender<Result<(), PortError>>,
    },
    /// Publish nothing more of the port, drop what has not been begun, unregister the name.
    Close {
        /// Which port.
        port: u64,
        /// Told when it is so; each ticket has been told before.
        done: oneshot::Sender<()>,
    },
}

/// What is asked at once, beside batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Send to every client whose name the mask matches.
    Broadcast {
        /// Dotted; `?` is one segment, `*` the rest.
        mask: Box<str>,
        /// What to send.
        payload: Bytes,
    },
    /// Do not hear these, though a subscription matches.
    Exclude(Vec<Filter>),
    /// Hear these, too.
    Hear(Vec<Filter>),
    /// Publish to one subscriber of a topic. At most once; no route holds it, and nobody waits for it.
    PublishFor {
        /// The topic.
        topic: Topic,
        /// Bus name of that subscriber.
        receiver: Box<str>,
        /// What to publish.
        payload: Bytes,
    },
    /// Send to one client.
    Send {
        /// Its bus name.
        target: Box<str>,
        /// What to send.
        payload: Bytes,
    },
    /// Take back an [`Ask::Exclude`].
    Unexclude(Vec<Filter>),
    /// Take back an [`Ask::Hear`].
    Unhear(Vec<Filter>),
}

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver has too much to read as it is.
    #[error("the receiver is too busy")]
    Busy,
    /// The port is closed, or the bus has ended.
    #[error("the bus is closed")]
    Closed,
    /// The link to the broker was lost, or is down; it may have been sent.
    #[error("the link to the broker is down")]
    Lost,
    /// It is no name that a client can have, or no mask of names.
    #[error("not a name of a bus client")]
    Name,
    /// Nobody of that name is there.
    #[error("no such bus client")]
    NoClient,
    /// The broker does not take it, or its receiver does not listen.
    #[error("the broker did not deliver it")]
    Undelivered,
}

/// The mouth of one name on the bus. Dropping it closes it without waiting.
#[derive(Debug)]
pub struct Port {
    name: BusName,
    id: u64,
    /// Of batches that come with none.
    lane: LaneId,
    /// Shared by the ports of one publisher; a full queue makes [`Port::submit`] wait.
    queue: mpsc::Sender<Command>,
    /// Its receiver ends when the port is dropped. Unlike a send into `queue` this cannot find it full.
    _dropped: oneshot::Sender<()>,
}

impl Port {
    /// Opens a port onto the publisher behind `queue`; used by implementations of [`Bus`](crate::bus::Bus).
    ///
    /// The receiver ends when the port is dropped, whether or not it was closed before.
    #[must_use]
    pub fn new(name: BusName, id: u64, queue: mpsc::Sender<Command>) -> (Self, oneshot::Receiver<()>) {
        let (dropped, gone) = oneshot::channel();
        (Self { name, id, lane: LaneId::new(), queue, _dropped: dropped }, gone)
    }

    /// The name that its frames carry as their sender.
    #[must_use]
    pub const fn name(&self) -> &BusName {
        &self.name
    }

    /// The lane of what is said through this port alone.
    #[must_use]
    pub const fn lane(&self) -> LaneId {
        self.lane
    }

    /// Hands over a batch of its own lane, waiting while the publisher's queue is full.
    ///
    /// Not cancel safe: a call dropped while it waits loses the batch.
    ///
    /// # Errors
    ///
    /// [`PortError::Closed`], if the bus has ended.
    pub async fn submit(&self, events: Events) -> Result<Ticket, PortError> {
        let (done, taken) = oneshot::channel();
        let command = Command::Submit { port: self.id, lane: self.lane, events, done };
        self.queue.send(command).await.map_err(|_| PortError::Closed)?;
        Ok(Ticket(taken))
    }

    /// Hands over a batch of a lane if the publisher's queue has room, and gives it back otherwise.
    ///
    /// A batch that must wait holds up its lane only, where the implementation can tell lanes apart. Ports that share a lane
    /// should be opened [near](crate::bus::Bus::port_near) each other, or it keeps its order in each of them only.
    ///
    /// # Errors
    ///
    /// [`Unsent`] holds the batch, or says that the bus has ended.
    pub fn try_submit(&self, lane: LaneId, events: Events) -> Result<Ticket, Unsent> {
        let (done, taken) = oneshot::channel();
        self.queue.try_send(Command::Submit { port: self.id, lane, events, done }).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(Command::Submit { events, .. }) => Unsent::Full(events),
                mpsc::error::TrySendError::Full(_) | mpsc::error::TrySendError::Closed(_) => Unsent::Closed,
            }
        })?;
        Ok(Ticket(taken))
    }

    /// Lets the name hear as well. What was submitted goes on; while the name changes hands nobody can address it.
    ///
    /// Cancel safe: a dropped call leaves the port as it was, or deaf again.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the bus is going away, or speaks under one name for all.
    pub async fn attach(&self, room: Room) -> Result<Ear, PortError> {
        let (drum, ear) = ear(room);
        let (done, attached) = oneshot::channel();
        let command = Command::Attach { port: self.id, drum, done };
        self.queue.send(command).await.map_err(|_| PortError::Closed)?;
        attached.await.unwrap_or(Err(PortError::Closed))?;
        Ok(ear)
    }

    /// Hears `filters` from now on, too, if it is attached.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], if the port or the bus has ended.
    pub async fn hear(&self, filters: Vec<Filter>) -> Result<(), SendError> {
        self.ask(Ask::Hear(filters)).await
    }

    /// Takes back [`Self::hear`].
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], if the port or the bus has ended.
    pub async fn unhear(&self, filters: Vec<Filter>) -> Result<(), SendError> {
        self.ask(Ask::Unhear(filters)).await
    }

    /// Does not hear `filters` any more, whatever it subscribes to.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], if the port or the bus has ended.
    pub async fn exclude(&self, filters: Vec<Filter>) -> Result<(), SendError> {
        self.ask(Ask::Exclude(filters)).await
    }

    /// Takes back [`Self::exclude`].
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], if the port or the bus has ended.
    pub async fn unexclude(&self, filters: Vec<Filter>) -> Result<(), SendError> {
        self.ask(Ask::Unexclude(filters)).await
    }

    /// Sends a client a message by its name.
    ///
    /// # Errors
    ///
    /// [`SendError`] says that nobody of that name is there, or why else it was not sent.
    pub async fn send(&self, target: &str, payload: Bytes) -> Result<(), SendError> {
        self.ask(Ask::Send { target: addressed(target)?, payload }).await
    }

    /// Sends a message to all clients whose names a mask matches; there may be none.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn broadcast(&self, mask: &str, payload: Bytes) -> Result<(), SendError> {
        self.ask(Ask::Broadcast { mask: addressed(mask)?, payload }).await
    }

    /// Publishes to one subscriber of a topic, at most once; if it does not subscribe to it, nothing happens.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why not.
    pub async fn publish_for(&self, topic: &Topic, receiver: &str, payload: Bytes) -> Result<(), SendError> {
        self.ask(Ask::PublishFor { topic: topic.clone(), receiver: addressed(receiver)?, payload }).await
    }

    /// Asks for something, waiting while the publisher's queue is full.
    ///
    /// Cancel safe, but that it may be done all the same.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why it was not done.
    pub async fn ask(&self, ask: Ask) -> Result<(), SendError> {
        let (done, answer) = oneshot::channel();
        let command = Command::Ask { port: self.id, ask, done };
        self.queue.send(command).await.map_err(|_| SendError::Closed)?;
        answer.await.unwrap_or(Err(SendError::Closed))
    }

    /// Waits until the publisher's queue has room, or the bus has ended.
    ///
    /// Cancel safe. Another port may take the room first.
    pub async fn ready(&self) {
        drop(self.queue.reserve().await);
    }

    /// Withdraws what has not been taken and unregisters the name.
    ///
    /// When this returns, every ticket of the port has its answer and nothing more of it will be published: what is
    /// submitted afterwards, by whoever shares the port, is withdrawn.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Command::Close { port: self.id, done }).await.is_ok() {
            // An error means that the publisher has ended, and the port with it.
            closed.await.unwrap_or_default();
        }
    }
}

/// Why a batch was not handed over.
#[derive(Debug)]
pub enum Unsent {
    /// The bus has ended.
    Closed,
    /// The publisher's queue is full; here is the batch again.
    Full(Events),
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it was taken, as its routes demand.
    All,
    /// The port was closed first. It may have been published, but that was not confirmed.
    Withdrawn,
}

/// Ends when its batch is taken.
#[derive(Debug)]
#[must_use = "a batch whose ticket nobody reads is never acknowledged"]
pub struct Ticket(oneshot::Receiver<Taken>);

impl Future for Ticket {
    type Output = Taken;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Taken> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Taken::Withdrawn))
    }
}

/// A name or mask that the broker may be given.
fn addressed(target: &str) -> Result<Box<str>, SendError> {
    // The broker answers calls of its own clients; nothing here is one.
    if filter::is_target(target) && !target.starts_with('.') {
        Ok(target.into())
    } else {
        Err(SendError::Name)
    }
}
