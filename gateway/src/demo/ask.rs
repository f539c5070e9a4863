//! Asks the gateway's admin API, as anybody might with `curl`.

use std::{io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// What the demo shows of a refusal.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Refusal {
    /// Which stage refused.
    pub(super) stage: String,
    /// Stable reason code.
    pub(super) reason: String,
    /// What happened.
    pub(super) detail: String,
    /// What to do about it.
    #[serde(default)]
    pub(super) hint: String,
}

/// Who the gateway says to have turned away, newest first.
///
/// # Errors
///
/// The API did not answer, or in other words than it should.
pub(super) async fn refusals(admin: SocketAddr) -> io::Result<Vec<Refusal>> {
    #[derive(Deserialize)]
    struct Refusals {
        recent: Vec<Refusal>,
    }
    let (status, body) = get(admin, "/api/v1/refusals").await?;
    if status != "200" {
        return Err(io::Error::other(format!("the admin API answered {status}")));
    }
    Ok(serde_json::from_slice::<Refusals>(&body)?.recent)
}

/// Whether the gateway says to be ready; no answer is a no.
pub(super) async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").await.is_ok_and(|(status, _)| status == "200")
}

/// A plain GET: one request a connection, so that the answer ends where the connection does.
async fn get(address: SocketAddr, path: &str) -> io::Result<(String, Vec<u8>)> {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST: u64 = 1 << 20;
    let exchange = async {
        let mut tcp = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        tcp.take(MOST).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let mut answer = time::timeout(PATIENCE, exchange).await??;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
    let body = answer.split_off(end + 4);
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned();
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_taken_apart_and_silence_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let read = tcp.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /api/v1/refusals HTTP/1.1\r\n"));
            let body = r#"{"total":1,"recent":[{"stage":"policy","reason":"no_rule","detail":"d"}]}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
            tcp.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        };
        let (refusals, ()) = tokio::join!(refusals(address), serve);
        assert_eq!(refusals.unwrap()[0].reason, "no_rule");
        drop(listener);
        assert!(!is_ready(address).await);
    }
}
