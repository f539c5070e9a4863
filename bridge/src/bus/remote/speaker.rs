//! One connection that speaks: it carries the batches of its ports until each is confirmed.
//!
//! Kept true: while the broker is away a port can still be closed; after a port has been closed nothing of it is written any
//! more, and what had been written is confirmed, or the connection is gone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant, Interval, MissedTickBehavior},
};

use crate::{
    bus::{
        BusName, Command, PortError, SendError, Taken,
        remote::{
            Claim, Shared,
            backoff::Backoff,
            ledger::Ledger,
            wire::{Connection, DialError, LinkError},
        },
    },
    native::codec::server::ServerFrame,
    settings::Chain,
};

mod aside;
mod ends;

use aside::Aside;
pub(super) use aside::FIRST_ID;

/// How much may wait to be written before more is encoded.
const OUTPUT: usize = 256 << 10;

/// A connection that lasted this long was a good one: the next is dialled without a long wait.
const GOOD: Duration = Duration::from_secs(5);

/// One connection that speaks.
#[derive(Debug)]
pub(super) struct Speaker {
    shared: Arc<Shared>,
    name: BusName,
    queue: mpsc::Receiver<Command>,
    /// Whether anything may still come out of `queue`.
    queueing: bool,
    joins: mpsc::Receiver<Join>,
    /// Whether ports may still join.
    joining: bool,
    ports: HashMap<u64, Member>,
    /// Ends for a port that was dropped.
    gone: FuturesUnordered<BoxFuture<'static, u64>>,
    ledger: Ledger,
    aside: Aside,
    /// Closed ports whose last batches are not confirmed, and who waits for that.
    closing: Vec<(u64, Option<oneshot::Sender<()>>)>,
    role: Role,
}

/// What a connection is for.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// Tells whether the broker is there, as long as the bus lives.
    Keeper,
    /// Speaks for one port, and ends with it.
    Own,
}

/// A port that speaks through this connection.
#[derive(Debug)]
struct Member {
    prefix: Arc<str>,
    /// Whether it may still submit.
    open: bool,
    /// Frees the name with the port.
    _claim: Claim,
}

/// A port that joins the keeper's connection.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) id: u64,
    pub(super) prefix: Arc<str>,
    pub(super) gone: oneshot::Receiver<()>,
    pub(super) claim: Claim,
    /// Told when batches of the port will be known.
    pub(super) joined: oneshot::Sender<()>,
}

/// What the ports want.
enum Heard {
    Ask(Command),
    Gone(u64),
    Join(Join),
    /// Something ended; look again.
    Nothing,
}

/// Why a conversation with the broker is over.
enum Ended {
    /// Nobody needs it any more.
    Finished,
    Lost(LinkError),
}

impl Speaker {
    /// The connection that keeps watch, and in which ports join.
    pub(super) fn keeper(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Command>,
        joins: mpsc::Receiver<Join>,
    ) -> Self {
        let name = shared.config.name.clone();
        Self::new(shared, name, queue, (joins, Role::Keeper))
    }

    /// The connection of one port.
    pub(super) fn own(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Command>,
        claim: Claim,
        (id, gone): (u64, oneshot::Receiver<()>),
    ) -> Self {
        let (_none, joins) = mpsc::channel(1);
        let mut speaker = Self::new(shared, claim.name.clone(), queue, (joins, Role::Own));
        speaker.admit(id, Arc::from(""), gone, claim);
        speaker
    }

    fn new(
        shared: Arc<Shared>,
        name: BusName,
        queue: mpsc::Receiver<Command>,
        (joins, role): (mpsc::Receiver<Join>, Role),
    ) -> Self {
        Self {
            name,
            queue,
            queueing: true,
            joins,
            joining: true,
            ports: HashMap::new(),
            gone: FuturesUnordered::new(),
            ledger: Ledger::new(shared.config.max_unconfirmed),
            aside: Aside::new(),
            closing: Vec::new(),
            role,
            shared,
        }
    }

