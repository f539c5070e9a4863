//! Routes: what an acknowledgement means, topic by topic.
//!
//! A route says for a pattern of topics when a batch counts as taken, what happens when nobody listens, and whether events
//! are wrapped. The first route whose pattern matches a topic is its route. A last route of pattern `#` is always there.
//!
//! Kept true: a route of [`Routes`] promises nothing that its kind of broker cannot keep.

use serde::Deserialize;

use crate::topic::{Pattern, Topic};

/// When a batch counts as taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    /// A live broker has taken it.
    Bus,
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
    /// [`RouteError`], if a rule asks of a foreign broker what only the embedded one can keep.
    pub fn new(rules: Vec<Rule>, broker: Broker) -> Result<Self, RouteError> {
        let (confirm, unheard) = match broker {
            Broker::Embedded => (Confirm::Socket, Unheard::Hold),
            Broker::Foreign => (Confirm::Bus, Unheard::Discard),
        };
        let resolve = |rule: Rule| {
            let route = Route {
                pattern: rule.pattern,
                confirm: rule.confirm.unwrap_or(confirm),
                unheard: rule.unheard.unwrap_or(unheard),
                envelope: rule.envelope,
            };
            if broker == Broker::Foreign && route.confirm == Confirm::Socket {
                return Err(RouteError::SocketOnForeign { pattern: route.pattern });
            }
            if broker == Broker::Foreign && route.unheard == Unheard::Hold {
                return Err(RouteError::HoldOnForeign { pattern: route.pattern });
            }
            Ok(route)
        };
        let rest = Route { pattern: Pattern::all(), confirm, unheard, envelope: Envelope::None };
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, confirm: Option<Confirm>) -> Rule {
        Rule { pattern: pattern.parse().unwrap(), confirm, unheard: None, envelope: Envelope::None }
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
}
