//! A trial of the embedded broker: a port speaks, a subscription hears, in this process.

use std::{sync::Arc, time::Duration};

use daemoneye_bridge::{
    bus::{
        Broker, Bus, Confirm, Envelope, Routes, Rule,
        embedded::{self, Embedded},
    },
    event::Events,
    lifecycle::Lifecycle,
    topic::Topic,
    transport::Kind,
};
use tokio::time::Instant;

use crate::{
    demo::latencies::Latencies,
    trial::{
        Names, Options, Proof, Report, Stage, TrialError,
        drive::{self, Rig},
        ear::{Ear, Tally},
        end, exactly,
        mouth::{Mouth, Told},
        report::Facts,
        stages, window,
    },
};

/// Tries an embedded broker of its own.
///
/// # Errors
///
/// [`TrialError`], if not even the first message arrives.
pub async fn in_process(
    options: &Options,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let life = Lifecycle::new();
    let tried = try_it(options, &life, progress).await;
    end(life).await;
    tried
}

async fn try_it(
    options: &Options,
    life: &Lifecycle,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<Report, TrialError> {
    let names = Names::new();
    let (topic, handed_on) = (names.topic("heard")?, names.topic("handed-on")?);
    let tally = Tally::new();
    let mut set_up = Latencies::default();
    let begun = Instant::now();
    let bus = open(&handed_on, life)?;
    let patterns = [exactly(&topic)?, exactly(&handed_on)?];
    let ear = Ear::Bus(bus.subscribe(&names.bus("ear")?, &patterns).await?);
    let mut mouths = Vec::new();
    let mut since = begun;
    for number in 0..options.connections {
        mouths.push(Mouth::Bus(bus.port(&names.bus(&format!("mouth-{number}"))?).await?));
        // The broker, and the ear, were made for the first.
        set_up.note(since.elapsed());
        since = Instant::now();
    }
    life.leash().spawn(ear.run(Arc::clone(&tally)));
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
    let stages = match mouths.first().filter(|_| options.analyze) {
        Some(mouth) => {
            progress("stages, each by itself");
            stages_of(mouth, (&handed_on, &topic), options).await?
        }
        None => Vec::new(),
    };
    drop(mouths);
    bus.close();
    let place = "a broker of its own".to_owned();
    Ok(Report::new(
        Facts { kind: Kind::InProcess, place, proof: Proof::Heard, set_up, measured, stages },
        options,
    ))
}

/// A bus on which what is published to `handed_on` counts as taken once the broker has it.
fn open(handed_on: &Topic, life: &Lifecycle) -> Result<Arc<Embedded>, TrialError> {
    let rule = Rule {
        pattern: exactly(handed_on)?,
        confirm: Some(Confirm::Bus),
        unheard: None,
        envelope: Envelope::None,
        consumer: None,
        window: None,
        answer_within: None,
    };
    let routes = Routes::new(vec![rule], Broker::Embedded).expect("the embedded bus confirms as asked");
    let (bus, tasks) = embedded::open(embedded::Config::default(), routes);
    for task in tasks {
        life.leash().spawn(task);
    }
    Ok(bus)
}

async fn stages_of(
    mouth: &Mouth,
    (handed_on, heard): (&Topic, &Topic),
    options: &Options,
) -> Result<Vec<Stage>, TrialError> {
    let count = options.singles();
    let said = drive::median(count, async || {
        let begun = Instant::now();
        let told = say(mouth, handed_on, options.size).await?;
        let took = begun.elapsed();
        told.await;
        Ok(took)
    });
    let said = said.await?;
    let routed = drive::median(count, async || told(mouth, handed_on, options.size).await).await?;
    let taken = drive::median(count, async || told(mouth, heard, options.size).await).await?;
    Ok(vec![
        stages::message("hand over to the publisher's queue", said),
        stages::message("publisher wakes, broker routes, ticket comes back", routed.saturating_sub(said)),
        stages::message("consumer wakes and takes it, before the ticket", taken.saturating_sub(routed)),
    ])
}

/// The time until the ticket of one message ends.
async fn told(mouth: &Mouth, topic: &Topic, size: usize) -> Result<Duration, TrialError> {
    let begun = Instant::now();
    say(mouth, topic, size).await?.await;
    Ok(begun.elapsed())
}

/// Says one message that has no number, so that nobody counts it.
async fn say(mouth: &Mouth, topic: &Topic, size: usize) -> Result<Told, TrialError> {
    let mut events = Events::default();
    events.push(topic, vec![b'x'; size].into(), 0);
    mouth.say(events).await.map_err(|_| TrialError::Ended("the bus has ended".to_owned()))
}
