//! Who asks.

use std::fmt;

use crate::admin::token::{Owner, Role};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Somebody on the network who has shown a token.
    Token(Owner),
}

impl Caller {
    /// What he may do. Who may open the socket is root or the gateway's own user, and could do more without it.
    pub(super) const fn role(&self) -> Role {
        match self {
            Self::Local { .. } => Role::Admin,
            Self::Remote => Role::Viewer,
            Self::Token(owner) => owner.role,
        }
    }
}

impl fmt::Display for Caller {
    /// As the audit names him.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Remote => f.write_str("somebody on the network"),
            Self::Token(owner) => write!(f, "token {}", owner.name),
        }
    }
}
