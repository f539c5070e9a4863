//! Turns snapshots into words: healthy or not, ready or not, why, and since when.
//!
//! Kept true: every word but `healthy` comes with a cause and, where it is known, since when. Nobody being connected is no
//! trouble; a route that nobody hears is one, but not a reason to turn collectors away: their events wait in their spools.

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemoneye_bridge::{lifecycle::Phase, probe::Check};

use crate::{
    snapshot::{BusView, Certificate, Component, Health, Snapshots, Timestamp, Trouble, UpstreamView, Word},
    telemetry::metrics::VERSION,
};

/// How often the parts are renewed, as told to who polls.
const RENEWED: Duration = Duration::from_secs(1);

/// How old the list of sessions may become at least before its owner counts as stuck.
const STALE: Duration = Duration::from_secs(10);

/// A certificate is told of when less than a fifth of its life is left, but not sooner than this.
const FORECAST: Duration = Duration::from_hours(14 * 24);

/// What must hold for new collectors to be sent here.
pub(super) fn readiness(snapshots: &Snapshots) -> Vec<Check> {
    let phase = *snapshots.phase.borrow();
    let lifecycle = (phase != Phase::Serving).then(|| format!("the gateway is {}", phase.as_str()));
    let tls = unpresentable(snapshots, SystemTime::now());
    let policy = snapshots.policy.borrow().loaded.is_none().then(|| "no policy is loaded".to_owned());
    let bus = snapshots.bus.borrow().down.as_ref().map(|down| down.cause.clone());
    vec![
        Check { name: "lifecycle", failure: lifecycle },
        Check { name: "tls", failure: tls },
        Check { name: "policy", failure: policy },
        Check { name: "bus", failure: bus },
    ]
}

/// Why no collector could be shown a certificate that it accepts.
fn unpresentable(snapshots: &Snapshots, now: SystemTime) -> Option<String> {
    let material = Arc::clone(&snapshots.material.borrow());
    if material.loaded.is_none() {
        return Some("no certificate is loaded".to_owned());
    }
    let own = material.certificates.iter().find(|certificate| certificate.role == "server")?;
    let until = own.not_after;
    (until.0 <= now)
        .then(|| format!("the server certificate {} expired at {until}; replace its file", own.subject))
}

/// The health of the gateway and of each of its components.
pub(super) fn health(snapshots: &Snapshots) -> Health {
    let now = Timestamp::now();
    let phase = *snapshots.phase.borrow();
    let mut components = vec![
        lifecycle(phase).component("lifecycle", now),
        tls(snapshots, now.0).component("tls", now),
        policy(snapshots).component("policy", now),
        sessions(snapshots, phase).component("session", now),
        bus(&snapshots.bus.borrow()).component("bus", now),
        state(snapshots).component("state", now),
        audit(snapshots).component("audit", now),
    ];
    if let Some(part) = &snapshots.upstream {
        components.push(upstream(&part.borrow()).component("upstream", now));
    }
    let status = components.iter().map(|component| component.status).max().unwrap_or_default();
    Health { status, phase, version: VERSION, components }
}

/// What was found about a component.
struct Finding {
    status: Word,
    message: String,
    since: Option<Timestamp>,
}

impl Finding {
    const fn healthy(message: String) -> Self {
        Self { status: Word::Healthy, message, since: None }
    }

    const fn since(status: Word, message: String, since: Timestamp) -> Self {
        Self { status, message, since: Some(since) }
    }

    fn trouble(status: Word, what: &str, trouble: &Trouble) -> Self {
        Self::since(status, format!("{what}: {}", trouble.cause), trouble.since)
    }

    const fn unknown(message: String) -> Self {
        Self { status: Word::Unknown, message, since: None }
    }

    fn component(self, name: &'static str, now: Timestamp) -> Component {
        Component {
            name,
            status: self.status,
            message: self.message,
            since: self.since,
            last_check: now,
            check_interval_seconds: RENEWED.as_secs(),
        }
    }
}

fn lifecycle(phase: Phase) -> Finding {
    let message = phase.as_str().to_owned();
    match phase {
        Phase::Serving => Finding::healthy(message),
        Phase::Starting => Finding::unknown(message),
        Phase::Draining | Phase::Stopped => Finding { status: Word::Degraded, message, since: None },
    }
}

/// What is to be said of a certificate that has ended or will soon, and when that is.
fn ending(certificate: &Certificate, other_anchor: bool, now: SystemTime) -> Option<(Finding, SystemTime)> {
    let Certificate { role, subject, not_before, not_after, .. } = certificate;
    let (from, until) = (not_before.0, not_after.0);
    let life = until.duration_since(from).unwrap_or_default();
    let worrying = until.checked_sub((life / 5).min(FORECAST)).unwrap_or(until);
    let (status, word, since) = if until <= now {
        // One anchor of several may end without harm to those of the others.
        let spare = *role == "ca" && other_anchor;
        (if spare { Word::Degraded } else { Word::Unhealthy }, "expired", until)
    } else if worrying <= now {
        (Word::Degraded, "expires", worrying)
    } else {
        return None;
    };
    let message = format!("the {role} certificate {subject} {word} at {not_after}; replace its file");
    Some((Finding::since(status, message, Timestamp(since)), until))
}

