//! One of thousands loses the right to be here: it is gone within a second, and nobody else notices.
//!
//! In each way in which a right ends: by a revocation list, the deny-list, the policy, and the end of a certificate. The
//! gateway is a process of its own, so that each side has descriptors enough and its time can be told.

mod revoker;
mod victim;

use std::{fmt, fs, path::PathBuf, process::Command, time::Duration};

use daemoneye_tests::{
    eventually,
    load::Load,
    measure::cpu,
    peer::{Credentials, Session},
    world::{POLICY, World},
};
use futures_util::{FutureExt, future};
use time::OffsetDateTime;
use tokio::{
    task,
    time::{self as clock, Instant},
};
use tonic::Code;

pub(crate) use self::revoker::Revoker;
use self::victim::{End, Victim};
use crate::{
    CLI,
    revoke::{AT_ONCE, UNHEARD, bystanders, is_let_in, is_withdrawn, open},
    world,
};

/// How often each way is tried.
const TRIES: u64 = 20;

/// How a right is withdrawn.
#[derive(Clone, Copy, Debug)]
enum Way {
    List,
    DenyList,
    Policy,
    Expiry,
}

impl Way {
    const ALL: [Self; 4] = [Self::List, Self::DenyList, Self::Policy, Self::Expiry];

    /// What its victims are called, but for their number. Without a hyphen no role of the tests' policy is theirs.
    const fn victim(self) -> &'static str {
        match self {
            Self::List => "revoked-",
            Self::DenyList => "denied-",
            Self::Policy => "guest",
            Self::Expiry => "expiring-",
        }
    }

    /// What who reads is told, and why it was cut.
    const fn told(self) -> (Code, &'static str) {
        match self {
            Self::List => (Code::PermissionDenied, "revoked"),
            Self::DenyList => (Code::PermissionDenied, "denied"),
            Self::Policy => (Code::PermissionDenied, "no_role"),
            Self::Expiry => (Code::Unauthenticated, "certificate_expired"),
        }
    }

    /// What the connections are looked through for. What expires is known beforehand.
    const fn sweep(self) -> &'static str {
        match self {
            Self::List => "material",
            Self::DenyList => "deny",
            Self::Policy => "policy",
            Self::Expiry => "nothing",
        }
    }

    /// How long it took, with what each state is called; it must have been at once, and said so.
    fn took(self, since: Instant, end: &End) -> (&'static str, Duration) {
        let End { state, told, when } = end;
        let (code, _) = self.told();
        assert!(*when >= since, "{self}, {state}: {:?} too soon", since - *when);
        let took = *when - since;
        assert!(took < AT_ONCE, "{self}, {state}: {took:?}");
        assert!(told.as_ref().is_none_or(|status| status.code() == code), "{self}, {state}: {told:?}");
        (*state, took)
    }
}

/// The slowest of each state, and the mean.
fn summary(taken: &[(&'static str, Duration)]) -> String {
    let slowest = |of: &str| taken.iter().filter(|(state, _)| *state == of).map(|(_, took)| *took).max();
    let [idle, publishing, stuck] = ["idle", "publishing", "stuck"].map(|of| slowest(of).unwrap_or_default());
    let mean = taken.iter().map(|(_, took)| *took).sum::<Duration>() / u32::try_from(taken.len()).unwrap();
    format!("slowest idle {idle:.0?}, publishing {publishing:.0?}, stuck {stuck:.0?}, mean {mean:.0?}")
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "revocation list",
            Self::DenyList => "deny-list",
            Self::Policy => "policy",
            Self::Expiry => "expiry",
        })
    }
}

/// The policy while those of these numbers have a role besides those of whom the tests' policy speaks.
fn policy(numbers: impl Iterator<Item = u64>) -> String {
    let names =
        numbers.map(|number| format!("\"{}{number}\"", Way::Policy.victim())).collect::<Vec<_>>().join(", ");
    let role =
        POLICY.replace("\"collector\"", "\"guest\"").replace("\"*-*\"", &format!("[\"nobody\", {names}]"));
    format!("{POLICY}\n{role}")
}

/// A gateway that many collectors are connected with.
struct Crowd {
    world: World,
    /// The gateway's.
    process: u32,
    revoker: Revoker,
    anchors: String,
    list: PathBuf,
    members: Vec<Session>,
    load: Load,
    /// Sessions that were opened, and those of them that have lost their right.
    opened: u64,
    closed: u64,
    /// The next serial number.
    serial: u64,
}

