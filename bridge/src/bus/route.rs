//! Routes: what an acknowledgement means, topic by topic.
//!
//! A route says for a pattern of topics when a batch counts as taken, what happens when nobody listens, and whether events
//! are wrapped. The first route whose pattern matches a topic is its route. A last route of pattern `#` is always there.
//!
//! Kept true: a route of [`Routes`] promises nothing that its kind of broker cannot keep.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use crate::{
    bus::BusName,
    topic::{Pattern, Topic},
};

/// When a batch counts as taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    /// A live broker has taken it.
    Bus,
    /// A named client of the bus has answered a call with it. Needs the embedded bus.
    Consumer,
    /// It is written to the socket of every matching subscriber of our door, and taken from the queue of every matching
    /// in-process consumer. Needs the embedded bus.
    Socket,
}

/// What happens to events of a route that nobody hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unheard {
    /// Published to nobody, counted, acknowledged.
    Discard,
    /// Kept back, unacknowledged, until some subscription overlaps the route's pattern. Needs the embedded bus.
    Hold,
}

/// How an event is wrapped for the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// The payload's bytes, untouched.
    #[default]
    None,
    /// `CloudEvents` 1.0, JSON format.
    CloudEvents,
}

/// Which broker a bus stands on; decides what a route may promise and what it promises by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Broker {
    /// Ours, in this process: `confirm = "socket"`, `unheard = "hold"` by default.
    Embedded,
    /// Somebody else's, on a UNIX socket: `confirm = "bus"`, `unheard = "discard"`, and nothing else.
    Foreign,
}

/// What a configuration says of one pattern.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which topics.
    pub pattern: Pattern,
    /// When a batch counts as taken. Default: `socket` on the embedded bus, `bus` on a foreign broker.
    pub confirm: Option<Confirm>,
    /// What happens when nobody listens. Default: `hold` on the embedded bus, `discard` on a foreign broker.
    pub unheard: Option<Unheard>,
    /// How events are wrapped. Default: `none`.
    #[serde(default)]
    pub envelope: Envelope,
    /// With `confirm = "consumer"`: the bus client that must answer for each batch.
    pub consumer: Option<BusName>,
    /// With `confirm = "consumer"`: calls to it that may be open at once, 1 to 1,024. Default 64.
    pub window: Option<usize>,
    /// With `confirm = "consumer"`: how long it may take to answer before it is called again, 100 ms to 10 min. Default
    /// 30 s.
    #[serde(default, with = "humantime_serde::option")]
    pub answer_within: Option<Duration>,
}

/// Who answers for the batches of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name on the bus.
    pub name: BusName,
    /// Calls to it that may be open at once. Of one lane there is never more than one, so that its order is kept.
    pub window: usize,
    /// How long it may take to answer before it is called again.
    pub answer_within: Duration,
}

impl Rule {
    /// Calls that may be open at once.
    const WINDOW: RangeInclusive<usize> = 1..=1024;

    /// How long an answer may take.
    const ANSWER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(10);

    /// Who answers for its batches, if its words about that fit together.
    fn consumer(&self) -> Result<Option<Consumer>, RouteError> {
        let pattern = || self.pattern.clone();
        if self.confirm != Some(Confirm::Consumer) {
            let said = self.consumer.is_some() || self.window.is_some() || self.answer_within.is_some();
            return if said { Err(RouteError::ConsumerUnasked { pattern: pattern() }) } else { Ok(None) };
        }
        let Some(name) = self.consumer.clone() else {
            return Err(RouteError::ConsumerUnnamed { pattern: pattern() });
        };
        if self.unheard == Some(Unheard::Discard) {
            return Err(RouteError::ConsumerDiscards { pattern: pattern() });
        }
        let window = self.window.unwrap_or(64);
        if !Self::WINDOW.contains(&window) {
            return Err(RouteError::Window { pattern: pattern(), window });
        }
        let answer_within = self.answer_within.unwrap_or(Duration::from_secs(30));
        if !Self::ANSWER.contains(&answer_within) {
            return Err(RouteError::AnswerWithin { pattern: pattern(), answer_within });
        }
        Ok(Some(Consumer { name, window, answer_within }))
    }
}

/// A rule with every choice made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which topics.
    pub pattern: Pattern,
    /// When a batch counts as taken.
    pub confirm: Confirm,
    /// What happens when nobody listens.
    pub unheard: Unheard,
    /// How events are wrapped.
    pub envelope: Envelope,
    /// Who answers for its batches; somebody exactly where `confirm` is [`Confirm::Consumer`].
    pub consumer: Option<Consumer>,
}

