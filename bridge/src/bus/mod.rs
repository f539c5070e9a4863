//! One end of a bridge: the local bus.
//!
//! [`Bus`] is the seam between the federation and a message bus. It speaks batches: a [`Port`] for each name that speaks,
//! a [`Ticket`] for each batch, which says when the batch has been taken as its [`Route`] demands. An implementation keeps
//! a batch until it can be taken, in order, across every outage of its broker; so a ticket never fails, it waits.
//!
//! Kept true: batches of one lane are taken in the order they were submitted; after [`Port::close`] has returned, nothing
//! of that port is published any more, and each of its tickets says whether its batch was.

use std::{fmt, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::topic::{self, Pattern};

pub mod door;
pub mod embedded;
#[cfg(any(windows, test))]
pub(crate) mod memory;
#[cfg(any(windows, test))]
pub mod pipe;
#[cfg(unix)]
pub mod remote;

pub mod rpc;

mod ear;
mod filter;
mod port;
mod route;
mod state;

pub use ear::{Beat, Drum, Ear, Heard, HeardAs, Room, ear};
pub use filter::{Filter, FilterError};
pub use port::{Ask, Command, LaneId, Port, SendError, Taken, Ticket, Unsent};
pub use route::{Broker, Confirm, Consumer, Envelope, Route, RouteError, Routes, Rule, Unheard};
pub use state::{BusState, Counter, Counters, Held, Link, Refusal};

/// A local message bus.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Registers `name` on the bus and opens the port through which it speaks.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the name is taken or the bus is going away.
    fn port<'a>(&'a self, name: &'a BusName) -> BoxFuture<'a, Result<Port, PortError>>;

    /// As [`Self::port`], for one of several that share lanes: where tasks divide the work, all that are as `near` have one.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the name is taken or the bus is going away.
    fn port_near<'a>(&'a self, name: &'a BusName, near: u64) -> BoxFuture<'a, Result<Port, PortError>> {
        let _ = near;
        self.port(name)
    }

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

    /// Registers `name` as [`Self::port`] does, to hear as well: what is sent to the name, and what its port
    /// [subscribes to](Port::hear), at most once. It is no audience: nobody waits for it, and what nobody else hears stays
    /// unheard.
    ///
    /// # Errors
    ///
    /// [`PortError`], if the name is taken, the bus is going away, or speaks under one name for all.
    fn attach<'a>(&'a self, name: &'a BusName, room: Room) -> BoxFuture<'a, Result<(Port, Ear), PortError>> {
        async move {
            let port = self.port(name).await?;
            let ear = port.attach(room).await?;
            Ok((port, ear))
        }
        .boxed()
    }

    /// The user of a local client, as the operating system told the door; `None` if it is not known: nobody of that name, one
    /// in this process, or one of a foreign broker.
    fn user_of(&self, _client: &str) -> Option<u32> {
        None
    }

    /// Ends when the client that has this name now is gone; `None` if that cannot be known, because nobody of that name
    /// subscribes or listens here.
    fn departure(&self, _client: &str) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Whether the bus is there, and which routes wait for a subscriber.
    fn state(&self) -> watch::Receiver<BusState>;

    /// What the bus has counted since it was made.
    fn counters(&self) -> Arc<Counters>;
}

/// The name of a bus client: at most four segments, so that registering it is cheap (the broker does work that doubles
/// with each dot) and cannot forge another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(try_from = "String")]
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

impl TryFrom<String> for BusName {
    type Error = topic::TopicError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
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
    /// The bus speaks under one name for all, so nobody can be addressed by its own.
    #[error("the bus has one name for all: set names = \"own\" to let collectors be reached")]
    Shared,
    /// Another client of the bus has this name.
    #[error("the name is already connected")]
    Taken,
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
