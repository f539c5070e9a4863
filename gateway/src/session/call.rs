//! `Publish`: one event, judged and confirmed by itself.
//!
//! The work is a task of its own, so that a caller who hangs up does not leave the mark of his stream behind what the bus
//! has taken: with stream and sequence number the same call again cannot publish twice.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemoneye_bridge::{
    bus::Taken,
    event::{Class, Event, Seq, StreamId},
};
use daemoneye_proto::{MAX_SEQ, v1};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{self, Instant},
};

use crate::{
    bus::{Origin, Outgoing, Ticket, Unsent, Voice},
    identity::PeerId,
    policy::{Collector, Denial, PublishPermit},
    session::{
        Hall, hello,
        http2::{Caller, Cut, CutReason},
        intake::{self, Bounds},
        registry::{Claim, Claimant, Guest, Presence},
        status::Fault,
    },
    state::Mark,
};

/// For how long the bus keeps a name that was used by a call, in case another call follows.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes of payload of all calls under way: a call whose caller gave up waits on.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// Of these, what calls of one peer may take.
pub(super) const MOST_BYTES_OF_ONE: usize = MOST_BYTES / 8;

/// What a call takes up until it is settled.
struct Guested {
    presence: Presence,
    room: OwnedSemaphorePermit,
}

impl Guested {
    fn new(hall: &Hall, mut presence: Presence, bytes: usize) -> Result<Self, Fault> {
        presence.carry(bytes, MOST_BYTES_OF_ONE)?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&hall.call_room)
            .try_acquire_many_owned(bytes)
            .map(|room| Self { presence, room })
            .map_err(|_| Fault::Full { what: "bytes of calls under way" })
    }
}

/// An event that may be published.
struct Permitted {
    permit: PublishPermit,
    collector: Arc<Collector>,
    event: Event,
    /// Its place, if the caller names one.
    place: Option<(StreamId, Seq)>,
    /// Whether the caller may still speak.
    cut: Cut,
}

/// Publishes one event and waits until it is confirmed.
pub(super) async fn publish(
    hall: Arc<Hall>,
    caller: &Caller,
    request: v1::PublishRequest,
) -> Result<v1::PublishResponse, Fault> {
    let peer = caller.peer();
    if hall.leash.is_draining() {
        return Err(hall.draining());
    }
    let presence = hall.registry.admit(Guest::Call, peer.id())?;
    let permitted = judge(&hall, caller, request)?;
    let guest = Guested::new(&hall, presence, permitted.event.payload.len())?;
    let patience = hall.config.publish_timeout;
    let (done, confirmed) = oneshot::channel();
    let work = Arc::clone(&hall);
    hall.leash.spawn(async move { carry(work, guest, permitted, done).await });
    match time::timeout(patience, confirmed).await {
        Ok(Ok(outcome)) => outcome.map(|duplicate| v1::PublishResponse { duplicate }),
        Ok(Err(_)) => Err(Fault::BusGone),
        Err(_) => Err(Fault::Unconfirmed),
    }
}

fn judge(hall: &Hall, caller: &Caller, request: v1::PublishRequest) -> Result<Permitted, Fault> {
    let peer = caller.peer();
    let place = place(&request.stream, request.seq)?;
    let rights = hall.judge.rights(peer)?;
    let mut speaker = rights.speaker(&request.collector)?;
    let mut permit = speaker.permit();
    let topic = speaker.allow(&mut permit, &request.topic);
    let granted = usize::try_from(rights.limits().max_message.get()).unwrap_or(usize::MAX);
    let bounds = Bounds { max_payload: hall.config.max_payload.min(granted), keep_seqs: false };
    let judged = intake::judge(&topic, &request.payload, bounds);
    speaker.count(u64::from(judged.is_ok()), u64::from(judged.is_err()));
    let topic = match judged {
        Ok(topic) => topic,
        Err(rejection) => {
            // The policy's word is a denial; what is wrong with the payload is the caller's mistake.
            topic.map_err(Fault::Denied)?;
            return Err(Fault::broken("payload", rejection.reason));
        }
    };
    charge(hall, peer.id(), &request.payload, rights.limits())?;
    let event = Event { topic, payload: request.payload, time: request.time_unix_nanos };
    let cut = caller.cut().clone();
    Ok(Permitted { permit, collector: Arc::clone(speaker.collector()), event, place, cut })
}

fn charge(hall: &Hall, peer: &PeerId, payload: &Bytes, limits: &crate::policy::Limits) -> Result<(), Fault> {
    let (meter, now) = (hall.judge.meter(peer), Instant::now());
    let wait = meter.debt(now);
    if !wait.is_zero() {
        return Err(Fault::OverRate { wait });
    }
    meter.charge(now, 1, u64::try_from(payload.len()).unwrap_or(u64::MAX), limits);
    Ok(())
}

/// Stream and sequence number go together or not at all.
fn place(stream: &[u8], seq: Seq) -> Result<Option<(StreamId, Seq)>, Fault> {
    match (stream.is_empty(), seq) {
        (true, 0) => Ok(None),
        (true, _) => Err(Fault::broken("seq", "must be 0 without a stream")),
        (false, 1..=MAX_SEQ) => Ok(Some((hello::stream_id("stream", stream)?, seq))),
        (false, _) => Err(Fault::broken("seq", "must be 1 to 2^63 - 1 with a stream")),
    }
}

