//! With real material, a real deny-list and chains made at run time; connections are handles without a socket.

use std::{fs, path::Path, time::Duration};

use daemoneye_bridge::trust::{Files, Floor, Held, LoadError, Profile, Reload, Store, revocation::Order};
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::time;

use super::*;
use crate::{
    deny::{self, Denial, Target},
    identity::{self, Directory},
    pki::{self, Authority, Leaf, Validity},
    policy::{self, Policy},
    state::{self, State, audit::Audit},
};

const DOMAIN: &str = "daemoneye.internal";

const POLICY: &str = r#"
[[role]]
name = "r"
match = { identity = "*" }
publish = ["a.#"]
"#;

fn directory() -> Directory {
    Directory::new(identity::Config::default(), identity::Metrics::default())
}

/// What a roll stands on, with two authorities that are trusted.
struct Ground {
    folder: TempDir,
    one: Authority,
    two: Authority,
    store: Store,
    deny: deny::Handle,
    policy: Judge,
    roll: Roll,
    /// Behind a lock, so that the ground may be shared.
    keep: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Authority::root("one").unwrap(), Authority::root("two").unwrap());
        let own = one.issue(&Leaf::server("gateway").dns("gateway")).unwrap();
        let own = pki::write_certificate(folder.path(), "gateway", &own).unwrap();
        let ca_file = folder.path().join("ca.crt");
        fs::write(&ca_file, [one.root_pem(), two.root_pem()].concat()).unwrap();
        let files = Files { cert_file: own.certificate, key_file: own.key, ca_file };
        let store = Store::open(files, Role::Server).unwrap();
        let config = state::Config { directory: folder.path().to_owned(), ..state::Config::default() };
        let (state, _flusher) = State::open(config, state::Metrics::default()).unwrap();
        let (current, denials) = watch::channel(Arc::default());
        let deny = deny::Handle::open(state, Audit::open(folder.path()).unwrap(), current).unwrap();
        let policy = Judge::new(rules(POLICY), policy::Metrics::default());
        let terms = Terms {
            protocols: Vec::new(),
            floor: Floor::Tls12,
            profile: Profile::default(),
            judge: Arc::new(directory()),
        };
        let grounds = Grounds { material: store.watch(), denials, policy: policy.clone(), terms };
        let (roll, keep) = Roll::new(grounds, Metrics::default());
        Self { folder, one, two, store, deny, policy, roll, keep: Mutex::new(Some(keep)) }
    }

    /// Begins to sweep.
    fn keep(&self) {
        let keep = self.keep.lock().unwrap().take().unwrap();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        drop(tokio::spawn(keep));
    }

    fn papers(&self, authority: &Authority, leaf: &Leaf) -> Papers {
        let pem = authority.issue(leaf).unwrap().chain_pem();
        let presented: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
        let (leaf, between) = presented.split_first().unwrap();
        let claim = Claim { role: Role::Client, leaf, intermediates: between, now: UnixTime::now() };
        let chain = self.store.current().verify(&claim, &Profile::default(), None).unwrap();
        let peer = directory().identify(&chain).unwrap();
        Papers { peer, chain: Arc::new(chain), presented: presented.into() }
    }

    fn collector(&self, authority: &Authority, name: &str) -> Papers {
        self.papers(authority, &Leaf::collector(DOMAIN, "site-a", name))
    }

    fn enrol(&self, papers: Papers) -> Enrolled {
        self.roll.enrol(papers, "127.0.0.1:4444".parse().unwrap())
    }

    async fn deny(&self, target: &str) {
        let denial = Denial { target: target.parse().unwrap(), reason: "test".to_owned(), until: None };
        self.deny.add(denial, "test").await.unwrap();
    }

    /// Takes the second authority away.
    async fn forget_two(&self) {
        fs::write(self.folder.path().join("ca.crt"), self.one.root_pem()).unwrap();
        self.store.reload(Order::Forward).await.unwrap();
    }
}

