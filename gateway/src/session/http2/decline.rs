//! A connection in which nothing happens but that its peer is told why.

use std::{convert::Infallible, pin::pin, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};

use crate::session::http2::{GOODBYE, Server, service::OnLeash};

impl Server {
    /// Answers whatever the peer asks with `RESOURCE_EXHAUSTED`, `message` and when to come back, then hangs up. Ends soon,
    /// even if nothing is asked.
    ///
    /// Not cancel safe, but dropping it cuts the connection.
    pub async fn decline<I>(&self, io: I, message: &str, wait: Duration)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let details = ErrorDetails::with_retry_info(Some(wait));
        let status = Status::with_error_details(Code::ResourceExhausted, message, details);
        let gone = CancellationToken::new();
        let _ends_streams = gone.clone().drop_guard();
        let asked = CancellationToken::new();
        let told = asked.clone();
        let answer = service_fn(move |_: Request<Incoming>| {
            told.cancel();
            let answer: Response<Body> = status.clone().into_http();
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let builder = self.builder(OnLeash::new(self.leash.clone(), gone));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), answer));
        tokio::select! {
            biased;
            () = self.ending.cancelled() => {}
            _done = &mut connection => return,
            // A reset would overtake the answer if the peer is still sending what it asks.
            () = asked.cancelled() => {
                let _answered = time::timeout(LINGER, &mut connection).await;
            }
            () = time::sleep(PATIENCE) => {}
        }
        connection.as_mut().graceful_shutdown();
        // A peer that does not read is not waited for.
        let _ended = time::timeout(GOODBYE, connection).await;
    }
}

/// How long the peer may take to ask for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the connection stays after an answer.
const LINGER: Duration = Duration::from_millis(250);
