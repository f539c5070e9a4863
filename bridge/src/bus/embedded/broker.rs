//! Which broker routes: that of the crate `busrt`, or [our own](crate::bus::memory) where that crate does not build.
//!
//! The embedded bus and the door ask neither by name, so that both behave alike to whoever stands on them.

#[cfg(unix)]
use busrt::{FrameKind, QoS, borrow::Cow, client::AsyncClient as _};

use crate::{
    bus::{PortError, memory},
    native::codec::{Code, server::Kind},
};

/// Which broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// That of the crate `busrt`.
    #[cfg(unix)]
    #[default]
    Busrt,
    /// Ours.
    #[cfg_attr(not(unix), default)]
    Memory,
}

/// A broker in this process.
#[derive(Debug)]
pub(crate) enum Broker {
    #[cfg(unix)]
    Busrt(BusrtBroker),
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
            Engine::Memory => Self::Memory(memory::Broker::default()),
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
            Self::Memory(broker) => broker.register(name, queue).map(Client::Memory).ok_or(PortError::Taken),
        }
    }

    /// Frees the name of a client.
    pub(crate) async fn unregister(&self, client: Client) {
        #[cfg(unix)]
        if let (Self::Busrt(BusrtBroker(broker)), Client::Busrt(client)) = (self, &client) {
            broker.unregister_client(client).await;
        }
        drop(client);
    }
}

/// A client of the broker.
pub(crate) enum Client {
    #[cfg(unix)]
    Busrt(busrt::broker::Client),
    Memory(memory::Client),
}

impl Client {
    /// The name that it is registered under.
    pub(crate) fn name(&self) -> &str {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => client.get_name(),
            Self::Memory(client) => client.name(),
        }
    }

    /// What it hears through; once.
    pub(crate) fn take_queue(&mut self) -> Option<Queue> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => client.take_event_channel().map(Queue::Busrt),
            Self::Memory(client) => client.take_queue().map(Queue::Memory),
        }
    }

    /// Publishes to all who subscribe to a slashed topic.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => done(client.publish(topic, Cow::Borrowed(payload), haste(realtime)).await),
            Self::Memory(client) => {
                client.publish(topic, None, payload, realtime).await;
                Ok(())
            }
        }
    }

    /// Publishes to the one of the subscribers that has that name.
    pub(crate) async fn publish_for(
        &mut self,
        topic: &str,
        receiver: &str,
        payload: &[u8],
        realtime: bool,
    ) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => {
                let payload = Cow::Borrowed(payload);
                done(client.publish_for(topic, receiver, payload, haste(realtime)).await)
            }
            Self::Memory(client) => {
                client.publish(topic, Some(receiver), payload, realtime).await;
                Ok(())
            }
        }
    }

    /// Sends to the client of that name.
    pub(crate) async fn send(&mut self, target: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => done(client.send(target, Cow::Borrowed(payload), haste(realtime)).await),
            Self::Memory(client) => client.send(target, payload, realtime).await,
        }
    }

    /// Sends to all whose names match a mask.
    pub(crate) async fn broadcast(&mut self, mask: &str, payload: &[u8], realtime: bool) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => {
                done(client.send_broadcast(mask, Cow::Borrowed(payload), haste(realtime)).await)
            }
            Self::Memory(client) => {
                client.broadcast(mask, payload, realtime).await;
                Ok(())
            }
        }
    }

    /// Hears slashed filters from now on.
    pub(crate) async fn subscribe(&mut self, filters: &[&str]) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => done(client.subscribe_bulk(filters, QoS::No).await),
            Self::Memory(client) => {
                client.subscribe(filters.iter().copied());
                Ok(())
            }
        }
    }

    /// Hears filters no more.
    pub(crate) async fn unsubscribe(&mut self, filters: &[&str]) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => done(client.unsubscribe_bulk(filters, QoS::No).await),
            Self::Memory(client) => {
                client.unsubscribe(filters.iter().copied());
                Ok(())
            }
        }
    }

    /// Passes over topics that match, whatever it subscribes to.
    pub(crate) async fn exclude(&mut self, filters: &[&str]) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => done(client.exclude_bulk(filters, QoS::No).await),
            Self::Memory(client) => {
                client.exclude(filters.iter().copied());
                Ok(())
            }
        }
    }

    /// Takes an exclusion back.
    pub(crate) async fn unexclude(&mut self, filters: &[&str]) -> Result<(), Code> {
        match self {
            #[cfg(unix)]
            Self::Busrt(client) => done(client.unexclude_bulk(filters, QoS::No).await),
            Self::Memory(client) => {
                client.unexclude(filters.iter().copied());
                Ok(())
            }
        }
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
    Memory(memory::Queue),
}

