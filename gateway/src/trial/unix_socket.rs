//! A trial of a door: bus clients of our own on its UNIX socket, as any local process could be.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use daemoneye_bridge::{
    bus::{
        Broker, Bus, Link, Port, Routes,
        door::{self, Door},
        embedded::{self, Embedded},
        remote::{self, Remote},
    },
    event::Events,
    lifecycle::Lifecycle,
    native::codec::{
        Qos,
        client::{self, Head},
    },
    topic::Topic,
    transport::Kind,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{self, Instant},
};

use crate::{
    demo::latencies::Latencies,
    trial::{
        Names, Options, Proof, Report, Stage, TrialError,
        drive::{self, Rig},
        ear::{Ear, Tally},
        end, exactly,
        mouth::Mouth,
        report::Facts,
        stages, window,
    },
};

/// Whose door is tried.
#[derive(Clone, Debug)]
pub enum Place {
    /// The one at this socket.
    At(PathBuf),
    /// One that is made for the trial, with a broker behind it.
    Own,
}

/// Tries a door.
///
/// # Errors
///
/// [`TrialError`], if it does not let the trial in, or not even the first message arrives.
pub async fn unix_socket(
    place: &Place,
    options: &Options,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let life = Lifecycle::new();
    let tried = match place {
        Place::At(path) => try_it(path, path.display().to_string(), options, &life, progress).await,
        Place::Own => own(options, &life, progress).await,
    };
    end(life).await;
    tried
}

async fn own(
    options: &Options,
    life: &Lifecycle,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let folder = TempDir::with_prefix("daemoneye-").map_err(TrialError::Folder)?;
    let path = folder.path().join("run").join("bus.sock");
    let bus = open_door(&path, options.connections, life)?;
    let tried = try_it(&path, "a door of its own".to_owned(), options, life, progress).await;
    bus.close();
    tried
}

/// A broker with a door for so many, the ear and its watch.
fn open_door(path: &Path, mouths: usize, life: &Lifecycle) -> Result<Arc<Embedded>, TrialError> {
    let routes = Routes::new(Vec::new(), Broker::Embedded).expect("no rule can be wrong where there is none");
    let (bus, tasks) = embedded::open(embedded::Config::default(), routes);
    for task in tasks {
        life.leash().spawn(task);
    }
    let max_connections = NonZeroUsize::MIN.saturating_add(mouths).saturating_add(2);
    let config = door::Config { socket_path: path.to_owned(), max_connections, ..door::Config::default() };
    life.leash().spawn(Door::bind(config, &bus)?.run(life.leash()));
    Ok(bus)
}

async fn try_it(
    path: &Path,
    place: String,
    options: &Options,
    life: &Lifecycle,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let names = Names::new();
    let bus = enter(path, &names, options.patience, life).await?;
    let (topic, quiet) = (names.topic("heard")?, names.topic("quiet")?);
    let ear = Ear::Bus(bus.subscribe(&names.bus("ear")?, &[exactly(&topic)?]).await?);
    let tally = Tally::new();
    life.leash().spawn(ear.run(Arc::clone(&tally)));
    let (mut mouths, mut set_up) = (Vec::new(), Latencies::default());
    for number in 0..options.connections {
        let begun = Instant::now();
        mouths.push(Mouth::Bus(bus.port(&names.bus(&format!("mouth-{number}"))?).await?));
        set_up.note(begun.elapsed());
    }
    let rig = Rig {
        mouths: &mouths,
        topic: &topic,
        tally: &tally,
        options,
        proof: Proof::Heard,
        window: window(options.size),
        who: "this process",
    };
    let measured = rig.run(&progress).await?;
    let stages = match mouths.first() {
        Some(Mouth::Bus(port)) if options.analyze => {
            progress("stages, each by itself");
            let heard = measured.alone.quantile(500).unwrap_or_default();
            stages_of(port, &quiet, heard, (options, life)).await?
        }
        _ => Vec::new(),
    };
    Ok(Report::new(
        Facts { kind: Kind::UnixSocket, place, proof: Proof::Heard, set_up, measured, stages },
        options,
    ))
}

