//! The collectors that one session speaks for, and their voices on the bus.
//!
//! Kept true: waiting for the bus to register a name holds up the events behind it and nothing else; a name is let go once
//! nothing was said under it for a while, so that its collector may come through somebody else.

use std::{fmt, sync::Arc, time::Duration};

use daemoneye_bridge::event::{Origin, Seq};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    bus::{AuthorizedBus, OpenError, Voice},
    policy::{Denial, LONGEST_NAME, Rights, Speaker},
    session::{intake::Rejection, live::Live, relayed, status::Fault, stream::Streams},
};

/// The collectors that a session speaks for. Bounded, for their names are the peer's.
#[derive(Debug)]
pub(super) struct Mouths {
    bus: AuthorizedBus,
    live: Arc<Live>,
    /// A mouth keeps its place.
    all: Vec<Option<Mouth>>,
    /// Those refused last. Bounded.
    refused: Vec<Refused>,
    /// The name that is being registered.
    opening: Option<Opening>,
}

/// One collector.
#[derive(Debug)]
pub(super) struct Mouth {
    /// The name in batches; empty for the peer itself, `site/name` for another gateway's.
    asked: String,
    /// What it may publish; or why it may not speak any longer.
    pub(super) speaker: Result<Speaker, Denial>,
    pub(super) voice: Voice,
    /// When it spoke last.
    used: Instant,
    /// The last number that it was given of each stream.
    spoken: Vec<(usize, Seq)>,
}

/// A collector that is not tried again for a while.
#[derive(Debug)]
struct Refused {
    asked: String,
    rejection: Rejection,
    until: Instant,
}

/// A name that is being registered.
struct Opening {
    asked: String,
    begun: Instant,
    voice: BoxFuture<'static, Result<Voice, OpenError>>,
    /// What came of it, until somebody asks.
    outcome: Option<Result<Voice, OpenError>>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// Where a collector's mouth is.
#[derive(Debug)]
pub(super) enum Found {
    /// There.
    At(usize),
    /// Its events are rejected.
    Refused(Rejection),
    /// Its name is being registered; [`Mouths::opened`] ends when that is done.
    Opening,
    /// All places are taken by collectors with unsettled events.
    Full,
}

impl Mouth {
    /// Whether all that it was given is settled.
    fn is_settled(&self, streams: &Streams) -> bool {
        let is_settled = |(stream, last): &(usize, Seq)| {
            streams.all.get(*stream).is_none_or(|stream| stream.hwm() >= *last)
        };
        self.spoken.iter().all(is_settled)
    }
}

impl Mouths {
    /// Most collectors of a session; a gateway that relays has many.
    const MOST: usize = 1024;

    /// Most collectors whose refusal is remembered.
    const MOST_REFUSED: usize = 32;

    /// For how long a refused collector is not tried again, so that asking the bus for a taken name stays cheap.
    const PAUSE: Duration = Duration::from_secs(1);

    /// For how many times as long as the refusal took it is not tried again, since others wait meanwhile.
    const RESPITE: u32 = 5;

    /// How long a collector keeps its name without saying anything.
    const IDLE: Duration = Duration::from_mins(1);

    pub(super) const fn new(bus: AuthorizedBus, live: Arc<Live>) -> Self {
        Self { bus, live, all: Vec::new(), refused: Vec::new(), opening: None }
    }

    /// Whether events of this origin may not be taken, since they have been here, or could not be relayed any further.
    pub(super) fn has_passed(&self, origin: &Origin) -> bool {
        self.bus.has_passed(origin)
    }

    pub(super) fn get(&mut self, place: usize) -> Option<&mut Mouth> {
        self.all.get_mut(place).and_then(Option::as_mut)
    }

    fn at(&self, place: usize) -> Option<&Mouth> {
        self.all.get(place).and_then(Option::as_ref)
    }

    /// Whether the mouth there is that of `collector`.
    pub(super) fn is(&self, place: usize, collector: &str) -> bool {
        self.at(place).is_some_and(|mouth| mouth.asked == collector)
    }

    pub(super) fn voice(&self, place: usize) -> Option<&Voice> {
        self.at(place).map(|mouth| &mouth.voice)
    }

    /// Takes note that the mouth there was given events of a stream up to `last`.
    pub(super) fn note(&mut self, place: usize, stream: usize, last: Seq, now: Instant) {
        let Some(mouth) = self.get(place) else { return };
        mouth.used = now;
        match mouth.spoken.iter_mut().find(|(known, _)| *known == stream) {
            Some((_, known)) => *known = last,
            None => mouth.spoken.push((stream, last)),
        }
    }

