//! Calls that are open, each until it ends once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of a call that does not say.
    pub usual: Duration,
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
}

impl Default for Budget {
    /// 30 s; 1 to 300 s.
    fn default() -> Self {
        Self { usual: Duration::from_secs(30), least: Duration::from_secs(1), most: Duration::from_mins(5) }
    }
}

impl Budget {
    /// The budget of a call that asks for `asked`, brought within bounds.
    #[must_use]
    pub fn of(&self, asked: Option<Duration>) -> Duration {
        asked.unwrap_or(self.usual).clamp(self.least, self.most.max(self.least))
    }
}

/// How many calls are open, over all tables that share it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// How many are open now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Place {
        self.0.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

/// One open call, in a gauge.
#[derive(Debug)]
struct Place(Gauge);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The open calls of one caller or callee: a few at once, each with a deadline. Dropped, it has none.
#[derive(Debug)]
pub struct Calls<T> {
    open: Vec<Open<T>>,
    most: usize,
    gauge: Gauge,
}

#[derive(Debug)]
struct Open<T> {
    id: u64,
    due: Instant,
    what: T,
    _place: Place,
}

/// Why a call was not opened; here is what it was about.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// A call of this id is open.
    Duplicate(T),
    /// As many as may be are open.
    TooMany(T),
}

impl<T> Calls<T> {
    /// A table for `most` calls at once, which are counted by `gauge`.
    #[must_use]
    pub const fn new(most: usize, gauge: Gauge) -> Self {
        Self { open: Vec::new(), most, gauge }
    }

    /// Opens a call.
    ///
    /// # Errors
    ///
    /// [`Refused`], if the id is in use or there are too many.
    pub fn open(&mut self, id: u64, due: Instant, what: T) -> Result<(), Refused<T>> {
        if self.get(id).is_some() {
            return Err(Refused::Duplicate(what));
        }
        if self.open.len() >= self.most {
            return Err(Refused::TooMany(what));
        }
        self.open.push(Open { id, due, what, _place: self.gauge.enter() });
        Ok(())
    }

    /// What an open call is about.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&T> {
        self.open.iter().find(|open| open.id == id).map(|open| &open.what)
    }

    /// The id of the call that `is_it`.
    pub fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<u64> {
        self.open.iter().find(|open| is_it(&open.what)).map(|open| open.id)
    }

    /// Each open call.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.open.iter_mut().map(|open| (open.id, &mut open.what))
    }

    /// Ends a call; `None` if it is not open, or has ended before.
    pub fn end(&mut self, id: u64) -> Option<T> {
        let place = self.open.iter().position(|open| open.id == id)?;
        Some(self.open.swap_remove(place).what)
    }

    /// Ends the calls that are due at `now`.
    pub fn end_due(&mut self, now: Instant) -> Vec<(u64, T)> {
        let ended = self.open.extract_if(.., |open| open.due <= now);
        ended.map(|open| (open.id, open.what)).collect()
    }

    /// Ends the calls that `is_it`.
    pub fn end_if(&mut self, is_it: impl Fn(&T) -> bool) -> Vec<(u64, T)> {
        let ended = self.open.extract_if(.., |open| is_it(&open.what));
        ended.map(|open| (open.id, open.what)).collect()
    }

    /// Ends all.
    pub fn end_all(&mut self) -> Vec<(u64, T)> {
        self.open.drain(..).map(|open| (open.id, open.what)).collect()
    }

    /// When the first is due.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.due).min()
    }

    /// How many are open.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_once_and_the_gauge_knows() {
        let gauge = Gauge::default();
        let mut calls = Calls::new(2, gauge.clone());
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(calls.open(7, later(2), "a"), Ok(()));
        assert_eq!(calls.open(7, later(2), "again"), Err(Refused::Duplicate("again")));
        assert_eq!(calls.open(8, later(1), "b"), Ok(()));
        assert_eq!(calls.open(9, later(1), "c"), Err(Refused::TooMany("c")));
        assert_eq!((gauge.get(), calls.due()), (2, Some(later(1))));
        assert_eq!(calls.end_due(later(1)), [(8, "b")]);
        assert_eq!(calls.end(8), None);
        assert_eq!(calls.end_if(|what| *what == "b"), []);
        assert_eq!(calls.end_if(|what| *what == "a"), [(7, "a")]);
        assert_eq!((gauge.get(), calls.due()), (0, None));
        assert_eq!(calls.open(1, later(9), "left"), Ok(()));
        drop(calls);
        assert_eq!(gauge.get(), 0, "a table that is dropped has no open calls");
    }

    #[test]
    fn a_budget_is_brought_within_bounds() {
        let budget = Budget::default();
        let seconds = |asked: Option<u64>| budget.of(asked.map(Duration::from_secs)).as_secs();
        assert_eq!([None, Some(0), Some(5), Some(1000)].map(seconds), [30, 1, 5, 300]);
    }
}
