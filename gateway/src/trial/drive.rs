//! Drives a trial: messages one at a time, then as many as go, each numbered and timed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use daemoneye_bridge::{event::Events, topic::Topic, uplink::probe::Verdict};
use futures_util::future;
use tokio::time::{self, Instant};

use crate::trial::{
    Measured, Options, Proof, TrialError,
    ear::Tally,
    mouth::{Mouth, Told},
    payload,
};

/// Messages of a batch in the second phase.
const BATCH: u64 = 128;

/// What a trial is driven with.
pub(super) struct Rig<'a> {
    pub(super) mouths: &'a [Mouth],
    pub(super) topic: &'a Topic,
    pub(super) tally: &'a Arc<Tally>,
    pub(super) options: &'a Options,
    /// Whether messages are heard, or acknowledged only.
    pub(super) proof: Proof,
    /// Messages that may be on their way, over all connections.
    pub(super) window: u64,
    /// Who speaks, for messages.
    pub(super) who: &'a str,
}

/// What the connections have in common.
#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    rejected: AtomicU64,
}

impl Rig<'_> {
    /// Does both phases.
    pub(super) async fn run(&self, progress: impl Fn(&str) + Send + Sync) -> Result<Measured, TrialError> {
        let mut measured = Measured::default();
        let singles = self.options.singles();
        progress(&format!("{singles} messages, one at a time"));
        self.alone(singles, &mut measured).await?;
        let messages = self.options.messages.get();
        progress(&format!("{messages} messages over {} connections", self.mouths.len()));
        self.together(messages, singles, &mut measured).await;
        Ok(measured)
    }

    /// One at a time, on the first connection.
    async fn alone(&self, count: u64, measured: &mut Measured) -> Result<(), TrialError> {
        let Some(mouth) = self.mouths.first() else { return Ok(()) };
        for number in 0..count {
            let begun = Instant::now();
            let told = mouth.say(self.batch(0, number, 1)).await;
            measured.sent += 1;
            let arrived = match told {
                Ok(told) => self.arrives(told, begun, measured).await?,
                Err(_) => false,
            };
            if !arrived && number == 0 {
                let what = if self.proof == Proof::Heard { "heard" } else { "acknowledged" };
                return Err(TrialError::Nothing { what, patience: self.options.patience });
            }
            if !arrived {
                // Each further one would wait as long.
                break;
            }
        }
        let found = self.tally.take();
        measured.alone = found.latencies;
        measured.duplicates += found.duplicates;
        measured.arrived = self.tally.arrived();
        Ok(())
    }

    /// Whether a single message arrives.
    async fn arrives(&self, told: Told, begun: Instant, measured: &mut Measured) -> Result<bool, TrialError> {
        let patience = self.options.patience;
        let verdict = time::timeout(patience, told).await.ok().flatten();
        match verdict {
            Some(Verdict::Rejected(reason)) => {
                measured.rejected += 1;
                let (topic, peer) = (self.topic.dotted().to_owned(), self.who.to_owned());
                return Err(TrialError::Rejected { topic, reason, peer });
            }
            Some(Verdict::Taken) if self.proof == Proof::Heard => {}
            Some(Verdict::Taken) => {
                self.tally.acknowledged(1, begun.elapsed());
                return Ok(true);
            }
            None => return Ok(false),
        }
        Ok(self.tally.reaches(measured.sent, patience).await)
    }

    /// As many as go, over all connections.
    async fn together(&self, count: u64, first: u64, measured: &mut Measured) {
        let before = self.tally.arrived();
        let shared = Shared::default();
        let begun = Instant::now();
        let each = count.div_ceil(self.mouths.len().max(1) as u64);
        let speaking = self.mouths.iter().enumerate().map(|(connection, mouth)| {
            let taken = each.saturating_mul(connection as u64).min(count);
            let share = each.min(count - taken);
            // Numbers of the first connection go on where the first phase ended.
            let from = if connection == 0 { first } else { 0 };
            self.speak(mouth, (connection, from, share), (&shared, before))
        });
        future::join_all(speaking).await;
        let sent = shared.sent.load(Ordering::Relaxed);
        self.tally.reaches(before.saturating_add(sent), self.options.patience).await;
        let found = self.tally.take();
        measured.sent += sent;
        measured.rejected += shared.rejected.load(Ordering::Relaxed);
        measured.duplicates += found.duplicates;
        measured.arrived = self.tally.arrived();
        measured.counted = measured.arrived.saturating_sub(before);
        measured.time = found.last.unwrap_or(begun).saturating_duration_since(begun);
        measured.loaded = found.latencies;
    }

    /// One connection of the second phase.
    async fn speak(&self, mouth: &Mouth, (connection, from, share): (usize, u64, u64), of: (&Shared, u64)) {
        let (shared, before) = of;
        let mut flying: VecDeque<(Told, u64, Instant)> = VecDeque::new();
        let mut next = 0;
        while next < share {
            let count = BATCH.min(share - next).min(self.window.max(1));
            if flying.len() >= FLYING && !self.settle(flying.pop_front(), shared).await {
                break;
            }
            let ahead = before.saturating_add(shared.sent.load(Ordering::Relaxed)).saturating_add(count);
            if !self.has_room(ahead, &mut flying, shared).await {
                break;
            }
            let Ok(told) = mouth.say(self.batch(connection, from + next, count)).await else { break };
            shared.sent.fetch_add(count, Ordering::Relaxed);
            flying.push_back((told, count, Instant::now()));
            next += count;
        }
        while let Some(flight) = flying.pop_front() {
            if !self.settle(Some(flight), shared).await {
                break;
            }
        }
        // What could not be said any more is as lost as what was.
        shared.sent.fetch_add(share - next, Ordering::Relaxed);
    }

    /// Waits until few enough are on their way.
    async fn has_room(
        &self,
        ahead: u64,
        flying: &mut VecDeque<(Told, u64, Instant)>,
        shared: &Shared,
    ) -> bool {
        let floor = ahead.saturating_sub(self.window);
        while self.tally.arrived() < floor {
            // Where nobody hears, it is the acknowledgements that make room.
            if self.proof == Proof::Acknowledged && !flying.is_empty() {
                if !self.settle(flying.pop_front(), shared).await {
                    return false;
                }
            } else if !self.tally.reaches(floor, self.options.patience).await {
                return false;
            }
        }
        true
    }

    /// Waits for the verdict of a batch; whether there is one.
    async fn settle(&self, flight: Option<(Told, u64, Instant)>, shared: &Shared) -> bool {
        let Some((told, count, since)) = flight else { return true };
        match time::timeout(self.options.patience, told).await {
            Ok(Some(Verdict::Taken)) => {
                if self.proof == Proof::Acknowledged {
                    self.tally.acknowledged(count, since.elapsed());
                }
                true
            }
            Ok(Some(Verdict::Rejected(_))) => {
                shared.rejected.fetch_add(count, Ordering::Relaxed);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    fn batch(&self, connection: usize, first: u64, count: u64) -> Events {
        let mut events = Events::default();
        for number in first..first.saturating_add(count) {
            let payload = payload::make(connection, number, self.tally.now(), self.options.size);
            events.push(self.topic, payload, 0);
        }
        events
    }
}

/// Batches of one connection that wait for their verdict.
const FLYING: usize = 16;

/// The median time of something that is done `count` times, one after the other.
pub(super) async fn median<F>(count: u64, mut once: impl FnMut() -> F) -> Result<Duration, TrialError>
where
    F: Future<Output = Result<Duration, TrialError>>,
{
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(once().await?);
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
