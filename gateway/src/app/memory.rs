//! Memory comes in small pages.
//!
//! The allocator asks for huge pages where the machine offers them. Linux zeroes such a page, 2 MiB, at the first touch: a worker
//! that admits peers then stood still for 5 ms, some times a second, and so did the acks behind it. What huge pages save of address
//! translation did not show in throughput.

/// Takes no huge pages from now on, in the whole process.
pub(super) fn take_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "could not do without huge pages");
    }
}
