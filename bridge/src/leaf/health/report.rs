//! `/status`: how the leaf is, in words and figures, each word but `healthy` with its cause.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use serde::Serialize;

use crate::{
    bus::Link,
    leaf::{downlink, health::Views},
    lifecycle::Phase,
    spool::{ClassStats, Stats},
    uplink,
};

/// How a part is. Ordered: the worst of several is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// As it should be.
    Healthy,
    /// At work, with something amiss.
    Degraded,
    /// Not doing its work before somebody has changed something.
    Unhealthy,
}

/// How a leaf is. Counts are since it was started; moments are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of the components.
    pub status: Word,
    /// Where the process is in its life.
    pub phase: Phase,
    /// Version of the leaf.
    pub version: &'static str,
    /// Each part in a word.
    pub components: Vec<Component>,
    /// Local clients.
    pub door: Door,
    /// What was heard on the local bus.
    pub intake: Intake,
    /// The queue on disk.
    pub spool: Spool,
    /// The way to the gateway.
    pub uplink: Uplink,
    /// The way back, if it is enabled.
    pub downlink: Option<Downlink>,
    /// The leaf's own certificate.
    pub certificate: Certificate,
}

/// One part in a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Which.
    pub name: &'static str,
    /// How it is.
    pub status: Word,
    /// Why, or what it does; one line.
    pub message: String,
    /// Since when, if it is known.
    pub since: Option<String>,
}

/// Local clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Door {
    /// There now.
    pub clients: u64,
    /// Refused.
    pub refused: u64,
    /// Sent away because they stopped reading.
    pub slow_readers: u64,
}

/// What was heard on the local bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Intake {
    /// Messages.
    pub heard: u64,
    /// Messages that cannot cross the federation.
    pub unfit: u64,
}

/// The queue on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spool {
    /// Bytes on disk.
    pub bytes: u64,
    /// Their bound.
    pub max_bytes: u64,
    /// Each class.
    pub classes: Vec<Class>,
}

/// What waits of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Which.
    pub class: &'static str,
    /// Events that wait for their acknowledgement.
    pub events: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// About when the oldest of them happened.
    pub oldest: Option<String>,
    /// How long ago that is: the lag.
    pub lag_seconds: u64,
    /// Events appended.
    pub appended: u64,
    /// Events that went because the spool was full.
    pub evicted: u64,
    /// Events found damaged or gone.
    pub corrupt: u64,
    /// Events that a gateway rejected.
    pub rejected: u64,
}

/// The way to the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uplink {
    /// `connecting`, `up`, `waiting` or `ended`.
    pub state: &'static str,
    /// Since when.
    pub since: Option<String>,
    /// Which gateway.
    pub gateway: Option<String>,
    /// Who the leaf is there.
    pub peer: Option<String>,
    /// Name of the session, for logs at both ends.
    pub session: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<String>,
    /// The last ping's way there and back.
    pub round_trip_micros: Option<u64>,
    /// Events sent and not yet acknowledged.
    pub in_flight: u64,
    /// Events sent, those sent again included.
    pub sent: u64,
    /// Events acknowledged.
    pub acked: u64,
    /// Events that a gateway will never publish.
    pub rejected: u64,
    /// Ranges reported as lost.
    pub gaps: u64,
    /// Sessions that were welcomed.
    pub sessions: u64,
    /// Attempts and sessions that failed.
    pub failures: u64,
    /// Gateways that are left out for a while, because they failed again and again.
    pub left_out: Vec<String>,
    /// What last went wrong, and when.
    pub last_error: Option<(String, String)>,
}

/// The way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Downlink {
    /// Whom it has attached.
    #[serde(flatten)]
    pub shown: downlink::Shown,
    /// Calls that are open now, both ways.
    pub open_calls: u64,
    /// What it has counted.
    pub counts: BTreeMap<&'static str, u64>,
}

/// The leaf's own certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Whom it names.
    pub names: Vec<String>,
    /// When it ends.
    pub not_after: String,
}

