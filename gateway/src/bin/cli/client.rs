//! The way to a running gateway: plain HTTP to its admin listener.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::cli::output;

/// Where a gateway is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Gateway {
    /// Where the gateway's admin listener is.
    #[arg(long, global = true, default_value = "127.0.0.1:9090")]
    address: SocketAddr,
}

impl Gateway {
    /// Asks for a resource below `/api/v1`.
    ///
    /// # Errors
    ///
    /// Nobody answers there, or otherwise than with JSON.
    pub(crate) fn get(&self, resource: &str) -> anyhow::Result<Value> {
        let body = self.ask(&format!("/api/v1/{resource}"))?;
        serde_json::from_slice(&body).context("the gateway's answer is not JSON")
    }

    /// A plain GET: one request a connection, so that the answer ends where the connection does.
    fn ask(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let address = self.address;
        let mut tcp = TcpStream::connect_timeout(&address, PATIENCE)
            .with_context(|| format!("could not reach the admin listener at {address}"))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        tcp.take(MAX_ANSWER)
            .read_to_end(&mut answer)
            .with_context(|| format!("could not read the answer of {address}"))?;
        let end =
            answer.windows(4).position(|window| window == b"\r\n\r\n").context("the answer is not HTTP")?;
        let body = answer.split_off(end + 4);
        let head = String::from_utf8_lossy(&answer);
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            let body = output::printable(&String::from_utf8_lossy(&body));
            bail!("{address} answered {status} to {path}: {body}");
        }
        Ok(body)
    }
}

/// How long the gateway may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of an answer: some hundred thousand sessions.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;
