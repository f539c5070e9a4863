//! Senders and topics that came before, so that each message need not hold them anew.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use crate::native::codec::Text;

/// Most that are remembered.
const KNOWN: usize = 1024;

/// Senders and topics that came before.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Bytes, Arc<str>>);

impl Known {
    /// The text, shared with earlier messages.
    pub(super) fn remember(&mut self, text: &Text) -> Arc<str> {
        if let Some(known) = self.0.get(text.as_bytes()) {
            return Arc::clone(known);
        }
        if self.0.len() >= KNOWN {
            self.0.clear();
        }
        let shared: Arc<str> = text.as_str().into();
        self.0.insert(Bytes::copy_from_slice(text.as_bytes()), Arc::clone(&shared));
        shared
    }
}
