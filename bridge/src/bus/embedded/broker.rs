//! Which broker routes: that of the crate `busrt`, or [our own](crate::bus::memory) where that crate does not build.
//!
//! The embedded bus and the door ask neither by name, so that both behave alike to whoever stands on them. A program has one of
//! them, so that asking costs nothing; tests have both.

#[cfg(unix)]
use std::future;

#[cfg(unix)]
use busrt::{FrameKind, QoS, borrow::Cow, client::AsyncClient as _};
use futures_util::{FutureExt, future::BoxFuture};

#[cfg(any(windows, test))]
use crate::bus::memory;
use crate::{
    bus::PortError,
    native::codec::{Code, server::Kind},
};

/// Which broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Engine {
    /// That of the crate `busrt`.
    #[cfg(unix)]
    #[default]
    Busrt,
    /// Ours.
    #[cfg(any(windows, test))]
    #[cfg_attr(windows, default)]
    Memory,
}

/// Asks the crate's, or ours.
macro_rules! either {
    ($asked:expr, $it:pat => busrt: $busrt:expr, ours: $ours:expr $(,)?) => {
        match $asked {
            #[cfg(unix)]
            Self::Busrt($it) => $busrt,
            #[cfg(any(windows, test))]
            Self::Memory($it) => $ours,
        }
    };
}

/// A broker in this process.
#[derive(Debug)]
pub(crate) enum Broker {
    #[cfg(unix)]
    Busrt(BusrtBroker),
    #[cfg(any(windows, test))]
    Memory(memory::Broker),
}

/// The crate's broker does not say what it is.
#[cfg(unix)]
pub(crate) struct BusrtBroker(busrt::broker::Broker);

#[cfg(unix)]
impl std::fmt::Debug for BusrtBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("busrt::broker::Broker")
    }
}

impl Broker {
    pub(crate) fn new(engine: Engine) -> Self {
        match engine {
            #[cfg(unix)]
            Engine::Busrt => Self::Busrt(BusrtBroker(busrt::broker::Broker::new())),
            #[cfg(any(windows, test))]
            Engine::Memory => Self::Memory(memory::Broker::default()),
        }
    }

    /// Lets the broker answer calls to its own name and announce who comes and goes. What is returned must be driven, and
    /// never ends.
    pub(crate) async fn speak(&mut self, queue: usize) -> BoxFuture<'static, ()> {
        match self {
            #[cfg(unix)]
            Self::Busrt(BusrtBroker(broker)) => {
                broker.set_queue_size(queue);
                if let Err(error) = broker.init_default_core_rpc().await {
                    tracing::warn!(%error, "the broker does not answer for itself");
                }
                future::pending().boxed()
            }
            #[cfg(any(windows, test))]
            Self::Memory(broker) => broker.speak(queue).boxed(),
        }
    }

    /// Tells every client that the bus ends, and says nothing more.
    pub(crate) async fn end(&mut self) {
        match self {
            #[cfg(unix)]
            Self::Busrt(BusrtBroker(broker)) => {
                if let Err(error) = broker.announce(busrt::broker::BrokerEvent::shutdown()).await {
                    tracing::debug!(%error, "the end of the bus was not announced");
                }
                // The broker holds the client that holds the broker.
                drop(broker.core_rpc_client().lock().await.take());
            }
            #[cfg(any(windows, test))]
            Self::Memory(broker) => broker.end().await,
        }
    }

    /// Registers a client whose queue takes `queue` frames. Dropping it frees the name.
    pub(crate) async fn register(&mut self, name: &str, queue: usize) -> Result<Client, PortError> {
        match self {
            #[cfg(unix)]
            Self::Busrt(BusrtBroker(broker)) => {
                broker.set_queue_size(queue);
                let registered = broker.register_client(name).await.map_err(|error| {
                    if error.kind() == busrt::ErrorKind::Busy {
                        return PortError::Taken;
                    }
                    tracing::warn!(%name, %error, "broker refused a name");
                    PortError::Closed
                });
                registered.map(Client::Busrt)
            }
            #[cfg(any(windows, test))]
            Self::Memory(broker) => {
                let client = broker.register(name, queue).ok_or(PortError::Taken)?;
                broker.announce("reg", name).await;
                Ok(Client::Memory(client))
            }
        }
    }

    /// Frees the name of a client.
    pub(crate) async fn unregister(&self, client: Client) {
        match (self, client) {
            #[cfg(unix)]
            (Self::Busrt(BusrtBroker(broker)), Client::Busrt(client)) => {
                broker.unregister_client(&client).await;
            }
            #[cfg(any(windows, test))]
            (Self::Memory(broker), Client::Memory(client)) => {
                let name = client.name().to_owned();
                drop(client);
                broker.announce("unreg", &name).await;
            }
            // A client of another broker than it came from: dropping it frees its name there.
            #[cfg(all(unix, test))]
            _ => {}
        }
    }
}

/// A client of the broker.
pub(crate) enum Client {
    #[cfg(unix)]
    Busrt(busrt::broker::Client),
    #[cfg(any(windows, test))]
    Memory(memory::Client),
}

impl Client {
    /// The name that it is registered under.
    pub(crate) fn name(&self) -> &str {
        either!(self, client => busrt: client.get_name(), ours: client.name())
    }

    /// What it hears through; once.
    pub(crate) fn take_queue(&mut self) -> Option<Queue> {
        either!(self, client =>
            busrt: client.take_event_channel().map(Queue::Busrt),
            ours: client.take_queue().map(Queue::Memory),
        )
    }