impl Report {
    /// How the leaf is now.
    #[must_use]
    pub fn of(views: &Views) -> Self {
        let now = SystemTime::now();
        let phase = *views.phase.borrow();
        let (queue, way) = (views.spool.borrow().clone(), views.uplink.borrow().clone());
        let leaf = views.certificates.current();
        let leaf = leaf.leaf();
        let downlink = views.downlink.as_ref().map(Downlink::of);
        let mut components = vec![
            lifecycle(phase),
            bus(views),
            spool(&queue),
            way_up(&way, now),
            certificate((leaf.not_before(), leaf.not_after()), now),
        ];
        components.extend(downlink.as_ref().map(way_down));
        let counters = &views.bus_counters;
        Self {
            status: components.iter().map(|component| component.status).max().unwrap_or(Word::Healthy),
            phase,
            version: env!("CARGO_PKG_VERSION"),
            components,
            door: Door {
                clients: counters.door_opened.get().saturating_sub(counters.door_closed.get()),
                refused: counters.door_refused.get(),
                slow_readers: counters.door_slow_readers.get(),
            },
            intake: Intake {
                heard: views.intake.heard.load(Ordering::Relaxed),
                unfit: views.intake.unfit.load(Ordering::Relaxed),
            },
            spool: Spool {
                bytes: queue.bytes,
                max_bytes: queue.max_bytes,
                classes: queue.classes.iter().map(|class| Class::of(class, now)).collect(),
            },
            uplink: Uplink::of(&way),
            downlink,
            certificate: Certificate {
                names: leaf.all_names().map(str::to_owned).collect(),
                not_after: moment(leaf.not_after()),
            },
        }
    }
}

impl Class {
    fn of(stats: &ClassStats, now: SystemTime) -> Self {
        let oldest = stats.oldest.and_then(|nanos| UNIX_EPOCH.checked_add(Duration::from_nanos(nanos)));
        Self {
            class: stats.class.as_str(),
            events: stats.events,
            bytes: stats.bytes,
            oldest: oldest.map(moment),
            lag_seconds: oldest.map_or(0, |oldest| age(oldest, now).as_secs()),
            appended: stats.appended,
            evicted: stats.evicted,
            corrupt: stats.corrupt,
            rejected: stats.rejected,
        }
    }
}

impl Uplink {
    fn of(status: &uplink::Status) -> Self {
        let link = &status.link;
        let (gateway, peer, session) = match link {
            uplink::Link::Up { gateway, peer, session, .. } => {
                (Some(gateway.clone()), Some(peer.clone()), Some(session.clone()))
            }
            _ => (None, None, None),
        };
        let retry_at = match link {
            uplink::Link::Waiting { until, .. } => Some(moment(*until)),
            _ => None,
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            state: link.as_str(),
            since: link.since().map(moment),
            gateway,
            peer,
            session,
            retry_at,
            round_trip_micros: status.round_trip.map(micros),
            in_flight: status.in_flight,
            sent: status.sent,
            acked: status.acked,
            rejected: status.rejected,
            gaps: status.gaps,
            sessions: status.sessions,
            failures: status.failures,
            left_out: status.left_out.clone(),
            last_error: status.last_error.as_ref().map(|trouble| (trouble.what.clone(), moment(trouble.at))),
        }
    }
}

impl Downlink {
    fn of(views: &downlink::Views) -> Self {
        let counts = views.counts.all().into_iter().map(|(name, _, value)| (name, value));
        Self {
            shown: views.shown.borrow().clone(),
            open_calls: views.counts.open.get(),
            counts: counts.collect(),
        }
    }
}

/// A collector that the gateway refuses is amiss: somebody has to tell the leaf or the policy.
fn way_down(downlink: &Downlink) -> Component {
    let collectors = downlink.shown.collectors.len();
    let (status, message) = match downlink.shown.refused.as_slice() {
        [] => (Word::Healthy, format!("{collectors} local collectors can be reached")),
        [first, ..] => {
            let what = first.pattern.as_ref().map_or_else(
                || format!("collector {}", first.collector),
                |pattern| format!("{} of collector {}", pattern.escape_debug(), first.collector),
            );
            let all = downlink.shown.refused.len();
            (Word::Degraded, format!("the gateway refused {what} (of {all}): {}", first.reason))
        }
    };
    Component { name: "downlink", status, message, since: None }
}

fn lifecycle(phase: Phase) -> Component {
    let status = if phase == Phase::Serving { Word::Healthy } else { Word::Degraded };
    Component { name: "lifecycle", status, message: format!("the leaf is {}", phase.as_str()), since: None }
}

fn bus(views: &Views) -> Component {
    let (status, message, since) = match &views.bus.borrow().link {
        Link::Up => (Word::Healthy, "local events are taken".to_owned(), None),
        Link::Down { since, cause } => {
            (Word::Unhealthy, format!("the local bus is not reached: {cause}"), Some(moment(*since)))
        }
    };
    Component { name: "bus", status, message, since }
}

