//! Every certificate that this gateway knows of, and what expires when.
//!
//! Operators renew what a gateway holds; nobody tells them when their collectors' certificates end. Here all stand in one
//! answer, the soonest end first, with a forecast that a monitor can read without doing sums.

use std::time::Duration;

use serde::Serialize;

use crate::snapshot::{Certificate, Collectors, Material, Timestamp};

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Certificates<'a> {
    #[serde(flatten)]
    material: &'a Material,
    /// Those of everybody connected, the soonest end first.
    collectors: Vec<Shown<'a>>,
    forecast: Forecasts,
}

/// What a connected collector showed.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    peer: &'a str,
    session: &'a str,
    /// When the first certificate of its path expires, and with it the session.
    expires: Timestamp,
    #[serde(flatten)]
    certificate: &'a Certificate,
}

/// What expires, on either side.
#[derive(Debug, Serialize)]
struct Forecasts {
    /// Own chain and anchors.
    gateway: Forecast,
    /// One for each session.
    collectors: Forecast,
}

/// How many expire in less than the time that is named; who does within a day does within a week, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Forecast {
    expired: usize,
    in_1d: usize,
    in_7d: usize,
    in_30d: usize,
}

impl<'a> Certificates<'a> {
    /// What is known at `now`.
    pub(super) fn of(material: &'a Material, collectors: &'a Collectors, now: Timestamp) -> Self {
        let mut shown: Vec<Shown<'a>> = collectors
            .live
            .iter()
            .map(|live| Shown {
                peer: &live.peer,
                session: &live.session,
                expires: live.expires,
                certificate: &live.certificate,
            })
            .collect();
        shown.sort_unstable_by_key(|each| (each.expires, each.peer, each.session));
        let forecast = Forecasts {
            gateway: Forecast::of(material.certificates.iter().map(|each| each.not_after), now),
            collectors: Forecast::of(shown.iter().map(|each| each.expires), now),
        };
        Self { material, collectors: shown, forecast }
    }
}

impl Forecast {
    fn of(ends: impl Iterator<Item = Timestamp>, now: Timestamp) -> Self {
        let mut forecast = Self::default();
        for end in ends {
            let left = end.0.duration_since(now.0).unwrap_or_default();
            forecast.expired += usize::from(left.is_zero());
            forecast.in_1d += usize::from(left < DAY);
            forecast.in_7d += usize::from(left < DAY * 7);
            forecast.in_30d += usize::from(left < DAY * 30);
        }
        forecast
    }
}

const DAY: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_counts_what_ends_within_each_time() {
        let now = Timestamp::now();
        let ends =
            [0, 1, 23, 6 * 24, 29 * 24, 31 * 24].map(|hours| Timestamp(now.0 + Duration::from_hours(hours)));
        let forecast = Forecast::of(ends.into_iter(), now);
        assert_eq!(forecast, Forecast { expired: 1, in_1d: 3, in_7d: 4, in_30d: 5 });
    }
}
