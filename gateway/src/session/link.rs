//! From a new `Link` to a session: Hello, streams, seat, Welcome.

use std::{future::Future, net::SocketAddr, sync::Arc};

use daemoneye_proto::{
    PROTOCOL_VERSION,
    v1::{self, link_response::Frame},
};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument;

use crate::{
    identity::VerifiedPeer,
    policy::Rights,
    session::{
        Hall,
        actor::{Actor, Clocks},
        bell::Order,
        carrier::{Carrier, Parts},
        credit::Window,
        downlink::Downlink,
        hello::{self, Hello},
        http2::Cut,
        live::Arrival,
        mouths::Mouths,
        outbox::{Answer, Outbox},
        registry::{Claimant, Presence, Seat},
        status::Fault,
        stream::{Stream as EventStream, Streams},
    },
    snapshot::Certificate,
};

/// Who has opened a `Link`.
pub(super) struct Visitor {
    pub(super) rights: Rights,
    /// Who it is, with what it proved it.
    pub(super) peer: VerifiedPeer,
    pub(super) remote: SocketAddr,
    /// Counts among those who have not been admitted.
    pub(super) presence: Presence,
    /// Tells when the connection is cut.
    pub(super) cut: Cut,
    /// Cancelled when the connection is old.
    pub(super) retiring: CancellationToken,
}

/// Greets a visitor and, if he is admitted, carries on the session to its end.
pub(super) async fn run<S>(hall: Arc<Hall>, visitor: Visitor, mut inbound: S, wire: mpsc::Sender<Answer>)
where
    S: Stream<Item = Result<v1::LinkRequest, Status>> + Send + Unpin,
{
    let cut = visitor.cut.waiting().shared();
    let retiring = visitor.retiring.clone();
    // On the heap, so that a session does not carry for all its life the room that its admission took.
    let admission = Box::pin(admit(&hall, visitor, &mut inbound));
    let admitted = tokio::select! {
        biased;
        reason = cut.clone() => Err(Fault::Cut(reason)),
        // Whoever is being admitted is told to come back rather than made to wait for a drain.
        () = hall.leash.draining() => Err(hall.draining()),
        admitted = admission => admitted,
    };
    match admitted {
        Ok((carrier, seat, welcome)) => {
            let span = tracing::info_span!("session", peer = %seat.live.peer, session = %seat.live.session);
            let mut outbox = Outbox::new(wire);
            outbox.say(Frame::Welcome(welcome));
            let clocks = Clocks::new(hall.config.heartbeat);
            let (judge, drain) = (hall.judge.clone(), hall.drain.clone());
            let downlink = Downlink::new(Arc::clone(&hall), seat.live.peer.clone());
            let cut = cut.boxed();
            let actor =
                Actor { inbound, outbox, carrier, downlink, seat, judge, cut, clocks, drain, retiring };
            Box::pin(actor.run().instrument(span)).await;
        }
        Err(fault) => {
            tracing::debug!(reason = fault.reason(), %fault, "link was not admitted");
            hall.metrics.call("link", fault.reason());
            // A peer that does not read is not waited for.
            let _told =
                time::timeout(hall.config.hello_timeout, wire.send(Box::new(Err(fault.into())))).await;
        }
    }
}

/// Reads the Hello, takes the streams from whoever holds them, and gives the session its seat.
async fn admit<S>(
    hall: &Hall,
    visitor: Visitor,
    inbound: &mut S,
) -> Result<(Carrier, Seat, v1::Welcome), Fault>
where
    S: Stream<Item = Result<v1::LinkRequest, Status>> + Send + Unpin,
{
    let Visitor { rights, peer: verified, remote, presence, cut, .. } = visitor;
    let first = within(hall.config.hello_timeout, inbound.next()).await?;
    let hello = match first {
        Some(Ok(first)) => Hello::read(first)?,
        Some(Err(_)) => return Err(Fault::broken("message", "the first message could not be decoded")),
        None => return Err(Fault::broken("frame", "the stream ended before a Hello")),
    };
    let ids: Vec<_> = hello.streams.iter().map(|listed| listed.id).collect();
    let by = Claimant::Session { bell: Arc::default(), same_identity: rights.limits().same_identity };
    let claim = hall.registry.claim(rights.peer(), &ids, by, hall.config.takeover_timeout).await?;
    let peer = rights.peer().to_string();
    let mut marks = Vec::with_capacity(ids.len());
    for listed in &hello.streams {
        marks.push(hall.state.stream(&peer, listed.id, listed.class).await?);
    }
    let arrival = Arrival {
        peer: rights.peer().clone(),
        address: remote.to_string(),
        transport: "grpc",
        software: hello.software.clone(),
        certificate: Arc::new(Certificate::of("client", verified.certificate())),
        expires: verified.not_after().into(),
        roles: rights.roles(),
        label: rights.label(),
        heartbeat: hall.config.heartbeat,
        connections: usize::try_from(rights.limits().connections.get()).unwrap_or(usize::MAX),
    };
    let seat = hall.registry.seat(arrival, &hello.streams, claim)?;
    drop(presence);
    if !hall.judge.is_current(&rights) {
        // The policy changed before the registry knew whom to tell.
        seat.bell.ring(Order::Rejudge);
    }
    let counts = seat.live.streams.iter().map(Arc::clone);
    let streams = hello.streams.iter().zip(marks).zip(counts);
    let streams = streams.map(|((listed, mark), counts)| EventStream::new(*listed, mark, counts)).collect();
    let carrier = Carrier::new(Parts {
        streams: Streams::new(streams),
        listed: hello.streams,
        window: Window::new(Arc::clone(&hall.budget)),
        mouths: Mouths::new(hall.bus.clone(), Arc::clone(&seat.live)),
        meter: hall.judge.meter(rights.peer()),
        tally: hall.metrics.tally(),
        live: Arc::clone(&seat.live),
        cut,
        max_payload: hall.config.max_payload,
        rights: Arc::new(rights),
    });
    carrier.show();
    let welcome = welcome(hall, &carrier, &seat);
    Ok((carrier, seat, welcome))
}

fn welcome(hall: &Hall, carrier: &Carrier, seat: &Seat) -> v1::Welcome {
    v1::Welcome {
        protocol: PROTOCOL_VERSION,
        software: concat!("daemoneye-gateway/", env!("CARGO_PKG_VERSION")).to_owned(),
        session: seat.live.session.clone(),
        peer: seat.live.peer.to_string(),
        limits: Some(hello::limits(carrier.max_payload(), hall.config.heartbeat)),
        credit: Some(hello::credit(carrier.window.credit())),
        resume: carrier.streams.all.iter().map(EventStream::resume).collect(),
    }
}

async fn within<T>(patience: std::time::Duration, first: impl Future<Output = T>) -> Result<T, Fault> {
    time::timeout(patience, first).await.map_err(|_| Fault::broken("frame", "no Hello in time"))
}
