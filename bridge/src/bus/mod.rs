//! One end of a bridge: the local bus.
//!
//! [`Bus`] is the seam between the federation and a message bus. It speaks batches: a [`Port`] for each name that speaks,
//! a [`Ticket`] for each batch, which says when the batch has been taken as its [`Route`] demands. An implementation keeps
//! a batch until it can be taken, in order, across every outage of its broker; so a ticket never fails, it waits.
//!
//! Kept true: batches of one lane of a port are taken in the order they were submitted; after [`Port::close`] has returned, nothing
//! of that port is published any more, and each of its tickets says whether its batch was.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    event::Events,
    topic::{self, Pattern},
};

#[cfg(unix)]
pub mod door;
#[cfg(unix)]
pub mod embedded;
#[cfg(unix)]
pub mod remote;

pub mod rpc;

mod route;
mod state;

pub use route::{Broker, Confirm, Envelope, Route, RouteError, Routes, Rule, Unheard};
pub use state::{BusState, Counter, Counters, Held, Link};

/// A local message bus.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Registers `name` on the bus and opens the port through which it speaks.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the name is taken or the bus is going away.
    fn port<'a>(&'a self, name: &'a BusName) -> BoxFuture<'a, Result<Port, PortError>>;

    /// Registers `name` and hears `patterns`.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the name is taken or the bus is going away.
    fn subscribe<'a>(
        &'a self,
        name: &'a BusName,
        patterns: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>>;

    /// Registers `name` and hears `patterns` at most once: nobody waits for this one, and it is no audience. What nobody else
    /// hears stays unheard, and what it cannot take is dropped and counted.
    ///
    /// A foreign broker treats all its clients alike.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the name is taken or the bus is going away.
    fn overhear<'a>(
        &'a self,
        name: &'a BusName,
        patterns: &'a [Pattern],
    ) -> BoxFuture<'a, Result<Subscription, PortError>> {
        self.subscribe(name, patterns)
    }

    /// Whether the bus is there, and which routes wait for a subscriber.
    fn state(&self) -> watch::Receiver<BusState>;

    /// What the bus has counted since it was made.
    fn counters(&self) -> Arc<Counters>;
}

/// The name of a bus client: at most four segments, so that registering it is cheap (the broker does work that doubles
/// with each dot) and cannot forge another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusName(Arc<str>);

impl BusName {
    /// Most segments of a name.
    pub const MAX_SEGMENTS: usize = 4;

    /// Reads a dotted name.
    ///
    /// # Errors
    ///
    /// [`topic::TopicError`] names what breaks the grammar.
    pub fn parse(name: &str) -> Result<Self, topic::TopicError> {
        if name.split('.').count() > Self::MAX_SEGMENTS {
            return Err(topic::TopicError::TooDeep);
        }
        topic::Topic::parse(name).map(|name| Self(name.dotted().into()))
    }

    /// The name of a remote collector: `collector.<site>.<name>`.
    ///
    /// # Errors
    ///
    /// [`topic::TopicError`], if either part is not a single segment.
    pub fn collector(site: &str, name: &str) -> Result<Self, topic::TopicError> {
        if let Some(dotted) = [site, name].into_iter().find(|part| part.contains('.')) {
            return topic::Topic::parse(dotted).and(Err(topic::TopicError::Character('.')));
        }
        Self::parse(&format!("collector.{site}.{name}"))
    }

    /// The name as the bus writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BusName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The bus is going away.
    #[error("the bus is closed")]
    Closed,
    /// Another client of the bus has this name.
    #[error("the name is already connected")]
    Taken,
}

/// What a port asks of the publisher task that serves it.
///
/// An implementation of [`Bus`] owns the receiving end.
#[derive(Debug)]
pub enum Command {
    /// Publish a batch of the port.
    Submit {
        /// Which port.
        port: u64,
        /// Which lane of it: batches of one lane keep their order, and wait for each other only.
        lane: u64,
        /// What to publish.
        events: Events,
        /// Where the ticket listens.
        done: oneshot::Sender<Taken>,
    },
    /// Publish nothing more of the port, drop what has not been begun, unregister the name.
    Close {
        /// Which port.
        port: u64,
        /// Told when it is so; each ticket has been told before.
        done: oneshot::Sender<()>,
    },
}