fn rules(text: &str) -> Policy {
    Policy::parse(text, Path::new("p.toml")).unwrap()
}

async fn cut(enrolled: &Enrolled) -> CutReason {
    time::timeout(Duration::from_secs(10), enrolled.caller().cut().wait()).await.expect("it is cut")
}

fn stays(enrolled: &Enrolled) -> bool {
    enrolled.caller().cut().is_cut().is_none()
}

#[tokio::test]
async fn who_is_denied_in_any_of_the_ways_is_cut_and_the_others_stay() {
    let ground = Ground::new();
    ground.keep();
    let bystander = ground.enrol(ground.collector(&ground.two, "bystander"));
    let papers = ground.collector(&ground.one, "victim");
    let link = papers.chain.links()[0].clone();
    let ways = [
        Target::certificate(*link.issuer_spki(), link.serial()),
        Target::Key(*link.spki()),
        Target::Identity(papers.peer.id().clone()),
        Target::Key(*papers.chain.anchor().certificate().spki_sha256()),
    ];
    for target in ways {
        let victim = ground.enrol(papers.clone());
        assert!(stays(&victim), "{target}");
        ground.deny(&target.to_string()).await;
        assert_eq!(cut(&victim).await, CutReason::Denied, "{target}");
        assert!(!stays(&ground.enrol(papers.clone())), "denied when it comes back");
        ground.deny.remove(&target, "test").await.unwrap();
    }
    assert!(stays(&bystander));
    ground.deny("site:site-a").await;
    assert_eq!(cut(&bystander).await, CutReason::Denied);
}

#[tokio::test]
async fn what_changed_between_handshake_and_registration_is_seen() {
    let ground = Ground::new();
    let (denied, orphan) = (ground.collector(&ground.one, "denied"), ground.collector(&ground.two, "orphan"));
    let fine = ground.collector(&ground.one, "fine");
    // Nobody sweeps: whoever comes now, verified under what was in force before, comes after the sweep.
    ground.deny("identity:site-a/denied").await;
    ground.forget_two().await;
    assert_eq!(ground.enrol(denied).caller().cut().is_cut(), Some(CutReason::Denied));
    assert_eq!(ground.enrol(orphan).caller().cut().is_cut(), Some(CutReason::Untrusted));
    assert!(stays(&ground.enrol(fine)));
}

#[tokio::test]
async fn what_changed_before_the_keeper_began_is_swept() {
    let ground = Ground::new();
    let papers = ground.collector(&ground.one, "early");
    let early = ground.enrol(papers);
    ground.deny("identity:site-a/early").await;
    ground.keep();
    assert_eq!(cut(&early).await, CutReason::Denied);
}

#[tokio::test]
async fn an_anchor_that_is_taken_away_cuts_its_peers_and_no_others() {
    let ground = Ground::new();
    ground.keep();
    let stayer = ground.enrol(ground.collector(&ground.one, "stayer"));
    let leaver = ground.enrol(ground.collector(&ground.two, "leaver"));
    ground.forget_two().await;
    assert_eq!(cut(&leaver).await, CutReason::Untrusted);
    assert!(stays(&stayer));
}

#[tokio::test]
async fn anchors_that_would_take_more_than_a_fifth_along_wait_for_a_word() {
    let ground = Ground::new();
    ground.store.ask_first(Arc::new(ground.roll.clone()));
    ground.keep();
    let stayers = ["a", "b", "c", "d", "e"].map(|name| ground.enrol(ground.collector(&ground.one, name)));
    let x = ground.collector(&ground.two, "x");
    // Two connections of one identity are one who is cut.
    let leavers = [&x, &x, &ground.collector(&ground.two, "y")].map(|papers| ground.enrol(papers.clone()));
    fs::write(ground.folder.path().join("ca.crt"), ground.one.root_pem()).unwrap();
    let error = ground.store.reload(Order::Forward).await.unwrap_err();
    assert!(matches!(error, LoadError::Held(Held { cut: 2, connected: 7 })), "{error}");
    let (cause, _) = ground.store.status().borrow().refused.clone().unwrap();
    assert!(cause.contains("would cut 2 of 7 connected"), "{cause}");
    assert_eq!((ground.store.generation().number(), ground.store.current().anchors().len()), (1, 2));
    assert!(leavers.iter().all(stays));

    let done = ground.store.reload_for(Order::Any, "uid 0").await.unwrap();
    assert!(matches!(done, Reload::Changed { generation: 2, .. }), "{done:?}");
    for leaver in &leavers {
        assert_eq!(cut(leaver).await, CutReason::Untrusted);
    }
    assert!(stayers.iter().all(stays) && ground.store.status().borrow().refused.is_none());
    assert_eq!(ground.store.generation().by(), "uid 0");
}

