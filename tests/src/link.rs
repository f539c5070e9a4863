//! A link between two programs that a test can cut or hold up: what happens to a network between machines.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Carries TCP connections to one address, until it is dropped.
#[derive(Debug)]
pub struct Link {
    /// Where it is entered.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// How often it was cut.
    cuts: u64,
    /// Whether it carries nothing now, in either direction.
    held: bool,
}

impl Link {
    /// Makes one to `target`; needs a runtime.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state = watch::Sender::new(State::default());
        let task = tokio::spawn(carry_all(listener, target, state.subscribe()));
        Self { address, state, task }
    }

    /// Resets every connection that it carries, at both ends.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Carries nothing from now on, and tells nobody; or carries on where it stopped.
    pub fn hold(&self, held: bool) {
        self.state.send_modify(|state| state.held = held);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry_all(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>) {
    // Aborted with this task.
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                carried.spawn(carry(near, target, state.clone()));
            }
            Some(_) = carried.join_next() => {}
        }
    }
}

/// One connection. A target that is not there resets it, as it would without a link.
async fn carry(near: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    // Dropped without a goodbye: the other end sees a reset.
    let _ = near.set_zero_linger();
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = far.set_zero_linger();
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut watching = state.clone();
    tokio::select! {
        _ = watching.wait_for(|state| state.cuts != cuts) => {}
        () = async {
            tokio::join!(pass(near_in, far_out, state.clone()), pass(far_in, near_out, state.clone()));
        } => {}
    }
}

/// Passes on what comes until its end, which it passes on too.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if state.wait_for(|state| !state.held).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
    // Who wrote it may be gone already.
    let _ = to.shutdown().await;
}

const BUFFER: usize = 64 << 10;

/// How long a link is held up in tests: long enough to notice, shorter than what ends a session by itself.
pub const MOMENT: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually::soon;

    #[tokio::test]
    async fn a_link_carries_holds_and_cuts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap()).await;
        let mut near = TcpStream::connect(link.address).await.unwrap();
        let (mut far, _) = soon("it arrives", listener.accept()).await.unwrap();
        near.write_all(b"a").await.unwrap();
        assert_eq!(soon("carried", far.read_u8()).await.unwrap(), b'a');
        link.hold(true);
        near.write_all(b"b").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), far.read_u8()).await;
        assert!(early.is_err(), "held");
        link.hold(false);
        assert_eq!(soon("carried on", far.read_u8()).await.unwrap(), b'b');
        link.cut();
        assert!(soon("cut here", near.read_u8()).await.is_err());
        assert!(soon("cut there", far.read_u8()).await.is_err());
        let mut again = TcpStream::connect(link.address).await.unwrap();
        let (mut far, _) = soon("it arrives", listener.accept()).await.unwrap();
        far.write_all(b"c").await.unwrap();
        assert_eq!(soon("carried", again.read_u8()).await.unwrap(), b'c');
    }
}
