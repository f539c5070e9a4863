//! Which gateway is dialled next.
//!
//! With `spread = "random"` leaves spread over all gateways by chance, each for itself, which needs no knowledge of load and
//! holds for any number of leaves; a connection that has become old is exchanged for one that is chosen anew, so that they
//! spread again after a gateway was away. With `spread = "priority"` the first that can be had is taken, and a leaf that had
//! to take a later one goes back.
//!
//! Kept true: only gateways that the configuration names or allows are dialled; one that fails again and again is left out,
//! unless no other is left.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::uplink::{Alternative, Config, Gateway, breaker::Breaker};

/// How a leaf chooses among its gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// The first that can be had, in the order in which they are named.
    Priority,
    /// Any, by chance.
    #[default]
    Random,
}

/// Chooses among the gateways.
#[derive(Debug)]
pub(super) struct Choice {
    gateways: Vec<Gateway>,
    allowed: Vec<Alternative>,
    spread: Spread,
    /// How long a connection serves before the next is made; zero: for as long as it lasts.
    connection_age: Duration,
    /// How long a connection serves that is not to the preferred gateway.
    return_after: Duration,
    /// Where a draining gateway sent us, of what the configuration allows.
    sent_on: Vec<Gateway>,
    /// The gateway that is going away: tried last.
    leaving: Option<Gateway>,
    /// Gateways of which something bad is known. Bounded by [`MOST_KNOWN`]; the oldest knowledge goes.
    known: Vec<(Gateway, Breaker)>,
}

impl Choice {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            gateways: config.gateways.clone(),
            allowed: config.alternatives.clone(),
            spread: config.spread,
            connection_age: config.connection_age,
            return_after: config.return_after,
            sent_on: Vec::new(),
            leaving: None,
            known: Vec::new(),
        }
    }

    /// The gateways in the order in which they are tried: where we were sent, then the others; one that is going away comes
    /// last.
    pub(super) fn round(&mut self, now: Instant) -> Vec<Gateway> {
        let mut found = std::mem::take(&mut self.sent_on);
        let leaving = self.leaving.take();
        let mut own = self.ordered();
        own.sort_by_key(|gateway| Some(gateway) == leaving.as_ref());
        for gateway in own {
            if !found.contains(&gateway) {
                found.push(gateway);
            }
        }
        if found.iter().any(|gateway| !self.is_open(gateway, now)) {
            found.retain(|gateway| !self.is_open(gateway, now));
        }
        found
    }

    /// Where the next connection may go when one to `present` has become old, best first; the session goes on meanwhile.
    pub(super) fn anew(&self, present: &Gateway, now: Instant) -> Vec<Gateway> {
        let ordered = self.ordered();
        let better = ordered.iter().position(|gateway| gateway == present);
        // The present one closes the list: it is dialled again, for its name may lead elsewhere by now.
        let better = ordered.into_iter().take(better.unwrap_or(usize::MAX));
        let mut better: Vec<Gateway> = better.filter(|gateway| !self.is_open(gateway, now)).collect();
        if self.spread == Spread::Random || better.is_empty() {
            better.push(present.clone());
        }
        better
    }

    /// How long a connection to `gateway` serves before the next is made; none: for as long as it lasts. `chance` is in
    /// 0..1.
    pub(super) fn stay(&self, gateway: &Gateway, chance: f64) -> Option<Duration> {
        let away = self.spread == Spread::Priority && self.gateways.first() != Some(gateway);
        let stay = if away { self.return_after } else { self.connection_age };
        // Spread out, or the leaves that a restart has gathered move together for ever.
        (!stay.is_zero()).then(|| stay.mul_f64(0.75 + chance / 2.0))
    }

    /// Notes that a gateway goes away, and where it sends us: of that only what the configuration allows.
    pub(super) fn drained(&mut self, gateway: Gateway, alternatives: &[String]) {
        let named = alternatives.iter().filter_map(|text| text.parse::<Gateway>().ok());
        self.sent_on = named.filter(|gateway| self.allowed.iter().any(|rule| rule.admits(gateway))).collect();
        self.leaving = Some(gateway);
    }

    /// Notes an attempt that came to nothing.
    pub(super) fn failed(&mut self, gateway: &Gateway, now: Instant) {
        self.note(gateway, |breaker| breaker.failed(now));
    }

    /// Notes a session that served.
    pub(super) fn served(&mut self, gateway: &Gateway) {
        self.note(gateway, Breaker::served);
    }

    /// The gateways that are left out now.
    pub(super) fn left_out(&self, now: Instant) -> Vec<String> {
        let open = self.known.iter().filter(|(_, breaker)| breaker.is_open(now));
        open.map(|(gateway, _)| gateway.to_string()).collect()
    }

    fn ordered(&self) -> Vec<Gateway> {
        let mut own = self.gateways.clone();
        if self.spread == Spread::Random {
            fastrand::shuffle(&mut own);
        }
        own
    }

    fn is_open(&self, gateway: &Gateway, now: Instant) -> bool {
        self.known.iter().any(|(known, breaker)| known == gateway && breaker.is_open(now))
    }

    fn note(&mut self, gateway: &Gateway, change: impl FnOnce(&mut Breaker)) {
        let at = self.known.iter().position(|(known, _)| known == gateway);
        let mut breaker = at.map_or_else(Breaker::default, |at| self.known.remove(at).1);
        change(&mut breaker);
        if !breaker.is_well() {
            if self.known.len() >= MOST_KNOWN {
                self.known.remove(0);
            }
            self.known.push((gateway.clone(), breaker));
        }
    }
}