impl Queue {
    /// Waits for a frame; none once the queue is closed and empty.
    ///
    /// Cancel safe.
    pub(crate) async fn recv(&self) -> Option<Frame> {
        match self {
            #[cfg(unix)]
            Self::Busrt(queue) => queue.recv().await.ok().map(Frame::Busrt),
            Self::Memory(queue) => queue.recv().await.ok().map(Frame::Memory),
        }
    }

    /// Takes a frame if there is one.
    pub(crate) fn try_recv(&self) -> Option<Frame> {
        match self {
            #[cfg(unix)]
            Self::Busrt(queue) => queue.try_recv().ok().map(Frame::Busrt),
            Self::Memory(queue) => queue.try_recv().ok().map(Frame::Memory),
        }
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        match self {
            #[cfg(unix)]
            Self::Busrt(queue) => queue.len(),
            Self::Memory(queue) => queue.len(),
        }
    }

    /// Frames that may wait.
    pub(crate) fn capacity(&self) -> usize {
        let bound = match self {
            #[cfg(unix)]
            Self::Busrt(queue) => queue.capacity(),
            Self::Memory(queue) => queue.capacity(),
        };
        bound.unwrap_or(usize::MAX)
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        match self {
            #[cfg(unix)]
            Self::Busrt(queue) => queue.close(),
            Self::Memory(queue) => queue.close(),
        };
    }

    /// Whether nothing more comes in.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            #[cfg(unix)]
            Self::Busrt(queue) => queue.is_closed(),
            Self::Memory(queue) => queue.is_closed(),
        }
    }
}

/// Something that one client sent to another.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    #[cfg(unix)]
    Busrt(busrt::Frame),
    Memory(memory::Frame),
}

impl Frame {
    /// How it was sent; none for what a broker sends to sockets only.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => match frame.kind() {
                FrameKind::Publish => Some(Kind::Publish),
                FrameKind::Message => Some(Kind::Message),
                FrameKind::Broadcast => Some(Kind::Broadcast),
                FrameKind::Acknowledge | FrameKind::Nop | FrameKind::Prepared => None,
            },
            Self::Memory(frame) => Some(frame.kind()),
        }
    }

    /// Who sent it.
    pub(crate) fn sender(&self) -> &str {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => frame.sender(),
            Self::Memory(frame) => frame.sender(),
        }
    }

    /// Slashed; none unless published.
    pub(crate) fn topic(&self) -> Option<&str> {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => frame.topic(),
            Self::Memory(frame) => frame.topic(),
        }
    }

    /// The first part of the payload, where a client in this process sent it in two.
    pub(crate) fn header(&self) -> Option<&[u8]> {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => frame.header(),
            Self::Memory(_) => None,
        }
    }

    /// The payload, or what follows [`Self::header`].
    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => frame.payload(),
            Self::Memory(frame) => frame.payload(),
        }
    }

    /// Whether its sender asked for haste.
    pub(crate) fn is_realtime(&self) -> bool {
        match self {
            #[cfg(unix)]
            Self::Busrt(frame) => frame.is_realtime(),
            Self::Memory(frame) => frame.is_realtime(),
        }
    }
}
