//! How a trial speaks: through a port of a bus, or on a session with a gateway.

use daemoneye_bridge::{
    bus::{Port, Taken},
    event::Events,
    uplink::probe::{Parcel, Verdict},
};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};

/// One connection that speaks.
#[derive(Debug)]
pub(super) enum Mouth {
    /// On a bus.
    Bus(Port),
    /// On a session; whoever has the receiver carries what is sent here.
    Link(mpsc::Sender<Parcel>),
}

/// The other end is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

/// What becomes of a batch; none if the other end went away first.
pub(super) type Told = BoxFuture<'static, Option<Verdict>>;

impl Mouth {
    /// Hands a batch over, waiting while there is no room.
    pub(super) async fn say(&self, events: Events) -> Result<Told, Gone> {
        match self {
            Self::Bus(port) => {
                let ticket = port.submit(events).await.map_err(|_| Gone)?;
                Ok(ticket.map(|taken| (taken == Taken::All).then_some(Verdict::Taken)).boxed())
            }
            Self::Link(parcels) => {
                let (done, told) = oneshot::channel();
                parcels.send(Parcel { events, done }).await.map_err(|_| Gone)?;
                Ok(told.map(Result::ok).boxed())
            }
        }
    }
}