impl Crowd {
    /// Connects so many, where a list of so many entries is in force.
    async fn gather(many: u64, entries: u64) -> Self {
        // The members answer no pings: on a slow machine the first ones would count as silent before the last way was tried.
        let room = "[session]\nmax_sessions = 20000\nmax_sessions_per_site = 20000\nheartbeat = \"10m\"\n";
        let (mut world, mut revoker) = (world(&format!("{room}{UNHEARD}")), Revoker::new(entries));
        let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
        let config = config.replace("max_connections = 2000", "max_connections = 20000");
        fs::write(world.path("gateway.toml"), config).unwrap();
        fs::write(world.path("policy.toml"), policy(1..=TRIES)).unwrap();
        let (anchors, list) = revoker.trusted_by(&world);
        world.start().await;
        let load = bystanders(&world, BYSTANDERS).await;
        let opened = u64::try_from(BYSTANDERS).unwrap();
        let (members, closed, serial) = (Vec::new(), 0, 0);
        let process = world.gateway().id();
        let mut crowd =
            Self { world, process, revoker, anchors, list, members, load, opened, closed, serial };
        for number in 1..=many {
            let credentials = crowd.issue(&format!("procmond-{number}"), tomorrow()).1;
            crowd.members.push(open(&crowd.world, &credentials).await);
        }
        crowd.opened += many;
        crowd
    }

    /// What a collector shows, and its serial number.
    fn issue(&mut self, name: &str, until: OffsetDateTime) -> (u64, Credentials) {
        self.serial += 1;
        let own = Some(self.revoker.issue(name, self.serial, until));
        (self.serial, Credentials { anchors: self.anchors.clone(), own })
    }

    /// Withdraws the right of one after another, each idle, publishing or stuck.
    async fn try_all(&mut self, way: Way) {
        let (victims, first) = self.victims(way).await;
        let sessions = victims.iter().filter(|(_, victim)| victim.has_session()).count();
        let alone = self.cpu_of_load().await;
        let (begun, before) = (Instant::now(), self.spent(way));
        let mut taken = Vec::new();
        for (number, (serial, victim)) in (1..=TRIES).zip(victims) {
            let since = match way {
                Way::List => self.revoke(serial),
                Way::DenyList => self.deny(number),
                Way::Policy => self.dismiss(number),
                Way::Expiry => first + expiry_of(number),
            };
            taken.push(way.took(since, &victim.ended().await));
        }
        let (time, spent) = (begun.elapsed(), self.spent(way));
        println!(
            "{way}, one of {}, {TRIES} tries: {}; CPU of the gateway {:?} in {time:.1?}, of which the load alone {:.2?}, \
             sweeps {:.1?}",
            self.opened - self.closed,
            summary(&taken),
            spent.0.saturating_sub(before.0),
            time.mul_f64(alone),
            spent.1.saturating_sub(before.1),
        );
        self.closed += u64::try_from(sessions).unwrap();
        let (_, reason) = way.told();
        let cut = sum(&self.world, &format!("daemoneye_gateway_session_cuts_total{{reason=\"{reason}\"}}"));
        // A session asks for its rights itself when the policy changes, and may be gone before the sweep comes.
        assert!(cut == TRIES || matches!(way, Way::Policy) && cut < TRIES, "{way}: {cut}");
        self.is_undisturbed(way);
    }

    /// Processor time of the gateway so far, and of it what looking through the connections took.
    fn spent(&self, way: Way) -> (Duration, Duration) {
        let name =
            format!("daemoneye_gateway_session_sweep_duration_seconds_sum{{what=\"{}\"}}", way.sweep());
        (cpu(self.process), Duration::from_secs_f64(self.world.metric(&name)))
    }

    /// Who shall lose the right; and when the first certificate ends, if that is how.
    async fn victims(&mut self, way: Way) -> (Vec<(u64, Victim)>, Instant) {
        // Certificates know whole seconds only.
        let soon = (OffsetDateTime::now_utc() + CONNECTING).replace_nanosecond(0).unwrap();
        let mut issued = Vec::new();
        for number in 1..=TRIES {
            let until = if matches!(way, Way::Expiry) { soon + expiry_of(number) } else { tomorrow() };
            issued.push((number, self.issue(&format!("{}{number}", way.victim()), until)));
        }
        let connect = issued.iter().map(|(number, (serial, credentials))| {
            Victim::connect(&self.world, credentials, *number).map(|victim| (*serial, victim))
        });
        let victims = future::join_all(connect).await;
        self.opened +=
            u64::try_from(victims.iter().filter(|(_, victim)| victim.has_session()).count()).unwrap();
        let left = soon - OffsetDateTime::now_utc();
        assert!(
            left.is_positive(),
            "the machine is too slow: the first certificates ended before all were there"
        );
        (victims, Instant::now() + left.unsigned_abs())
    }

