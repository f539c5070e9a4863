//! Keeps a session up: chooses a gateway, dials, is welcomed, carries, and comes back after whatever ended it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemoneye_proto::v1::{
    LinkRequest, LinkResponse, Welcome, federation_client::FederationClient, link_request, link_response,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    event::{Class, Seq, StreamId},
    settings::Chain,
    spool::{Spool, SpoolError, StreamState},
    trust::Store,
    uplink::{
        Config, Failure, Gateway, Link, Outlet, Status,
        backoff::{Backoff, Severity},
        choice::Choice,
        hello::{self, Place, Resume, Welcomed},
        lane::{Lane, is_delivered, rejections},
        note,
        session::{End, Session, Terms},
    },
};

/// Keeps a session up.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) config: Config,
    spool: Spool,
    /// Where sessions leave what comes down.
    outlet: Option<Outlet>,
    pub(super) store: Store,
    status: Arc<watch::Sender<Status>>,
    finish: watch::Receiver<Option<Instant>>,
    backoff: Backoff,
    /// The highest number that this process has sent of each stream, so that it is known what a gateway can have seen.
    sent: [(StreamId, Seq); 2],
    pub(super) choice: Choice,
}

type Client = FederationClient<Channel>;

/// What comes after an attempt.
enum Next {
    /// Another, after this long.
    Again(Duration),
    /// Nothing: we are finished.
    Stop,
}

/// How an attempt ended that did not fail.
pub(super) enum Attempt {
    Ended(End),
    /// A stream was strange to the gateway and has a new name: say hello again.
    Renewed,
}

impl Keeper {
    pub(super) fn new(
        config: Config,
        (spool, outlet): (Spool, Option<Outlet>),
        store: Store,
        status: watch::Sender<Status>,
        finish: watch::Receiver<Option<Instant>>,
    ) -> Self {
        let backoff = Backoff::new(config.first_retry, config.longest_retry, config.refused_retry);
        let nothing = [(StreamId::random(), 0), (StreamId::random(), 0)];
        let choice = Choice::new(&config);
        Self {
            config,
            spool,
            outlet,
            store,
            status: Arc::new(status),
            finish,
            backoff,
            sent: nothing,
            choice,
        }
    }

    /// Carries events until told to finish, and then until all are delivered or patience ends.
    pub(super) async fn run(mut self) {
        let status = Arc::clone(&self.status);
        let patience = expired(self.finish.clone());
        tokio::select! {
            biased;
            () = patience => tracing::warn!("uplink ended before everything was delivered, the spool keeps the rest"),
            () = self.keep_up() => {}
        }
        status.send_modify(|status| status.link = Link::Ended);
    }

    async fn keep_up(&mut self) {
        loop {
            let finishing = self.finish.borrow().is_some();
            if finishing && is_delivered(&self.spool) {
                return;
            }
            match self.round().await {
                Next::Again(pause) => self.rest(pause).await,
                Next::Stop => return,
            }
        }
    }

    /// Waits, unless there is a reason to try at once.
    async fn rest(&mut self, pause: Duration) {
        let until = SystemTime::now() + pause;
        self.status.send_modify(|status| {
            let since = match &status.link {
                Link::Waiting { since, .. } => *since,
                _ => SystemTime::now(),
            };
            status.link = Link::Waiting { since, until };
        });
        let finishing = self.finish.borrow().is_some();
        let mut material = self.store.watch();
        material.mark_unchanged();
        tokio::select! {
            () = time::sleep(pause) => {}
            Ok(_) = self.finish.wait_for(Option::is_some), if !finishing => {}
            // A new certificate may be what was missing.
            Ok(()) = material.changed() => {}
        }
    }

