//! From one connection to the next without a gap: make before break.
//!
//! ```text
//!  old   ═══ carries ═══════════════╗ last acks, half-close
//!  new          dial, TLS, verdict ─╨─► hello ─► welcome ═══ carries ═══
//! ```
//!
//! When this end's certificate is renewed, or the gateway says that the connection is old, the next connection is made while
//! the session goes on. Only when it stands does the session settle what is in flight, and the next one begins: streams have
//! one holder at a time, whichever gateway is at the other end. The old connection is kept until the new one is welcomed; if
//! it is not, the session goes on on the old one.
//!
//! While a session lives its gateway is judged again and again: when what is trusted changes, and when its path expires.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    settings::Chain,
    trust::{Material, RefusalReason},
    uplink::{
        Failure, Gateway,
        dial::{ALPN, Dialled, Dialler},
        keeper::{Attempt, Keeper},
        session::{End, Session},
    },
};

/// A connection, to whom, and with what it was made.
#[derive(Debug)]
pub(super) struct Line {
    gateway: Gateway,
    pub(super) dialled: Dialled,
    material: Arc<Material>,
}

/// What came of a session.
enum Carried {
    Ended(Result<End, Failure>),
    /// Everything is settled, or the connection was lost, and the next one stands.
    Moving(Line, Former),
}

/// What the connection that is left is good for.
enum Former {
    /// The session can go on there if it must.
    InService,
    /// The gateway wants it gone, or it is lost.
    Useless,
}

impl Keeper {
    /// Carries events over one connection after the other, as long as each follows the one before without a gap.
    ///
    /// `gateway` is the one to which the last of them was.
    pub(super) async fn attempt(&mut self, gateway: &mut Gateway) -> Result<Attempt, Failure> {
        let mut began = self.beginning();
        let outcome = self.follow(gateway, &mut began).await;
        self.judge(gateway, began, outcome.is_err());
        outcome
    }

    #[expect(clippy::significant_drop_tightening, reason = "a connection is held for as long as it serves")]
    async fn follow(
        &mut self,
        gateway: &mut Gateway,
        began: &mut (Instant, u64),
    ) -> Result<Attempt, Failure> {
        let mut line = Box::pin(self.connect(gateway)).await?;
        // The connection before, until this one is welcomed.
        let mut before: Option<Line> = None;
        loop {
            let greeted = self.greet(&mut line).await;
            let session = match (greeted, before.take()) {
                (Ok(session), old) => {
                    if let Some(old) = old {
                        old.dialled.wind_up().await;
                    }
                    session
                }
                (Err(failure), Some(mut old)) => {
                    tracing::warn!(gateway = %line.gateway, error = %Chain(&failure), "new connection not welcomed, the old one is kept");
                    self.choice.failed(&line.gateway, Instant::now());
                    // Not tried again before something changes.
                    old.material = Arc::clone(&line.material);
                    std::mem::replace(&mut line, old).dialled.wind_up().await;
                    continue;
                }
                (Err(failure), None) => {
                    line.dialled.wind_up().await;
                    return Err(failure);
                }
            };
            gateway.clone_from(&line.gateway);
            let Some(mut session) = session else {
                line.dialled.wind_up().await;
                return Ok(Attempt::Renewed);
            };
            let carried = Box::pin(self.carry(&mut line, &mut session)).await;
            self.note_sent(session.sent());
            drop(session);
            match carried {
                Carried::Moving(next, former) => {
                    self.judge(gateway, std::mem::replace(began, self.beginning()), false);
                    let old = std::mem::replace(&mut line, next);
                    match former {
                        Former::InService => before = Some(old),
                        Former::Useless => old.dialled.wind_up().await,
                    }
                }
                Carried::Ended(end) => {
                    line.dialled.wind_up().await;
                    return end.map(Attempt::Ended);
                }
            }
        }
    }

    /// Says hello on a connection. What is trusted may have changed since its handshake, for the session before took its
    /// time to settle: so its gateway is judged again before it is told anything, and once it has said welcome.
    async fn greet(&self, line: &mut Line) -> Result<Option<Session>, Failure> {
        let Line { gateway, dialled: Dialled { client, nursery, chain, .. }, .. } = line;
        self.trusts(gateway, chain)?;
        let session = nursery.beside(self.meet(gateway, client)).await?;
        self.trusts(gateway, chain)?;
        Ok(session)
    }

