//! Barriers: how it is learnt that members have got beyond a point.
//!
//! Whoever has published raises a [`Barrier`] and posts a [`Token`] of it to each member that was sent something. A member
//! takes its tokens, then what is in its queue, and passes the tokens once all of that is out of its hands: whatever was
//! published before the token was posted is then out too. A token that is dropped was not passed: its member went away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// What happens when the last token is gone.
pub(crate) trait Outcome: Send + Sync + 'static {
    /// Called once; `passed` says whether at least one member got beyond the point.
    fn settle(&self, passed: bool);
}

/// A point in what was published.
#[derive(Debug)]
pub(crate) struct Barrier<O: Outcome + ?Sized> {
    /// Tokens that exist, and one for whoever posts them.
    left: AtomicUsize,
    passed: AtomicBool,
    outcome: O,
}

impl<O: Outcome> Barrier<O> {
    /// Raises it; it cannot settle before the token returned is gone.
    pub(crate) fn raise(outcome: O) -> (Arc<Self>, Token) {
        let barrier = Arc::new(Self { left: AtomicUsize::new(1), passed: AtomicBool::new(false), outcome });
        let own = Token(Arc::clone(&barrier) as Arc<Barrier<dyn Outcome>>);
        (barrier, own)
    }

    /// What happens at the end.
    pub(crate) const fn outcome(&self) -> &O {
        &self.outcome
    }
}

/// A member's part in a [`Barrier`].
pub(crate) struct Token(Arc<Barrier<dyn Outcome>>);

impl Token {
    /// Says that this member got beyond the point.
    pub(crate) fn pass(self) {
        self.0.passed.store(true, Ordering::Release);
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        self.0.left.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.0.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.outcome.settle(self.0.passed.load(Ordering::Acquire));
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
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<bool>>);

    impl Outcome for Arc<Heard> {
        fn settle(&self, passed: bool) {
            self.0.lock().unwrap().push(passed);
        }
    }

    #[test]
    fn a_barrier_settles_once_when_its_last_token_is_gone() {
        let heard = Arc::new(Heard::default());
        let (_, own) = Barrier::raise(Arc::clone(&heard));
        let (first, second) = (own.clone(), own.clone());
        drop(own);
        first.pass();
        assert!(heard.0.lock().unwrap().is_empty());
        drop(second);
        assert_eq!(*heard.0.lock().unwrap(), [true]);
    }

    #[test]
    fn a_barrier_that_nobody_passed_says_so() {
        let heard = Arc::new(Heard::default());
        let (_, own) = Barrier::raise(Arc::clone(&heard));
        drop(own.clone());
        assert!(heard.0.lock().unwrap().is_empty());
        drop(own);
        assert_eq!(*heard.0.lock().unwrap(), [false]);
    }
}
