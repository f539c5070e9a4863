//! What a client hears: judged, and put on the wire as BUS/RT writes it.

use std::sync::Arc;

use daemoneye_bridge::{
    bus::{self, HeardAs, rpc::code},
    native::codec::server::{self, Envelope, Kind},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    bus::{Inbox, Parcel, Sealed},
    session::native::{talk::Session, wire::Wire},
};

/// Most messages that are taken at once.
const MOST: usize = 64;

/// The inbox of a client.
pub(super) struct Hears {
    /// None, if the bus speaks under one name for all.
    inbox: Option<Inbox>,
    pub(super) batch: Vec<Parcel>,
}

impl Hears {
    pub(super) const fn new(inbox: Option<Inbox>) -> Self {
        Self { inbox, batch: Vec::new() }
    }

    /// Whether the client can hear anything.
    pub(super) const fn can(&self) -> bool {
        self.inbox.is_some()
    }

    /// Waits for messages; `false` when no more will come.
    ///
    /// Cancel safe. Never ends for a client that hears nothing.
    pub(super) async fn next(&mut self) -> bool {
        match &mut self.inbox {
            Some(inbox) => inbox.next(&mut self.batch, MOST).await,
            None => std::future::pending().await,
        }
    }

    /// How many messages were dropped since this was last asked.
    pub(super) fn dropped(&self) -> u64 {
        self.inbox.as_ref().map_or(0, Inbox::dropped)
    }
}

impl Session {
    /// Judges what has been heard, and writes what may be.
    pub(super) async fn hear<I>(&mut self, wire: &mut Wire<I>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        for parcel in std::mem::take(&mut self.hears.batch) {
            match parcel {
                Parcel::Published(heard) => {
                    if self.subscriptions.admit(&heard.topic) {
                        write(wire, &heard);
                    }
                }
                Parcel::Answer { id, heard } => {
                    // Of whom it has not called, or no longer waits for, it hears nothing.
                    if self.calls.answered(id, &heard.sender) {
                        write(wire, &heard);
                    }
                }
                Parcel::Sealed(sealed) => self.unseal(wire, sealed).await,
            }
        }
        self.count_dropped();
    }

    /// Counts what the client did not take in time.
    pub(super) fn count_dropped(&self) {
        let dropped = self.hears.dropped();
        if dropped > 0 {
            self.hall.metrics.dropped(&self.who, dropped);
        }
    }

    async fn unseal<I>(&mut self, wire: &mut Wire<I>, sealed: Sealed)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let judged = {
            let client = self.hall.bus.local(sealed.sender());
            self.hall.judge.downlink(client, sealed.way(), &self.seat.live.peer)
        };
        let permit = match judged {
            Ok(permit) => permit,
            Err(denial) => {
                if let Some(debt) = sealed.refuse() {
                    self.fail(debt, code::DENIED, &denial.to_string()).await;
                }
                return;
            }
        };
        let Some((heard, debt)) = sealed.open(permit) else { return };
        if let Some(debt) = debt
            && let Err(debt) = self.calls.owe(debt, Instant::now())
        {
            return self.fail(debt, code::TOO_MANY, "too many calls to this collector at once").await;
        }
        write(wire, &heard);
    }

    /// Ends the calls that took too long: each end is told.
    pub(super) async fn expire<I>(&mut self, wire: &mut Wire<I>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let (asked, owed) = self.calls.expire(Instant::now());
        for (id, target) in asked {
            let rpc = bus::rpc::Rpc::failure(id, code::TIMED_OUT, "not answered in time");
            let (sender, topic) = (target, Arc::from(""));
            write(wire, &bus::Heard { kind: HeardAs::Message, sender, topic, payload: rpc.encode() });
        }
        for debt in owed {
            self.fail(debt, code::TIMED_OUT, "the collector did not answer in time").await;
        }
    }

    /// Tells a caller that there will be no answer.
    pub(super) async fn fail(&self, debt: crate::bus::Debt, code: i16, message: &str) {
        let call = debt.to_string();
        if let Err(error) = self.uplink.voice.fail(debt, code, message).await {
            tracing::debug!(call, %error, "caller was not told");
        }
    }
}

/// Writes one delivery.
fn write<I: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<I>, heard: &bus::Heard) {
    let kind = match heard.kind {
        HeardAs::Broadcast => Kind::Broadcast,
        HeardAs::Message => Kind::Message,
        HeardAs::Published => Kind::Publish,
    };
    let envelope = Envelope { kind, realtime: false, sender: &heard.sender, topic: &heard.topic };
    match wire.append(|into| server::head(into, &envelope, heard.payload.len())) {
        Ok(()) => wire.append_payload(&heard.payload),
        Err(error) => tracing::warn!(%error, sender = envelope.sender, "message does not fit into a frame"),
    }
}
