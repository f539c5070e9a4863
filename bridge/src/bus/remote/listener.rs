//! One connection that listens: it fills the queue of a subscription, over every outage of the broker.
//!
//! What the broker hears while we are away from it does not come: it keeps nothing for who is not there.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{self, Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        Inbox, Message,
        remote::{
            Claim, Shared,
            backoff::Backoff,
            known::Known,
            ledger::ask,
            wire::{Connection, DialError, Exchanged, LinkError},
        },
    },
    native::codec::{
        Code, Qos,
        client::{self, Head, TopicsOf},
        server::{Delivery, ServerFrame},
    },
    settings::Chain,
};

/// Id of the frame that subscribes.
const SUBSCRIBE: u32 = 1;

/// Id of the question whether the broker is there.
const PROBE: u32 = 2;

/// One connection that listens.
#[derive(Debug)]
pub(super) struct Listener {
    shared: Arc<Shared>,
    claim: Claim,
    /// BUS/RT spellings.
    topics: Vec<String>,
    queue: mpsc::Sender<Message>,
    /// Ends with the bus.
    ended: CancellationToken,
    known: Known,
}

/// A connection on which the broker has taken the subscription.
#[derive(Debug)]
pub(super) struct Hearing {
    connection: Connection,
    /// What came before the broker said so.
    early: Vec<Delivery>,
}

/// Nobody reads the subscription any more, or the bus has ended.
struct Finished;

/// Why a conversation is over.
enum Ended {
    Finished,
    Lost(LinkError),
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

impl From<Finished> for Ended {
    fn from(_: Finished) -> Self {
        Self::Finished
    }
}

impl Listener {
    /// A listener, and where its subscription reads.
    pub(super) fn new(
        shared: Arc<Shared>,
        claim: Claim,
        topics: Vec<String>,
        ended: CancellationToken,
    ) -> (Self, Queue) {
        let (queue, messages) = mpsc::channel(shared.config.subscription_queue);
        (Self { shared, claim, topics, queue, ended, known: Known::default() }, Queue(messages))
    }

    /// Connects and subscribes.
    pub(super) async fn enter(&self) -> Result<Hearing, DialError> {
        let mut connection = self.shared.dial(&self.claim.name).await?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let head = Head { id: SUBSCRIBE, qos: Qos::Processed };
        client::topics(&mut connection.output, head, TopicsOf::Subscribe, &topics)?;
        let subscribed = time::timeout(self.shared.config.connect_timeout, self.subscribed(&mut connection));
        let early = subscribed.await.unwrap_or(Err(LinkError::Unconfirmed))?;
        Ok(Hearing { connection, early })
    }

    /// Waits until the broker has taken the subscription, and returns what it delivered before it said so.
    async fn subscribed(&self, connection: &mut Connection) -> Result<Vec<Delivery>, LinkError> {
        let mut early = Vec::new();
        loop {
            while let Some(frame) = connection.frame(self.shared.config.max_message.as_usize())? {
                match frame {
                    ServerFrame::Ack { code: Code::OK, .. } => return Ok(early),
                    ServerFrame::Ack { code, .. } => return Err(LinkError::Refused(code)),
                    // That anything comes says as much.
                    ServerFrame::Delivery(_) if early.len() >= self.shared.config.subscription_queue => {
                        return Ok(early);
                    }
                    ServerFrame::Delivery(delivery) => early.push(delivery),
                    ServerFrame::Ping => {}
                }
            }
            connection.exchange().await?;
        }
    }

    /// Listens until nobody reads or the bus has ended.
    pub(super) async fn run(mut self, first: Option<Hearing>) {
        let mut next = first;
        let mut backoff = Backoff::default();
        loop {
            let Some(hearing) = next.take() else {
                match self.redial(&mut backoff).await {
                    Some(hearing) => next = Some(hearing),
                    None => return,
                }
                continue;
            };
            let began = Instant::now();
            match self.converse(hearing).await {
                Ok(never) => match never {},
                Err(Ended::Finished) => return,
                Err(Ended::Lost(error)) => {
                    self.shared.counters.link_losses.add(1);
                    tracing::warn!(name = %self.claim.name, error = %Chain(&error), "subscription interrupted");
                }
            }
            if began.elapsed() >= self.shared.config.confirm_timeout {
                backoff = Backoff::default();
            }
        }
    }