impl Route {
    /// Whether a foreign broker can keep it.
    fn fits_foreign(&self) -> Result<(), RouteError> {
        let pattern = || self.pattern.clone();
        match (self.confirm, self.unheard) {
            (Confirm::Consumer, _) => Err(RouteError::ConsumerOnForeign { pattern: pattern() }),
            (Confirm::Socket, _) => Err(RouteError::SocketOnForeign { pattern: pattern() }),
            (Confirm::Bus, Unheard::Hold) => Err(RouteError::HoldOnForeign { pattern: pattern() }),
            (Confirm::Bus, Unheard::Discard) => Ok(()),
        }
    }
}

/// The routes of a bus, in order; the last one takes every topic.
#[derive(Clone, Debug)]
pub struct Routes {
    ruled: Vec<Route>,
    rest: Route,
}

impl Routes {
    /// Fills in what the rules leave open, and adds the route for all other topics.
    ///
    /// # Errors
    ///
    /// [`RouteError`], if a rule asks of a foreign broker what only the embedded one can keep, or contradicts itself.
    pub fn new(rules: Vec<Rule>, broker: Broker) -> Result<Self, RouteError> {
        let (confirm, unheard) = match broker {
            Broker::Embedded => (Confirm::Socket, Unheard::Hold),
            Broker::Foreign => (Confirm::Bus, Unheard::Discard),
        };
        let resolve = |rule: Rule| {
            let consumer = rule.consumer()?;
            let route = Route {
                pattern: rule.pattern,
                confirm: rule.confirm.unwrap_or(confirm),
                unheard: rule.unheard.unwrap_or(unheard),
                envelope: rule.envelope,
                consumer,
            };
            if broker == Broker::Foreign {
                route.fits_foreign()?;
            }
            Ok(route)
        };
        let rest =
            Route { pattern: Pattern::all(), confirm, unheard, envelope: Envelope::None, consumer: None };
        Ok(Self { ruled: rules.into_iter().map(resolve).collect::<Result<_, _>>()?, rest })
    }

    /// Adds a route for each of `patterns` behind those there are: on them nobody need listen, for the events go elsewhere too.
    #[must_use]
    pub fn relayed(mut self, patterns: &[Pattern]) -> Self {
        let route = |pattern: &Pattern| Route {
            pattern: pattern.clone(),
            unheard: Unheard::Discard,
            ..self.rest.clone()
        };
        let more: Vec<Route> = patterns.iter().map(route).collect();
        self.ruled.extend(more);
        self
    }

    /// Whether some route wraps events.
    #[must_use]
    pub fn wraps(&self) -> bool {
        self.ruled.iter().any(|route| route.envelope != Envelope::None)
    }

    /// Whether somebody sees the sequence numbers of events: in envelopes, or in calls.
    #[must_use]
    pub fn numbers(&self) -> bool {
        self.wraps() || self.consumed().next().is_some()
    }

    /// The routes whose batches a consumer answers for, in order.
    pub fn consumed(&self) -> impl Iterator<Item = (&Pattern, &Consumer)> {
        self.ruled.iter().filter_map(|route| Some((&route.pattern, route.consumer.as_ref()?)))
    }

    /// The route of a topic.
    #[must_use]
    pub fn of(&self, topic: &Topic) -> &Route {
        self.ruled.iter().find(|route| route.pattern.matches(topic)).unwrap_or(&self.rest)
    }
}

