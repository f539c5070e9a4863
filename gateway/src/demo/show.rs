//! The course of a demo: set up, watch, stop from the producers on, count.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use daemoneye_bridge::{
    bus::{Bus, BusName, Message, Subscription, remote},
    lifecycle::{Leash, Lifecycle, Signals},
    topic::Pattern,
};
use futures_util::{
    StreamExt, future,
    stream::{BoxStream, SelectAll},
};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::demo::{
    Options, Outcome, ask,
    child::{Child, ChildError},
    federation::{self, ALLOWED, Addresses, DemoError, REFUSED, Site},
    folder::Folder,
    naps::Naps,
    report::Report,
    screen::{patiently, say, tell},
    table::Table,
    tail::Tail,
    tally::{Count, Tally},
};

/// How long the leaves may take until everything they hold is acknowledged.
const FLUSH: Duration = Duration::from_secs(30);

/// How long leaves may take to the gateway, and what was acknowledged to its subscriber.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long the gateway may take to drain.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs a demo. Ctrl-C ends it early and orderly, a second Ctrl-C at once.
///
/// # Errors
///
/// [`DemoError`], if it could not be set up, or a part of it ended that should not have.
pub async fn run(options: Options) -> Result<Outcome, DemoError> {
    let mut signals = Signals::listen().map_err(DemoError::Signals)?;
    let folder = Folder::make(options.keep)?;
    let life = Lifecycle::new();
    let leash = life.leash();
    let mut show = tokio::select! {
        biased;
        () = signals.stop() => return Err(DemoError::Interrupted),
        show = Show::set_up(&folder, &leash) => show?,
    };
    show.watch(options.time, signals.stop()).await?;
    let table = tokio::select! {
        biased;
        () = signals.stop() => return Err(DemoError::Interrupted),
        table = show.finish() => table?,
    };
    // The bus client has nothing to finish: its broker is gone.
    life.drain(Duration::ZERO, future::pending()).await;
    say(format_args!("\n{table}"));
    if folder.is_kept() {
        say(format_args!("Certificates, settings and logs are in {}.", folder.path().display()));
    }
    let faults = table.faults();
    for fault in &faults {
        say(format_args!("FAILED: {fault}"));
    }
    if faults.is_empty() {
        say("OK: nothing was lost, and who is not allowed was refused.");
    }
    Ok(if faults.is_empty() { Outcome::Whole } else { Outcome::Faulty })
}

/// A running demo. Dropping it kills its processes.
struct Show {
    gateway: Child,
    addresses: Addresses,
    leaves: Vec<Child>,
    /// What the leaves tell; ends with the last of them.
    reports: SelectAll<BoxStream<'static, Report>>,
    /// The last word of each collector.
    latest: BTreeMap<String, Report>,
    subscription: Subscription,
    /// Keeps the subscription's connection.
    _bus: Arc<remote::Remote>,
    tally: Tally,
    /// Reasons of the gateway that were already told.
    told: BTreeSet<String>,
    tail: Tail,
    naps: Naps,
}

impl Show {
    async fn set_up(folder: &Folder, leash: &Leash) -> Result<Self, DemoError> {
        let stays = if folder.is_kept() { "which stays" } else { "which goes away at the end" };
        say(format_args!("DaemonEye federation demo, in {}, {stays}.\n", folder.path().display()));
        federation::make_certificates(folder)?;
        say("  certificates  root > issuer > gateway and three leaves, P-256, made for this run");
        let (gateway, addresses) = federation::start_gateway(folder).await?;
        say(format_args!(
            "  gateway       pid {}, mutual TLS for collectors on {}",
            gateway.pid().unwrap_or_default(),
            addresses.collectors
        ));
        say(format_args!("  dashboard     http://{}/", addresses.admin));
        say(format_args!("  bus           {} (BUS/RT, events/process/#)", folder.socket().display()));
        let (bus, subscription) = subscribe(folder, leash).await?;
        let mut leaves = Vec::new();
        for site in Site::all() {
            leaves.push(federation::start_leaf(folder, site, addresses)?);
        }
        let pids: Vec<String> = leaves.iter().filter_map(Child::pid).map(|pid| pid.to_string()).collect();
        let names: Vec<&str> = Site::all().map(|site| site.name).collect();
        say(format_args!("  leaves        of {}, pids {}", names.join(", "), pids.join(", ")));
        say("  not allowed   site-c (no rule of the policy), site-d (another authority's certificate)\n");
        Ok(Self {
            gateway,
            addresses,
            reports: leaves.iter_mut().map(Child::reports).collect(),
            leaves,
            latest: BTreeMap::new(),
            subscription,
            _bus: bus,
            tally: Tally::default(),
            told: BTreeSet::new(),
            tail: Tail::new(),
            naps: Naps::new(folder.path()).map_err(DemoError::Naps)?,
        })
    }

