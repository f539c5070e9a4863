//! Who was turned away, and why: bounded, and such that a flood cannot push the rest out.
//!
//! Refusals of one reason from one network with one certificate are one entry with a count. A reason has so many entries,
//! a network within it fewer: a flood pushes out its own kind only.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use daemoneye_bridge::trust::{Certificate, Recorder, RefusalReason};
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use crate::{
    snapshot::{self, Timestamp},
    tls::Metrics,
};

/// Which stage turned somebody away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It had no name.
    Identity,
    /// There was no room.
    Listener,
    /// It has a name that may do nothing here.
    Policy,
    /// The handshake failed.
    Tls,
}

impl Stage {
    /// The word used in logs and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Listener => "listener",
            Self::Policy => "policy",
            Self::Tls => "tls",
        }
    }
}

/// A connection that was turned away.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// By whom.
    pub stage: Stage,
    /// Why.
    pub reason: RefusalReason,
    /// What happened, for people; may quote the stranger.
    pub detail: String,
    /// Where it came from.
    pub remote: SocketAddr,
    /// What it presented.
    pub recorder: Option<Arc<Recorder>>,
    /// The certificate that it proved to hold, if the handshake is long over.
    pub proven: Option<Box<Certificate>>,
}

impl Refusal {
    /// A peer that was admitted, and may do nothing.
    #[must_use]
    pub fn without_role(
        peer: &impl std::fmt::Display,
        certificate: &Certificate,
        remote: SocketAddr,
    ) -> Self {
        Self {
            stage: Stage::Policy,
            reason: RefusalReason::NoRole,
            detail: format!("no role matches {peer}"),
            remote,
            recorder: None,
            proven: Some(Box::new(certificate.clone())),
        }
    }
}

/// Takes refusals down. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refusals {
    queue: mpsc::Sender<Refusal>,
    metrics: Metrics,
}

impl Refusals {
    /// Opens the book, and returns what it shows and the future that keeps it.
    #[must_use]
    pub fn open(metrics: Metrics) -> (Self, snapshot::Part<snapshot::Refusals>, BoxFuture<'static, ()>) {
        let (queue, refusals) = mpsc::channel(QUEUE);
        let (publish, shown) = watch::channel(Arc::default());
        (Self { queue, metrics }, shown, Box::pin(keep(refusals, publish)))
    }

    /// Takes one down without waiting; in a flood it is only counted.
    pub fn offer(&self, refusal: Refusal) {
        if refusal.stage != Stage::Policy {
            self.metrics.refused(refusal.reason);
        }
        tracing::debug!(
            remote = %refusal.remote,
            stage = refusal.stage.as_str(),
            reason = %refusal.reason,
            detail = %refusal.detail.escape_debug(),
            "connection refused"
        );
        if self.queue.try_send(refusal).is_err() {
            tracing::trace!("refusal not taken down");
        }
    }
}

/// Refusals waiting to be taken down. Each holds a stranger's chain, 64 KiB at most.
const QUEUE: usize = 64;

/// How often what was taken down is shown.
const EVERY: Duration = Duration::from_millis(250);

async fn keep(mut refusals: mpsc::Receiver<Refusal>, publish: watch::Sender<Arc<snapshot::Refusals>>) {
    let mut book = Book::default();
    let mut tick = time::interval(EVERY);
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut shown = 0;
    loop {
        tokio::select! {
            refusal = refusals.recv() => match refusal {
                Some(refusal) => book.take(&refusal, Timestamp::now()),
                None => return,
            },
            _ = tick.tick(), if shown != book.total => {
                shown = book.total;
                publish.send_replace(Arc::new(book.show()));
            }
        }
    }
}

/// What makes two refusals one entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    reason: RefusalReason,
    network: IpAddr,
    /// The leaf as presented, or its key's hash; whatever it says, it is the same certificate.
    leaf: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Entry {
    refusal: snapshot::Refusal,
    /// When it was last seen, in the book's own count.
    seen: u64,
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<Key, Entry>,
    total: u64,
}

/// Most entries of one reason, and of one network within it.
const PER_REASON: usize = 32;
const PER_NETWORK: usize = 8;

/// A leaf longer than this is told from others by its beginning.
const LEAF_KEY: usize = 4096;