/// A rule that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// `answer_within` is out of bounds.
    #[error("route `{pattern}`: answer_within = \"{answer_within:?}\" is out of bounds; use 100ms to 10m")]
    AnswerWithin {
        /// The rule's pattern.
        pattern: Pattern,
        /// What it says.
        answer_within: Duration,
    },
    /// `unheard = "discard"` on a route whose events are never discarded.
    #[error(
        "route `{pattern}`: unheard = \"discard\" contradicts confirm = \"consumer\", which waits for its consumer; \
         remove one of them"
    )]
    ConsumerDiscards {
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// `confirm = "consumer"` on a foreign broker.
    #[error(
        "route `{pattern}`: confirm = \"consumer\" needs the embedded bus; use broker = \"embedded\" and let the consumer \
         in through [unix_socket], or confirm = \"bus\""
    )]
    ConsumerOnForeign {
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// A consumer, its window or its time where nobody is asked.
    #[error(
        "route `{pattern}`: consumer, window and answer_within mean nothing without confirm = \"consumer\"; add that, or \
         remove them"
    )]
    ConsumerUnasked {
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// `confirm = "consumer"` without saying who.
    #[error("route `{pattern}`: confirm = \"consumer\" needs consumer = \"<its name on the bus>\"")]
    ConsumerUnnamed {
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// `unheard = "hold"` on a foreign broker, which does not say who listens.
    #[error(
        "route `{pattern}`: unheard = \"hold\" needs the embedded bus, for a foreign broker does not say who listens; \
         use unheard = \"discard\""
    )]
    HoldOnForeign {
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// `confirm = "socket"` on a foreign broker, whose sockets we do not see.
    #[error(
        "route `{pattern}`: confirm = \"socket\" needs the embedded bus, for a foreign broker does not say what it wrote; \
         use confirm = \"bus\""
    )]
    SocketOnForeign {
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// `window` is out of bounds.
    #[error("route `{pattern}`: window = {window} is out of bounds; use 1 to 1024")]
    Window {
        /// The rule's pattern.
        pattern: Pattern,
        /// What it says.
        window: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, confirm: Option<Confirm>) -> Rule {
        let pattern = pattern.parse().unwrap();
        Rule {
            pattern,
            confirm,
            unheard: None,
            envelope: Envelope::None,
            consumer: None,
            window: None,
            answer_within: None,
        }
    }

    fn read(text: &str, broker: Broker) -> Result<Routes, String> {
        let rule: Rule = toml::from_str(text).map_err(|error| error.to_string())?;
        Routes::new(vec![rule], broker).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_match_is_the_route_and_the_rest_has_one_too() {
        let rules = vec![rule("events.process.#", Some(Confirm::Bus)), rule("events.#", None)];
        let routes = Routes::new(rules, Broker::Embedded).unwrap();
        let confirm = |topic| routes.of(&Topic::parse(topic).unwrap()).confirm;
        assert_eq!(confirm("events.process.start"), Confirm::Bus);
        assert_eq!(confirm("events.network.dns"), Confirm::Socket);
        assert_eq!(confirm("control.health.status"), Confirm::Socket);
    }

    #[test]
    fn a_foreign_broker_is_not_asked_for_what_it_cannot_keep() {
        let refused = Routes::new(vec![rule("events.#", Some(Confirm::Socket))], Broker::Foreign);
        assert!(matches!(refused, Err(RouteError::SocketOnForeign { .. })));
        assert!(Routes::new(vec![rule("events.#", None)], Broker::Foreign).is_ok());
    }

    #[test]
    fn a_consumer_is_read_with_its_window_and_its_time() {
        let asked = "pattern = \"events.#\"\nconfirm = \"consumer\"\nconsumer = \"engine\"\n";
        let routes = read(asked, Broker::Embedded).unwrap();
        let consumer = |routes: &Routes| routes.consumed().next().unwrap().1.clone();
        assert_eq!(
            consumer(&routes),
            Consumer {
                name: BusName::parse("engine").unwrap(),
                window: 64,
                answer_within: Duration::from_secs(30)
            }
        );
        assert!(routes.numbers() && !routes.wraps());
        let routes = read(&format!("{asked}window = 3\nanswer_within = \"2s\""), Broker::Embedded).unwrap();
        assert_eq!((consumer(&routes).window, consumer(&routes).answer_within), (3, Duration::from_secs(2)));
    }

    #[test]
    fn words_about_a_consumer_that_do_not_fit_together_are_refused_with_a_remedy() {
        let asked = "pattern = \"events.#\"\nconfirm = \"consumer\"\nconsumer = \"engine\"\n";
        let refused = |text: &str, broker, remedy: &str| {
            let error = read(text, broker).unwrap_err();
            assert!(error.contains(remedy), "{error}");
        };
        refused(asked, Broker::Foreign, "needs the embedded bus");
        refused(&asked[..asked.find("consumer = ").unwrap()], Broker::Embedded, "needs consumer =");
        refused("pattern = \"#\"\nwindow = 2", Broker::Embedded, "without confirm = \"consumer\"");
        refused(&format!("{asked}unheard = \"discard\""), Broker::Embedded, "remove one of them");
        refused(&format!("{asked}window = 0"), Broker::Embedded, "use 1 to 1024");
        refused(&format!("{asked}answer_within = \"1ms\""), Broker::Embedded, "use 100ms to 10m");
        refused(&asked.replace("\"engine\"", "\"No Name\""), Broker::Embedded, "consumer");
    }
}
