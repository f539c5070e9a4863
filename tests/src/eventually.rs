//! Waiting for a condition instead of for a time.

use std::{future::Future, time::Duration};

use tokio::time::{self, Instant};

/// How long a condition may take on a loaded machine before it counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds` is true.
///
/// # Panics
///
/// If it is not within [`PATIENCE`].
pub async fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds).await;
}

/// Waits until `holds` is true, and returns how long that took.
///
/// # Panics
///
/// If it is not within `bound`.
pub async fn within(bound: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < bound, "not within {bound:?}: {what}");
        time::sleep(POLL).await;
    }
    begun.elapsed()
}

/// Waits for `future`.
///
/// # Panics
///
/// If it has not ended within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);