/// Becomes a client of the bus at `path`.
async fn enter(
    path: &Path,
    names: &Names,
    patience: Duration,
    life: &Lifecycle,
) -> Result<Arc<Remote>, TrialError> {
    let path = std::path::absolute(path).map_err(TrialError::Folder)?;
    let config = remote::Config {
        socket_path: path.clone(),
        name: names.bus("watch")?,
        connect_timeout: patience,
        ..remote::Config::default()
    };
    let (bus, tasks) = remote::open(config);
    for task in tasks {
        life.leash().spawn(task);
    }
    let mut state = bus.state();
    // Any news: it is there, or why it is not. What it says before it was sought is no news.
    let news = async {
        while state.borrow_and_update().link != Link::Up {
            if state.changed().await.is_err() || matches!(state.borrow().link, Link::Down { .. }) {
                return;
            }
        }
    };
    let late = time::timeout(patience, news).await.is_err();
    let cause = match &bus.state().borrow().link {
        Link::Up => return Ok(bus),
        Link::Down { .. } if late => format!("no answer within {} s", patience.as_secs()),
        Link::Down { cause, .. } => cause.clone(),
    };
    let remedy = remedy(&path, &cause);
    Err(TrialError::Unreached { path, cause, remedy })
}

fn remedy(path: &Path, cause: &str) -> &'static str {
    if !path.exists() {
        "is the gateway running, with unix_socket.enabled = true? name its unix_socket.socket_path with --socket"
    } else if cause.contains("ermission") {
        "be its user, or root, or put your user into unix_socket.allowed_uids"
    } else {
        "is that the gateway's unix_socket.socket_path, and does unix_socket.allowed_uids hold your user?"
    }
}

async fn stages_of(
    port: &Port,
    quiet: &Topic,
    heard: Duration,
    (options, life): (&Options, &Lifecycle),
) -> Result<Vec<Stage>, TrialError> {
    let payload = Bytes::from(vec![b'x'; options.size]);
    let count = options.singles();
    let frame = || {
        let mut wire = BytesMut::new();
        let first = Head { id: 1, qos: Qos::Processed };
        client::publish(&mut wire, first, quiet.slashed(), &payload).map(|()| wire).unwrap_or_default()
    };
    let encode = drive::median(count, async || {
        let begun = Instant::now();
        std::hint::black_box(frame());
        Ok(begun.elapsed())
    });
    let encode = encode.await?;
    let socket = echo(&frame(), count, life).await.map_err(TrialError::Socket)?;
    let answered = drive::median(count, async || {
        let mut events = Events::default();
        events.push(quiet, payload.clone(), 0);
        let begun = Instant::now();
        port.submit(events).await?.await;
        Ok(begun.elapsed())
    });
    let answered = answered.await?;
    Ok(vec![
        stages::message("encode the frame", encode),
        stages::message("socket, there and back (a bare echo)", socket),
        stages::message(
            "door reads, broker routes, ack",
            answered.saturating_sub(socket).saturating_sub(encode),
        ),
        stages::message("delivery to the subscriber beyond that", heard.saturating_sub(answered)),
    ])
}

/// The median time of `frame` over a socket pair and as many bytes back as an ack has, between two tasks.
async fn echo(frame: &[u8], count: u64, life: &Lifecycle) -> std::io::Result<Duration> {
    const ACK: usize = 6;
    let (mut near, mut far) = UnixStream::pair()?;
    let length = frame.len();
    life.leash().spawn(async move {
        let mut buffer = vec![0; length];
        while far.read_exact(&mut buffer).await.is_ok() && far.write_all(&[0; ACK]).await.is_ok() {}
    });
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        near.write_all(frame).await?;
        near.read_exact(&mut [0; ACK]).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
