//! What a session shows of itself while it lives: numbers that it writes and the registry reads.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use daemoneye_bridge::event::{Class, Seq, StreamId};
use tokio::time::Instant;

use crate::{
    identity::PeerId,
    session::hello::Listed,
    snapshot::{Certificate, Collector, Gone, Stream, Timestamp, Word},
};

/// A live session, for whoever shows it. Its numbers are written by the session alone.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) peer: PeerId,
    pub(super) session: String,
    pub(super) address: String,
    transport: &'static str,
    pub(super) software: String,
    certificate: Arc<Certificate>,
    /// When the first certificate of the path expires.
    expires: Timestamp,
    since: SystemTime,
    epoch: Instant,
    heartbeat: Duration,
    /// Changes with the policy and with each new collector: seldom.
    varying: Mutex<Varying>,
    pub(super) streams: Vec<Arc<StreamCounts>>,
    /// Milliseconds since `epoch`.
    heard: AtomicU64,
    /// Microseconds; `u64::MAX` before the first.
    round_trip: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) credit: AtomicU64,
}

#[derive(Debug)]
struct Varying {
    roles: Vec<String>,
    speaks_as: Vec<String>,
}

/// The numbers of one stream of a session.
#[derive(Debug)]
pub(super) struct StreamCounts {
    id: StreamId,
    class: Class,
    /// What the peer said that its next new event would be.
    next: Seq,
    pub(super) acked: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) rejected: AtomicU64,
}

impl StreamCounts {
    pub(super) const fn new(listed: &Listed) -> Self {
        Self {
            id: listed.id,
            class: listed.class,
            next: listed.next,
            acked: AtomicU64::new(listed.acked),
            received: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }
    }

    fn row(&self) -> Stream {
        let acked = self.acked.load(Relaxed);
        Stream {
            stream: self.id.to_string(),
            class: self.class.as_str(),
            acked,
            received: self.received.load(Relaxed),
            backlog: self.next.saturating_sub(1).saturating_sub(acked),
            duplicates: self.duplicates.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            lost: self.lost.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
        }
    }
}

/// Who has come, as a session shows it from its first moment.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) peer: PeerId,
    pub(super) address: String,
    /// What it speaks.
    pub(super) transport: &'static str,
    pub(super) software: String,
    pub(super) certificate: Arc<Certificate>,
    pub(super) expires: Timestamp,
    pub(super) roles: Vec<String>,
    /// The role that stands for all of them in metrics.
    pub(super) label: String,
    pub(super) heartbeat: Duration,
    /// How many sessions the policy grants the peer at once.
    pub(super) connections: usize,
}

impl Live {
    pub(super) fn new(arrival: Arrival, session: String, streams: &[Listed]) -> Self {
        let speaks_as = vec![arrival.peer.name().to_owned()];
        Self {
            session,
            since: SystemTime::now(),
            epoch: Instant::now(),
            varying: Mutex::new(Varying { roles: arrival.roles, speaks_as }),
            peer: arrival.peer,
            address: arrival.address,
            transport: arrival.transport,
            software: arrival.software,
            certificate: arrival.certificate,
            expires: arrival.expires,
            heartbeat: arrival.heartbeat,
            streams: streams.iter().map(StreamCounts::new).map(Arc::new).collect(),
            heard: AtomicU64::new(0),
            round_trip: AtomicU64::new(u64::MAX),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            credit: AtomicU64::new(0),
        }
    }

    /// Something was heard from the peer.
    pub(super) fn hear(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        self.heard.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long the peer has been silent.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Relaxed));
        now.saturating_duration_since(self.epoch).saturating_sub(heard)
    }

    /// A ping came back.
    pub(super) fn round_trip(&self, taken: Duration) {
        self.round_trip.store(u64::try_from(taken.as_micros()).unwrap_or(u64::MAX - 1), Relaxed);
    }

    /// The policy gives the peer other roles.
    pub(super) fn set_roles(&self, roles: Vec<String>) {
        self.varying().roles = roles;
    }

    /// The peer speaks for one more collector.
    pub(super) fn speaks_as(&self, collector: &str) {
        let mut varying = self.varying();
        if !varying.speaks_as.iter().any(|known| known == collector) {
            varying.speaks_as.push(collector.to_owned());
        }
    }

    /// The peer has let go of a collector's name; its own it keeps.
    pub(super) fn speaks_no_more_as(&self, collector: &str) {
        self.varying().speaks_as.retain(|known| known != collector || known == self.peer.name());
    }

    fn varying(&self) -> MutexGuard<'_, Varying> {
        self.varying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session as it is shown.
    pub(super) fn row(&self, now: Instant) -> Collector {
        let silence = self.silence(now);
        let (status, cause) = self.health(silence);
        let (roles, speaks_as) = {
            let varying = self.varying();
            (varying.roles.clone(), varying.speaks_as.clone())
        };
        let streams: Vec<Stream> = self.streams.iter().map(|stream| stream.row()).collect();
        let round_trip = Some(self.round_trip.load(Relaxed)).filter(|micros| *micros != u64::MAX);
        Collector {
            peer: self.peer.to_string(),
            site: self.peer.site().to_owned(),
            name: self.peer.name().to_owned(),
            roles,
            session: self.session.clone(),
            address: self.address.clone(),
            transport: self.transport,
            software: self.software.clone(),
            since: Timestamp(self.since),
            last_heard: Timestamp(SystemTime::now().checked_sub(silence).unwrap_or(self.since)),
            round_trip_ms: round_trip.map(|micros| Duration::from_micros(micros).as_secs_f64() * 1000.0),
            status,
            cause,
            speaks_as,
            rejected: streams.iter().map(|stream| stream.rejected).sum(),
            streams,
            events: self.events.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            credit: self.credit.load(Relaxed),
            certificate: Arc::clone(&self.certificate),
            expires: self.expires,
        }
    }

    /// A heartbeat is missed when it is a tenth overdue.
    fn health(&self, silence: Duration) -> (Word, Option<String>) {
        let allowed = self.heartbeat.saturating_add(self.heartbeat / 10);
        if silence <= allowed {
            return (Word::Healthy, None);
        }
        let cause = format!(
            "silent for {} s, though it should be heard every {} s",
            silence.as_secs(),
            self.heartbeat.as_secs()
        );
        (Word::Degraded, Some(cause))
    }

    /// The session as it is remembered.
    pub(super) fn gone(&self, reason: &str, detail: &str) -> Gone {
        Gone {
            peer: self.peer.to_string(),
            session: self.session.clone(),
            address: self.address.clone(),
            since: Timestamp(self.since),
            until: Timestamp::now(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            events: self.events.load(Relaxed),
        }
    }
}
