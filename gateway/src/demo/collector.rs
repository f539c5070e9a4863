//! A leaf with a collector in the same process: what the demo runs once for each site.
//!
//! The leaf is the real one. The collector is a client of its local bus like any other: it reads the processes of this
//! machine once a second and publishes what it sees. Its parent hangs up when it shall stop; then it waits until everything
//! it sent is acknowledged.

use std::{future, io, path::PathBuf, time::Duration};

use daemoneye_bridge::{
    bus::{BusName, Port, PortError},
    event::Events,
    leaf::{BuildError, Config, Leaf, health::Views},
    log,
    settings::SettingsError,
    topic::{Topic, TopicError},
    uplink::Status,
};
use tokio::{
    sync::watch,
    task::{self, JoinError},
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::demo::{
    child::hung_up,
    observation::{Observation, now},
    process::{Process, Reader, Sight},
    report::Report,
};

/// What the hidden subcommand was told.
#[derive(Clone, Debug)]
pub struct Post {
    /// The leaf's settings.
    pub config: PathBuf,
    /// Its site.
    pub site: String,
    /// The collector's name.
    pub name: String,
}

/// How often processes are read.
const EVERY: Duration = Duration::from_secs(1);

/// How often a waiting collector tells how far it is.
const TELL: Duration = Duration::from_millis(250);

/// How long acknowledgements may take when the collector has stopped.
const FLUSH: Duration = Duration::from_secs(20);

/// Runs a leaf and its collector until standard input ends and everything sent is acknowledged.
///
/// # Errors
///
/// [`CollectorError`], if the leaf cannot be made or the processes cannot be read.
pub async fn collect(post: Post) -> Result<(), CollectorError> {
    let config = Config::load(&post.config)?;
    log::start(&config.log);
    work(Leaf::build(config).await?, &post).await
}

async fn work(leaf: Leaf, of: &Post) -> Result<(), CollectorError> {
    let mouth = leaf.bus().port(&BusName::parse(&of.name)?).await?;
    let collector = Collector::new(of, mouth, &leaf.views())?;
    let stop = hung_up();
    let finished = CancellationToken::new();
    let collect = async {
        let collected = collector.run(&stop).await;
        finished.cancel();
        collected
    };
    let (collected, cut) = tokio::join!(collect, leaf.run(finished.cancelled(), future::pending()));
    collected?;
    if cut > 0 { Err(CollectorError::Cut(cut)) } else { Ok(()) }
}

struct Collector {
    port: Port,
    uplink: watch::Receiver<Status>,
    /// One for each [`Sight`].
    topics: [(Sight, Topic); 3],
    report: Report,
}

impl Collector {
    fn new(of: &Post, port: Port, views: &Views) -> Result<Self, CollectorError> {
        let topic = |sight: Sight| Topic::parse(sight.topic()).map(|topic| (sight, topic));
        Ok(Self {
            port,
            uplink: views.uplink.clone(),
            topics: [topic(Sight::Metadata)?, topic(Sight::Start)?, topic(Sight::Stop)?],
            report: Report { collector: format!("{}/{}", of.site, of.name), ..Report::default() },
        })
    }

    async fn run(mut self, stop: &CancellationToken) -> Result<(), CollectorError> {
        let mut reader = Reader::new().map_err(CollectorError::Processes)?;
        let mut clock = time::interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tell = time::interval(TELL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Not before its leaf was let in or turned away: what is seen sooner waits for the first link, and would be
                // told as if the way took so long.
                _ = clock.tick(), if self.report.joined || self.report.refused.is_some() => {
                    let seen;
                    (reader, seen) = task::spawn_blocking(move || {
                        let seen = reader.read();
                        (reader, seen)
                    })
                    .await?;
                    self.publish(&seen).await?;
                }
                _ = tell.tick() => self.tell()?,
            }
        }
        self.flush().await?;
        self.port.close().await;
        Ok(())
    }

    /// Publishes what was seen, and waits until the leaf has it in its spool.
    async fn publish(&mut self, seen: &[(Sight, Process)]) -> Result<(), CollectorError> {
        let mut events = Events::default();
        for (sight, process) in seen {
            let Some((_, topic)) = self.topics.iter().find(|(of, _)| of == sight) else { continue };
            let timestamp = now();
            let seq = self.report.sent + 1;
            let observation = Observation { collector: &self.report.collector, seq, timestamp, process };
            if let Some(payload) = observation.to_payload() {
                events.push(topic, payload, timestamp.saturating_mul(1000));
                self.report.sent = seq;
            }
        }
        if !events.is_empty() {
            // Withdrawn only if the leaf has ended, which its own future tells.
            let _taken = self.port.submit(events).await?.await;
        }
        Ok(())
    }

    /// Waits until everything is acknowledged; the parent will see if it was not.
    async fn flush(&mut self) -> Result<(), CollectorError> {
        let deadline = time::Instant::now() + FLUSH;
        let mut tell = time::interval(TELL);
        loop {
            tell.tick().await;
            self.tell()?;
            let settled = self.report.acked >= self.report.sent || self.report.refused.is_some();
            if settled || time::Instant::now() >= deadline {
                return Ok(());
            }
        }
    }

    fn tell(&mut self) -> Result<(), CollectorError> {
        let status = self.uplink.borrow().clone();
        self.report.joined = status.sessions > 0;
        self.report.acked = status.acked.saturating_sub(status.rejected);
        // Before it was ever let in, a trouble that will not go away by itself is a refusal.
        let refusal = status.last_error.filter(|trouble| trouble.lasting && !self.report.joined);
        if let Some(trouble) = refusal {
            self.report.refused = Some(trouble.what);
        }
        self.report.tell().map_err(CollectorError::Parent)
    }
}

/// Why a leaf of the demo ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// The leaf could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The leaf did not end in time.
    #[error("{0} tasks of the leaf had to be cut")]
    Cut(usize),
    /// Reading processes broke off.
    #[error("the reading of processes broke off")]
    Join(#[from] JoinError),
    /// The collector's name.
    #[error("could not name the collector on the local bus")]
    Name(#[from] TopicError),
    /// The parent is gone.
    #[error("could not report to the demo")]
    Parent(#[source] io::Error),
    /// The local bus.
    #[error("could not use the local bus")]
    Port(#[from] PortError),
    /// The operating system does not show its processes.
    #[error("could not read the processes of this machine")]
    Processes(#[source] sysinfo::Error),
    /// The leaf's settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}
