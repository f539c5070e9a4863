//! Barriers: how it is learnt that members have got beyond a point.
//!
//! Whoever has published raises a [`Barrier`] and posts a [`Token`] of it to each member that was sent something. A member
//! takes its tokens, then what is in its queue, and passes the tokens once all of that is out of its hands: whatever was
//! published before the token was posted is then out too. A token that is dropped was not passed: its member went away.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use crate::transport::Timing;

/// What happens when the last token is gone.
pub(crate) trait Outcome: Send + Sync + 'static {
    /// Called once; `passed` holds the ids of the members that got beyond the point.
    fn settle(&self, passed: &[u64]);

    /// Called before that for each member that went away first.
    fn missed(&self, _member: u64) {}
}

/// Nothing happens: the way was only to be timed.
impl Outcome for () {
    fn settle(&self, _passed: &[u64]) {}
}

/// A point in what was published.
#[derive(Debug)]
pub(crate) struct Barrier<O: Outcome + ?Sized> {
    /// Tokens that exist, and one for whoever posts them.
    left: AtomicUsize,
    passed: Mutex<Vec<u64>>,
    outcome: O,
}

impl<O: Outcome> Barrier<O> {
    /// Raises it; it cannot settle before the token returned is gone.
    pub(crate) fn raise(outcome: O) -> (Arc<Self>, Token) {
        let barrier = Arc::new(Self { left: AtomicUsize::new(1), passed: Mutex::default(), outcome });
        let own =
            Token { barrier: Arc::clone(&barrier) as Arc<Barrier<dyn Outcome>>, member: NOBODY, clock: None };
        (barrier, own)
    }

    /// What happens at the end.
    pub(crate) const fn outcome(&self) -> &O {
        &self.outcome
    }
}

/// In place of a member.
const NOBODY: u64 = 0;

/// A member's part in a [`Barrier`].
pub(crate) struct Token {
    barrier: Arc<Barrier<dyn Outcome>>,
    /// Whose it is, until it has passed.
    member: u64,
    /// Since when it is on its way, and where that is noted once it has passed.
    clock: Option<(Instant, Arc<Timing>)>,
}

impl Token {
    /// Another token of the same barrier, for `member`.
    pub(crate) fn of(&self, member: u64) -> Self {
        self.barrier.left.fetch_add(1, Ordering::Relaxed);
        Self { barrier: Arc::clone(&self.barrier), member, clock: None }
    }

    /// Notes in `timing` how long it takes from now until it passes.
    pub(super) fn time(&mut self, timing: &Arc<Timing>) {
        self.clock = Some((Instant::now(), Arc::clone(timing)));
    }

    /// Says that this member got beyond the point.
    pub(crate) fn pass(mut self) {
        if let Some((since, timing)) = &self.clock {
            timing.note(since.elapsed());
        }
        self.barrier.passed.lock().unwrap_or_else(PoisonError::into_inner).push(self.member);
        self.member = NOBODY;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.member != NOBODY {
            self.barrier.outcome.missed(self.member);
        }
        if self.barrier.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let passed =
                std::mem::take(&mut *self.barrier.passed.lock().unwrap_or_else(PoisonError::into_inner));
            self.barrier.outcome.settle(&passed);
        }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Vec<u64>>>, Mutex<Vec<u64>>);

    impl Outcome for Arc<Heard> {
        fn settle(&self, passed: &[u64]) {
            self.0.lock().unwrap().push(passed.to_vec());
        }

        fn missed(&self, member: u64) {
            assert!(self.0.lock().unwrap().is_empty());
            self.1.lock().unwrap().push(member);
        }
    }

    #[test]
    fn a_barrier_settles_once_when_its_last_token_is_gone() {
        let heard = Arc::new(Heard::default());
        let (_, own) = Barrier::raise(Arc::clone(&heard));
        let (first, second) = (own.of(1), own.of(2));
        drop(own);
        first.pass();
        assert!(heard.0.lock().unwrap().is_empty());
        drop(second);
        assert_eq!((&**heard.0.lock().unwrap(), &**heard.1.lock().unwrap()), (&[vec![1]][..], &[2][..]));
    }

    #[test]
    fn a_barrier_that_nobody_passed_says_so() {
        let heard = Arc::new(Heard::default());
        let (_, own) = Barrier::raise(Arc::clone(&heard));
        drop(own.of(1));
        assert!(heard.0.lock().unwrap().is_empty());
        drop(own);
        assert_eq!(*heard.0.lock().unwrap(), [Vec::<u64>::new()]);
    }
}
