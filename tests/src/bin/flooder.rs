//! Strangers in numbers: `flooder PHASE ADDRESS FOLDER COUNT`.
//!
//! They stand for other machines. So they are a process of one thread, to be run so that it gives way to all others
//! (`chrt --idle 0`): what they cost here is not the gateway's, and must not be taken for it. What they show lies in FOLDER,
//! made before anything is measured: `anchors.pem`, and `0.crt`, `0.key`, `1.crt` and so on, which they take in turns.
//!
//! Says `begun` before the first comes, `held N of COUNT in MILLISECONDS ms` once all have come, of whom N were let in and
//! are held on to, and `dropped N` once the gateway has ended all of these.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use daemoneye_tests::peer::Credentials;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [phase, address, folder, count] = args.as_slice() else {
        bail!("usage: flooder half-open|junk|silent ADDRESS FOLDER COUNT")
    };
    let phase = Phase::parse(phase).with_context(|| format!("there is no phase {phase}"))?;
    let address = address.parse().context("could not read the address")?;
    let count = count.parse().context("could not read the count")?;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("could not have descriptors")?;
    let flood = Flood { phase, address, shown: shown(Path::new(folder))? };
    flood.run(count).await;
    Ok(())
}

/// What a stranger does.
#[derive(Clone, Copy)]
enum Phase {
    /// Connects, and says nothing.
    HalfOpen,
    /// Shows a chain that the gateway does not trust.
    Junk,
    /// Proves who it is, and says nothing from then on.
    Silent,
}

impl Phase {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "half-open" => Some(Self::HalfOpen),
            "junk" => Some(Self::Junk),
            "silent" => Some(Self::Silent),
            _ => None,
        }
    }

    /// How many come in a tick.
    const fn at_once(self) -> u32 {
        match self {
            Self::HalfOpen => 10,
            Self::Junk | Self::Silent => 1,
        }
    }

    /// Where the stranger of that number comes from: 64 half-open ones share a network, the others have one each, and no
    /// two phases one, nor any of them that of the collectors.
    fn source(self, number: u32) -> Ipv4Addr {
        let [_, high, low, host] = number.to_be_bytes();
        let [second, third] = match self {
            Self::HalfOpen => {
                (u16::from(high) << 10 | u16::from(low) << 2 | u16::from(host >> 6)).to_be_bytes()
            }
            Self::Junk | Self::Silent => [low, host],
        };
        match self {
            Self::HalfOpen => Ipv4Addr::new(127, 64 + second, third, 1 + (host & 63)),
            Self::Junk => Ipv4Addr::new(127, 128 + second, third, 1),
            Self::Silent => Ipv4Addr::new(127, 192 + second, third, 1),
        }
    }
}

/// How often some come.
const TICK: Duration = Duration::from_millis(10);

/// How long one may take to be let in or not.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is shown in turns.
fn shown(folder: &Path) -> anyhow::Result<Vec<Arc<ClientConfig>>> {
    let read = |file: &str| {
        let path = folder.join(file);
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let anchors = read("anchors.pem")?;
    let mut all = Vec::new();
    while folder.join(format!("{}.crt", all.len())).exists() {
        let own = (read(&format!("{}.crt", all.len()))?, read(&format!("{}.key", all.len()))?);
        let credentials = Credentials { anchors: anchors.clone(), own: Some(own) };
        all.push(Arc::new(credentials.client_config()));
    }
    Ok(all)
}

struct Flood {
    phase: Phase,
    address: SocketAddr,
    shown: Vec<Arc<ClientConfig>>,
}

impl Flood {
    async fn run(&self, count: u32) {
        println!("begun");
        let begun = Instant::now();
        let (tell, mut told) = mpsc::channel(1024);
        let (mut strangers, mut clock) = (JoinSet::new(), time::interval(TICK));
        let (mut came, mut held) = (0, 0);
        let mut note = |is_held| (came, held) = (came + 1, held + u32::from(is_held));
        for number in 0..count {
            if number % self.phase.at_once() == 0 {
                clock.tick().await;
            }
            strangers.spawn(self.stranger(number, tell.clone()));
            while let Ok(is_held) = told.try_recv() {
                note(is_held);
            }
        }
        drop(tell);
        while let Some(is_held) = told.recv().await {
            note(is_held);
        }
        println!("held {held} of {came} in {} ms", begun.elapsed().as_millis());
        while strangers.join_next().await.is_some() {}
        println!("dropped {held}");
    }

    /// One of them: tells whether it was let in, and then waits for its end.
    fn stranger(&self, number: u32, tell: mpsc::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
        let (phase, address) = (self.phase, self.address);
        let turn = usize::try_from(number).unwrap_or(0).checked_rem(self.shown.len());
        let config = turn.map(|turn| Arc::clone(&self.shown[turn]));
        async move {
            let come = async {
                let tcp = connect(phase.source(number), address).await?;
                match (phase, config) {
                    (Phase::HalfOpen, _) | (_, None) => Ok(Stranger::HalfOpen(tcp)),
                    (_, Some(config)) => Ok(Stranger::Secured(Box::new(shake(config, tcp).await?))),
                }
            };
            let held: io::Result<_> =
                time::timeout(PATIENCE, come).await.unwrap_or_else(|late| Err(late.into()));
            // Nobody counts any more only if the process ends.
            let _counted = tell.send(held.is_ok()).await;
            drop(tell);
            match held {
                Ok(Stranger::HalfOpen(tcp)) => hear_out(tcp).await,
                Ok(Stranger::Secured(tls)) => hear_out(tls).await,
                Err(_) => {}
            }
        }
    }
}

enum Stranger {
    HalfOpen(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

async fn connect(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.connect(to).await
}

/// Shakes hands, and waits for the gateway's first word, which comes after its verdict.
async fn shake(config: Arc<ClientConfig>, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
    tls.read_u8().await?;
    Ok(tls)
}

/// Reads until the other end has gone, politely or not.
async fn hear_out(mut stream: impl AsyncRead + Unpin) {
    let mut heard = [0; 64];
    while stream.read(&mut heard).await.is_ok_and(|length| length > 0) {}
}
