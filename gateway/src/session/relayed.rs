//! Where the events of a batch come from, if a gateway relays them.
//!
//! Kept true: an origin that exists keeps the wire's bounds; a collector of another gateway is named by a text that no
//! collector of the peer's own site can have.

use std::{borrow::Cow, sync::Arc};

use daemoneye_bridge::event::{Origin, StreamId};
use daemoneye_proto::{MAX_SEQ, v1};

use crate::{
    policy::{Denial, LONGEST_NAME, Rights, Speaker},
    session::status::Fault,
};

/// Reads the origin of a batch.
pub(super) fn origin(batch: &v1::Batch) -> Result<Option<Arc<Origin>>, Fault> {
    let Some(origin) = &batch.origin else { return Ok(None) };
    let is_name = |name: &str| name.len() <= LONGEST_NAME && daemoneye_bridge::topic::is_segment(name);
    if batch.collector.is_empty() {
        return Err(Fault::broken("batch.collector", "relayed events must name their collector"));
    }
    if !is_name(&origin.site) {
        return Err(Fault::broken("batch.origin.site", "not a name of at most 63 bytes"));
    }
    let hops = origin.hops.len();
    if !(1..=Origin::MOST_HOPS).contains(&hops) || !origin.hops.iter().all(|hop| is_name(hop)) {
        let problem = format!("{hops} gateways; must be 1 to {} names", Origin::MOST_HOPS);
        return Err(Fault::broken("batch.origin.hops", problem));
    }
    let stream = if origin.stream.is_empty() {
        None
    } else {
        let stream = StreamId::from_slice(&origin.stream);
        Some(stream.ok_or_else(|| Fault::broken("batch.origin.stream", "not a UUID of 16 bytes"))?)
    };
    if batch.events.iter().any(|event| event.origin_seq > MAX_SEQ) {
        return Err(Fault::broken("batch.events.origin_seq", "above 2^63 - 1"));
    }
    let hops = origin.hops.iter().map(|hop| hop.as_str().into()).collect();
    Ok(Some(Arc::new(Origin { site: origin.site.as_str().into(), stream, hops })))
}

/// Names the collector of a batch among all for which the peer may speak: `site/name`, if it is another gateway's.
pub(super) fn speaks_as(batch: &v1::Batch) -> Cow<'_, str> {
    match &batch.origin {
        Some(origin) => format!("{}/{}", origin.site, batch.collector).into(),
        // It would pass for a relayed one.
        None if batch.collector.contains('/') => "/".into(),
        None => batch.collector.as_str().into(),
    }
}

/// What the peer may publish for a collector that [`speaks_as`] has named.
pub(super) fn speaker(rights: &Rights, collector: &str) -> Result<Speaker, Denial> {
    match collector.split_once('/') {
        Some((site, name)) => rights.relay(site, name),
        None => rights.speaker(collector),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(change: impl FnOnce(&mut v1::Batch, &mut v1::Origin)) -> v1::Batch {
        let mut origin = v1::Origin {
            site: "site-b".to_owned(),
            stream: Bytes::from_static(&[7; 16]),
            hops: vec!["region".to_owned()],
        };
        let mut batch = v1::Batch { collector: "procmond".to_owned(), ..v1::Batch::default() };
        batch.events.push(v1::Event { origin_seq: 9, ..v1::Event::default() });
        change(&mut batch, &mut origin);
        batch.origin = Some(origin);
        batch
    }

    #[test]
    fn an_origin_keeps_the_wires_bounds() {
        let found = origin(&batch(|_, _| ())).unwrap().unwrap();
        assert_eq!((&*found.site, &*found.hops[0]), ("site-b", "region"));
        assert_eq!(found.stream, StreamId::from_slice(&[7; 16]));
        assert!(origin(&batch(|_, origin| origin.stream = Bytes::new())).unwrap().unwrap().stream.is_none());
        let broken = |change: fn(&mut v1::Batch, &mut v1::Origin)| origin(&batch(change)).is_err();
        assert!(broken(|batch, _| batch.collector.clear()));
        assert!(broken(|_, origin| origin.site = "a/b".to_owned()));
        assert!(broken(|_, origin| origin.site = "x".repeat(64)));
        assert!(broken(|_, origin| origin.hops.clear()));
        assert!(broken(|_, origin| origin.hops = vec!["h".to_owned(); 9]));
        assert!(broken(|_, origin| origin.hops = vec!["a.b".to_owned()]));
        assert!(broken(|_, origin| origin.stream = Bytes::from_static(&[7; 15])));
        assert!(broken(|batch, _| batch.events[0].origin_seq = u64::MAX));
    }

    #[test]
    fn no_collector_of_the_peers_own_passes_for_a_relayed_one() {
        assert_eq!(speaks_as(&batch(|_, _| ())), "site-b/procmond");
        let own = |collector: &str| {
            let batch = v1::Batch { collector: collector.to_owned(), ..v1::Batch::default() };
            speaks_as(&batch).into_owned()
        };
        assert_eq!(own("procmond"), "procmond");
        assert_eq!(own("site-b/procmond"), "/");
    }
}