    /// Shows what arrives, until the time is over or `stop` ends.
    async fn watch(
        &mut self,
        time: Option<Duration>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), DemoError> {
        let mut stop = pin!(stop);
        let mut messages = Vec::new();
        // The time counts from when everybody is in, or out; but nobody is waited for without end.
        let over = time::sleep(time.map_or(FOREVER, |time| time + ARRIVAL));
        let mut over = pin!(over);
        let mut settled = false;
        loop {
            if !settled && self.is_settled() {
                settled = true;
                over.as_mut().reset(Instant::now() + time.unwrap_or(FOREVER));
            }
            // What is rare comes first: messages are always there.
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = &mut over => return Ok(()),
                error = any_end(&mut self.gateway, &mut self.leaves) => return Err(error.into()),
                () = self.naps.next() => {}
                Some(report) = self.reports.next() => self.note(report).await,
                open = self.subscription.next(&mut messages, MESSAGES) => {
                    self.count(&mut messages);
                    if !open {
                        return Err(DemoError::BusGone);
                    }
                }
            }
        }
    }

    /// Whether the gateway has let in, or turned away, every leaf.
    fn is_settled(&self) -> bool {
        Site::all().all(|site| {
            let report = self.latest.get(&site.collector());
            report.is_some_and(|report| report.joined || report.refused.is_some())
        })
    }

    /// Counts messages, and shows a few of them.
    fn count(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            let line = self.tally.note(&message).and_then(|heard| self.tail.line(&message, &heard));
            if let Some(line) = line {
                say(line);
            }
        }
    }

    /// Keeps a report; tells when somebody is refused for the first time.
    async fn note(&mut self, report: Report) {
        let known = self.latest.get(&report.collector).is_some_and(|known| known.refused.is_some());
        if let Some(reason) = report.refused.as_ref().filter(|_| !known) {
            tell(&format!("{} is refused: {reason}", report.collector));
            self.tell_refusals().await;
        }
        self.latest.insert(report.collector.clone(), report);
    }

    /// Tells what the gateway says of those whom it turned away, each once.
    async fn tell_refusals(&mut self) {
        // The API has them a moment later than who was refused.
        let refusals = ask::refusals(self.addresses.admin).await.unwrap_or_default();
        for ask::Refusal { stage, reason, detail, hint } in refusals {
            if !self.told.insert(reason.clone()) {
                continue;
            }
            tell(&format!("the gateway says why: {stage}, {reason}: {detail}; {hint}"));
        }
    }

    /// Stops producers first, then leaves, then the gateway, so that nothing is on its way when it is counted.
    async fn finish(mut self) -> Result<Table, DemoError> {
        say("\nThe collectors stop; each leaf waits until everything is acknowledged.");
        self.leaves.iter_mut().for_each(Child::hang_up);
        patiently("the last acknowledgements", FLUSH, self.flush()).await??;
        for leaf in &mut self.leaves {
            leaf.finish(DRAIN).await?;
        }
        // What does not come will be counted as lost.
        let _late = patiently("the last events", ARRIVAL, self.arrive()).await;
        self.tell_refusals().await;
        say("The gateway drains.");
        self.gateway.hang_up();
        patiently("the gateway's end", DRAIN + DRAIN, self.gateway.finish(DRAIN)).await??;
        let report = |site: Site| {
            let collector = site.collector();
            self.latest.get(&collector).cloned().unwrap_or_else(|| Report { collector, ..Report::default() })
        };
        Ok(Table::new(&ALLOWED.map(report), &REFUSED.map(report), &self.tally))
    }

    /// Counts on until the last leaf has told its last.
    async fn flush(&mut self) -> Result<(), DemoError> {
        let mut messages = Vec::new();
        loop {
            tokio::select! {
                biased;
                report = self.reports.next() => match report {
                    Some(report) => self.note(report).await,
                    None => return Ok(()),
                },
                open = self.subscription.next(&mut messages, MESSAGES) => {
                    self.count(&mut messages);
                    if !open {
                        return Err(DemoError::BusGone);
                    }
                }
            }
        }
    }

    /// Counts on until as much was heard as was sent.
    async fn arrive(&mut self) {
        let mut messages = Vec::new();
        while ALLOWED.iter().any(|site| {
            let collector = site.collector();
            let sent = self.latest.get(&collector).map_or(0, |report| report.sent);
            self.tally.of(&collector).map_or(0, Count::received) < sent
        }) {
            if !self.subscription.next(&mut messages, MESSAGES).await {
                return;
            }
            self.count(&mut messages);
        }
    }
}

/// Longer than anybody watches; tokio's timer takes no more than two years.
const FOREVER: Duration = Duration::from_hours(24 * 365);

/// Messages taken at once.
const MESSAGES: usize = 256;

/// Waits until a process ends that should not.
async fn any_end(gateway: &mut Child, leaves: &mut [Child]) -> ChildError {
    let all = std::iter::once(gateway).chain(leaves).map(|child| Box::pin(child.ended()));
    future::select_all(all).await.0
}

/// Becomes a client of the gateway's bus, as any program on its host could.
async fn subscribe(folder: &Folder, leash: &Leash) -> Result<(Arc<remote::Remote>, Subscription), DemoError> {
    let config = json!({ "socket_path": folder.socket(), "name": "demo-watch" });
    let config = serde_json::from_value(config).map_err(DemoError::BusSettings)?;
    let (bus, tasks) = remote::open(config);
    for task in tasks {
        leash.spawn(task);
    }
    let name = BusName::parse("demo").map_err(DemoError::Name)?;
    let patterns = [Pattern::parse("events.process.#").map_err(DemoError::Name)?];
    let subscription = patiently("the bus", ARRIVAL, bus.subscribe(&name, &patterns)).await??;
    Ok((bus, subscription))
}
