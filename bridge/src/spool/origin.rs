//! How a block writes down where relayed events come from.
//!
//! ```text
//!   site as length 2 and text │ stream 16, zeros: none │ hops 2 │ each as length 2 and text
//! ```
//!
//! It stands in the head of a block, after the collector's name; the head's crc covers it.

use std::sync::Arc;

use crate::{
    event::{Origin, StreamId},
    spool::{Record, block::as_u16, fields::Fields},
};

/// Whether two records may stand in one block, as far as their origin goes.
pub(super) fn is_shared(one: &Record, other: &Record) -> bool {
    match (&one.origin, &other.origin) {
        (None, None) => true,
        (Some((one, _)), Some((other, _))) => Arc::ptr_eq(one, other) || one == other,
        _ => false,
    }
}

/// Appends an origin, whose bounds were checked by [`fits`].
pub(super) fn put(into: &mut Vec<u8>, origin: &Origin) {
    let text = |into: &mut Vec<u8>, text: &str| {
        into.extend_from_slice(&as_u16(text.len()).to_le_bytes());
        into.extend_from_slice(text.as_bytes());
    };
    text(into, &origin.site);
    into.extend_from_slice(origin.stream.as_ref().map_or(&[0; 16], |stream| stream.as_bytes()));
    into.extend_from_slice(&as_u16(origin.hops.len()).to_le_bytes());
    for hop in &origin.hops {
        text(into, hop);
    }
}

/// Reads what [`put`] wrote; `None` if it is something else.
pub(super) fn take(fields: &mut Fields<'_>) -> Option<Origin> {
    let length = u16::from_le_bytes(fields.take()?);
    let site = fields.text(length)?.into();
    let stream = StreamId::from_slice(&fields.take::<16>()?);
    let count = u16::from_le_bytes(fields.take()?);
    let mut hops = Vec::with_capacity(usize::from(count).min(Origin::MOST_HOPS));
    for _ in 0..count {
        let length = u16::from_le_bytes(fields.take()?);
        hops.push(fields.text(length)?.into());
    }
    Some(Origin { site, stream, hops })
}

/// Whether a block can hold it.
pub(super) fn fits(origin: &Origin) -> bool {
    origin.hops.len() <= Origin::MOST_HOPS
        && origin.hops.iter().chain([&origin.site]).all(|name| name.len() <= super::block::MAX_COLLECTOR)
}
