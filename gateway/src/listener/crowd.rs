//! Those who have not proven who they are: few, and the longest silent one goes first.
//!
//! The listener owns the crowd; each member tells it by a bounded channel when it has greeted (its `ClientHello` is there)
//! and when it leaves. A member sends at most two messages, and the listener reads them all before it lets another in, so
//! the channel is never full.

use std::{collections::BTreeMap, future::Future, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// Messages of somebody who was evicted between two looks.
const SPARE: usize = 8;

/// The members, in the order in which they came.
#[derive(Debug)]
pub(super) struct Crowd {
    limit: NonZeroUsize,
    /// Have sent no whole greeting yet.
    silent: BTreeMap<u64, CancellationToken>,
    /// Are in the middle of their handshake, since when.
    greeted: BTreeMap<u64, (CancellationToken, Instant)>,
    /// The number of the next to come.
    next: u64,
    news: mpsc::Receiver<News>,
    /// Kept so that the channel never closes, and given to each member.
    tell: mpsc::Sender<News>,
    /// Where the proven ones go.
    slots: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
enum News {
    Greeted(u64),
    Left(u64),
}

impl Crowd {
    pub(super) fn new(limit: NonZeroUsize, slots: Arc<Semaphore>) -> Self {
        let (tell, news) = mpsc::channel(limit.get().saturating_mul(2).saturating_add(SPARE));
        Self { limit, silent: BTreeMap::new(), greeted: BTreeMap::new(), next: 0, news, tell, slots }
    }

    /// Waits for a member to greet or leave. Cancel safe.
    pub(super) async fn news(&mut self) {
        match self.news.recv().await {
            Some(News::Greeted(member)) => {
                if let Some(evict) = self.silent.remove(&member) {
                    self.greeted.insert(member, (evict, Instant::now()));
                }
            }
            Some(News::Left(member)) => {
                self.silent.remove(&member);
                self.greeted.remove(&member);
            }
            None => {}
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.len() < self.limit.get()
            || !self.silent.is_empty()
            || self.stalest().is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Waits until a full crowd of members in mid-handshake gives way.
    pub(super) fn patience(&self) -> impl Future<Output = ()> + use<> {
        let stalest = self.stalest();
        async move {
            match stalest {
                Some(since) => time::sleep_until(since + PATIENCE).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Lets one in, and says whether another had to go for it.
    pub(super) fn enter(&mut self) -> (Place, bool) {
        let crowded = self.len() >= self.limit.get();
        if crowded {
            let evicted = match self.silent.pop_first() {
                Some((_, evict)) => Some(evict),
                None => self.greeted.pop_first().map(|(_, (evict, _))| evict),
            };
            if let Some(evict) = evicted {
                evict.cancel();
            }
        }
        let (member, evicted) = (self.next, CancellationToken::new());
        self.next = self.next.wrapping_add(1);
        self.silent.insert(member, evicted.clone());
        (Place { member, evicted, tell: self.tell.clone(), slots: Arc::clone(&self.slots) }, crowded)
    }

    fn len(&self) -> usize {
        self.silent.len().saturating_add(self.greeted.len())
    }

    fn stalest(&self) -> Option<Instant> {
        self.greeted.first_key_value().map(|(_, (_, since))| *since)
    }
}

/// How long a member of a full crowd may take between greeting and proof before it may be pushed out. An honest handshake
/// takes two round trips.
const PATIENCE: Duration = Duration::from_secs(3);

/// A place in the crowd; given back when dropped.
#[derive(Debug)]
pub struct Place {
    member: u64,
    evicted: CancellationToken,
    tell: mpsc::Sender<News>,
    slots: Arc<Semaphore>,
}

impl Place {
    /// Says that the whole greeting is there: whoever is silent goes first from now on.
    pub fn greeted(&self) {
        self.send(News::Greeted(self.member));
    }

    /// Waits until the place is needed for somebody else. Cancel safe.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Whether the place was needed for somebody else.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Exchanges the place for a slot among the proven.
    ///
    /// # Errors
    ///
    /// [`Full`], if as many are connected as may be.
    pub fn claim(self) -> Result<Slot, Full> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        slot.map(|slot| Slot { _held: slot }).map_err(|_| Full)
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

/// A slot among the proven; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    _held: OwnedSemaphorePermit,
}

/// As many are connected as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many peers are connected as may be")]
pub struct Full;

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(limit: usize) -> Crowd {
        Crowd::new(NonZeroUsize::new(limit).unwrap(), Arc::new(Semaphore::new(1)))
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_greeted_is_not_pushed_out_by_who_has_not() {
        let mut crowd = crowd(2);
        let (busy, _) = crowd.enter();
        let (silent, _) = crowd.enter();
        busy.greeted();
        crowd.news().await;
        let (_newest, crowded) = crowd.enter();
        assert!(crowded && silent.is_evicted() && !busy.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_in_mid_handshake_waits_and_then_gives_way() {
        let mut crowd = crowd(1);
        let (stuck, _) = crowd.enter();
        stuck.greeted();
        crowd.news().await;
        assert!(!crowd.has_room());
        crowd.patience().await;
        assert!(crowd.has_room());
        let (_newest, crowded) = crowd.enter();
        assert!(crowded && stuck.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_is_free_again_and_slots_are_counted() {
        let mut crowd = crowd(1);
        let (place, _) = crowd.enter();
        let slot = place.claim().unwrap();
        crowd.news().await;
        let (place, crowded) = crowd.enter();
        assert!(!crowded);
        assert_eq!(place.claim().unwrap_err(), Full);
        drop(slot);
        crowd.news().await;
        assert!(crowd.enter().0.claim().is_ok());
    }
}
