//! Those who have not proven who they are: few, and the longest silent one goes first.
//!
//! ```text
//!  accepted ─► silent ── its greeting is there ──► queued ── a slot is free ──► busy ─► proven, or refused
//!              └───────── bounded together ─────────┘                           bounded
//! ```
//!
//! The listener owns the crowd; each member tells it by a bounded channel when it has greeted (its `ClientHello` is there)
//! and when it leaves. A member sends at most two messages, and the listener reads them all before it lets another in, so
//! the channel is never full.
//!
//! Kept true: accepting waits for nobody; only who has greeted takes a slot for its handshake, so that silence costs a
//! descriptor and nothing else.

use std::{collections::BTreeMap, future::Future, num::NonZeroUsize, time::Duration};

use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// Messages of somebody who was evicted between two looks.
const SPARE: usize = 8;

/// The members, in the order in which they came.
#[derive(Debug)]
pub(super) struct Crowd {
    /// Most that are silent or queued.
    waiting: NonZeroUsize,
    /// Most that are busy.
    handshakes: NonZeroUsize,
    /// Have sent no whole greeting yet.
    silent: BTreeMap<u64, Reins>,
    /// Have greeted, and wait for a slot.
    queued: BTreeMap<u64, Reins>,
    /// Are in the middle of their handshake, since when.
    busy: BTreeMap<u64, (Reins, Instant)>,
    /// The number of the next to come.
    next: u64,
    news: mpsc::Receiver<News>,
    /// Kept so that the channel never closes, and given to each member.
    tell: mpsc::Sender<News>,
}

/// What moves a member.
#[derive(Clone, Debug, Default)]
struct Reins {
    /// Cancelled when its place is needed for somebody else.
    evict: CancellationToken,
    /// Cancelled when it may go on with its handshake.
    go: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
enum News {
    Greeted(u64),
    Left(u64),
}

impl Crowd {
    pub(super) fn new(waiting: NonZeroUsize, handshakes: NonZeroUsize) -> Self {
        let members = waiting.get().saturating_add(handshakes.get());
        let (tell, news) = mpsc::channel(members.saturating_mul(2).saturating_add(SPARE));
        let (silent, queued, busy) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { waiting, handshakes, silent, queued, busy, next: 0, news, tell }
    }

    /// Waits for a member to greet or leave. Cancel safe.
    pub(super) async fn news(&mut self) {
        match self.news.recv().await {
            Some(News::Greeted(member)) => {
                if let Some(reins) = self.silent.remove(&member) {
                    self.queued.insert(member, reins);
                }
            }
            Some(News::Left(member)) => {
                self.silent.remove(&member);
                self.queued.remove(&member);
                self.busy.remove(&member);
            }
            None => {}
        }
        self.let_go_on();
    }

    /// Gives free slots to those who have waited longest.
    fn let_go_on(&mut self) {
        while self.busy.len() < self.handshakes.get()
            && let Some((member, reins)) = self.queued.pop_first()
        {
            reins.go.cancel();
            self.busy.insert(member, (reins, Instant::now()));
        }
    }