impl Book {
    fn take(&mut self, refusal: &Refusal, now: Timestamp) {
        self.total = self.total.saturating_add(1);
        let leaf =
            refusal.recorder.as_ref().and_then(|recorder| recorder.presented()?.chain.first().cloned());
        let leaf = leaf.map(|leaf| leaf.iter().copied().take(LEAF_KEY).collect());
        let leaf = leaf.or_else(|| Some(refusal.proven.as_ref()?.spki_sha256().to_vec()));
        let key = Key { reason: refusal.reason, network: network(refusal.remote.ip()), leaf };
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.seen = self.total;
            let told = &mut entry.refusal;
            told.last = now;
            told.count = told.count.saturating_add(1);
            told.address = refusal.remote.ip().to_string();
            told.detail = bounded(&refusal.detail);
            told.possession_proven |= possession(refusal);
            return;
        }
        self.make_room(&key);
        self.entries.insert(key, Entry { refusal: describe(refusal, now), seen: self.total });
    }

    fn make_room(&mut self, new: &Key) {
        let same_reason = |key: &&Key| key.reason == new.reason;
        let same_network = |key: &&Key| same_reason(key) && key.network == new.network;
        let oldest = if self.entries.keys().filter(same_network).count() >= PER_NETWORK {
            self.oldest(same_network)
        } else if self.entries.keys().filter(same_reason).count() >= PER_REASON {
            self.oldest(same_reason)
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.entries.remove(&oldest);
        }
    }

    fn oldest(&self, among: impl Fn(&&Key) -> bool) -> Option<Key> {
        let entries = self.entries.iter().filter(|(key, _)| among(key));
        entries.min_by_key(|(_, entry)| entry.seen).map(|(key, _)| key.clone())
    }

    fn show(&self) -> snapshot::Refusals {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.seen));
        let recent = entries.into_iter().map(|entry| entry.refusal.clone()).collect();
        snapshot::Refusals { total: self.total, recent }
    }
}

fn describe(refusal: &Refusal, now: Timestamp) -> snapshot::Refusal {
    let presented = refusal.recorder.as_ref().and_then(|recorder| recorder.presented());
    let chain = presented.into_iter().flat_map(|presented| &presented.chain);
    let chain = chain.filter_map(|der| Certificate::parse(der).ok()).map(|certificate| {
        let role = if certificate.is_authority() { "ca" } else { "client" };
        snapshot::Certificate::of(role, &certificate)
    });
    let proven = refusal.proven.as_ref().map(|certificate| snapshot::Certificate::of("client", certificate));
    snapshot::Refusal {
        first: now,
        last: now,
        count: 1,
        address: refusal.remote.ip().to_string(),
        network: prefix(refusal.remote.ip()),
        stage: refusal.stage.as_str(),
        reason: refusal.reason.to_string(),
        detail: bounded(&refusal.detail),
        hint: refusal.reason.hint().to_owned(),
        possession_proven: possession(refusal),
        chain: chain.chain(proven).collect(),
    }
}

fn possession(refusal: &Refusal) -> bool {
    refusal.proven.is_some() || refusal.recorder.as_ref().is_some_and(|recorder| recorder.possession_proven())
}

fn bounded(text: &str) -> String {
    text.chars().take(256).collect()
}

/// The network that an address is counted with: /24 of version 4, /48 of version 6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(four) => {
            let [a, b, c, _] = four.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(six) => {
            let [a, b, c, ..] = six.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

fn prefix(address: IpAddr) -> String {
    let network = network(address);
    format!("{network}/{}", if network.is_ipv4() { 24 } else { 48 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reason: RefusalReason, address: [u8; 4]) -> Refusal {
        let remote = SocketAddr::from((address, 4711));
        Refusal { stage: Stage::Tls, reason, detail: "x".repeat(1000), remote, recorder: None, proven: None }
    }

    #[test]
    fn one_reason_from_one_network_is_one_entry() {
        let mut book = Book::default();
        for host in 1..=9 {
            book.take(&refusal(RefusalReason::NotTls, [10, 0, 0, host]), Timestamp::now());
        }
        let shown = book.show();
        assert_eq!((shown.total, shown.recent.len(), shown.recent[0].count), (9, 1, 9));
        assert_eq!((&*shown.recent[0].address, &*shown.recent[0].network), ("10.0.0.9", "10.0.0.0/24"));
        assert_eq!(shown.recent[0].detail.len(), 256);
    }

    #[test]
    fn a_flood_pushes_out_its_own_kind_only() {
        let mut book = Book::default();
        book.take(&refusal(RefusalReason::CertificateExpired, [10, 0, 0, 1]), Timestamp::now());
        for number in 0..10_000u16 {
            let [high, low] = number.to_be_bytes();
            book.take(&refusal(RefusalReason::NotTls, [172, high, low, 1]), Timestamp::now());
        }
        let shown = book.show();
        assert_eq!(shown.recent.len(), PER_REASON + 1);
        assert_eq!(shown.recent.last().unwrap().reason, "certificate_expired");
        assert_eq!(shown.total, 10_001);
    }
}
