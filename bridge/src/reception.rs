//! A listener for operators and probes: HTTP/1, bounded in connections and in time; gateway and leaf share it.
//!
//! Kept true: who says nothing keeps nobody out. When every place is taken, the connection that has been silent for longest
//! makes way for the next one; one whose request is being answered never does.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::lifecycle::Leash;

/// How much a listener takes on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once.
    pub connections: NonZeroUsize,
    /// For the head of each request, from the end of the one before, and for what is left of one at the end.
    pub patience: Duration,
}

/// Answers who comes until the leash says to drain; connections are tasks of the leash.
///
/// `next` waits for a connection. What it says besides of who that is goes into the extensions of each request.
pub async fn run<S, M, F>(bounds: Bounds, routes: Router, leash: Leash, mut next: impl FnMut() -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M: Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<(S, M)>>,
{
    let places = Arc::new(Places::new(bounds.connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = leash.draining() => return,
            accepted = next() => accepted,
        };
        let visitor = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most often EMFILE: the queue stays readable, so retrying at once would spin.
                tracing::warn!(%error, "accept failed on a listener for operators");
                time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        // Not before somebody is there who needs it: another one may have to make way.
        let place = tokio::select! {
            biased;
            () = leash.draining() => return,
            place = places.take() => place,
        };
        leash.spawn(place.converse(visitor, routes.clone(), bounds.patience, leash.clone()));
    }
}

/// The places of a listener.
#[derive(Debug)]
struct Places {
    most: usize,
    taken: Mutex<Taken>,
    /// A place was left, or somebody fell silent.
    stirred: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    sitting: HashMap<u64, Sitting>,
}

#[derive(Debug)]
struct Sitting {
    /// Since when nothing is being answered; `None` while something is.
    silent: Option<Instant>,
    leave: CancellationToken,
}

impl Places {
    fn new(most: NonZeroUsize) -> Self {
        Self { most: most.get(), taken: Mutex::default(), stirred: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. One accept loop asks; two would wake only one of them.
    async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.stirred.notified().await;
        }
    }

    /// A place, if need be of who was silent for longest; none while everybody is being answered.
    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.lock();
        if taken.sitting.len() >= self.most {
            let silent = taken.sitting.iter().filter_map(|(id, sitting)| Some((sitting.silent?, *id)));
            let (_, longest) = silent.min()?;
            if let Some(gone) = taken.sitting.remove(&longest) {
                gone.leave.cancel();
            }
        }
        let (id, leave) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.sitting.insert(id, Sitting { silent: Some(Instant::now()), leave: leave.clone() });
        drop(taken);
        Some(Place { id, leave, places: Arc::clone(self) })
    }
}

/// One connection's place, given back when this is dropped.
#[derive(Debug)]
struct Place {
    id: u64,
    /// Says that another one needs it.
    leave: CancellationToken,
    places: Arc<Places>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().sitting.remove(&self.id);
        self.places.stirred.notify_one();
    }
}

impl Place {
    fn set_silent(&self, silent: Option<Instant>) {
        if let Some(sitting) = self.places.lock().sitting.get_mut(&self.id) {
            sitting.silent = silent;
        }
        if silent.is_some() {
            self.places.stirred.notify_one();
        }
    }

    fn is_silent(&self) -> bool {
        self.places.lock().sitting.get(&self.id).is_none_or(|sitting| sitting.silent.is_some())
    }