    fn admit(&mut self, id: u64, prefix: Arc<str>, gone: oneshot::Receiver<()>, claim: Claim) {
        self.ports.insert(id, Member { prefix, open: true, _claim: claim });
        self.gone.push(Box::pin(async move {
            // Either way the port is no more.
            gone.await.unwrap_or_default();
            id
        }));
    }

    /// Carries batches until nobody needs the connection, over as many connections as that takes.
    pub(super) async fn run(mut self, first: Option<Connection>) {
        let mut next = first;
        let mut backoff = if self.role == Role::Keeper { Backoff::eager() } else { Backoff::default() };
        loop {
            let Some(connection) = next.take() else {
                next = self.redial(&mut backoff).await;
                if next.is_none() {
                    break;
                }
                continue;
            };
            if self.role == Role::Keeper {
                self.shared.up();
            }
            let began = Instant::now();
            match self.converse(connection).await {
                Ended::Finished => break,
                Ended::Lost(error) => self.lose(&error),
            }
            if began.elapsed() >= GOOD {
                backoff = Backoff::default();
            }
        }
        // The name is free again before anybody is told.
        self.ports.clear();
        for (_, done) in self.closing.drain(..) {
            tell(done);
        }
    }

    /// Dials until the broker lets us in; `None` if meanwhile nobody needs that any more.
    async fn redial(&mut self, backoff: &mut Backoff) -> Option<Connection> {
        let (shared, name) = (Arc::clone(&self.shared), self.name.clone());
        let mut told = String::new();
        loop {
            let pause = backoff.next();
            let dialled = async {
                time::sleep(pause).await;
                shared.dial(&name).await
            };
            tokio::pin!(dialled);
            let dialled = loop {
                if self.is_finished() {
                    return None;
                }
                tokio::select! {
                    biased;
                    dialled = &mut dialled => break dialled,
                    // Everything: a port must be able to close. What is kept here meanwhile is what its submitter has in
                    // flight, and no more.
                    heard = self.hear(true) => self.heed(heard),
                }
            };
            match dialled {
                Ok(connection) => return Some(connection),
                Err(error) => self.shut_out(&error, &mut told),
            }
        }
    }

    /// Tells why the broker does not let us in. That it is away is the keeper's to tell; that it refuses one name is told
    /// once for each cause.
    fn shut_out(&self, error: &DialError, told: &mut String) {
        let cause = Chain(error).to_string();
        if self.role == Role::Keeper {
            self.shared.down(&cause);
        } else if error.is_away() || cause == *told {
            tracing::debug!(name = %self.name, error = cause, "broker not entered");
        } else {
            tracing::warn!(name = %self.name, error = cause, "broker not entered, batches wait");
            *told = cause;
        }
    }