/// Gateways of which something is remembered.
const MOST_KNOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn choice(text: &str) -> Choice {
        Choice::new(&settings::parse(text, "bridge.toml").unwrap())
    }

    fn at(name: &str) -> Gateway {
        format!("{name}:1").parse().unwrap()
    }

    const THREE: &str = "gateways = [\"a:1\", \"b:1\", \"c:1\"]\n";

    #[test]
    fn leaves_spread_evenly_by_chance() {
        let mut choice = choice(THREE);
        let now = Instant::now();
        let mut firsts = [0_u32; 3];
        for _ in 0..3000 {
            let first = choice.round(now).swap_remove(0);
            firsts[["a", "b", "c"].iter().position(|name| at(name) == first).unwrap()] += 1;
        }
        assert!(firsts.iter().all(|count| (850..1150).contains(count)), "{firsts:?}");
    }

    #[test]
    fn priority_takes_the_first_and_goes_back_to_it() {
        let mut choice = choice(&format!("{THREE}spread = \"priority\""));
        let now = Instant::now();
        assert_eq!(choice.round(now), ["a", "b", "c"].map(at));
        assert_eq!(choice.anew(&at("c"), now), ["a", "b"].map(at));
        assert_eq!(choice.anew(&at("a"), now), [at("a")], "resolved again");
        assert_eq!(choice.stay(&at("b"), 0.5), Some(Duration::from_mins(5)));
        assert_eq!(choice.stay(&at("a"), 0.5), Some(Duration::from_hours(1)));
    }

    #[test]
    fn a_gateway_that_keeps_failing_is_left_out_unless_no_other_is_left() {
        let mut choice = choice(&format!("{THREE}spread = \"priority\""));
        let now = Instant::now();
        (0..5).for_each(|_| choice.failed(&at("a"), now));
        assert_eq!(choice.round(now), ["b", "c"].map(at));
        assert_eq!(choice.left_out(now), ["a:1"]);
        assert_eq!(choice.anew(&at("b"), now), [at("b")], "no way back to it yet");
        for name in ["b", "c"] {
            (0..5).for_each(|_| choice.failed(&at(name), now));
        }
        assert_eq!(choice.round(now).len(), 3, "all are tried, for none is better");
        assert_eq!(choice.round(now + Duration::from_secs(30)).len(), 3);
    }

    #[test]
    fn a_gateway_sends_on_only_to_what_the_configuration_allows() {
        let mut choice = choice(&format!("{THREE}spread = \"priority\"\nalternatives = [\"*.gw.test:1\"]"));
        let now = Instant::now();
        choice.drained(at("a"), &["x.gw.test:1".into(), "evil.test:1".into(), "no address".into()]);
        assert_eq!(choice.round(now), ["x.gw.test", "b", "c", "a"].map(at));
        assert_eq!(choice.round(now), ["a", "b", "c"].map(at), "said once, done once");
    }

    #[test]
    fn an_old_connection_is_exchanged_for_any_by_chance_or_for_the_same() {
        let choice = choice(THREE);
        let now = Instant::now();
        for _ in 0..100 {
            let next = choice.anew(&at("b"), now);
            assert_eq!(next.last(), Some(&at("b")));
            assert!(next.len() <= 3);
        }
        assert_eq!(self::choice("connection_age = \"0s\"").stay(&at("a"), 0.5), None);
    }
}
