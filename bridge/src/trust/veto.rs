//! Who is asked before anchors are taken away.
//!
//! Material does not know who is connected by it, and a slip in a file of anchors can cut a whole fleet. Whoever knows the
//! fleet counts, and may hold the anchors back until an operator insists.
//!
//! Kept true: only anchors wait. Revocations, and this end's own chain and key, are in force before anybody is asked.

use std::fmt;

use crate::trust::{Material, revocation::Difference};

/// Knows whom anchors would take along.
pub trait Veto: fmt::Debug + Send + Sync {
    /// Asked on a blocking thread before `next` is put in force, whose `difference` takes anchors away.
    ///
    /// # Errors
    ///
    /// [`Held`]: too many would be cut.
    fn ask(&self, next: &Material, difference: &Difference) -> Result<(), Held>;
}

/// Anchors wait for a word, because without those that go too many would be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "anchors not replaced: it would cut {cut} of {connected} connected, which is more than a fifth; reload --force if that is meant"
)]
pub struct Held {
    /// How many would be cut.
    pub cut: usize,
    /// Of how many.
    pub connected: usize,
}

impl Held {
    /// Holds back what would cut more than a fifth.
    ///
    /// # Errors
    ///
    /// [`Held`], if it would.
    pub const fn unless_few(cut: usize, connected: usize) -> Result<(), Self> {
        if cut.saturating_mul(5) > connected { Err(Self { cut, connected }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_may_go_and_more_may_not() {
        assert_eq!(Held::unless_few(0, 0), Ok(()));
        assert_eq!(Held::unless_few(42, 212), Ok(()));
        let held = Held::unless_few(43, 212).unwrap_err();
        assert!(held.to_string().contains("would cut 43 of 212 connected"), "{held}");
        assert!(Held::unless_few(1, 1).is_err());
    }
}
