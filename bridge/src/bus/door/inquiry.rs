//! Calls of one client to the broker itself.
//!
//! The broker answers each of them in a task of its own, however many there are; so the door lets only few be under way.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
};

use crate::{
    bus::{
        embedded::{BROKER, Core},
        rpc::{ERROR, REPLY, REQUEST},
    },
    native::codec::Code,
};

/// Bytes before the method of a call: kind and number.
const HEAD: usize = 5;

/// The calls of one client that the broker has not answered yet.
pub(super) struct Inquiries {
    core: Arc<Core>,
    open: AtomicUsize,
}

impl Inquiries {
    pub(super) const fn new(core: Arc<Core>) -> Self {
        Self { core, open: AtomicUsize::new(0) }
    }

    /// Takes a place for what is sent to `target`, if that will be answered by the broker; says whether it has.
    ///
    /// # Errors
    ///
    /// [`Code::BUSY`], if as many calls as may be are under way, here or of other clients.
    pub(super) fn begin(&self, target: &str, payload: &[u8]) -> Result<bool, Code> {
        if target != BROKER || !is_call(payload) {
            return Ok(false);
        }
        self.core.inquiries.try_acquire().map_err(|_| Code::BUSY)?.forget();
        self.open.fetch_add(1, AcqRel);
        Ok(true)
    }

    /// Gives a place back for what `sender` sent, if that is an answer of the broker.
    pub(super) fn answered(&self, sender: &str, payload: &[u8]) {
        if sender == BROKER && matches!(payload.first(), Some(&(REPLY | ERROR))) {
            self.end();
        }
    }

    /// Gives a place back.
    pub(super) fn end(&self) {
        let had = self.open.fetch_update(AcqRel, Acquire, |open| open.checked_sub(1)).is_ok();
        self.core.inquiries.add_permits(usize::from(had));
    }
}

impl Drop for Inquiries {
    fn drop(&mut self) {
        self.core.inquiries.add_permits(*self.open.get_mut());
    }
}

impl fmt::Debug for Inquiries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquiries").field("open", &self.open).finish_non_exhaustive()
    }
}

/// Whether the broker answers this: a whole request whose number is not 0.
fn is_call(payload: &[u8]) -> bool {
    let Some((head, method)) = payload.split_at_checked(HEAD) else { return false };
    let Some((&kind, id)) = head.split_first() else { return false };
    kind == REQUEST && id.iter().any(|byte| *byte != 0) && method.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_that_wants_a_reply_is_a_call() {
        assert!(is_call(b"\x01\x07\0\0\0test\0"));
        for other in
            [&b""[..], b"\x01\x07\0\0\0", b"\x01\0\0\0\0test\0", b"\x01\x07\0\0\0test", b"\0note\0\0"]
        {
            assert!(!is_call(other), "{other:?}");
        }
    }
}