/// The mouth of one name on the bus. Dropping it closes it without waiting.
#[derive(Debug)]
pub struct Port {
    name: BusName,
    id: u64,
    /// Shared by the ports of one publisher; a full queue makes [`Port::submit`] wait.
    queue: mpsc::Sender<Command>,
    /// Its receiver ends when the port is dropped. Unlike a send into `queue` this cannot find it full.
    _dropped: oneshot::Sender<()>,
}

impl Port {
    /// Opens a port onto the publisher behind `queue`; used by implementations of [`Bus`].
    ///
    /// The receiver ends when the port is dropped, whether or not it was closed before.
    #[must_use]
    pub fn new(name: BusName, id: u64, queue: mpsc::Sender<Command>) -> (Self, oneshot::Receiver<()>) {
        let (dropped, gone) = oneshot::channel();
        (Self { name, id, queue, _dropped: dropped }, gone)
    }

    /// The name that its frames carry as their sender.
    #[must_use]
    pub const fn name(&self) -> &BusName {
        &self.name
    }

    /// Hands over a batch of lane 0, waiting while the publisher's queue is full.
    ///
    /// Not cancel safe: a call dropped while it waits loses the batch.
    ///
    /// # Errors
    ///
    /// [`PortError::Closed`], if the bus has ended.
    pub async fn submit(&self, events: Events) -> Result<Ticket, PortError> {
        let (done, taken) = oneshot::channel();
        let command = Command::Submit { port: self.id, lane: 0, events, done };
        self.queue.send(command).await.map_err(|_| PortError::Closed)?;
        Ok(Ticket(taken))
    }

    /// Hands over a batch of a lane if the publisher's queue has room, and gives it back otherwise.
    ///
    /// A batch that must wait holds up its lane only, where the implementation can tell lanes apart.
    ///
    /// # Errors
    ///
    /// [`Unsent`] holds the batch, or says that the bus has ended.
    pub fn try_submit(&self, lane: u64, events: Events) -> Result<Ticket, Unsent> {
        let (done, taken) = oneshot::channel();
        self.queue.try_send(Command::Submit { port: self.id, lane, events, done }).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(Command::Submit { events, .. }) => Unsent::Full(events),
                mpsc::error::TrySendError::Full(_) | mpsc::error::TrySendError::Closed(_) => Unsent::Closed,
            }
        })?;
        Ok(Ticket(taken))
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

/// What one client hears.
///
/// Messages handed out by one call of [`Self::next`] count as taken when the next call begins, or when [`Self::taken`] is
/// called; until then a batch that waits for this consumer is not confirmed. A subscription must not stop reading: what it
/// does not read holds up the acknowledgements of everything it matches.
pub struct Subscription(Box<dyn Inbox>);

/// What an implementation of [`Bus`] puts behind a [`Subscription`].
pub trait Inbox: Send + 'static {
    /// Waits for at least one message and appends at most `most` to `into`; `false` when the bus has ended. Must be
    /// cancel safe, and mark what was handed out before as taken.
    fn next<'a>(&'a mut self, into: &'a mut Vec<Message>, most: usize) -> BoxFuture<'a, bool>;

    /// Marks what was handed out before as taken.
    fn taken(&mut self);
}

impl Subscription {
    /// Wraps the inbox of an implementation.
    #[must_use]
    pub fn new(inbox: Box<dyn Inbox>) -> Self {
        Self(inbox)
    }

    /// Waits for messages and appends at most `most` of them; `false` when the bus has ended.
    ///
    /// Cancel safe.
    pub async fn next(&mut self, into: &mut Vec<Message>, most: usize) -> bool {
        self.0.next(into, most).await
    }

    /// Says that everything handed out so far is safe, without asking for more.
    pub fn taken(&mut self) {
        self.0.taken();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// A message heard on the bus.
#[derive(Clone, Debug)]
pub struct Message {
    /// Bus name of the sender.
    pub sender: Arc<str>,
    /// Slashed topic as it stands on the bus; empty for a message sent by name. Not judged by our grammar: a local client
    /// may publish what it likes.
    pub topic: Arc<str>,
    /// The payload.
    pub payload: bytes::Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_name_has_at_most_four_segments() {
        assert!(BusName::parse("a.b.c.d").is_ok());
        assert!(BusName::parse("a.b.c.d.e").is_err());
        assert_eq!(
            BusName::collector("site-a", "procmond-1").unwrap().as_str(),
            "collector.site-a.procmond-1"
        );
        assert!(BusName::collector("site.a", "x").is_err());
        assert!(BusName::collector("", "x").is_err());
    }
}
