//! What a client hears: the broker's queue becomes bytes on its socket.
//!
//! The queue is drained at all times, so that the broker never waits for this client; what its socket does not take piles up
//! in the outbox. Half full, it holds up whoever publishes what this client must confirm, for as long as the client takes
//! something now and then; a client that takes nothing for too long, or lets too much pile up that need not be confirmed, is
//! sent away. That is the rule [`SlowReader::Disconnect`]; under the others it stays, and everybody who publishes to it waits,
//! or the oldest goes.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::{self, Instant},
};

use crate::{
    bus::{
        door::{Config, Leaving, SlowReader, guests::Tally, outbox::Outbox, reader, reply::Replies},
        embedded::{
            Core,
            broker::{Frame, Queue},
            member::Member,
        },
    },
    native::codec::server::{self, Envelope, Kind},
};

/// A client that takes nothing for so long, while something waits for it, is slow: acks of others wait with it.
const STALL: Duration = Duration::from_secs(1);

/// A sign of life is sent after so much silence; clients of BUS/RT expect one now and then.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a client whom nothing sends away may take to read the rest once the bus has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Writes what one client hears.
pub(super) struct Writer<W> {
    pub(super) sink: W,
    pub(super) queue: Queue,
    pub(super) core: Arc<Core>,
    pub(super) member: Arc<Member>,
    pub(super) replies: Arc<Replies>,
    pub(super) config: Arc<Config>,
    pub(super) outbox: Outbox,
    pub(super) slow: Slow,
}

/// What the rule does to this client.
pub(super) struct Slow {
    rule: SlowReader,
    tally: Arc<Tally>,
    /// Since when it has hold of it, and how many messages had been dropped before.
    episode: Option<(Instant, u64)>,
}

impl Slow {
    pub(super) const fn new(rule: SlowReader, tally: Arc<Tally>) -> Self {
        Self { rule, tally, episode: None }
    }

    /// Whether it is worth a word if the client takes nothing for a while: others would wait with it.
    const fn may_stall(&self) -> bool {
        self.episode.is_none() && !matches!(self.rule, SlowReader::DropOldest)
    }

    /// The rule takes hold, if it has not; whether it has only now.
    fn begin(&mut self, core: &Core) -> bool {
        let begins = self.episode.is_none();
        if begins {
            self.episode = Some((Instant::now(), self.tally.dropped.load(Ordering::Relaxed)));
            self.tally.episodes.fetch_add(1, Ordering::Relaxed);
            core.counters.door_slow_episodes.add(1);
        }
        begins
    }

    /// The client has caught up.
    fn end(&mut self, name: &str) {
        if let Some((since, before)) = self.episode.take() {
            self.tally.episodes.fetch_add(1, Ordering::Relaxed);
            let dropped = self.tally.dropped.load(Ordering::Relaxed) - before;
            tracing::info!(name, dropped, lasted = ?since.elapsed(), "slow local client caught up");
        }
    }

