//! Who asks.

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A process of this host, as the kernel names it.
    Local {
        /// Its user.
        uid: u32,
        /// Its number, if the kernel tells.
        pid: Option<i32>,
    },
    /// Somebody on the network; loopback is a network, too.
    Remote,
}