    /// Waits until the longest busy one has been so for too long while somebody waits for its slot. Cancel safe.
    pub(super) fn patience(&self) -> impl Future<Output = ()> + use<> {
        let stalest = if self.queued.is_empty() { None } else { self.stalest().map(|(_, since)| since) };
        async move {
            match stalest {
                Some(since) => time::sleep_until(since + PATIENCE).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Takes the slot of the longest busy one, if it had its time.
    pub(super) fn relieve(&mut self) -> bool {
        let stalest = self.stalest().filter(|(_, since)| since.elapsed() >= PATIENCE);
        let stuck = stalest.and_then(|(member, _)| self.busy.remove(&member));
        if let Some((reins, _)) = &stuck {
            reins.evict.cancel();
        }
        self.let_go_on();
        stuck.is_some()
    }

    /// Lets one in, and says whether another had to go for it.
    pub(super) fn enter(&mut self) -> (Place, bool) {
        let crowded = self.silent.len().saturating_add(self.queued.len()) >= self.waiting.get();
        if crowded && let Some((_, reins)) = self.silent.pop_first().or_else(|| self.queued.pop_first()) {
            reins.evict.cancel();
        }
        let (member, reins) = (self.next, Reins::default());
        self.next = self.next.wrapping_add(1);
        self.silent.insert(member, reins.clone());
        (Place { member, reins, tell: self.tell.clone() }, crowded)
    }

    fn stalest(&self) -> Option<(u64, Instant)> {
        let busy = self.busy.iter().map(|(member, (_, since))| (*member, *since));
        busy.min_by_key(|(_, since)| *since)
    }
}

/// How long a handshake may take before its slot goes to somebody who waits for one. An honest handshake takes two round
/// trips.
const PATIENCE: Duration = Duration::from_secs(1);

/// A place in the crowd; given back when dropped.
#[derive(Debug)]
pub struct Place {
    member: u64,
    reins: Reins,
    tell: mpsc::Sender<News>,
}

impl Place {
    /// Says that the whole greeting is there, and waits for a slot for the handshake. Whoever is silent is pushed out first
    /// from now on.
    ///
    /// Cancel safe, but called once.
    pub async fn slot(&self) {
        self.send(News::Greeted(self.member));
        self.reins.go.cancelled().await;
    }

    /// Waits until the place is needed for somebody else. Cancel safe.
    pub async fn evicted(&self) {
        self.reins.evict.cancelled().await;
    }

    /// Whether the place was needed for somebody else.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.reins.evict.is_cancelled()
    }

    /// The channel has room for all that members say; an evicted one is no member any more.
    fn send(&self, news: News) {
        if !self.is_evicted() && self.tell.try_send(news).is_err() {
            tracing::trace!("listener gone");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.send(News::Left(self.member));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn crowd(waiting: usize, handshakes: usize) -> Crowd {
        Crowd::new(NonZeroUsize::new(waiting).unwrap(), NonZeroUsize::new(handshakes).unwrap())
    }

    /// Greets, and says whether it has a slot at once.
    async fn greet(crowd: &mut Crowd, place: &Place) -> bool {
        assert!(place.slot().now_or_never().is_none());
        crowd.news().await;
        place.reins.go.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_greeted_is_not_pushed_out_by_who_has_not() {
        let mut crowd = crowd(2, 1);
        let (busy, _) = crowd.enter();
        assert!(greet(&mut crowd, &busy).await);
        let (queued, _) = crowd.enter();
        assert!(!greet(&mut crowd, &queued).await);
        let (silent, _) = crowd.enter();
        let (_newest, crowded) = crowd.enter();
        assert!(crowded && silent.is_evicted() && !queued.is_evicted() && !busy.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_take_no_slot_however_many_they_are() {
        let mut crowd = crowd(1000, 1);
        let silent: Vec<_> = (0..1000).map(|_| crowd.enter().0).collect();
        let (honest, crowded) = crowd.enter();
        assert!(crowded && silent[0].is_evicted() && !silent[1].is_evicted());
        assert!(greet(&mut crowd, &honest).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_goes_on_when_its_holder_leaves_and_when_it_is_stuck() {
        let mut crowd = crowd(4, 1);
        let [first, second, third] = [0; 3].map(|_| crowd.enter().0);
        assert!(greet(&mut crowd, &first).await);
        assert!(!greet(&mut crowd, &second).await);
        assert!(!greet(&mut crowd, &third).await);
        drop(first);
        crowd.news().await;
        assert!(second.reins.go.is_cancelled() && !third.reins.go.is_cancelled());
        assert!(!crowd.relieve(), "it has had no time yet");
        crowd.patience().await;
        assert!(crowd.relieve() && second.is_evicted());
        third.slot().await;
        assert!(crowd.patience().now_or_never().is_none(), "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_is_free_again() {
        let mut crowd = crowd(1, 1);
        let (place, _) = crowd.enter();
        drop(place);
        crowd.news().await;
        assert!(!crowd.enter().1);
    }
}
