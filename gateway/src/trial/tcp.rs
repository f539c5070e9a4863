//! A trial of a gateway over mutual TLS: sessions as collectors have them, one a connection.
//!
//! What the certificate may do decides how far it goes: pings are always answered, events need the right to publish their
//! topic, and hearing them come back the right to subscribe to it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemoneye_bridge::{
    bus::Bus,
    event::Events,
    lifecycle::Lifecycle,
    settings::Chain,
    topic::Topic,
    transport::Kind,
    uplink::{
        self, Failure,
        probe::{Parcel, Probe, SetUp},
    },
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    demo::latencies::Latencies,
    trial::{
        Measured, Names, Options, Proof, Report, Stage, TrialError,
        drive::{self, Rig},
        ear::{Ear, Tally},
        end, exactly,
        mouth::Mouth,
        report::Facts,
        stages, window,
    },
};

/// Where a trial dials, and as whom.
#[derive(Debug)]
pub struct Dial {
    /// One for each connection.
    pub uplinks: Vec<uplink::Config>,
    /// What to publish to; none: nothing is published.
    pub topic: Option<Topic>,
    /// The gateway's own bus, if it is in this process: events are heard there.
    pub bus: Option<Arc<dyn Bus>>,
    /// For people: where.
    pub place: String,
}

/// Tries a gateway.
///
/// # Errors
///
/// [`TrialError`], if it cannot be reached or lets nobody in, or not even the first event is acknowledged.
pub async fn tcp(
    dial: Dial,
    options: &Options,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let life = Lifecycle::new();
    let tried = try_it(dial, options, &life, progress).await;
    end(life).await;
    tried
}

async fn try_it(
    dial: Dial,
    options: &Options,
    life: &Lifecycle,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let mut party = Party::gather(&dial, options, &progress).await?;
    progress(&format!("connected as {}", party.who));
    let pings = party.ping(options.singles()).await?;
    let (mut proof, mut measured, mut spoken) = (Proof::Pinged, Measured::default(), Duration::ZERO);
    match &dial.topic {
        None => {
            progress("no --topic: nothing is published; name one that the policy lets this identity publish");
            (measured.sent, measured.arrived) = (pings.count(), pings.count());
            measured.alone = pings.clone();
        }
        Some(topic) => {
            let ear = party.ear(topic, dial.bus.as_deref(), options, &progress).await?;
            proof = if ear.is_some() { Proof::Heard } else { Proof::Acknowledged };
            (measured, spoken) = party.speak((topic, ear), options, life, &progress).await?;
        }
    }
    let stages = if options.analyze { stages_of(&party.set_ups, &pings, spoken) } else { Vec::new() };
    let mut set_up = Latencies::default();
    party.set_ups.iter().for_each(|each| set_up.note(each.connect.saturating_add(each.welcome)));
    let facts = Facts { kind: Kind::TcpMtls, place: dial.place, proof, set_up, measured, stages };
    Ok(Report::new(facts, options))
}

/// The connections of a trial.
struct Party {
    probes: Vec<Probe>,
    set_ups: Vec<SetUp>,
    /// Who they are to the gateway; the first, if they are several.
    who: String,
    names: Names,
    /// Messages that may be on their way.
    window: u64,
}

impl Party {
    async fn gather(
        dial: &Dial,
        options: &Options,
        progress: &(impl Fn(&str) + Send + Sync),
    ) -> Result<Self, TrialError> {
        let mut probes = Vec::new();
        for config in &dial.uplinks {
            let config = uplink::Config { connect_timeout: options.patience, ..config.clone() };
            probes.push(Probe::open(&config).await?);
            if probes.len().is_multiple_of(16) {
                progress(&format!("{} connections", probes.len()));
            }
        }
        let set_ups = probes.iter().map(Probe::set_up).collect();
        let who = probes.first().map(Probe::peer).unwrap_or_default().to_owned();
        Ok(Self { probes, set_ups, who, names: Names::new(), window: window(options.size) })
    }

    async fn ping(&mut self, count: u64) -> Result<Latencies, TrialError> {
        let mut pings = Latencies::default();
        if let Some(probe) = self.probes.first_mut() {
            for _ in 0..count {
                pings.note(probe.ping().await?);
            }
        }
        Ok(pings)
    }

