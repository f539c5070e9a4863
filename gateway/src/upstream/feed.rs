//! What is relayed, on its way into the spool.
//!
//! One task appends for all, so that the events of a stream keep their order; what waits is appended together. While the disk
//! is full nothing is confirmed, the queue fills, and collectors hold back.

use std::{
    mem,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use daemoneye_bridge::{
    bus::{Bus, BusName, Message},
    settings::Chain,
    spool::{Record, Spool},
    topic::{Pattern, Topic},
    uplink::Uplink,
};
use tokio::{sync::mpsc, time};

use crate::upstream::{Bundle, Relay};

/// Bundles that are appended together.
const MOST: usize = 64;

/// Messages of local clients that are taken together.
const MOST_MESSAGES: usize = 512;

/// How long a spool that cannot be written is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// Stores what comes, until nobody relays any more.
pub(super) async fn run(mut fed: mpsc::Receiver<Bundle>, spool: Spool) {
    let mut bundles = Vec::new();
    while fed.recv_many(&mut bundles, MOST).await > 0 {
        let records = bundles.iter_mut().flat_map(|bundle| mem::take(&mut bundle.records)).collect();
        if !store(&spool, records).await {
            return;
        }
        for bundle in mem::take(&mut bundles) {
            // Who gave up waiting is not told.
            let _gone = bundle.done.send(());
        }
    }
}

/// Appends, however long the disk takes to have room again; `false` if the spool is closed.
async fn store(spool: &Spool, records: Vec<Record>) -> bool {
    let mut told = false;
    // A clone shares the payloads.
    while let Err(error) = spool.append(records.clone()).await {
        if matches!(error, daemoneye_bridge::spool::SpoolError::Closed) {
            return false;
        }
        if !told {
            tracing::error!(error = %Chain(&error), "upstream spool could not be written, collectors wait");
            told = true;
        }
        time::sleep(PAUSE).await;
    }
    if told {
        tracing::info!("upstream spool can be written again");
    }
    true
}

/// Sends what the spool holds as far as `patience` goes, and closes it.
pub(super) async fn end(spool: Spool, uplink: Uplink, patience: Duration) {
    uplink.finish(patience);
    // Either way it is closed; what it has not delivered is there at the next start.
    let _delivered = time::timeout(patience, uplink.ended()).await;
    let waiting: u64 = spool.stats().borrow().classes.iter().map(|class| class.events).sum();
    tracing::info!(waiting, "way up ended; what waits stays in the upstream spool");
    spool.close().await;
}

/// The name under which local clients are heard.
const NAME: &str = "daemoneye-upstream";

/// Relays what local clients publish, as our own, until the bus ends.
pub(super) async fn hear(bus: Arc<dyn Bus>, patterns: Vec<Pattern>, relay: Relay) {
    let Ok(name) = BusName::parse(NAME) else { return };
    let mut subscription = match bus.subscribe(&name, &patterns).await {
        Ok(subscription) => subscription,
        Err(error) => {
            tracing::error!(name = NAME, %error, "local clients are not relayed: the bus does not let us hear it");
            return;
        }
    };
    drop(bus);
    let mut messages = Vec::new();
    while subscription.next(&mut messages, MOST_MESSAGES).await {
        let records: Vec<Record> = mem::take(&mut messages).into_iter().filter_map(record).collect();
        if !records.is_empty() {
            let stored = loop {
                match relay.try_reserve() {
                    Some(slot) => break slot.send(records),
                    None => relay.ready().await,
                }
            };
            if stored.await.is_err() {
                return;
            }
        }
        subscription.taken();
    }
}

/// What a local client said; nothing, if it came from a collector, whose events are relayed with their origin, or cannot cross.
fn record(message: Message) -> Option<Record> {
    if message.sender.starts_with("collector.") || message.payload.len() > daemoneye_proto::MAX_PAYLOAD {
        return None;
    }
    let topic = Topic::parse_slashed(&message.topic).ok()?;
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    Some(Record { collector: None, origin: None, topic, payload: message.payload, time })
}