    fn trusts(&self, gateway: &Gateway, chain: &[CertificateDer<'static>]) -> Result<(), Failure> {
        let (material, names) = (self.store.current(), &self.config.server_names);
        let judged = material.judge_server(chain, gateway.host(), names, UnixTime::now());
        judged.map(|_until| ()).map_err(|reason| Failure::Untrusted { gateway: gateway.clone(), reason })
    }

    async fn connect(&self, gateway: &Gateway) -> Result<Line, Failure> {
        let material = self.store.current();
        let names = &self.config.server_names;
        let tls = Arc::new(material.client_config(&[ALPN], self.config.floor, names));
        let dialler = Dialler { tls, patience: self.config.connect_timeout };
        Ok(Line { gateway: gateway.clone(), dialled: dialler.dial(gateway).await?, material })
    }

    /// Carries events until the session ends, or until it is settled because the next connection stands.
    async fn carry(&self, line: &mut Line, session: &mut Session) -> Carried {
        let (departure, retired) = (session.departure.clone(), session.retired.clone());
        let Line { gateway, dialled: Dialled { nursery, chain, .. }, material } = line;
        let gateway = &*gateway;
        // One future from beginning to end: a session that is dropped in the middle of settling has lost its place.
        let mut carrying = pin!(nursery.beside(session.carry()));
        // Who is no longer trusted hears no last word, nor settles what is in flight.
        let mut distrusted = pin!(self.distrust(gateway, chain));
        let untrusted = |reason| Carried::Ended(Err(Failure::Untrusted { gateway: gateway.clone(), reason }));
        let mut next = tokio::select! {
            biased;
            reason = &mut distrusted => return untrusted(reason),
            ended = &mut carrying => return Carried::Ended(ended),
            next = self.prepare(gateway, material, &retired) => next,
        };
        departure.cancel();
        let settling = async {
            match &mut next {
                Some(next) => next.dialled.nursery.beside(carrying).await,
                None => carrying.await,
            }
        };
        let ended = tokio::select! {
            biased;
            reason = &mut distrusted => return untrusted(reason),
            ended = settling => ended,
        };
        match (ended, next) {
            (Ok(End::Moved), Some(next)) => {
                tracing::info!(gateway = %next.gateway, "moved to a new connection");
                let former = if retired.is_cancelled() { Former::Useless } else { Former::InService };
                Carried::Moving(next, former)
            }
            (Ok(End::Moved), None) => {
                // An old connection whose successor could not be made: the long way round.
                Carried::Ended(Ok(End::Drained { after: Duration::ZERO, alternatives: Vec::new() }))
            }
            (Err(failure), Some(next)) => {
                tracing::debug!(error = %Chain(&failure), "old connection lost on the way to the new one");
                Carried::Moving(next, Former::Useless)
            }
            (ended, _) => Carried::Ended(ended),
        }
    }

    /// Waits until another connection is wanted, and makes it; `None` if it is wanted at once and cannot be made.
    async fn prepare(&self, gateway: &Gateway, used: &Material, retired: &CancellationToken) -> Option<Line> {
        let mut material = self.store.watch();
        // A gateway that sends everybody on at once must not keep leaves dialling without a pause.
        let soonest = Instant::now() + SHORTEST;
        let mut old_at = self.old_at(gateway);
        loop {
            let is_renewed = !material.borrow_and_update().material().has_same_key(used);
            if is_renewed || retired.is_cancelled() {
                time::sleep_until(soonest).await;
                match Box::pin(self.connect(gateway)).await {
                    Ok(line) => return Some(line),
                    Err(failure) => {
                        tracing::warn!(%gateway, error = %Chain(&failure), "next connection not made, the old one is kept");
                        if retired.is_cancelled() {
                            return None;
                        }
                    }
                }
            } else if old_at.is_some_and(|old| old <= Instant::now()) {
                if let Some(line) = Box::pin(self.connect_anew(gateway)).await {
                    return Some(line);
                }
                old_at = self.old_at(gateway);
            }
            tokio::select! {
                () = retired.cancelled(), if !retired.is_cancelled() => {}
                Ok(()) = material.changed() => {}
                () = time::sleep(self.config.refused_retry), if is_renewed => {}
                () = until(old_at), if !is_renewed && old_at.is_some() => {}
            }
        }
    }

    /// When a connection to `gateway` that begins now has become old.
    fn old_at(&self, gateway: &Gateway) -> Option<Instant> {
        Some(Instant::now() + self.choice.stay(gateway, fastrand::f64())?)
    }

    /// Makes the connection that follows one that has become old: to the best gateway that can be had.
    async fn connect_anew(&self, present: &Gateway) -> Option<Line> {
        for gateway in self.choice.anew(present, Instant::now()) {
            match self.connect(&gateway).await {
                Ok(line) => return Some(line),
                Err(failure) => {
                    tracing::debug!(%gateway, error = %Chain(&failure), "old connection kept, another gateway is not there");
                }
            }
        }
        None
    }

    /// Waits until the gateway of a session would not be trusted any more.
    async fn distrust(&self, gateway: &Gateway, chain: &[CertificateDer<'static>]) -> RefusalReason {
        let mut material = self.store.watch();
        loop {
            let now = material.borrow_and_update().material().judge_server(
                chain,
                gateway.host(),
                &self.config.server_names,
                UnixTime::now(),
            );
            let until = match now {
                Ok(until) => until,
                Err(reason) => return reason,
            };
            // The wall clock can be set, and timers stand still while a machine sleeps.
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                Ok(()) = material.changed() => {}
                () = time::sleep(left.clamp(Duration::from_millis(50), LOOK)) => {}
            }
        }
    }
}

/// Ends at that time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// How long a session is served before its connection is exchanged for another.
const SHORTEST: Duration = Duration::from_secs(1);

/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(30);
