//! The collectors that one session speaks for, and their voices on the bus.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    bus::{AuthorizedBus, OpenError, Voice},
    policy::{Denial, LONGEST_NAME, Rights, Speaker},
    session::{intake::Rejection, live::Live, status::Fault},
};

/// The collectors that a session speaks for. Bounded, for their names are the peer's.
#[derive(Debug)]
pub(super) struct Mouths {
    bus: AuthorizedBus,
    live: Arc<Live>,
    all: Vec<Mouth>,
    /// The collector that was refused last, and until when it is not tried again.
    refused: Option<(String, Rejection, Instant)>,
}

/// One collector.
#[derive(Debug)]
pub(super) struct Mouth {
    /// The name in batches; empty for the peer itself.
    asked: String,
    /// What it may publish; or why it may not speak any longer.
    pub(super) speaker: Result<Speaker, Denial>,
    pub(super) voice: Voice,
}

impl Mouths {
    /// Most collectors of a session.
    const MOST: usize = 256;

    /// For how long a refused collector is not tried again, so that asking the bus for a taken name stays cheap.
    const PAUSE: Duration = Duration::from_secs(1);

    pub(super) const fn new(bus: AuthorizedBus, live: Arc<Live>) -> Self {
        Self { bus, live, all: Vec::new(), refused: None }
    }

    pub(super) fn get(&mut self, place: usize) -> Option<&mut Mouth> {
        self.all.get_mut(place)
    }

    /// Whether the mouth there is that of `collector`.
    pub(super) fn is(&self, place: usize, collector: &str) -> bool {
        self.all.get(place).is_some_and(|mouth| mouth.asked == collector)
    }

    pub(super) fn voice(&self, place: usize) -> Option<&Voice> {
        self.all.get(place).map(|mouth| &mouth.voice)
    }

    /// Where the mouth of `collector` is, opening it if it is new; or why its events are rejected.
    pub(super) async fn find(
        &mut self,
        collector: &str,
        rights: &Rights,
    ) -> Result<Result<usize, Rejection>, Fault> {
        if let Some(place) = self.all.iter().position(|mouth| mouth.asked == collector) {
            let denial = self.all.get(place).and_then(|mouth| mouth.speaker.as_ref().err());
            return Ok(denial.map_or(Ok(place), |denial| Err(denial.into())));
        }
        if let Some((name, rejection, until)) = &self.refused
            && name == collector
            && Instant::now() < *until
        {
            return Ok(Err(rejection.clone()));
        }
        match self.open(collector, rights).await? {
            Ok(mouth) => {
                self.all.push(mouth);
                Ok(Ok(self.all.len() - 1))
            }
            // A name that is longer than any may be is refused without being remembered.
            Err(rejection) if collector.len() > LONGEST_NAME => Ok(Err(rejection)),
            Err(rejection) => {
                self.refused = Some((collector.to_owned(), rejection.clone(), Instant::now() + Self::PAUSE));
                Ok(Err(rejection))
            }
        }
    }

    async fn open(&self, collector: &str, rights: &Rights) -> Result<Result<Mouth, Rejection>, Fault> {
        let speaker = match rights.speaker(collector) {
            Ok(speaker) if self.all.len() < Self::MOST => speaker,
            Ok(_) => return Ok(Err(Rejection::from(&Denial::Collector))),
            Err(denial) => return Ok(Err(Rejection::from(&denial))),
        };
        match self.bus.open(speaker.collector()).await {
            Ok(voice) => {
                self.live.speaks_as(speaker.collector().name());
                Ok(Ok(Mouth { asked: collector.to_owned(), speaker: Ok(speaker), voice }))
            }
            Err(OpenError::AlreadyConnected) => Ok(Err(Rejection::already_connected())),
            Err(gone) => Err(gone.into()),
        }
    }

    /// Judges every collector anew. One that may not speak any longer keeps its name until the session ends, for what was
    /// handed over before is not taken back.
    pub(super) fn rejudge(&mut self, rights: &Rights) {
        self.refused = None;
        for mouth in &mut self.all {
            mouth.speaker = rights.speaker(&mouth.asked);
        }
    }

    /// Withdraws what the bus has not taken, of every collector. When this returns every ticket has its answer.
    pub(super) async fn close(&self) {
        for mouth in &self.all {
            mouth.voice.close().await;
        }
    }

    /// Lets go of every name.
    pub(super) async fn release(self) {
        for mouth in self.all {
            mouth.voice.release().await;
        }
    }
}
