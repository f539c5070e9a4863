//! Publishes through a leaf's door as an ordinary BUS/RT client, and says what was confirmed.
//!
//! ```text
//! publish /var/run/daemoneye/broker.sock procmond events/process/lifecycle 10000
//! publish.exe \\.\pipe\daemoneye-broker procmond events/process/lifecycle 10000
//! ```
//!
//! With `--hear` it subscribes to the topic as well, and waits until it has heard as many events as it sent.
//!
//! What the door confirms is in the leaf's spool. Each payload is the sender's name and a number that counts from 0, so that
//! whoever hears them can tell which are missing.

use std::{env, error::Error, io, process::ExitCode, time::Duration};

use bytes::BytesMut;
use daemoneye_bridge::native::codec::{
    Code, Qos,
    client::{self, Head, TopicsOf},
    greeting,
    server::{self, ServerFrame},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};

/// Frames on their way whose ack has not come.
const WINDOW: u32 = 512;

/// Most bytes of a frame that is read.
const MOST: usize = 1 << 20;

/// Number of the frame that subscribes.
const SUBSCRIBE: u32 = u32::MAX;

/// Longest silence of the door.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let listens = arguments.pop_if(|last| last == "--hear").is_some();
    let [door, name, topic, count] = arguments.as_slice() else {
        eprintln!("usage: publish DOOR NAME TOPIC COUNT [--hear]");
        return ExitCode::from(2);
    };
    let Ok(count) = count.parse() else {
        eprintln!("publish: `{count}` is no number of events");
        return ExitCode::from(2);
    };
    match publish(door, name, topic, (count, listens)).await {
        Ok(tally) => {
            println!(
                "sent {count} confirmed {} refused {} heard {} in {:?}",
                tally.confirmed, tally.refused, tally.heard, tally.took
            );
            if tally.confirmed == count { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("publish: {door}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the door said.
struct Tally {
    confirmed: u32,
    refused: u32,
    heard: u32,
    took: Duration,
}

async fn publish(
    door: &str,
    name: &str,
    topic: &str,
    (count, listens): (u32, bool),
) -> Result<Tally, Box<dyn Error>> {
    let mut stream = open(door).await?;
    greet(&mut stream, name).await?;
    let mut wire = BytesMut::new();
    if listens {
        let head = Head { id: SUBSCRIBE, qos: Qos::Processed };
        client::topics(&mut wire, head, TopicsOf::Subscribe, &[topic])?;
    }
    let begun = Instant::now();
    let (mut sent, mut confirmed, mut refused, mut heard) = (0, 0, 0, 0);
    let mut read = BytesMut::new();
    while confirmed + refused < count || listens && heard < count {
        while sent < count && sent - confirmed - refused < WINDOW {
            let payload = format!(r#"{{"from":"{name}","n":{sent}}}"#);
            // 0 is a sign of life, so numbers begin with 1.
            let number = Head { id: sent + 1, qos: Qos::Processed };
            client::publish(&mut wire, number, topic, payload.as_bytes())?;
            sent += 1;
        }
        stream.write_all(&wire).await?;
        wire.clear();
        if timeout(PATIENCE, stream.read_buf(&mut read)).await?? == 0 {
            return Err(format!("the door closed after {confirmed} of {count}").into());
        }
        while let Some(frame) = server::decode(&mut read, MOST)? {
            match frame {
                ServerFrame::Ack { id: SUBSCRIBE, code: Code::OK } | ServerFrame::Ping => {}
                ServerFrame::Ack { id: SUBSCRIBE, code } => {
                    return Err(format!("not subscribed: {code}").into());
                }
                ServerFrame::Ack { code: Code::OK, .. } => confirmed += 1,
                ServerFrame::Ack { .. } => refused += 1,
                ServerFrame::Delivery(_) => heard += 1,
            }
        }
    }
    Ok(Tally { confirmed, refused, heard, took: begun.elapsed() })
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, name: &str) -> Result<(), Box<dyn Error>> {
    let mut opening = [0; greeting::OPENING];
    timeout(PATIENCE, stream.read_exact(&mut opening)).await??;
    greeting::judge(opening)?;
    stream.write_all(&greeting::opening()).await?;
    judge(stream).await?;
    let mut wire = BytesMut::new();
    greeting::put_name(&mut wire, name)?;
    stream.write_all(&wire).await?;
    judge(stream).await
}

async fn judge<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), Box<dyn Error>> {
    match Code(timeout(PATIENCE, stream.read_u8()).await??) {
        Code::OK => Ok(()),
        code => Err(format!("the door refused: {code}").into()),
    }
}

#[cfg(unix)]
async fn open(door: &str) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(door).await
}

#[cfg(windows)]
async fn open(door: &str) -> io::Result<tokio::net::windows::named_pipe::NamedPipeClient> {
    /// What Windows says while every instance of a pipe is just being taken.
    const BUSY: i32 = 231;

    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::net::windows::named_pipe::ClientOptions::new().open(door) {
            Err(error) if error.raw_os_error() == Some(BUSY) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened,
        }
    }
}