    /// Answers one client until it leaves, is idle too long, makes way, or has had its time.
    async fn converse<S, M>(self, (stream, mark): (S, M), routes: Router, patience: Duration, leash: Leash)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        M: Clone + Send + Sync + 'static,
    {
        let place = &self;
        let answer = service_fn(move |request: Request<Incoming>| {
            let (mut routes, mut request) = (routes.clone(), request.map(Body::new));
            request.extensions_mut().insert(mark.clone());
            async move {
                place.set_silent(None);
                let answer = routes.call(request).await;
                place.set_silent(Some(Instant::now()));
                answer as Result<_, Infallible>
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Also ends a connection that idles between two requests.
            .header_read_timeout(patience)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), answer);
        let mut connection = pin!(connection);
        let over = tokio::select! {
            biased;
            ended = connection.as_mut() => Some(ended),
            () = self.leave.cancelled() => Some(Ok(())),
            () = leash.draining() => None,
            () = time::sleep(LIFETIME) => None,
        };
        let ended = if let Some(ended) = over {
            ended
        } else {
            connection.as_mut().graceful_shutdown();
            // A client that reads no answer must not keep its place, nor one that asks for nothing hold up the end.
            let patience = if self.is_silent() { patience.min(FAREWELL) } else { patience };
            time::timeout(patience, connection).await.unwrap_or(Ok(()))
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection of an operator failed");
        }
    }
}

/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Longest a connection lives: a place comes back even from who never stops asking.
const LIFETIME: Duration = Duration::from_mins(5);

/// At the end, for who is not being answered: what was answered last may still be on its way.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pause after an accept error that is not the peer's.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::Semaphore,
    };

    use super::*;
    use crate::lifecycle::Lifecycle;

    const ASK: &[u8] = b"GET /quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    /// What `/slow` shares with its test: a permit for each request that has begun, and one for each that may end.
    struct Slow {
        begun: Semaphore,
        may_end: Semaphore,
    }

    /// A listener with two places, `/quick` and `/slow`.
    async fn listener(patience: Duration) -> (Lifecycle, SocketAddr, Arc<Slow>) {
        let life = Lifecycle::new();
        let slow = Arc::new(Slow { begun: Semaphore::new(0), may_end: Semaphore::new(0) });
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let shared = Arc::clone(&slow);
        let answer = get(async move || {
            shared.begun.add_permits(1);
            shared.may_end.acquire().await.unwrap().forget();
            "slow"
        });
        let routes = Router::new().route("/quick", get(async || "quick")).route("/slow", answer);
        let bounds = Bounds { connections: 2.try_into().unwrap(), patience };
        let leash = life.leash();
        life.leash().spawn(async move {
            let tcp = &tcp;
            run(bounds, routes, leash, || async move { tcp.accept().await }).await;
        });
        (life, address, slow)
    }

    async fn asked(address: SocketAddr, text: &[u8]) -> TcpStream {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(text).await.unwrap();
        tcp
    }

    /// All that comes before the other end closes, which it does within a second.
    async fn heard(mut tcp: TcpStream) -> String {
        let mut answer = String::new();
        let read = tcp.read_to_string(&mut answer);
        let _reset = time::timeout(Duration::from_secs(1), read).await.expect("it ends within a second");
        answer
    }

    #[tokio::test]
    async fn the_longest_silent_one_makes_way_for_who_asks() {
        let (_life, address, _told) = listener(Duration::from_mins(1)).await;
        let mut silent = Vec::new();
        for text in [&b""[..], b"GET /qui", b"", b"", b"GET", b""] {
            silent.push(asked(address, text).await);
        }
        assert!(heard(asked(address, ASK).await).await.ends_with("quick"));
        // Six and the one that asked, for two places.
        let kept = silent.split_off(5);
        for gone in silent {
            assert_eq!(heard(gone).await, "");
        }
        for mut kept in kept {
            kept.write_all(ASK).await.unwrap();
            assert!(heard(kept).await.ends_with("quick"), "it was not in the way");
        }
    }

    #[tokio::test]
    async fn who_is_being_answered_makes_way_for_nobody() {
        let (_life, address, slow) = listener(Duration::from_mins(1)).await;
        let ask = b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let busy = [asked(address, ask).await, asked(address, ask).await];
        slow.begun.acquire_many(2).await.unwrap().forget();
        let mut next = asked(address, ASK).await;
        let early = time::timeout(Duration::from_millis(100), next.read_u8()).await;
        assert!(early.is_err(), "there is no place for it yet");
        slow.may_end.add_permits(1);
        assert!(heard(next).await.ends_with("quick"), "one is enough");
        slow.may_end.add_permits(1);
        for busy in busy {
            assert!(heard(busy).await.ends_with("slow"));
        }
    }

    #[tokio::test]
    async fn who_says_nothing_has_a_moment_and_does_not_hold_up_the_end() {
        let (_life, address, _told) = listener(Duration::from_millis(50)).await;
        assert_eq!(heard(asked(address, b"GET /quick HT").await).await, "");

        let (life, address, _told) = listener(Duration::from_mins(1)).await;
        let silent = asked(address, b"GET /quick HT").await;
        assert!(
            heard(asked(address, ASK).await).await.ends_with("quick"),
            "the one before was accepted, too"
        );
        assert_eq!(life.drain(Duration::from_secs(30), std::future::pending()).await, 0);
        drop(silent);
    }
}
