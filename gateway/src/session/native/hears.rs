//! What a client hears: judged, and put on the wire as BUS/RT writes it.

use std::sync::Arc;

use bytes::Bytes;
use daemoneye_bridge::{
    bus::{HeardAs, rpc::code},
    native::codec::server::{self, Envelope, Kind},
};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    bus::{Arrived, Letter, Listening, Opened},
    policy::Way,
    session::{
        downlink::metrics::DENIED,
        native::{talk::Session, wire::Wire},
    },
};

/// Most messages that are taken at once.
const MOST: usize = 64;

/// What a client hears, as far as it has not been told.
pub(super) struct Hears {
    /// None, if the bus speaks under one name for all.
    listening: Option<Listening>,
    batch: Vec<Arrived>,
}

impl Hears {
    pub(super) const fn new(listening: Option<Listening>) -> Self {
        Self { listening, batch: Vec::new() }
    }

    /// Whether the client can hear anything.
    pub(super) const fn can(&self) -> bool {
        self.listening.is_some()
    }

    /// Waits for messages; `false` when no more will come.
    ///
    /// Cancel safe. Never ends for a client that hears nothing.
    pub(super) async fn next(&mut self) -> bool {
        match &mut self.listening {
            Some(listening) => listening.next(MOST, |arrived| self.batch.push(arrived)).await,
            None => std::future::pending().await,
        }
    }

    /// All that is there and has not been looked at.
    pub(super) fn rest(&mut self) -> Vec<Arrived> {
        while self.next().now_or_never() == Some(true) {}
        std::mem::take(&mut self.batch)
    }

    /// How many messages were dropped since this was last asked.
    pub(super) fn dropped(&self) -> u64 {
        self.listening.as_ref().map_or(0, Listening::dropped)
    }
}

impl Session {
    /// Judges what has been heard, and writes what may be.
    pub(super) async fn hear<I>(&mut self, wire: &mut Wire<I>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        for arrived in std::mem::take(&mut self.hears.batch) {
            match arrived {
                Arrived::Published(heard) => {
                    if self.subscriptions.admit(&heard.topic) {
                        let names = (&*heard.sender, heard.topic.slashed());
                        write(wire, Kind::Publish, names, &heard.payload);
                    }
                }
                Arrived::Answer(answer) => {
                    if self.answered(&answer) {
                        write(wire, Kind::Message, (&answer.heard.sender, ""), &answer.heard.payload);
                    }
                }
                Arrived::Letter(letter) => self.open(wire, letter).await,
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

    async fn open<I>(&mut self, wire: &mut Wire<I>, letter: Letter)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let sender = Arc::clone(letter.sender());
        let judged = {
            let client = self.hall.bus.client(&sender);
            self.hall.judge.downlink(client, letter.way(), &self.seat.live.peer)
        };
        let permit = match judged {
            Ok(permit) => permit,
            Err(_) if letter.way() == Way::Send => return self.hall.metrics.downlink.dropped(DENIED, 1),
            Err(denial) => return self.fail(letter.refuse(), code::DENIED, &denial.to_string()).await,
        };
        let Some(Opened { heard, back, .. }) = letter.open(permit) else { return };
        if let Some(back) = back
            && let Err(back) = self.owe(&sender, back)
        {
            return self.fail(back, code::TOO_MANY, "too many calls to this collector at once").await;
        }
        let kind = if heard.kind == HeardAs::Broadcast { Kind::Broadcast } else { Kind::Message };
        write(wire, kind, (&sender, ""), &heard.payload);
    }
}

/// Writes one delivery, of a sender on a topic.
pub(super) fn write<I: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<I>,
    kind: Kind,
    (sender, topic): (&str, &str),
    payload: &Bytes,
) {
    let envelope = Envelope { kind, realtime: false, sender, topic };
    match wire.append(|into| server::head(into, &envelope, payload.len())) {
        Ok(()) => wire.append_payload(payload),
        Err(error) => tracing::warn!(%error, sender, "message does not fit into a frame"),
    }
}