    /// Speaks on a connection until it is lost or nobody needs it.
    async fn converse(&mut self, mut connection: Connection) -> Ended {
        let mut tick = time::interval(self.shared.config.ping_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.aside.connect();
        loop {
            self.begin(&mut connection);
            if self.is_finished() {
                return Ended::Finished;
            }
            match self.turn(&mut connection, &mut tick).await {
                Ok(()) => self.settle(),
                Err(error) => return Ended::Lost(error),
            }
        }
    }

    /// Waits for one thing and does it.
    async fn turn(&mut self, connection: &mut Connection, tick: &mut Interval) -> Result<(), LinkError> {
        let room = self.ledger.has_room() && connection.output.len() < OUTPUT;
        tokio::select! {
            // First: a broker that floods us must not hide that it confirms nothing.
            biased;
            now = tick.tick() => {
                if self.ledger.is_overdue(now) {
                    return Err(LinkError::Unconfirmed);
                }
                self.aside.tick(now);
                connection.ping();
                if self.role == Role::Keeper && self.ledger.is_empty() {
                    self.ledger.push_probe();
                }
            }
            // Then: many batches in one write. There is an end to it, for there is an end to the room.
            heard = self.hear(room) => self.heed(heard),
            exchanged = connection.exchange() => {
                exchanged?;
                self.learn(connection)?;
            }
        }
        Ok(())
    }

    /// Encodes what may be begun.
    fn begin(&mut self, connection: &mut Connection) {
        let due = Instant::now() + self.shared.config.confirm_timeout;
        while connection.output.len() < OUTPUT {
            let Some(begun) = self.ledger.begin(&mut connection.output, due) else { break };
            self.shared.counters.published.add(begun.published);
            self.shared.counters.discarded.add(begun.discarded);
            self.shared.counters.resubmitted.add(begun.again.into());
        }
        self.aside.begin(&mut connection.output, due);
    }

    /// Learns what the broker says.
    fn learn(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        // What others send to this name is nothing to a name that only speaks: none of it is kept.
        let most = if self.aside.hears() { self.shared.config.max_message.as_usize() } else { 0 };
        while let Some(frame) = connection.frame(most)? {
            let (id, code) = match frame {
                ServerFrame::Ack { id, code } => (id, code),
                ServerFrame::Delivery(delivery) => {
                    self.aside.hear(delivery, &self.shared.counters);
                    continue;
                }
                ServerFrame::Ping => continue,
            };
            if self.aside.answered(id, code) {
                continue;
            }
            if self.ledger.answered(id, code).map_err(LinkError::Refused)? {
                self.shared.counters.confirmed.add(1);
                if let Some(took) = self.ledger.took() {
                    self.shared.counters.confirmed_by_broker.note(took);
                }
            }
        }
        Ok(())
    }

    /// Waits for a wish of the ports; for batches only if there is room.
    ///
    /// Cancel safe: what was not heard is still there.
    async fn hear(&mut self, room: bool) -> Heard {
        tokio::select! {
            biased;
            join = self.joins.recv(), if self.joining => {
                self.joining = join.is_some();
                join.map_or(Heard::Nothing, Heard::Join)
            }
            // Before batches: what a dropped port has submitted is not begun any more.
            Some(port) = self.gone.next(), if !self.gone.is_empty() => Heard::Gone(port),
            command = self.queue.recv(), if self.queueing && room => {
                self.queueing = command.is_some();
                command.map_or(Heard::Nothing, Heard::Ask)
            }
            else => std::future::pending().await,
        }
    }

    fn heed(&mut self, heard: Heard) {
        match heard {
            Heard::Ask(Command::Close { port, done }) => self.close(port, Some(done)),
            Heard::Ask(Command::Submit { port, events, done, .. }) => {
                match self.ports.get(&port).filter(|member| member.open) {
                    Some(member) => self.ledger.push(port, &member.prefix, events, done),
                    None => done.send(Taken::Withdrawn).unwrap_or_default(),
                }
            }
            Heard::Ask(Command::Ask { port, ask, done }) => {
                match self.ports.get(&port).filter(|member| member.open) {
                    Some(member) => self.aside.take(ask, &member.prefix, done),
                    None => done.send(Err(SendError::Closed)).unwrap_or_default(),
                }
            }
            Heard::Ask(Command::Attach { drum, done, .. }) => {
                let attached = match self.role {
                    Role::Keeper => Err(PortError::Shared),
                    Role::Own => {
                        self.aside.attach(drum);
                        Ok(())
                    }
                };
                done.send(attached).unwrap_or_default();
            }
            Heard::Gone(port) => self.close(port, None),
            Heard::Join(Join { id, prefix, gone, claim, joined }) => {
                self.admit(id, prefix, gone, claim);
                joined.send(()).unwrap_or_default();
            }
            Heard::Nothing => {}
        }
        self.settle();
    }
}

fn tell(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        // An error means that who closed has stopped waiting.
        done.send(()).unwrap_or_default();
    }
}
