//! Envelopes: an event as `CloudEvents` 1.0 in JSON, on routes that ask for it.
//!
//! BUS/RT frames have no headers, so this is the one way for a consumer to see the id of an event, and with it to drop
//! duplicates.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use daemoneye_bridge::{
    bus::{Envelope, Routes},
    event::{Event, Seq, StreamId},
    topic::Topic,
};
use serde::Serialize;
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::policy::Collector;

/// Where the events of a batch stand in their stream.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The stream; without one, ids are random.
    pub stream: Option<StreamId>,
    /// The sequence number of each event, in order; empty where nobody is shown them.
    pub seqs: &'a [Seq],
    /// Names of the gateways that have relayed them, oldest first.
    pub hops: &'a [Arc<str>],
}

/// Wraps the events whose route asks for it.
pub(super) fn wrap(
    routes: &Routes,
    collector: &Collector,
    topics: &[Topic],
    events: &mut [Event],
    origin: &Origin<'_>,
) {
    let wrapped: Vec<bool> =
        topics.iter().map(|topic| routes.of(topic).envelope == Envelope::CloudEvents).collect();
    for (index, event) in events.iter_mut().enumerate() {
        let place = usize::try_from(event.topic).unwrap_or(usize::MAX);
        let Some(topic) = topics.get(place).filter(|_| wrapped.get(place) == Some(&true)) else { continue };
        let id = origin.stream.map_or_else(
            || Uuid::new_v4().to_string(),
            |stream| format!("{stream}/{}", origin.seqs.get(index).copied().unwrap_or_default()),
        );
        event.payload = cloud_event(id, (collector, origin.hops), topic, event);
    }
}

/// One event in the JSON format of `CloudEvents` 1.0.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    /// `<site>/<collector>`.
    source: String,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    /// An extension: the peer whose certificate vouches for the collector, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    assertedby: Option<String>,
    /// An extension: the gateways that have relayed it, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<String>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

fn cloud_event(
    id: String,
    (collector, hops): (&Collector, &[Arc<str>]),
    topic: &Topic,
    event: &Event,
) -> Bytes {
    let data = serde_json::from_slice::<&RawValue>(&event.payload).ok();
    let owner = collector.owner();
    let envelope = CloudEvent {
        specversion: "1.0",
        id,
        source: format!("{}/{}", collector.site(), collector.name()),
        kind: topic.dotted(),
        time: moment(event.time),
        assertedby: collector.is_asserted().then(|| owner.to_string()),
        hops: (!hops.is_empty()).then(|| hops.join(",")),
        datacontenttype: if data.is_some() { "application/json" } else { "application/octet-stream" },
        data,
        data_base64: data.is_none().then(|| STANDARD.encode(&event.payload)),
    };
    // Writing strings and JSON that has been read into memory cannot fail; an empty frame would be seen at once.
    serde_json::to_vec(&envelope).unwrap_or_default().into()
}

/// Nanoseconds since the epoch, as RFC 3339; 0 is not said.
fn moment(nanos: u64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos.into()).ok().filter(|_| nanos != 0)?;
    time.format(&Rfc3339).ok()
}