    /// Tries each gateway once, until one has served.
    async fn round(&mut self) -> Next {
        let mut asked = None;
        let mut severity = Severity::Lasting;
        for mut gateway in self.choice.round(Instant::now()) {
            let outcome = self.attempt(&mut gateway).await;
            match outcome {
                Ok(Attempt::Ended(End::Finished)) => return Next::Stop,
                Ok(Attempt::Ended(End::Drained { after, alternatives })) => {
                    self.choice.drained(gateway, &alternatives);
                    return Next::Again(after.clamp(SHORTEST_DRAIN, LONGEST_DRAIN));
                }
                Ok(Attempt::Ended(End::Moved)) => return Next::Again(Duration::ZERO),
                Ok(Attempt::Renewed) if self.backoff.failures() < MOST_RENEWALS => {
                    // Counts as a failure, so that a gateway to which everything is strange is not asked for ever.
                    return Next::Again(self.backoff.failed(Severity::Passing, None, fastrand::f64()));
                }
                Ok(Attempt::Renewed) => severity = Severity::Lasting,
                Err(failure) => {
                    self.report(&failure);
                    asked = asked.max(failure.retry_after());
                    if failure.severity() == Severity::Passing {
                        severity = Severity::Passing;
                    }
                }
            }
        }
        Next::Again(self.backoff.failed(severity, asked, fastrand::f64()))
    }

    fn report(&self, failure: &Failure) {
        if note(&self.status, failure) {
            tracing::warn!(error = %Chain(failure), "uplink lost");
        } else {
            tracing::debug!(error = %Chain(failure), "uplink still lost");
        }
        self.status.send_modify(|status| {
            status.in_flight = 0;
            if status.link.is_up() {
                status.link = Link::Connecting { since: SystemTime::now() };
            }
        });
    }

    /// Notes how a connection to `gateway` that began at `began` did, when `acked` events were acknowledged.
    pub(super) fn judge(&mut self, gateway: &Gateway, (began, acked): (Instant, u64), failed: bool) {
        let now = Instant::now();
        if self.status.borrow().acked > acked || now.saturating_duration_since(began) > SERVED {
            self.backoff.reset();
            self.choice.served(gateway);
        } else if failed {
            self.choice.failed(gateway, now);
        }
        let left_out = self.choice.left_out(now);
        self.status.send_if_modified(|status| {
            let changed = status.left_out != left_out;
            status.left_out = left_out;
            changed
        });
    }

    /// What [`Self::judge`] compares with.
    pub(super) fn beginning(&self) -> (Instant, u64) {
        (Instant::now(), self.status.borrow().acked)
    }

    /// Says hello; the session if welcomed, none if a stream had to be given a new name.
    pub(super) async fn meet(
        &self,
        gateway: &Gateway,
        client: &mut Client,
    ) -> Result<Option<Session>, Failure> {
        let (outbound, requests) = mpsc::channel(OUTBOUND);
        let streams = self.spool.streams();
        let hello = link_request::Frame::Hello(hello::hello(&streams));
        // There is room in a new channel.
        let _sent = outbound.try_send(LinkRequest { frame: Some(hello) });
        let (welcome, inbound) = first_word(gateway, client, requests).await?;
        let broken = |what| Failure::Protocol { gateway: gateway.clone(), what };
        let sent = |stream| sent_of(&self.sent, stream);
        let mut welcomed = hello::read(welcome, &streams, sent).map_err(broken)?;
        let resume = std::mem::take(&mut welcomed.resume);
        let Some(lanes) = self.settle_past(resume).await? else { return Ok(None) };
        self.welcome(gateway, &welcomed);
        Ok(Some(Session::new(self.terms(gateway), &welcomed, lanes, (outbound, inbound))))
    }

    /// Remembers what a session has sent.
    pub(super) fn note_sent(&mut self, sent: [(StreamId, Seq); 2]) {
        for (known, (stream, seq)) in self.sent.iter_mut().zip(sent) {
            // Another gateway may have had more of the same stream from us.
            *known = (stream, if known.0 == stream { known.1.max(seq) } else { seq });
        }
    }

    /// Does what a welcome says of the past of each stream; the lanes go on from there. `None` if a stream had to be
    /// given a new name.
    async fn settle_past(&self, resume: Vec<Resume>) -> Result<Option<[Lane; 2]>, Failure> {
        let mut lanes = Vec::new();
        for Resume { state, place, rejected } in resume {
            let StreamState { stream, class, acked, .. } = state;
            match place {
                Place::From(from) => {
                    let settled = from.saturating_sub(1);
                    self.settle(class, (acked, settled), rejections(rejected, acked, settled)).await;
                    let reader = self.spool.reader(class, from);
                    lanes.push(Lane::new(class, stream, reader, from));
                }
                Place::Strange(settled) => {
                    tracing::warn!(%class, %stream, "gateway knows more of a stream than its spool, which begins a new one");
                    self.settle(class, (acked, settled), rejections(rejected, acked, settled)).await;
                    self.spool.renew(class).await.map_err(spool)?;
                }
            }
        }
        Ok(lanes.try_into().ok())
    }

