//! What a bus shows of itself: its link, the routes that wait for a subscriber, and its counts.
//!
//! Plain values, so that who looks never holds up who works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::Serialize;

use crate::transport::{LastError, Timing, Totals};

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
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// From publishing until a consumer in this process has taken it.
            pub taken_in_process: Arc<Timing>,
            /// From publishing until it is written to the socket of a client of the door.
            pub taken_at_door: Arc<Timing>,
            /// From sending a batch to a foreign broker until its answer.
            pub confirmed_by_broker: Timing,
            /// Why a client was last sent away from the door, or broke the wire.
            pub door_error: LastError,
        }

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
    /// Local clients cut off because they broke the wire.
    door_broken,
    /// Ports opened.
    ports_opened,
    /// Ports that have ended.
    ports_closed,
    /// Consumers in this process that came.
    inboxes_opened,
    /// Consumers in this process that went.
    inboxes_closed,
    /// Messages that consumers in this process took.
    inbox_taken,
}

impl Counters {
    /// What went from part to part of this process, through its own broker.
    #[must_use]
    pub fn in_process(&self) -> Totals {
        Totals {
            // Ended before begun, so that nothing seems to have ended that did not begin.
            closed: self.ports_closed.get().saturating_add(self.inboxes_closed.get()),
            opened: self.ports_opened.get().saturating_add(self.inboxes_opened.get()),
            refused: 0,
            received: self.published.get(),
            sent: self.inbox_taken.get(),
            errors: self.inbox_dropped.get(),
            latency: self.taken_in_process.sum(),
        }
    }

    /// What went through the door.
    #[must_use]
    pub fn door(&self) -> Totals {
        Totals {
            closed: self.door_closed.get(),
            opened: self.door_opened.get(),
            refused: self.door_refused.get(),
            received: self.door_read.get(),
            sent: self.door_written.get(),
            errors: self.door_slow_readers.get().saturating_add(self.door_broken.get()),
            latency: self.taken_at_door.sum(),
        }
    }

    /// What went to a foreign broker, and came from there.
    #[must_use]
    pub fn broker_client(&self) -> Totals {
        Totals {
            closed: self.ports_closed.get().saturating_add(self.inboxes_closed.get()),
            opened: self.ports_opened.get().saturating_add(self.inboxes_opened.get()),
            refused: 0,
            received: self.inbox_taken.get(),
            sent: self.published.get(),
            errors: self.link_losses.get().saturating_add(self.inbox_dropped.get()),
            latency: self.confirmed_by_broker.sum(),
        }
    }
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
