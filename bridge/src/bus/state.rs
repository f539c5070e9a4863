//! What a bus shows of itself: its link, the routes that wait for a subscriber, and its counts.
//!
//! Plain values, so that who looks never holds up who works.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use serde::Serialize;

/// What a bus shows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BusState {
    /// Whether the broker is there.
    pub link: Link,
    /// Routes whose events are kept back because nobody listens, or because their consumer does not take them.
    pub held: Vec<Held>,
}

/// Whether the broker is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "link")]
pub enum Link {
    /// Not reached, since when, and why.
    Down {
        /// When it was lost, or first sought.
        since: SystemTime,
        /// For people.
        cause: String,
    },
    /// There.
    Up,
}

/// A route that waits for a subscriber, or for its consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The route's pattern.
    pub route: String,
    /// Since when something waits.
    pub since: SystemTime,
    /// Whose answer it waits for; `None`: no subscription overlaps the pattern.
    pub refusal: Option<Refusal>,
}

/// Why a consumer does not take the batches of its route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its name on the bus.
    pub consumer: String,
    /// Why, for people: it is not connected, did not answer, or said no. Words of its own are bounded and escaped.
    pub cause: String,
}

/// Declares the counters with their names once.
macro_rules! counters {
    ($($(#[doc = $doc:expr])+ $name:ident,)+) => {
        /// What a bus has counted since it was made. Each only grows.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl Counters {
            /// Every counter's name, meaning and value, for exporters.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// Events published on the bus for a port.
    published,
    /// Events of a heard route whose topic itself had no subscriber.
    passed_over,
    /// Events published to nobody on a route that discards.
    discarded,
    /// Messages that a consumer in this process was too full to take: sent to it by name, or overheard.
    inbox_dropped,
    /// Batches confirmed.
    confirmed,
    /// Batches begun again because the link was lost before they were confirmed.
    resubmitted,
    /// Times the link to the broker was lost.
    link_losses,
    /// Calls made to consumers that answer for their routes.
    consumer_calls,
    /// Events that consumers answered for.
    consumer_taken,
    /// Calls that consumers answered with an error; each is made again.
    consumer_refusals,
    /// Calls that consumers did not answer in time, or left without answering; each is made again.
    consumer_unanswered,
    /// Local clients accepted at the door.
    door_opened,
    /// Local clients that left the door or were sent away.
    door_closed,
    /// Local clients refused at the door.
    door_refused,
    /// Local clients sent away because they stopped reading.
    door_slow_readers,
    /// Messages that local clients sent away had not been written. Those of batches that nobody else took are published again.
    door_undelivered,
    /// Messages that local clients were too slow to take, and that their rule lets go.
    door_dropped,
    /// Times a local client fell so far behind that its rule took hold: others wait for it, or messages are dropped.
    door_slow_episodes,
    /// Frames written to local clients.
    door_written,
    /// Frames read from local clients.
    door_read,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Reads it.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