    /// Publishes to all who subscribe to a slashed topic.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.publish(topic, Cow::Borrowed(payload), haste(realtime)).await),
            ours: {
                client.publish(topic, None, payload, realtime).await;
                Ok(())
            },
        )
    }

    /// Publishes to the one of the subscribers that has that name.
    pub(crate) async fn publish_for(
        &mut self,
        topic: &str,
        receiver: &str,
        payload: &[u8],
        realtime: bool,
    ) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.publish_for(topic, receiver, Cow::Borrowed(payload), haste(realtime)).await),
            ours: {
                client.publish(topic, Some(receiver), payload, realtime).await;
                Ok(())
            },
        )
    }

    /// Sends to the client of that name.
    pub(crate) async fn send(&mut self, target: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.send(target, Cow::Borrowed(payload), haste(realtime)).await),
            ours: client.send(target, payload, realtime).await,
        )
    }

    /// Sends to all whose names match a mask.
    pub(crate) async fn broadcast(&mut self, mask: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.send_broadcast(mask, Cow::Borrowed(payload), haste(realtime)).await),
            ours: {
                client.broadcast(mask, payload, realtime).await;
                Ok(())
            },
        )
    }

    /// Hears slashed filters from now on.
    pub(crate) async fn subscribe(&mut self, filters: &[&str]) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.subscribe_bulk(filters, QoS::No).await),
            ours: {
                client.subscribe(filters.iter().copied());
                Ok(())
            },
        )
    }

    /// Hears filters no more.
    pub(crate) async fn unsubscribe(&mut self, filters: &[&str]) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.unsubscribe_bulk(filters, QoS::No).await),
            ours: {
                client.unsubscribe(filters.iter().copied());
                Ok(())
            },
        )
    }

    /// Passes over topics that match, whatever it subscribes to.
    pub(crate) async fn exclude(&mut self, filters: &[&str]) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.exclude_bulk(filters, QoS::No).await),
            ours: {
                client.exclude(filters.iter().copied());
                Ok(())
            },
        )
    }

    /// Takes an exclusion back.
    pub(crate) async fn unexclude(&mut self, filters: &[&str]) -> Result<(), Code> {
        either!(self, client =>
            busrt: done(client.unexclude_bulk(filters, QoS::No).await),
            ours: {
                client.unexclude(filters.iter().copied());
                Ok(())
            },
        )
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[cfg(unix)]
const fn haste(realtime: bool) -> QoS {
    if realtime { QoS::Realtime } else { QoS::No }
}

#[cfg(unix)]
fn done<T>(result: Result<T, busrt::Error>) -> Result<(), Code> {
    result.map(|_| ()).map_err(|error| match error.kind() {
        // The addressee's queue is closed: nobody reads what is sent to it by name.
        busrt::ErrorKind::Eof => Code::NOT_DELIVERED,
        kind => Code(kind as u8),
    })
}

/// What a client hears through. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Queue {
    #[cfg(unix)]
    Busrt(busrt::EventChannel),
    #[cfg(any(windows, test))]
    Memory(memory::Queue),
}

impl Queue {
    /// Waits for a frame; none once the queue is closed and empty.
    ///
    /// Cancel safe.
    pub(crate) async fn recv(&self) -> Option<Frame> {
        either!(self, queue =>
            busrt: queue.recv().await.ok().map(Frame::Busrt),
            ours: queue.recv().await.ok().map(Frame::Memory),
        )
    }

    /// Takes a frame if there is one.
    pub(crate) fn try_recv(&self) -> Option<Frame> {
        either!(self, queue =>
            busrt: queue.try_recv().ok().map(Frame::Busrt),
            ours: queue.try_recv().ok().map(Frame::Memory),
        )
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        either!(self, queue => busrt: queue.len(), ours: queue.len())
    }

    /// Frames that may wait.
    pub(crate) fn capacity(&self) -> usize {
        either!(self, queue => busrt: queue.capacity(), ours: queue.capacity()).unwrap_or(usize::MAX)
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        either!(self, queue => busrt: queue.close(), ours: queue.close());
    }

    /// Whether nothing more comes in.
    pub(crate) fn is_closed(&self) -> bool {
        either!(self, queue => busrt: queue.is_closed(), ours: queue.is_closed())
    }
}

/// Something that one client sent to another.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    #[cfg(unix)]
    Busrt(busrt::Frame),
    #[cfg(any(windows, test))]
    Memory(memory::Frame),
}

impl Frame {
    /// How it was sent; none for what a broker sends to sockets only.
    pub(crate) fn kind(&self) -> Option<Kind> {
        either!(self, frame =>
            busrt: match frame.kind() {
                FrameKind::Publish => Some(Kind::Publish),
                FrameKind::Message => Some(Kind::Message),
                FrameKind::Broadcast => Some(Kind::Broadcast),
                FrameKind::Acknowledge | FrameKind::Nop | FrameKind::Prepared => None,
            },
            ours: Some(frame.kind()),
        )
    }

    /// Who sent it.
    pub(crate) fn sender(&self) -> &str {
        either!(self, frame => busrt: frame.sender(), ours: frame.sender())
    }

    /// Slashed; none unless published.
    pub(crate) fn topic(&self) -> Option<&str> {
        either!(self, frame => busrt: frame.topic(), ours: frame.topic())
    }

    /// The first part of the payload, where a client in this process sent it in two.
    pub(crate) fn header(&self) -> Option<&[u8]> {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => frame.header(),
            #[cfg(any(windows, test))]
            Self::Memory(_) => None,
        }
    }

    /// The payload, or what follows [`Self::header`].
    pub(crate) fn payload(&self) -> &[u8] {
        either!(self, frame => busrt: frame.payload(), ours: frame.payload())
    }

    /// Whether its sender asked for haste.
    pub(crate) fn is_realtime(&self) -> bool {
        either!(self, frame => busrt: frame.is_realtime(), ours: frame.is_realtime())
    }
}
