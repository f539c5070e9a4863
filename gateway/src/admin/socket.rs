//! The UNIX socket: the same API, and the way to change something that needs no secret.
//!
//! Kept true: nobody but root and the gateway's own user is answered, whatever the permissions of the socket become.

use std::{io, path::Path};

use axum::Router;
use daemoneye_bridge::{
    bus::door::{DoorError, Place},
    lifecycle::Leash,
    reception::{self, Bounds},
    settings::FileMode,
};
use tokio::net::{UnixListener, UnixStream};

use crate::admin::caller::Caller;

/// The socket, which goes away when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    place: Place,
    listener: UnixListener,
}

impl Socket {
    /// Takes the place of the socket.
    pub(super) fn take(path: &Path) -> Result<Self, DoorError> {
        let (place, listener) = Place::take(path, FOLDER, FILE)?;
        Ok(Self { place, listener })
    }

    /// Answers until the leash says to drain.
    pub(super) async fn run(self, routes: Router, leash: Leash, bounds: Bounds) {
        let socket = &self;
        reception::run(bounds, routes, leash, || socket.next()).await;
    }

    /// The next one that may ask here.
    async fn next(&self) -> io::Result<(UnixStream, Caller)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if let Some(caller) = self.judge(&stream) {
                return Ok((stream, caller));
            }
        }
    }

    /// Who it is, if it may ask here.
    fn judge(&self, stream: &UnixStream) -> Option<Caller> {
        let peer = stream.peer_cred().ok()?;
        let uid = peer.uid();
        if ![0, self.place.owner()].contains(&uid) {
            tracing::debug!(uid, "admin socket refused a user");
            return None;
        }
        Some(Caller::Local { uid, pid: peer.pid() })
    }
}

/// Permissions of the socket's folder, if it has to be made.
const FOLDER: FileMode = FileMode::new(0o700);

/// Permissions of the socket.
const FILE: FileMode = FileMode::new(0o600);
