//! The UNIX socket: the same API, and the way to change something that needs no secret.
//!
//! Kept true: nobody but root and the gateway's own user is answered, whatever the permissions of the socket become.

use std::{path::Path, sync::Arc};

use axum::Router;
use daemoneye_bridge::{
    bus::door::{DoorError, Place},
    lifecycle::Leash,
    settings::FileMode,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time,
};

use crate::admin::{
    Config,
    caller::Caller,
    server::{EXHAUSTED_PAUSE, Visit},
};

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
    pub(super) async fn run(self, routes: &Router, leash: &Leash, config: &Config) {
        let slots = Arc::new(Semaphore::new(config.max_connections.get()));
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                (self.listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                biased;
                () = leash.draining() => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Some(caller) = self.judge(&stream) else { continue };
                    let visit = Visit { caller, patience: config.request_timeout, slot };
                    leash.spawn(visit.converse(stream, routes.clone(), leash.clone()));
                }
                Err(error) => {
                    // Most often EMFILE: the queue stays readable, so retrying at once would spin.
                    tracing::warn!(%error, "admin accept failed");
                    time::sleep(EXHAUSTED_PAUSE).await;
                }
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
