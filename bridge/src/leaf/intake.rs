//! From the local bus into the spool.
//!
//! Turns what is heard into records, and lets the bus confirm them only when they are in the spool: a local producer that
//! asked for a confirmation has it when its event is safe. While the disk is full nothing is confirmed, so producers that
//! care hold back, and health says why.
//!
//! Kept true: a message that was confirmed is in the spool, or was counted as unfit for the federation.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time;

use crate::{
    bus::{Message, Subscription},
    settings::Chain,
    spool::{Record, Spool},
    topic::{Topic, is_segment},
};

/// Messages taken from the bus before they are appended together.
const MOST: usize = 1024;

/// How long a spool that cannot be written is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest payload that the federation carries.
const MAX_PAYLOAD: usize = daemoneye_proto::MAX_PAYLOAD;

/// Whether events keep the name of the local client that published them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// All are the leaf's own.
    Leaf,
    /// Each is its sender's, if that name can stand in the federation.
    Sender,
}

/// What the intake has counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages heard.
    pub heard: AtomicU64,
    /// Messages that cannot cross the federation: a topic outside its grammar, a payload over its limit.
    pub unfit: AtomicU64,
}

/// Moves everything that `subscription` hears into `spool`, until the bus ends.
pub async fn run(mut subscription: Subscription, spool: Spool, naming: Naming, counts: Arc<Counts>) {
    let mut messages = Vec::new();
    let mut names = Names::new(naming);
    while subscription.next(&mut messages, MOST).await {
        counts.heard.fetch_add(messages.len() as u64, Ordering::Relaxed);
        let now = now();
        let records: Vec<Record> = mem::take(&mut messages)
            .into_iter()
            .filter_map(|message| names.record(message, now, &counts))
            .collect();
        keep(&spool, records).await;
        subscription.taken();
    }
}

/// Appends, however long the disk takes to have room again.
async fn keep(spool: &Spool, records: Vec<Record>) {
    if records.is_empty() {
        return;
    }
    let mut told = false;
    // A clone shares the payloads.
    while let Err(error) = spool.append(records.clone()).await {
        if !told {
            tracing::error!(error = %Chain(&error), "spool could not be written, local events wait");
            told = true;
        }
        time::sleep(PAUSE).await;
    }
    if told {
        tracing::info!("spool can be written again");
    }
}

/// Makes records, remembering the last topic and sender: neighbours mostly share them.
struct Names {
    naming: Naming,
    topic: Option<(Arc<str>, Option<Topic>)>,
    sender: Option<(Arc<str>, Option<Arc<str>>)>,
    warned: bool,
}

impl Names {
    const fn new(naming: Naming) -> Self {
        Self { naming, topic: None, sender: None, warned: false }
    }

    fn record(&mut self, message: Message, time: u64, counts: &Counts) -> Option<Record> {
        let topic = self.topic(&message.topic).filter(|_| message.payload.len() <= MAX_PAYLOAD);
        let Some(topic) = topic else {
            counts.unfit.fetch_add(1, Ordering::Relaxed);
            if !self.warned {
                self.warned = true;
                let (sender, topic) = (message.sender.escape_debug(), message.topic.escape_debug());
                let bytes = message.payload.len();
                tracing::warn!(%sender, %topic, bytes, "message cannot cross the federation; later ones are only counted");
            }
            return None;
        };
        let collector = self.collector(&message.sender);
        Some(Record { collector, origin: None, topic, payload: message.payload, time })
    }

    fn topic(&mut self, slashed: &Arc<str>) -> Option<Topic> {
        match &self.topic {
            Some((last, topic)) if last == slashed => topic.clone(),
            _ => {
                let topic = Topic::parse_slashed(slashed).ok();
                self.topic = Some((Arc::clone(slashed), topic.clone()));
                topic
            }
        }
    }

    fn collector(&mut self, sender: &Arc<str>) -> Option<Arc<str>> {
        if self.naming == Naming::Leaf {
            return None;
        }
        match &self.sender {
            Some((last, collector)) if last == sender => collector.clone(),
            _ => {
                let fits = is_segment(sender) && sender.len() <= MAX_NAME;
                let collector = fits.then(|| Arc::clone(sender));
                self.sender = Some((Arc::clone(sender), collector.clone()));
                collector
            }
        }
    }
}

/// Longest name of a collector on the wire.
const MAX_NAME: usize = 63;

fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sender: &str, topic: &str, bytes: usize) -> Message {
        Message { sender: sender.into(), topic: topic.into(), payload: vec![0; bytes].into() }
    }

    #[test]
    fn a_message_keeps_its_senders_name_where_it_can_stand() {
        let counts = Counts::default();
        let mut names = Names::new(Naming::Sender);
        let mut collector =
            |sender| names.record(message(sender, "events/x", 1), 0, &counts).unwrap().collector;
        assert_eq!(collector("procmond-1").as_deref(), Some("procmond-1"));
        assert_eq!(collector("cli.host.1"), None, "no single segment");
        assert_eq!(collector("procmond-1").as_deref(), Some("procmond-1"));
        let mut own = Names::new(Naming::Leaf);
        assert_eq!(own.record(message("procmond-1", "events/x", 1), 0, &counts).unwrap().collector, None);
    }

    #[test]
    fn what_cannot_cross_is_counted_and_passed_over() {
        let counts = Counts::default();
        let mut names = Names::new(Naming::Sender);
        for unfit in
            [message("a", "Events/X", 1), message("a", "", 1), message("a", "events/x", MAX_PAYLOAD + 1)]
        {
            assert!(names.record(unfit, 0, &counts).is_none());
        }
        assert!(
            names
                .record(message("a", "events/x", MAX_PAYLOAD), 7, &counts)
                .is_some_and(|record| record.time == 7)
        );
        assert_eq!(counts.unfit.load(Ordering::Relaxed), 3);
    }
}