    async fn settle(&self, class: Class, (acked, settled): (Seq, Seq), rejected: Vec<(Seq, i32, String)>) {
        let count = rejected.len() as u64;
        self.spool.reject(class, rejected).await;
        self.spool.ack(class, settled).await;
        self.status.send_modify(|status| {
            status.acked += settled.saturating_sub(acked);
            status.rejected += count;
        });
    }

    fn welcome(&self, gateway: &Gateway, welcomed: &Welcomed) {
        let Welcomed { session, peer, .. } = welcomed;
        let (session, peer) = (for_log(session), for_log(peer));
        tracing::info!(%gateway, %session, %peer, "uplink up");
        self.status.send_modify(|status| {
            status.sessions += 1;
            status.in_flight = 0;
            status.link = Link::Up { gateway: gateway.to_string(), session, peer, since: SystemTime::now() };
        });
    }

    fn terms(&self, gateway: &Gateway) -> Terms {
        Terms {
            gateway: gateway.clone(),
            spool: self.spool.clone(),
            status: Arc::clone(&self.status),
            finish: self.finish.clone(),
            batch_events: self.config.batch_events,
            batch_bytes: self.config.batch_bytes.as_usize(),
            linger: self.config.linger,
            drain_timeout: self.config.drain_timeout,
            outlet: self.outlet.clone(),
        }
    }
}

/// Opens the session's call and waits for the gateway's first message.
async fn first_word(
    gateway: &Gateway,
    client: &mut Client,
    requests: mpsc::Receiver<LinkRequest>,
) -> Result<(Welcome, Streaming<LinkResponse>), Failure> {
    let calling = async {
        let mut inbound = client.link(ReceiverStream::new(requests)).await?.into_inner();
        inbound.message().await.map(|first| (first, inbound))
    };
    let late = |_| Failure::TimedOut {
        gateway: gateway.clone(),
        doing: "waiting for its welcome",
        patience: WELCOME,
    };
    let called = time::timeout(WELCOME, calling).await.map_err(late)?;
    match called.map_err(|status| Failure::of_status(gateway, &status))? {
        (Some(LinkResponse { frame: Some(link_response::Frame::Welcome(welcome)) }), inbound) => {
            Ok((welcome, inbound))
        }
        _ => Err(Failure::Protocol { gateway: gateway.clone(), what: "its first message was no welcome" }),
    }
}

fn sent_of(sent: &[(StreamId, Seq)], stream: StreamId) -> Seq {
    sent.iter().find(|(known, _)| *known == stream).map_or(0, |(_, seq)| *seq)
}

const fn spool(source: SpoolError) -> Failure {
    Failure::Spool { source }
}

fn for_log(text: &str) -> String {
    crate::uplink::failure::for_people(text)
}

/// Ends when the deadline has passed that the uplink was given to finish.
async fn expired(mut finish: watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = *finish.borrow_and_update();
        let changed = finish.changed();
        match deadline {
            Some(deadline) => match time::timeout_at(deadline, changed).await {
                Ok(Ok(())) => {}
                Ok(Err(_nobody_left)) => return time::sleep_until(deadline).await,
                Err(_elapsed) => return,
            },
            None if changed.await.is_err() => std::future::pending().await,
            None => {}
        }
    }
}

/// Frames that wait for HTTP/2 to take them.
const OUTBOUND: usize = 4;

/// Deadline of a welcome: an older session of ours is settled first, which may wait for the gateway's bus.
const WELCOME: Duration = Duration::from_secs(30);

/// A session that lasted this long has served, even if there was nothing to carry.
const SERVED: Duration = Duration::from_secs(10);

/// A drain may keep us away for no longer, whatever the gateway says.
const LONGEST_DRAIN: Duration = Duration::from_mins(5);

/// How long it stays away at the least: a gateway that sends everybody away at once is not to be asked without a pause.
const SHORTEST_DRAIN: Duration = Duration::from_millis(100);

/// New streams in a row after which something else is wrong.
const MOST_RENEWALS: u32 = 5;