    /// Where the mouth of `collector` is, opening it if it is new; or why its events are rejected.
    pub(super) fn find(
        &mut self,
        collector: &str,
        rights: &Rights,
        streams: &Streams,
    ) -> Result<Found, Fault> {
        let is_its = |mouth: &Option<Mouth>| mouth.as_ref().is_some_and(|mouth| mouth.asked == collector);
        if let Some(place) = self.all.iter().position(is_its) {
            let denial = self.at(place).and_then(|mouth| mouth.speaker.as_ref().err());
            return Ok(denial.map_or(Found::At(place), |denial| Found::Refused(denial.into())));
        }
        let now = Instant::now();
        if let Some(refused) = self.refused.iter().find(|refused| refused.asked == collector)
            && now < refused.until
        {
            return Ok(Found::Refused(refused.rejection.clone()));
        }
        let speaker = match relayed::speaker(rights, collector) {
            Ok(speaker) => speaker,
            Err(denial) => return Ok(self.refuse(collector, Rejection::from(&denial), now)),
        };
        let Some(place) = self.room(streams) else { return Ok(Found::Full) };
        let opening = self.opening.take().filter(|opening| opening.asked == collector);
        let mut opening = opening.unwrap_or_else(|| self.open(collector, &speaker, now));
        let outcome = opening.outcome.take().or_else(|| (&mut opening.voice).now_or_never());
        match outcome {
            None => {
                self.opening = Some(opening);
                Ok(Found::Opening)
            }
            Some(Ok(voice)) => {
                let asked = opening.asked;
                self.live.speaks_as(if asked.is_empty() { speaker.collector().name() } else { &asked });
                let mouth = Mouth { asked, speaker: Ok(speaker), voice, used: now, spoken: Vec::new() };
                if let Some(free) = self.all.get_mut(place) {
                    *free = Some(mouth);
                }
                Ok(Found::At(place))
            }
            Some(Err(OpenError::AlreadyConnected)) => {
                Ok(self.refuse(collector, Rejection::already_connected(), opening.begun))
            }
            Some(Err(gone)) => Err(gone.into()),
        }
    }

    fn open(&self, collector: &str, speaker: &Speaker, now: Instant) -> Opening {
        let (bus, whom) = (self.bus.clone(), Arc::clone(speaker.collector()));
        let voice = async move { bus.open(&whom).await }.boxed();
        Opening { asked: collector.to_owned(), begun: now, voice, outcome: None }
    }

    /// Remembers a refusal that was asked for at `begun`.
    fn refuse(&mut self, collector: &str, rejection: Rejection, begun: Instant) -> Found {
        // A name that is longer than any may be is refused without being remembered.
        if collector.len() <= 2 * LONGEST_NAME + 1 {
            let now = Instant::now();
            self.refused.retain(|refused| now < refused.until && refused.asked != collector);
            if self.refused.len() >= Self::MOST_REFUSED {
                self.refused.remove(0);
            }
            let pause = now.duration_since(begun).saturating_mul(Self::RESPITE).max(Self::PAUSE);
            let (asked, until) = (collector.to_owned(), now + pause);
            self.refused.push(Refused { asked, rejection: rejection.clone(), until });
        }
        Found::Refused(rejection)
    }

    /// A free place; if there is none, that of the collector that has been silent for the longest time.
    fn room(&mut self, streams: &Streams) -> Option<usize> {
        if let Some(free) = self.all.iter().position(Option::is_none) {
            return Some(free);
        }
        if self.all.len() < Self::MOST {
            self.all.push(None);
            return Some(self.all.len() - 1);
        }
        let settled = |(_, mouth): &(usize, &Option<Mouth>)| {
            mouth.as_ref().is_none_or(|mouth| mouth.is_settled(streams))
        };
        let used = |(_, mouth): &(usize, &Option<Mouth>)| mouth.as_ref().map(|mouth| mouth.used);
        let (place, _) = self.all.iter().enumerate().filter(settled).min_by_key(used)?;
        self.close_mouth(place);
        Some(place)
    }

    fn close_mouth(&mut self, place: usize) {
        if let Some(mouth) = self.all.get_mut(place).and_then(Option::take) {
            self.live.speaks_no_more_as(&mouth.asked);
        }
    }

    /// Lets go of names under which nothing was said for a while; the peer keeps its own.
    pub(super) fn sweep(&mut self, streams: &Streams, now: Instant) {
        for place in 0..self.all.len() {
            let is_idle = |mouth: &Mouth| {
                !mouth.asked.is_empty()
                    && now.saturating_duration_since(mouth.used) >= Self::IDLE
                    && mouth.is_settled(streams)
            };
            if self.at(place).is_some_and(is_idle) {
                self.close_mouth(place);
            }
        }
    }

    /// Waits until the name that is being registered is, or is refused.
    ///
    /// Cancel safe.
    pub(super) async fn opened(&mut self) {
        match &mut self.opening {
            Some(opening) if opening.outcome.is_none() => {
                let outcome = (&mut opening.voice).await;
                opening.outcome = Some(outcome);
            }
            _ => std::future::pending().await,
        }
    }

    /// Judges every collector anew. One that may not speak any longer keeps its name until it has been silent for a while,
    /// for what was handed over before is not taken back.
    pub(super) fn rejudge(&mut self, rights: &Rights) {
        self.refused.clear();
        for mouth in self.all.iter_mut().flatten() {
            mouth.speaker = relayed::speaker(rights, &mouth.asked);
        }
    }

    /// Lets others claim the names, since the session ends.
    pub(super) fn retire(&mut self) {
        self.opening = None;
        self.all.iter().flatten().for_each(|mouth| mouth.voice.retire());
    }

    /// Withdraws what the bus has not taken, of every collector. When this returns every ticket has its answer.
    pub(super) fn close(&self) -> impl Future<Output = ()> + use<> {
        let voices: Vec<Voice> = self.all.iter().flatten().map(|mouth| mouth.voice.clone()).collect();
        async move {
            for voice in &voices {
                voice.close().await;
            }
        }
    }

    /// Lets go of every name.
    pub(super) async fn release(self) {
        for mouth in self.all.into_iter().flatten() {
            mouth.voice.release().await;
        }
    }
}