#[tokio::test]
async fn a_policy_that_drops_a_role_cuts_whom_it_concerns_and_not_who_never_had_one() {
    let ground = Ground::new();
    ground.policy.replace(rules(&POLICY.replace("\"*\"", "[\"x\", \"y\"]")));
    ground.keep();
    let [x, y, never] = ["x", "y", "never"].map(|name| ground.enrol(ground.collector(&ground.one, name)));
    ground.policy.replace(rules(&POLICY.replace("\"*\"", "\"y\"")));
    assert_eq!(cut(&x).await, CutReason::NoRole);
    assert!(stays(&y) && stays(&never));
}

#[tokio::test]
async fn a_certificate_that_expires_cuts_on_time() {
    let ground = Ground::new();
    ground.keep();
    let lasting = ground.enrol(ground.collector(&ground.one, "lasting"));
    let validity = Validity::lasting(time_of(2));
    let short = ground.papers(&ground.one, &Leaf::collector(DOMAIN, "site-a", "short").validity(validity));
    let ends = short.chain.not_after();
    let short = ground.enrol(short);
    assert!(stays(&short));
    assert_eq!(cut(&short).await, CutReason::Expired);
    let late = SystemTime::now().duration_since(ends).expect("not before its time");
    assert!(late < Duration::from_millis(500), "{late:?}");
    assert!(stays(&lasting));
}

fn time_of(seconds: i64) -> ::time::Duration {
    ::time::Duration::seconds(seconds)
}

#[tokio::test]
async fn a_clock_that_was_set_forward_cuts_what_has_expired_by_it() {
    let ground = Ground::new();
    let here = ground.enrol(ground.collector(&ground.one, "here"));
    let mut expired = ground.roll.lock().expired(SystemTime::now() + Duration::from_hours(24 * 29));
    assert!(expired.is_empty());
    let later = SystemTime::now() + Duration::from_hours(24 * 31);
    expired = ground.roll.lock().expired(later);
    assert_eq!(expired.len(), 1);
    ground.roll.judge(&expired[0], &ground.store.current(), later);
    assert_eq!(cut(&here).await, CutReason::Expired);
}

/// The paused clock runs ahead while the wall clock stands still: the next comparison sees a step.
#[tokio::test]
async fn a_keeper_that_is_woken_again_and_again_still_looks_at_the_clocks() {
    let ground = Ground::new();
    time::pause();
    ground.keep();
    for _ in 0..40 {
        ground.roll.0.sooner.notify_one();
        time::advance(Duration::from_millis(100)).await;
        // Sweeps run on blocking threads: one trip there leaves time for another.
        tokio::task::spawn_blocking(|| {}).await.unwrap();
    }
    assert!(ground.roll.0.metrics.has_swept("clock"));
}

#[tokio::test]
async fn who_leaves_leaves_nothing_behind() {
    let ground = Ground::new();
    let enrolled = [1, 2].map(|_| ground.enrol(ground.collector(&ground.one, "x")));
    assert_eq!(ground.roll.len(), 2);
    drop(enrolled);
    assert!(ground.roll.is_empty() && ground.roll.lock().is_vacant());
}
