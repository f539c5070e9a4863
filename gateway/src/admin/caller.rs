//! Who asks.

use std::fmt;

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

impl fmt::Display for Caller {
    /// As the audit names him.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Remote => f.write_str("somebody on the network"),
        }
    }
}
