//! Reading fields off the front of bytes that may be anything.

/// What is left to be read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// Takes `N` bytes, if there are so many.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// Takes so many bytes, if they are there and are text.
    pub(super) fn text(&mut self, bytes: u16) -> Option<&'a str> {
        let (taken, rest) = self.0.split_at_checked(usize::from(bytes))?;
        self.0 = rest;
        std::str::from_utf8(taken).ok()
    }
}