    /// What part of a core the gateway needs for the load.
    async fn cpu_of_load(&self) -> f64 {
        let (begun, used) = (Instant::now(), cpu(self.process));
        clock::sleep(Duration::from_secs(1)).await;
        cpu(self.process).saturating_sub(used).as_secs_f64() / begun.elapsed().as_secs_f64()
    }

    /// A list with one more; returns when its file was in place.
    fn revoke(&mut self, serial: u64) -> Instant {
        self.revoker.revoke(serial);
        fs::write(self.world.path("tls/next"), self.revoker.next_list()).unwrap();
        fs::rename(self.world.path("tls/next"), &self.list).unwrap();
        Instant::now()
    }

    /// An order on the command line; returns when it was given.
    fn deny(&self, number: u64) -> Instant {
        let given = Instant::now();
        deny(&self.world, &format!("site-a/{}{number}", Way::DenyList.victim()));
        given
    }

    /// A policy with one less; returns when its file was in place.
    fn dismiss(&self, number: u64) -> Instant {
        fs::write(self.world.path("next.toml"), policy(number + 1..=TRIES)).unwrap();
        fs::rename(self.world.path("next.toml"), self.world.path("policy.toml")).unwrap();
        Instant::now()
    }

    /// Nobody else left, nobody came back, no ack is missing so far.
    fn is_undisturbed(&mut self, way: Way) {
        let [opened, closed] = ["opened", "closed"]
            .map(|what| sum(&self.world, &format!("daemoneye_gateway_session_{what}_total")));
        let why = || {
            let (_, body) = self.world.get("/metrics").expect("the admin API answers");
            body.lines().filter(|line| line.contains("_session_")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!((opened, closed), (self.opened, self.closed), "{way}: {}", why());
        let cut = self.members.iter_mut().position(has_ended);
        assert_eq!(cut, None, "{way}: a bystander was cut");
        self.load.check();
    }

    async fn leave(self) {
        let untracked = || self.world.metric("daemoneye_gateway_session_untracked").abs() < 0.5;
        eventually("every connection is on the leash", untracked).await;
        assert!(self.load.finish().await > 0);
    }
}

/// How long all victims may take until they are connected, and those who shall be are stuck.
const CONNECTING: Duration = Duration::from_secs(8);

/// Denies a peer, on the command line. Needs a runtime of several threads.
pub(crate) fn deny(world: &World, peer: &str) {
    let mut order = Command::new(CLI);
    order.args(["deny", "add", "--reason", "a test", "--identity", peer]);
    order.arg("--socket").arg(world.path("run/admin.sock"));
    let done = task::block_in_place(|| order.output().unwrap());
    assert!(done.status.success(), "{done:?}");
}

/// Collectors under load whom nobody means.
const BYSTANDERS: usize = 8;

/// Long enough for every test.
pub(crate) fn tomorrow() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(1)
}

/// How long after the first the certificate of that number ends: two in a second.
const fn expiry_of(number: u64) -> Duration {
    Duration::from_secs((number - 1) / 2)
}

/// The sum of a metric over its labels, or of those that are given with it.
fn sum(world: &World, name: &str) -> u64 {
    let (_, body) = world.get("/metrics").expect("the admin API answers");
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    body.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Whether the session has ended; what it was told meanwhile is of no matter.
fn has_ended(session: &mut Session) -> bool {
    loop {
        match session.hear.message().now_or_never() {
            None => return false,
            Some(Ok(Some(_))) => {}
            Some(_) => return true,
        }
    }
}

/// Of `many` connected collectors one after another loses its right, in every way.
async fn one_of(many: u64) {
    let mut crowd = Crowd::gather(many, 100_000).await;
    for way in Way::ALL {
        crowd.try_all(way).await;
    }
    crowd.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_thousand_is_gone_within_a_second_each_time() {
    one_of(2000).await;
}

/// Takes a minute: `just revoke-10000`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: just revoke-10000"]
async fn one_of_ten_thousand_is_gone_within_a_second_each_time() {
    one_of(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_by_a_list_stays_away() {
    let (mut world, mut revoker) = (world(UNHEARD), Revoker::new(1000));
    let (anchors, list) = revoker.trusted_by(&world);
    world.start().await;
    let victim = Credentials { anchors, own: Some(revoker.issue("procmond-1", 7, tomorrow())) };
    let mut session = open(&world, &victim).await;
    revoker.revoke(7);
    fs::write(world.path("tls/next"), revoker.next_list()).unwrap();
    fs::rename(world.path("tls/next"), &list).unwrap();
    let status = session.ended().await;
    assert!(is_withdrawn(&status), "{status:?}");
    assert!(!is_let_in(&world, &victim).await);
}