    async fn redial(&self, backoff: &mut Backoff) -> Option<Hearing> {
        loop {
            let entered = async {
                time::sleep(backoff.next()).await;
                self.enter().await
            };
            tokio::select! {
                biased;
                () = self.ended.cancelled() => return None,
                () = self.queue.closed() => return None,
                entered = entered => match entered {
                    Ok(hearing) => {
                        tracing::info!(name = %self.claim.name, "subscription resumed");
                        return Some(hearing);
                    }
                    Err(error) => {
                        tracing::debug!(name = %self.claim.name, error = %Chain(&error), "broker not entered");
                    }
                }
            }
        }
    }

    async fn converse(&mut self, hearing: Hearing) -> Result<std::convert::Infallible, Ended> {
        let Hearing { mut connection, early } = hearing;
        let mut tick = time::interval(self.shared.config.ping_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked: Option<Instant> = None;
        for delivery in early {
            self.pass(delivery, &mut connection, &mut tick).await?;
        }
        loop {
            while let Some(frame) = connection.frame(self.shared.config.max_message.as_usize())? {
                match frame {
                    ServerFrame::Delivery(delivery) => {
                        self.pass(delivery, &mut connection, &mut tick).await?;
                    }
                    ServerFrame::Ack { code: Code::OK, .. } => asked = None,
                    ServerFrame::Ack { code, .. } => return Err(LinkError::Refused(code).into()),
                    ServerFrame::Ping => {}
                }
            }
            tokio::select! {
                // First: the end of the bus is also the end of a broker that floods us.
                biased;
                () = self.ended.cancelled() => return Err(Ended::Finished),
                () = self.queue.closed() => return Err(Ended::Finished),
                now = tick.tick() => match asked {
                    Some(since) if now > since + self.shared.config.confirm_timeout => {
                        return Err(LinkError::Unconfirmed.into());
                    }
                    Some(_) => connection.ping(),
                    None => {
                        ask(&mut connection.output, PROBE);
                        asked = Some(now);
                    }
                },
                exchanged = connection.exchange() => {
                    // Whatever comes proves that the broker is there; the answer may stand behind much else.
                    if exchanged? == Exchanged::Read && asked.is_some() {
                        asked = Some(Instant::now());
                    }
                }
            }
        }
    }

    /// Queues a message, waiting while the queue is full: then nothing more is read, and signs of life go on.
    async fn pass(
        &mut self,
        delivery: Delivery,
        connection: &mut Connection,
        tick: &mut Interval,
    ) -> Result<(), Ended> {
        // The broker's own notices; every client is subscribed to them.
        if delivery.topic.as_bytes().starts_with(b".") {
            return Ok(());
        }
        let message = Message {
            sender: self.known.remember(&delivery.sender),
            topic: self.known.remember(&delivery.topic),
            payload: delivery.payload,
        };
        self.shared.counters.inbox_taken.add(1);
        let message = match self.queue.try_send(message) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(Ended::Finished),
            Err(TrySendError::Full(message)) => message,
        };
        loop {
            tokio::select! {
                biased;
                () = self.ended.cancelled() => return Err(Ended::Finished),
                permit = self.queue.reserve() => {
                    permit.map_err(|_| Finished)?.send(message);
                    return Ok(());
                }
                _ = tick.tick() => connection.ping(),
                written = connection.write() => written?,
            }
        }
    }
}

/// Where a subscription reads.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Receiver<Message>);

impl Inbox for Queue {
    fn next<'a>(&'a mut self, into: &'a mut Vec<Message>, most: usize) -> BoxFuture<'a, bool> {
        Box::pin(async move { self.0.recv_many(into, most.max(1)).await > 0 })
    }

    /// Nothing to do: a foreign broker does not wait for who hears.
    fn taken(&mut self) {}
}
