//! Counts what the subscriber hears: each event once, in order, and how old it was.

use std::collections::{BTreeMap, BTreeSet};

use daemoneye_bridge::bus::Message;

use crate::demo::{
    latencies::Latencies,
    observation::{Heard, now},
};

/// What was heard, collector by collector.
#[derive(Debug, Default)]
pub(super) struct Tally {
    collectors: BTreeMap<String, Count>,
    /// Messages that no collector of the demo can have sent: not its JSON, or not under its name.
    pub(super) strange: u64,
}

/// What was heard of one collector.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Everything up to here was heard.
    whole: u64,
    /// What was heard above: the classes overtake each other, so it is not empty, but it stays small.
    above: BTreeSet<u64>,
    /// Heard again.
    pub(super) duplicates: u64,
    /// Heard for the first time after a later one of the same class.
    pub(super) disorder: u64,
    /// The latest number of each class.
    latest: [u64; 2],
    /// From producer to here.
    pub(super) latencies: Latencies,
}

impl Tally {
    /// Counts a message; returns what it said, if it was heard for the first time.
    pub(super) fn note(&mut self, message: &Message) -> Option<Heard> {
        let Ok(heard) = serde_json::from_slice::<Heard>(&message.payload) else {
            self.strange += 1;
            return None;
        };
        // The sender is set by the gateway from the verified certificate, the collector by whoever wrote the payload.
        if message.sender.strip_prefix("collector.") != Some(&heard.collector.replace('/', ".")) {
            self.strange += 1;
            return None;
        }
        let class = usize::from(message.topic.ends_with("/metadata"));
        let count = self.collectors.entry(heard.collector.clone()).or_default();
        count.note(heard.seq, class).then(|| {
            count.latencies.note(heard.age(now()));
            heard
        })
    }

    /// What was heard of a collector.
    pub(super) fn of(&self, collector: &str) -> Option<&Count> {
        self.collectors.get(collector)
    }
}

impl Count {
    /// How many different ones were heard.
    pub(super) fn received(&self) -> u64 {
        self.whole + self.above.len() as u64
    }

    fn note(&mut self, seq: u64, class: usize) -> bool {
        if seq <= self.whole || !self.above.insert(seq) {
            self.duplicates += 1;
            return false;
        }
        while self.above.remove(&(self.whole + 1)) {
            self.whole += 1;
        }
        if let Some(latest) = self.latest.get_mut(class) {
            self.disorder += u64::from(seq < *latest);
            *latest = seq.max(*latest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sender: &str, topic: &str, seq: u64) -> Message {
        let payload = format!(
            r#"{{"collector":"site-a/procmond","seq":{seq},"timestamp":{},"pid":7,"name":"nap"}}"#,
            now()
        );
        Message { sender: sender.into(), topic: topic.into(), payload: payload.into() }
    }

    #[test]
    fn an_event_counts_once_and_a_hole_stays_a_hole() {
        let mut tally = Tally::default();
        for seq in [1, 2, 2, 4] {
            tally.note(&message("collector.site-a.procmond", "events/process/start", seq));
        }
        let count = tally.of("site-a/procmond").unwrap();
        assert_eq!((count.received(), count.duplicates, count.disorder), (3, 1, 0));
        assert_eq!(count.latencies.count(), 3);
    }

    #[test]
    fn classes_may_overtake_each_other_but_not_themselves() {
        let mut tally = Tally::default();
        for (topic, seq) in [("start", 2), ("metadata", 1), ("stop", 4), ("metadata", 5), ("stop", 3)] {
            tally.note(&message("collector.site-a.procmond", &format!("events/process/{topic}"), seq));
        }
        let count = tally.of("site-a/procmond").unwrap();
        assert_eq!((count.received(), count.disorder), (5, 1));
    }

    #[test]
    fn who_claims_another_name_is_not_counted() {
        let mut tally = Tally::default();
        assert!(tally.note(&message("collector.site-b.procmond", "events/process/start", 1)).is_none());
        assert!(tally.note(&message("procmond", "events/process/start", 1)).is_none());
        assert_eq!(tally.strange, 2);
        assert!(tally.of("site-a/procmond").is_none());
    }
}