/// Carries one event to the bus, whether or not its caller still waits.
async fn carry(
    hall: Arc<Hall>,
    guest: Guested,
    permitted: Permitted,
    done: oneshot::Sender<Result<bool, Fault>>,
) {
    let mut voice = None;
    let outcome = tokio::select! {
        biased;
        outcome = settle(&hall, permitted, &mut voice) => outcome,
        // A bus that takes nothing must not hold up the end of the process.
        () = drained(&hall) => Err(hall.draining()),
    };
    // The caller may have hung up; the mark has moved all the same.
    let _told = done.send(outcome);
    drop((guest.presence, guest.room));
    if let Some(voice) = voice {
        linger(&hall, voice).await;
    }
}

/// Ends when a drain has given everybody time to settle.
async fn drained(hall: &Hall) {
    hall.leash.draining().await;
    time::sleep(hall.drain.grace).await;
}

/// Says whether the gateway had the event already.
async fn settle(hall: &Hall, permitted: Permitted, used: &mut Option<Voice>) -> Result<bool, Fault> {
    let Permitted { permit, collector, event, place, cut } = permitted;
    let peer = collector.owner();
    let numbered = match place {
        None => None,
        Some((stream, seq)) => match number(hall, peer, stream, seq).await? {
            Numbered::Duplicate => return Ok(true),
            Numbered::Next(claim, mark) => Some((claim, mark, seq)),
        },
    };
    // The caller waits half as long, so that one who calls again at once still meets the first call.
    let deadline = Instant::now() + hall.config.publish_timeout.saturating_mul(2);
    let voice = hall.bus.open(&collector).await?;
    let voice = used.insert(voice);
    let seqs = [place.map_or(0, |(_, seq)| seq)];
    let origin = Origin { stream: place.map(|(stream, _)| stream), seqs: &seqs, hops: &[] };
    let batch = voice.seal(permit, vec![event], &origin);
    let handed = time::timeout_at(deadline, hand_over(voice, batch, &cut)).await;
    let handed = handed.map_err(|_| Fault::Unconfirmed)?;
    if matches!(handed, Err(Fault::Cut(_))) {
        hall.metrics.tally().withheld.inc();
    }
    let mut ticket = handed?;
    let taken = tokio::select! {
        biased;
        taken = &mut ticket => taken,
        reason = withdrawal(&cut) => {
            voice.close().await;
            match (&mut ticket).await {
                Taken::All => Taken::All,
                Taken::Withdrawn => {
                    hall.metrics.tally().withheld.inc();
                    return Err(Fault::Cut(reason));
                }
            }
        }
        () = time::sleep_until(deadline) => {
            if let Some(voice) = used.take() {
                voice.release().await;
            }
            // Withdrawn by now, unless others speak through the same voice: then the last of them withdraws it.
            ticket.await
        }
    };
    match taken {
        Taken::All => {}
        Taken::Withdrawn => return Err(Fault::Withdrawn),
    }
    if let Some((_claim, mark, seq)) = &numbered {
        mark.advance(*seq);
    }
    Ok(false)
}

/// Ends when the peer loses its right to speak.
async fn withdrawal(cut: &Cut) -> CutReason {
    let reason = cut.wait().await;
    if reason.is_of_trust() { reason } else { std::future::pending().await }
}

/// Hands a batch to the bus, waiting while that has no room, unless its peer is cut meanwhile.
async fn hand_over(voice: &Voice, mut batch: Outgoing, cut: &Cut) -> Result<Ticket, Fault> {
    loop {
        if let Some(reason) = cut.is_cut() {
            return Err(Fault::Cut(reason));
        }
        match voice.try_send(voice.lane(), batch) {
            Ok(ticket) => return Ok(ticket),
            Err(Unsent::Closed) => return Err(Fault::BusGone),
            Err(Unsent::Full(again)) => batch = again,
        }
        voice.ready().await;
    }
}

/// Where a numbered event stands in its stream.
enum Numbered {
    /// Before what the gateway has.
    Duplicate,
    /// Next; nobody else moves the mark while the claim is held.
    Next(Claim, Arc<Mark>),
}

async fn number(hall: &Hall, peer: &PeerId, stream: StreamId, seq: Seq) -> Result<Numbered, Fault> {
    let claim = hall.registry.claim(peer, &[stream], Claimant::Call, hall.config.publish_timeout).await?;
    let mark = hall.state.stream(&peer.to_string(), stream, Class::Telemetry).await?;
    let hwm = mark.hwm();
    if seq <= hwm {
        return Ok(Numbered::Duplicate);
    }
    if seq > hwm + 1 {
        return Err(Fault::SkippedAhead { expected: hwm + 1, got: seq });
    }
    Ok(Numbered::Next(claim, mark))
}

/// Keeps the name for a moment, unless somebody else keeps it: calls come in rows, and registering a name costs more than
/// a call.
async fn linger(hall: &Hall, voice: Voice) {
    if !voice.is_shared() {
        tokio::select! {
            biased;
            () = hall.leash.draining() => {}
            () = time::sleep(LINGER) => {}
        }
    }
    voice.release().await;
}

/// The outcome of a call, as metrics name it.
pub(super) const fn outcome<T>(result: &Result<T, Fault>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Fault::Denied(Denial::Malformed(_))) => "protocol",
        Err(fault) => fault.reason(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_and_sequence_number_go_together() {
        assert!(place(&[], 0).unwrap().is_none());
        assert!(place(&[7; 16], 1).unwrap().is_some());
        for (stream, seq) in
            [(&[][..], 1), (&[7; 16][..], 0), (&[7; 16][..], 1 << 63), (&[7; 15][..], 1), (&[0; 16][..], 1)]
        {
            assert!(place(stream, seq).is_err(), "{stream:?} {seq}");
        }
    }
}
