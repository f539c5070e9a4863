//! What a client hears: the broker's queue becomes bytes on its socket.
//!
//! The queue is drained at all times, so that the broker never waits for this client; what its socket does not take piles up
//! in the outbox. Half full, it holds up whoever publishes what this client must confirm, for as long as the client takes
//! something now and then; a client that takes nothing for too long, or lets too much pile up that need not be confirmed, is
//! sent away.

use std::{io, sync::Arc, time::Duration};

use busrt::{EventChannel, Frame, FrameKind};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::{self, Instant},
};

use crate::{
    bus::{
        door::{Config, Leaving, outbox::Outbox, reader, reply::Replies},
        embedded::{Core, member::Member},
    },
    native::codec::server::{self, Envelope, Kind},
};

/// A sign of life is sent after so much silence; clients of BUS/RT expect one now and then.
const SILENCE: Duration = Duration::from_secs(1);

/// Writes what one client hears.
pub(super) struct Writer<W> {
    pub(super) sink: W,
    pub(super) queue: EventChannel,
    pub(super) core: Arc<Core>,
    pub(super) member: Arc<Member>,
    pub(super) replies: Arc<Replies>,
    pub(super) config: Arc<Config>,
    pub(super) outbox: Outbox,
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
            if self.outbox.len() > self.config.outbox_bytes {
                return Leaving::Slow;
            }
            if idle {
                progress = Instant::now();
            }
            let waits = !self.outbox.is_empty();
            let alarm = progress + if waits { self.config.slow_reader_timeout } else { SILENCE };
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
                    Ok(frame) => first = Some(frame),
                    Err(_) => return Leaving::Gone,
                },
                () = self.member.wake.notified() => {}
                () = time::sleep_until(alarm) => {
                    if waits {
                        return Leaving::Slow;
                    }
                    self.outbox.append(server::ping);
                }
            }
        }
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
        let rest = (0..queued).map_while(|_| self.queue.try_recv().ok());
        let mut frames = 0;
        for frame in first.into_iter().chain(rest) {
            frames += 1;
            deliver(&mut self.outbox, &frame);
            if self.outbox.len() > self.config.outbox_bytes {
                // Sent away by the caller; more would only take memory.
                break;
            }
        }
        if frames > 0 {
            self.core.counters.door_written.add(frames);
        }
        for (id, code) in replies {
            self.outbox.append(|into| server::ack(into, id, code));
        }
        self.outbox.place(tokens.into_iter());
        if self.member.report(self.outbox.len()) {
            self.core.table.stir();
        }
    }

    /// Writes what is left once the bus has ended: acks that are still owed, frames that are still queued.
    pub(super) async fn finish(&mut self, window: &Semaphore) {
        let patience = self.config.slow_reader_timeout;
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
    let kind = match frame.kind() {
        FrameKind::Publish => Kind::Publish,
        FrameKind::Message => Kind::Message,
        FrameKind::Broadcast => Kind::Broadcast,
        // The broker sends none of these to in-process clients.
        FrameKind::Acknowledge | FrameKind::Nop | FrameKind::Prepared => return,
    };
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
