//! How the events of one batch get into the broker.

use std::sync::Arc;

use tokio::task;

use crate::{
    bus::{
        Unheard,
        embedded::{
            Core,
            broker::Client,
            member::{Member, OVERHEAD},
            resolve::Resolved,
        },
    },
    event::Events,
};

/// Events published before looking whether a member's queue is filling up.
const PACE: usize = 32;

/// Publishes the events of a batch. Each event whose topic nobody hears is counted, unless a consumer has taken it.
pub(super) async fn put(core: &Core, client: &mut Client, events: &Events, topics: &[Arc<Resolved>]) {
    expect(events, topics);
    let (mut published, mut passed_over, mut discarded) = (0, 0, 0);
    for (nth, event) in events.events.iter().enumerate() {
        let index = usize::try_from(event.topic).unwrap_or(usize::MAX);
        let (Some(topic), Some(resolved)) = (events.topics.get(index), topics.get(index)) else { continue };
        if resolved.audience.is_empty() {
            match resolved.unheard {
                _ if resolved.hand.is_some() => {}
                Unheard::Discard if !resolved.heard => discarded += 1,
                _ => passed_over += 1,
            }
            if resolved.overhearers.is_empty() {
                continue;
            }
        }
        if nth % PACE == 0 {
            let_owners_run(&resolved.audience).await;
            let_owners_run(&resolved.overhearers).await;
        }
        match client.publish(topic.slashed(), &event.payload, false).await {
            Ok(()) if resolved.audience.is_empty() => {}
            Ok(()) => published += 1,
            Err(error) => tracing::warn!(%error, "broker did not take an event"),
        }
    }
    core.counters.published.add(published);
    core.counters.passed_over.add(passed_over);
    core.counters.discarded.add(discarded);
}

/// Announces a batch to those who will hear it.
fn expect(events: &Events, topics: &[Arc<Resolved>]) {
    let mut bytes = vec![0; topics.len()];
    for event in &events.events {
        if let Some(sum) = usize::try_from(event.topic).ok().and_then(|index| bytes.get_mut(index)) {
            *sum += event.payload.len() + OVERHEAD;
        }
    }
    for (topic, bytes) in topics.iter().zip(bytes) {
        topic.audience.iter().for_each(|member| member.expect(bytes));
    }
}

/// Yields while the queue of a member is filling up: the broker would block, and warn about each frame.
pub(crate) async fn let_owners_run(audience: &[Arc<Member>]) {
    for member in audience {
        while member.is_pressed() {
            task::yield_now().await;
        }
    }
}
