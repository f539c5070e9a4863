//! Through an in-memory pipe, with a real gRPC client and service.

use std::{io, net::SocketAddr, time::Duration};

use daemoneye_bridge::lifecycle::Lifecycle;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::oneshot,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Streaming,
    service::Routes,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

use crate::{
    identity::{PeerId, VerifiedPeer},
    session::http2::{Caller, Config, CutReason, Server},
};

/// A served connection.
struct Connection {
    life: Lifecycle,
    ending: CancellationToken,
    last_call: CancellationToken,
    /// Told when [`Server::serve`] has returned.
    ended: oneshot::Receiver<()>,
}

/// Serves one connection of a peer whose certificate expires after `stay`, or after longer than a test takes.
fn serve(stay: Option<Duration>, buffer: usize) -> (Connection, DuplexStream) {
    let (near, far) = tokio::io::duplex(buffer);
    let (life, ending, last_call) = (Lifecycle::new(), CancellationToken::new(), CancellationToken::new());
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Server::new(Config::default(), Routes::new(health), life.leash(), ending.clone());
    let server = server.last_call(last_call.clone());
    let id = PeerId::new("site-a", "procmond").unwrap();
    let caller = Caller::new(VerifiedPeer::assume(id), SocketAddr::from(([127, 0, 0, 1], 4711)));
    if let Some(stay) = stay {
        let cut = caller.cut().clone();
        life.leash().spawn(async move {
            time::sleep(stay).await;
            assert!(cut.cut(CutReason::Expired));
        });
    }
    let (tell, ended) = oneshot::channel();
    life.leash().spawn(async move {
        server.converse(near, &caller).await;
        tell.send(()).unwrap();
    });
    (Connection { life, ending, last_call, ended }, far)
}

async fn client(far: DuplexStream) -> HealthClient<Channel> {
    let mut far = Some(far);
    let connect = tower::service_fn(move |_| {
        let far = far.take().ok_or_else(|| io::Error::other("there is one connection only"));
        async { far.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://gateway.test");
    HealthClient::new(endpoint.connect_with_connector(connect).await.unwrap())
}

/// Opens a stream that stays open.
async fn watch(client: &mut HealthClient<Channel>) -> Streaming<HealthCheckResponse> {
    let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    stream
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_peer_whose_certificate_expires_is_told_on_every_stream_and_cut() {
    let (connection, far) = serve(Some(Duration::from_secs(1)), 1 << 16);
    let mut client = client(far).await;
    let (mut first, mut second) = (watch(&mut client).await, watch(&mut client).await);
    for stream in [&mut first, &mut second] {
        let status = time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the certificate has expired"));
    }
    time::timeout(PATIENCE, connection.ended).await.unwrap().unwrap();
    // Nothing that was spawned for the connection is left.
    assert_eq!(connection.life.drain(PATIENCE, std::future::pending()).await, 0);
}

#[tokio::test]
async fn a_peer_that_stopped_reading_is_cut_as_fast() {
    let (connection, mut far) = serve(Some(Duration::from_secs(1)), 64);
    let begun = Instant::now();
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Each ping wants an answer that nobody reads.
    let pings = async {
        while far.write_all(b"\0\0\x08\x06\0\0\0\0\0abcdefgh").await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = pings => {}
        ended = time::timeout(PATIENCE, connection.ended) => ended.unwrap().unwrap(),
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_says_anything_is_dropped() {
    let (connection, mut far) = serve(None, 1 << 16);
    let begun = Instant::now();
    // The settings of the server, then the end.
    far.read_to_end(&mut Vec::new()).await.unwrap();
    connection.ended.await.unwrap();
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_ends_when_nothing_is_open_on_it_and_not_before() {
    let (mut connection, far) = serve(None, 1 << 16);
    let mut client = client(far).await;
    let stream = watch(&mut client).await;
    connection.ending.cancel();
    // Still served: the stream that is open holds the connection.
    client.check(HealthCheckRequest::default()).await.unwrap();
    assert!(connection.ended.try_recv().is_err());
    drop(stream);
    time::timeout(PATIENCE, connection.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_the_peer_leaves_leaves_nothing_behind() {
    let (connection, far) = serve(None, 1 << 16);
    let mut client = client(far).await;
    let stream = watch(&mut client).await;
    drop((stream, client));
    time::timeout(PATIENCE, connection.ended).await.unwrap().unwrap();
    assert_eq!(connection.life.drain(PATIENCE, std::future::pending()).await, 0);
}

#[tokio::test]
async fn a_peer_that_holds_a_stream_open_is_cut_at_the_last_call() {
    let (connection, far) = serve(None, 1 << 16);
    let mut client = client(far).await;
    let mut stream = watch(&mut client).await;
    connection.ending.cancel();
    connection.last_call.cancel();
    let status = time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the gateway is going away"));
    time::timeout(PATIENCE, connection.ended).await.unwrap().unwrap();
    assert_eq!(connection.life.drain(PATIENCE, std::future::pending()).await, 0);
}
