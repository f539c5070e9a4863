//! The way to a running gateway: plain HTTP to its admin listener, or over its UNIX socket.
//!
//! Reading asks wherever an answer comes from; changes go over the socket alone, because the gateway takes them nowhere
//! else.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::cli::output::{printable, text_of};

/// Where a gateway is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Gateway {
    /// Where the gateway's admin listener is; 127.0.0.1:9090, and else its socket, if not said.
    #[arg(long, global = true)]
    address: Option<SocketAddr>,
    /// The gateway's admin socket; changes go over it. /var/run/daemoneye/admin.sock if not said.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Gateway {
    /// Asks for a resource below `/api/v1`.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the answer is a problem or no JSON.
    pub(crate) fn get(&self, resource: &str) -> anyhow::Result<Value> {
        let request = |host: &str| {
            format!("GET /api/v1/{resource} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        };
        let (place, answer) = match (self.address, &self.socket) {
            (Some(address), _) => over_tcp(address, &request(&address.to_string()))?,
            (None, Some(path)) => over_unix(path, &request("localhost"))?,
            (None, None) => match over_tcp(usual(), &request("localhost")) {
                Ok(answered) => answered,
                // Another port, or none: the socket knows.
                Err(first) => over_unix(Path::new(SOCKET), &request("localhost")).map_err(|second| {
                    anyhow::anyhow!("{first:#}, and {second:#}; is the gateway running? name its place with --address or --socket")
                })?,
            },
        };
        read(&place, &answer)
    }

    /// Asks for a change below `/api/v1`, over the socket.
    ///
    /// # Errors
    ///
    /// Nobody answers, the change is refused, or the answer is no JSON.
    pub(crate) fn post(&self, resource: &str, body: &Value) -> anyhow::Result<Value> {
        if let (Some(address), None) = (self.address, &self.socket) {
            bail!("changes are taken over the gateway's socket, not at {address}; name it with --socket");
        }
        let body = body.to_string();
        let head = format!("POST /api/v1/{resource} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let request =
            format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let path = self.socket.as_deref().unwrap_or_else(|| Path::new(SOCKET));
        let (place, answer) = over_unix(path, &request)
            .context("could not reach the gateway for a change; is it running? are you root or its user? name its admin.socket_path with --socket")?;
        read(&place, &answer)
    }
}

fn over_tcp(address: SocketAddr, request: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let exchange = || -> io::Result<Vec<u8>> {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        exchange(tcp, request)
    };
    let answer = exchange().with_context(|| format!("no answer from the admin listener at {address}"))?;
    Ok((address.to_string(), answer))
}

fn over_unix(path: &Path, request: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let exchange = || -> io::Result<Vec<u8>> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        exchange(socket, request)
    };
    let answer = exchange().with_context(|| format!("no answer from the admin socket {}", path.display()))?;
    Ok((path.display().to_string(), answer))
}

/// One request a connection, so that the answer ends where the connection does.
fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Takes an answer apart; what is no success becomes an error in the gateway's own words.
fn read(place: &str, answer: &[u8]) -> anyhow::Result<Value> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = end.and_then(|end| answer.split_at_checked(end + 4)).with_context(|| {
        format!("{place} answered with something that is not HTTP; is that a gateway's admin listener?")
    })?;
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    let value: Option<Value> = serde_json::from_slice(body).ok();
    if !status.starts_with('2') {
        let mut why = format!("{place} answered {status}");
        if let Some(problem) = &value {
            for part in
                ["title", "detail"].map(|key| text_of(problem, key)).iter().filter(|text| !text.is_empty())
            {
                write!(why, ": {part}").context("a string can be written")?;
            }
        }
        bail!("{}", printable(&why));
    }
    value.with_context(|| format!("the answer of {place} is not JSON; is that a gateway's admin listener?"))
}

/// Where the admin listener is unless it was configured elsewhere.
const fn usual() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090)
}

/// Where the admin socket is unless it was configured elsewhere.
const SOCKET: &str = "/var/run/daemoneye/admin.sock";

/// How long the gateway may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of an answer: some hundred thousand sessions.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_in_the_gateways_words_and_escaped() {
        let answer = b"HTTP/1.1 403 Forbidden\r\n\r\n{\"title\":\"Forbidden\",\"detail\":\"no\\u001b[2J\"}";
        let error = read("here", answer).unwrap_err().to_string();
        assert_eq!(error, "here answered 403: Forbidden: no\\u{1b}[2J");
        assert!(read("here", b"hello").unwrap_err().to_string().contains("not HTTP"));
        assert!(read("here", b"HTTP/1.1 200 OK\r\n\r\n<p>").unwrap_err().to_string().contains("not JSON"));
        assert_eq!(read("here", b"HTTP/1.1 201 Created\r\n\r\n{}").unwrap(), serde_json::json!({}));
    }

    #[test]
    fn a_change_is_not_tried_where_it_cannot_be_taken() {
        let gateway = Gateway { address: Some(usual()), socket: None };
        let error = gateway.post("reload", &Value::Null).unwrap_err().to_string();
        assert!(error.contains("--socket"), "{error}");
    }
}