    fn drop(&self, core: &Core, count: u64) {
        self.tally.dropped.fetch_add(count, Ordering::Relaxed);
        core.counters.door_dropped.add(count);
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes until the client goes, or is sent away.
    pub(super) async fn run(&mut self) -> Leaving {
        // When the client last took something, or had nothing to take.
        let mut progress = Instant::now();
        let mut first = None;
        loop {
            let idle = self.outbox.is_empty();
            self.gather(first.take());
            if self.outbox.len() > self.config.outbox_bytes && self.slow.rule == SlowReader::Disconnect {
                return Leaving::Slow;
            }
            if idle {
                progress = Instant::now();
            }
            let waits = !self.outbox.is_empty();
            let patience = if waits { self.patience() } else { Some(SILENCE) };
            let notice = (waits && self.slow.may_stall()).then_some(STALL);
            let wait = [patience, notice].into_iter().flatten().min();
            let alarm = progress + wait.unwrap_or_default();
            tokio::select! {
                // Writing first: as long as the socket takes bytes, nothing else needs to be asked.
                biased;
                written = self.sink.write(self.outbox.front()), if waits => match written {
                    Ok(0) => return Leaving::Gone,
                    Ok(count) => {
                        self.outbox.advance(count);
                        progress = Instant::now();
                    }
                    Err(error) => return Leaving::from(error),
                },
                frame = self.queue.recv() => match frame {
                    Some(frame) => first = Some(frame),
                    None => return Leaving::Gone,
                },
                () = self.member.wake.notified() => {}
                () = time::sleep_until(alarm), if wait.is_some() => {
                    if !waits {
                        self.outbox.append(server::ping);
                    } else if patience.is_some_and(|patience| progress.elapsed() >= patience) {
                        return Leaving::Slow;
                    } else {
                        self.hold_up("takes nothing");
                    }
                }
            }
        }
    }

    /// How long this client may take nothing while something waits for it; `None`: for ever.
    fn patience(&self) -> Option<Duration> {
        let forever = self.slow.rule == SlowReader::DropOldest || self.config.slow_reader_timeout.is_zero();
        (!forever).then_some(self.config.slow_reader_timeout)
    }

    /// How many messages have not been written to the end. Once the queue is closed, none is added.
    pub(super) fn undelivered(&self) -> u64 {
        self.outbox.undelivered() + self.queue.len() as u64
    }

    /// Moves everything that waits into the outbox: frames, then the tokens that stand behind them, and acks.
    fn gather(&mut self, first: Option<Frame>) {
        let mut tokens = Vec::new();
        self.member.collect(&mut tokens);
        let replies = self.replies.take();
        // Counted after the tokens were taken: every frame they stand behind is among these.
        let queued = self.queue.len();
        let first = first.or_else(|| self.queue.try_recv());
        let mut frames = 0;
        let mut next = first;
        while let Some(frame) = next {
            frames += 1;
            if frame.kind() == Some(Kind::Message) {
                self.replies
                    .inquiries
                    .answered(frame.sender(), frame.header().unwrap_or_else(|| frame.payload()));
            }
            // Whom the caller sends away needs no more of them; they would only take memory.
            let more = self.put(&frame) && frames <= queued;
            next = if more { self.queue.try_recv() } else { None };
        }
        if frames > 0 {
            self.core.counters.door_written.add(frames as u64);
        }
        for (id, code) in replies {
            self.outbox.append(|into| server::ack(into, id, code));
        }
        self.outbox.place(tokens.into_iter());
        if self.member.report(self.outbox.len()) {
            self.core.table.stir();
        }
        self.count();
    }

    /// Puts a frame into the outbox, as far as the rule lets it; `false` if the client is to be sent away.
    fn put(&mut self, frame: &Frame) -> bool {
        let most = self.config.outbox_bytes;
        let is_full = self.outbox.len() > most;
        match self.slow.rule {
            // No publisher could wait with what was sent by name or mask.
            SlowReader::Block if is_full && frame.kind() != Some(Kind::Publish) => {
                self.slow.drop(&self.core, 1);
                return true;
            }
            SlowReader::DropOldest if is_full => self.shed(),
            SlowReader::Block | SlowReader::Disconnect | SlowReader::DropOldest => {}
        }
        deliver(&mut self.outbox, frame);
        self.slow.rule != SlowReader::Disconnect || self.outbox.len() <= most
    }

    /// Drops the oldest of what waits, and says so once an episode.
    fn shed(&mut self) {
        let most = self.config.outbox_bytes / 2;
        let dropped = self.outbox.shed(most, SystemTime::now());
        if self.slow.begin(&self.core) {
            tracing::warn!(name = %self.member.name, "local client reads too slowly: the oldest messages are dropped");
        }
        self.slow.drop(&self.core, dropped);
    }

    /// Says once an episode that others wait for this client.
    fn hold_up(&mut self, why: &str) {
        if self.slow.begin(&self.core) {
            tracing::warn!(name = %self.member.name, "local client {why}: publishers wait for it");
        }
    }

    /// Shows how the client stands, and whether its rule has hold of it.
    fn count(&mut self) {
        let waiting = self.outbox.len();
        self.slow.tally.waiting.store(waiting as u64, Ordering::Relaxed);
        self.slow.tally.delivered.store(self.outbox.delivered(), Ordering::Relaxed);
        if waiting >= self.config.outbox_bytes / 2 && self.slow.may_stall() {
            self.hold_up("reads too slowly");
        }
        if waiting == 0 {
            self.slow.end(&self.member.name);
        }
    }

    /// Writes what is left once the bus has ended: acks that are still owed, frames that are still queued.
    pub(super) async fn finish(&mut self, window: &Semaphore) {
        let patience = self.patience().unwrap_or(LAST_WORDS);
        let rest = async {
            let owed = window.acquire_many(u32::try_from(reader::WINDOW).unwrap_or(u32::MAX));
            let mut owed = std::pin::pin!(owed);
            let mut settled = false;
            loop {
                self.gather(None);
                if self.outbox.is_empty() && settled {
                    return self.sink.shutdown().await;
                }
                tokio::select! {
                    biased;
                    written = self.sink.write(self.outbox.front()), if !self.outbox.is_empty() => {
                        match written? {
                            0 => return Err(io::ErrorKind::WriteZero.into()),
                            count => self.outbox.advance(count),
                        }
                    }
                    _ = &mut owed, if !settled => settled = true,
                    () = self.member.wake.notified() => {}
                }
            }
        };
        match time::timeout(patience, rest).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "local client lost at the end"),
            Err(_) => tracing::debug!("local client did not take the last of its messages"),
        }
    }
}

fn deliver(outbox: &mut Outbox, frame: &Frame) {
    // The broker sends nothing else to clients in this process.
    let Some(kind) = frame.kind() else { return };
    let envelope = Envelope {
        kind,
        realtime: frame.is_realtime(),
        sender: frame.sender(),
        topic: frame.topic().unwrap_or_default(),
    };
    let parts = [frame.header().unwrap_or_default(), frame.payload()];
    if let Err(error) = outbox.deliver(|into| server::deliver(into, &envelope, &parts)) {
        tracing::warn!(%error, sender = envelope.sender, "message does not fit into a frame");
    }
}