    /// Where events are heard: on the bus itself, else by subscribing, else nowhere.
    async fn ear(
        &mut self,
        topic: &Topic,
        bus: Option<&dyn Bus>,
        options: &Options,
        progress: &(impl Fn(&str) + Send + Sync),
    ) -> Result<Option<Ear>, TrialError> {
        let pattern = exactly(topic)?;
        if let Some(bus) = bus {
            return Ok(Some(Ear::Bus(bus.subscribe(&self.names.bus("ear")?, &[pattern]).await?)));
        }
        let Some(probe) = self.probes.first_mut() else { return Ok(None) };
        match probe.subscribe(&[pattern]).await {
            Ok(listener) => {
                // A subscriber that reads too slowly loses messages, of which a gateway keeps no more than this.
                self.window = (KEPT_BYTES / options.size.max(1) as u64).clamp(1, KEPT);
                Ok(Some(Ear::Link(Box::new(listener))))
            }
            Err(failure @ Failure::Ended { .. }) => {
                progress(&format!("not heard, acknowledged only: {}", Chain(&failure)));
                Ok(None)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Publishes; also the median time until a single event is acknowledged.
    async fn speak(
        &mut self,
        (topic, ear): (&Topic, Option<Ear>),
        options: &Options,
        life: &Lifecycle,
        progress: &(impl Fn(&str) + Send + Sync),
    ) -> Result<(Measured, Duration), TrialError> {
        let tally = Tally::new();
        let proof = if ear.is_some() { Proof::Heard } else { Proof::Acknowledged };
        if let Some(ear) = ear {
            life.leash().spawn(ear.run(Arc::clone(&tally)));
        }
        let ended = Arc::new(Mutex::new(None));
        let mut mouths = Vec::new();
        for probe in self.probes.drain(..) {
            let (mouth, parcels) = mpsc::channel(WAITING);
            mouths.push(Mouth::Link(mouth));
            life.leash().spawn(carry(probe, parcels, Arc::clone(&ended)));
        }
        let (window, who) = (self.window, self.who.as_str());
        let rig = Rig { mouths: &mouths, topic, tally: &tally, options, proof, window, who };
        let measured = rig.run(progress).await;
        // Why a session ended tells more than that nothing came of it.
        let why = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(why) = why {
            return Err(TrialError::Ended(why));
        }
        let measured = measured?;
        let acked = match mouths.first().filter(|_| options.analyze) {
            Some(mouth) => acked(mouth, topic, options).await?,
            None => Duration::ZERO,
        };
        Ok((measured, acked))
    }
}

/// Carries what the trial says, and keeps why it ended.
async fn carry(mut probe: Probe, parcels: mpsc::Receiver<Parcel>, ended: Arc<Mutex<Option<String>>>) {
    if let Err(failure) = probe.carry(parcels).await {
        let why = Chain(&failure).to_string();
        ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
    probe.close().await;
}

async fn acked(mouth: &Mouth, topic: &Topic, options: &Options) -> Result<Duration, TrialError> {
    // Nobody's number: it is not counted.
    let payload = bytes::Bytes::from(format!("{{\"\":\"{}\"}}", "x".repeat(options.size.saturating_sub(7))));
    let gone = |_| TrialError::Ended("the session has ended".to_owned());
    let acked = drive::median(options.singles(), async || {
        let mut events = Events::default();
        events.push(topic, payload.clone(), 0);
        let begun = Instant::now();
        mouth.say(events).await.map_err(gone)?.await;
        Ok(begun.elapsed())
    });
    acked.await
}

fn stages_of(set_ups: &[SetUp], pings: &Latencies, acked: Duration) -> Vec<Stage> {
    let median = |of: fn(&SetUp) -> Duration| {
        let mut times: Vec<Duration> = set_ups.iter().map(of).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let ping = pings.quantile(500).unwrap_or_default();
    let mut stages = vec![
        stages::connection("connect: TCP, TLS with both certificates, HTTP/2", median(|each| each.connect)),
        stages::connection("hello until welcome: identity, policy, marks", median(|each| each.welcome)),
        stages::message("network, TLS and HTTP/2, there and back (a ping)", ping),
    ];
    if !acked.is_zero() {
        stages.push(stages::message("policy, bus and its consumers, ack", acked.saturating_sub(ping)));
    }
    stages
}

/// Batches that wait for a session to take them.
const WAITING: usize = 4;

/// Messages, and bytes, that a gateway keeps for a subscriber who reads slowly, by half.
const KEPT: u64 = 512;
const KEPT_BYTES: u64 = 1 << 20;