fn tls(snapshots: &Snapshots, now: SystemTime) -> Finding {
    let material = Arc::clone(&snapshots.material.borrow());
    if material.loaded.is_none() {
        return Finding::unknown("no certificate is loaded yet".to_owned());
    }
    let is_trusted = |each: &Certificate| each.role == "ca" && each.not_after.0 > now;
    let other_anchor = material.certificates.iter().any(is_trusted);
    let ending = material.certificates.iter().filter_map(|each| ending(each, other_anchor, now));
    // The worst of them; of these, that which ends first.
    if let Some((finding, _)) = ending.min_by_key(|(finding, until)| (Reverse(finding.status), *until)) {
        return finding;
    }
    if let Some(trouble) = &material.refused {
        return Finding::trouble(Word::Degraded, "the last reload was refused", trouble);
    }
    if let Some(list) = material.lists.iter().find(|list| matches!(list.status, "grace" | "stale")) {
        let message = format!("the revocation list of {} is out of date; publish its next one", list.issuer);
        return Finding::since(Word::Degraded, message, list.next_update);
    }
    material.unfetched.as_ref().map_or_else(
        || Finding::healthy(format!("certificates loaded: {}", material.certificates.len())),
        |trouble| Finding::trouble(Word::Degraded, "a revocation list cannot be fetched", trouble),
    )
}

fn policy(snapshots: &Snapshots) -> Finding {
    let policy = Arc::clone(&snapshots.policy.borrow());
    match (&policy.refused, policy.loaded) {
        (Some(trouble), _) => Finding::trouble(Word::Degraded, "the last reload was refused", trouble),
        (None, None) => Finding::unknown("no policy is loaded yet".to_owned()),
        (None, Some(_)) => Finding::healthy(format!("roles in force: {}", policy.roles.len())),
    }
}

fn sessions(snapshots: &Snapshots, phase: Phase) -> Finding {
    let collectors = Arc::clone(&snapshots.collectors.borrow());
    let Some(as_of) = collectors.as_of else {
        return Finding::unknown("the list of sessions has not been made yet".to_owned());
    };
    let overdue = STALE.max(Duration::from_millis(collectors.interval_ms.saturating_mul(3)));
    if as_of.age() > overdue && phase == Phase::Serving {
        let message = "the list of sessions is no longer renewed".to_owned();
        return Finding::since(Word::Unresponsive, message, as_of);
    }
    let amiss: Vec<_> = collectors.live.iter().filter(|live| live.status != Word::Healthy).collect();
    // A sick collector does not make the gateway sick beyond "degraded".
    amiss.iter().min_by_key(|live| live.last_heard).map_or_else(
        || Finding::healthy(format!("sessions: {}", collectors.live.len())),
        |silent| {
            let (amiss, all) = (amiss.len(), collectors.live.len());
            let message = format!("{amiss} of {all} sessions amiss; longest silent is {}", silent.peer);
            Finding::since(Word::Degraded, message, silent.last_heard)
        },
    )
}

fn bus(bus: &BusView) -> Finding {
    if let Some(down) = &bus.down {
        return Finding::trouble(Word::Unhealthy, "no link to the broker", down);
    }
    let Some(longest) = bus.held.iter().map(|held| held.since).min() else {
        return Finding::healthy(format!("{} broker", bus.broker));
    };
    let unheard: Vec<_> = bus.held.iter().filter(|held| held.consumer.is_none()).collect();
    let refused = bus.held.iter().filter_map(|held| Some((held.consumer.as_ref()?, held)));
    let mut causes: Vec<String> = refused
        .take(SHOWN)
        .map(|(consumer, held)| format!("consumer {consumer} of `{}` {}", held.route, held.cause))
        .collect();
    if !unheard.is_empty() {
        let routes: Vec<_> = unheard.iter().take(SHOWN).map(|held| format!("`{}`", held.route)).collect();
        causes.push(format!("nobody listens to {}", routes.join(", ")));
    }
    let more = bus.held.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let message = format!("{}{more}; events wait in their spools", causes.join("; "));
    Finding::since(Word::Degraded, message, longest)
}

/// Routes named in a message.
const SHOWN: usize = 8;

fn upstream(way: &UpstreamView) -> Finding {
    let waiting = format!("events that wait: {}", way.waiting);
    if let Some(error) = &way.disk_error {
        let message = format!("the upstream spool cannot be written, collectors are held back: {error}");
        return Finding { status: Word::Unhealthy, message, since: None };
    }
    if way.bytes >= way.max_bytes / 5 * 4 {
        let message = format!(
            "the upstream spool holds {} of {} bytes; when it is full the oldest events are dropped ({} lost so far); {waiting}",
            way.bytes, way.max_bytes, way.lost
        );
        return Finding { status: Word::Degraded, message, since: None };
    }
    if let Some(gateway) = &way.gateway {
        return Finding::healthy(format!("linked to {gateway}; {waiting}"));
    }
    let why = way.trouble.as_ref().map_or("being sought", |trouble| trouble.cause.as_str());
    let message = format!("no gateway above: {why}; {waiting}");
    Finding { status: Word::Degraded, message, since: way.since }
}

fn state(snapshots: &Snapshots) -> Finding {
    snapshots.state.borrow().trouble.as_ref().map_or_else(
        || Finding::healthy("high-water marks are written".to_owned()),
        |trouble| Finding::trouble(Word::Degraded, "high-water marks cannot be written", trouble),
    )
}

fn audit(snapshots: &Snapshots) -> Finding {
    snapshots.audit.borrow().as_ref().as_ref().map_or_else(
        || Finding::healthy("changes are recorded".to_owned()),
        |trouble| Finding::trouble(Word::Degraded, "changes cannot be recorded", trouble),
    )
}