fn spool(queue: &Stats) -> Component {
    let waiting: u64 = queue.classes.iter().map(|class| class.events).sum();
    let percent = queue.bytes.saturating_mul(100).checked_div(queue.max_bytes).unwrap_or(0);
    let (status, message) = match &queue.disk_error {
        Some(error) => {
            (Word::Unhealthy, format!("the disk takes nothing, so local events are not confirmed: {error}"))
        }
        None if percent >= NEARLY_FULL => {
            (Word::Degraded, format!("{waiting} events wait; {percent} % full, then the oldest go"))
        }
        None => (Word::Healthy, format!("{waiting} events wait; {percent} % full")),
    };
    Component { name: "spool", status, message, since: None }
}

/// A gateway that is away is no more than amiss, for the spool keeps what it is not given; one that refuses us waits for
/// somebody to change something.
fn way_up(status: &uplink::Status, now: SystemTime) -> Component {
    let link = &status.link;
    let trouble = status.last_error.as_ref().filter(|_| !link.is_up());
    let (word, said) = match link {
        uplink::Link::Up { gateway, peer, .. } => (Word::Healthy, format!("up, to {gateway} as {peer}")),
        uplink::Link::Connecting { .. } => (Word::Degraded, "no gateway yet, connecting".to_owned()),
        uplink::Link::Waiting { until, .. } => {
            let wait = until.duration_since(now).unwrap_or_default().as_secs();
            (Word::Degraded, format!("no gateway; next attempt in {wait} s"))
        }
        uplink::Link::Ended => (Word::Degraded, "ended, for the leaf is going away".to_owned()),
    };
    let word = if trouble.is_some_and(|trouble| trouble.lasting) { Word::Unhealthy } else { word };
    let message = trouble.map_or_else(|| said.clone(), |trouble| format!("{said}: {}", trouble.what));
    Component { name: "uplink", status: word, message, since: link.since().map(moment) }
}

/// A certificate whose end is near is told of before it is too late.
fn certificate((begin, end): (SystemTime, SystemTime), now: SystemTime) -> Component {
    let left = end.duration_since(now).unwrap_or_default();
    let life = end.duration_since(begin).unwrap_or_default();
    let when = moment(end);
    let (status, message) = if left.is_zero() {
        (Word::Unhealthy, format!("the leaf's own certificate ended at {when}; issue a new one"))
    } else if left < (life / LAST_SHARE).min(FORECAST) {
        (Word::Degraded, format!("the leaf's own certificate ends at {when}; renew it"))
    } else {
        (Word::Healthy, format!("valid until {when}"))
    };
    Component { name: "certificate", status, message, since: None }
}

fn moment(time: SystemTime) -> String {
    format_rfc3339_seconds(time).to_string()
}

fn age(time: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// Percent of its bound from which on a spool is told of.
const NEARLY_FULL: u64 = 80;

/// A certificate is told of in the last fifth of its life, but not sooner than [`FORECAST`] before its end.
const LAST_SHARE: u32 = 5;
const FORECAST: Duration = Duration::from_hours(14 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_away_is_amiss_and_one_that_refuses_us_is_worse() {
        let now = SystemTime::now();
        let mut status = uplink::Status {
            link: uplink::Link::Waiting { since: now, until: now + Duration::from_secs(9) },
            ..uplink::Status::default()
        };
        assert_eq!(way_up(&status, now).status, Word::Degraded);
        status.last_error = Some(uplink::Trouble { what: "refused".to_owned(), at: now, lasting: true });
        let component = way_up(&status, now);
        assert_eq!(component.status, Word::Unhealthy);
        assert_eq!(component.message, "no gateway; next attempt in 9 s: refused");
        assert!(component.since.is_some());
    }

    #[test]
    fn a_full_spool_and_a_failing_disk_are_told_apart() {
        let mut queue = Stats::empty(100);
        assert_eq!(spool(&queue).status, Word::Healthy);
        queue.bytes = 80;
        assert_eq!(spool(&queue).status, Word::Degraded);
        queue.disk_error = Some("no space left".to_owned());
        let component = spool(&queue);
        assert_eq!(component.status, Word::Unhealthy);
        assert!(component.message.contains("no space left"), "{}", component.message);
    }

    #[test]
    fn a_certificate_is_told_of_in_the_last_fifth_of_its_life() {
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        let of = |age: u32, left: u32| certificate((now - day * age, now + day * left), now).status;
        assert_eq!(of(10, 20), Word::Healthy);
        assert_eq!(of(26, 4), Word::Degraded);
        assert_eq!(of(350, 15), Word::Healthy);
        assert_eq!(certificate((now - day, now), now).status, Word::Unhealthy);
    }
}
