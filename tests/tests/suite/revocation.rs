//! Lists that are stale, missing, rolled back, of the future or by a foreign key, and what a revoked peer had before; the
//! caps of one peer and of one site. All through the real port.

use std::{fs, net::Ipv4Addr, process::Command};

use daemoneye_gateway::pki::{Authority, Leaf as Profile, Validity};
use daemoneye_proto::v1::{Ping, link_request, link_response};
use daemoneye_tests::{
    eventually,
    eventually::within,
    forge::{Forger, Shown},
    knock::{Told, knock, knocker},
    peer::Session,
    world::{TRUST_DOMAIN, World},
};
use rcgen::CertificateParams;
use rustls::{
    HandshakeKind,
    pki_types::{CertificateRevocationListDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    CLI,
    refused::{DENIED, VERSIONS, file, hint, same, serial},
    world,
};

/// Where settings of the TLS of the port begin.
const TLS: &str = "[tcp.tls_config]\n";

/// Has `world` trust `roots` and nobody else, with these settings of its TLS; returns the root of the gateway.
fn trust(world: &World, roots: &[&Forger], tls: &str) -> String {
    let anchors: String = roots.iter().map(|root| root.pem()).collect();
    fs::write(world.path("tls/anchors.pem"), anchors).unwrap();
    set(world, TLS, &format!("{TLS}{tls}\n"));
    world.authority.root_pem().to_owned()
}

/// Changes the gateway's configuration.
fn set(world: &World, from: &str, to: &str) {
    let path = world.path("gateway.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

/// Valid for less than an hour.
fn short(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::minutes(10);
    params.not_after = now + Duration::minutes(40);
}

/// Waits for the entry of `network` in the refusals, with `count`, and holds it against the code and its hint.
async fn told(world: &World, network: [u8; 2], reason: &str, count: u64) {
    let address = format!("127.{}.{}.1", network[0], network[1]);
    let mut found = Value::Null;
    eventually("the refusal is told", || {
        let refusals = world.json("/api/v1/refusals");
        let mut recent = refusals["recent"].as_array().unwrap().iter();
        found = recent.find(|entry| entry["address"] == *address).cloned().unwrap_or_default();
        found["count"] == count
    })
    .await;
    assert_eq!((&found["reason"], &found["hint"]), (&reason.into(), &hint(reason).into()), "{found}");
}

/// The word and the message of health about TLS.
fn health(world: &World) -> (String, String) {
    let (_, body) = world.get("/api/v1/health").expect("the admin API answers");
    let health: Value = serde_json::from_str(&body).unwrap();
    let components = health["components"].as_array().unwrap();
    let tls = components.iter().find(|component| component["name"] == "tls").unwrap();
    let text = |field: &str| tls[field].as_str().unwrap().to_owned();
    (text("status"), text("message"))
}

/// Runs `reload`, and returns how it ends and what it prints, on one line.
fn reload(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let socket = world.path("run/admin.sock");
    let place = ["--socket", socket.to_str().unwrap()];
    let output = Command::new(CLI).arg("reload").args(args).args(place).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    (output.status.code(), said.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// One network each.
fn network(network: [u8; 2]) -> Ipv4Addr {
    Ipv4Addr::new(127, network[0], network[1], 1)
}

/// What is demanded, what a stale list does, and what comes of it: for a leaf of a day and for one of an hour, where the
/// list is fresh, stale for half an hour, stale for an hour and a half, and missing.
const RULES: [(&str, &str, [&str; 2]); 9] = [
    ("required", "fail", ["in stale stale unknown", "in stale stale unknown"]),
    ("required", "warn", ["in in in unknown", "in in in unknown"]),
    ("required", "grace(1h)", ["in in stale unknown", "in in stale unknown"]),
    ("if-present", "fail", ["in stale stale in", "in stale stale in"]),
    ("if-present", "warn", ["in in in in", "in in in in"]),
    ("if-present", "grace(1h)", ["in in stale in", "in in stale in"]),
    ("short-lived(1h)", "fail", ["in stale stale unknown", "in in in in"]),
    ("short-lived(1h)", "warn", ["in in in unknown", "in in in in"]),
    ("short-lived(1h)", "grace(1h)", ["in in stale unknown", "in in in in"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_stale_or_missing_do_what_the_operator_says() {
    let roots = ["Fresh", "Late", "Old"].map(|name| Forger::root(name, same));
    let [fresh, late, old] = &roots;
    // Where a list is required, an anchor without one is not loaded; an intermediate is met at the door.
    let unlisted = fresh.below("Without a list", same);
    let lists =
        [fresh.list(1, [-60, 60], &[]), late.list(1, [-120, -30], &[7]), old.list(1, [-180, -90], &[7])];
    let mut shown = Vec::new();
    for (word, life) in [("day", same as fn(&mut CertificateParams)), ("hour", short)] {
        for (root, name) in roots.iter().zip(["fresh", "late", "old"]) {
            shown.push(root.issue(&format!("{name}-{word}"), life));
        }
        shown.push(unlisted.issue(&format!("missing-{word}"), life).with(&[&unlisted]));
    }
    // What a list revokes stays revoked when it is old, even where no list is needed.
    let revoked = [late, old].map(|root| {
        root.issue("revoked", |params| {
            short(params);
            serial(7)(params);
        })
    });
    for (need, stale, outcomes) in RULES {
        let mut world = world("");
        let crl: Vec<_> =
            (0..).zip(&lists).map(|(number, list)| file(&world, &format!("{number}.crl"), list)).collect();
        let tls = format!("crl = [{}]\nrevocation = \"{need}\"\nstale_crl = \"{stale}\"", crl.join(", "));
        let anchor = trust(&world, &[fresh, late, old], &tls);
        world.start().await;
        let outcomes =
            outcomes.iter().flat_map(|outcomes| outcomes.split(' ')).map(|outcome| match outcome {
                "stale" => Some("crl_stale"),
                "unknown" => Some("revocation_unknown"),
                _ => None,
            });
        let rows: Vec<(&Shown, Option<&str>)> = shown
            .iter()
            .zip(outcomes)
            .chain(revoked.iter().map(|shown| (shown, Some("certificate_revoked"))))
            .collect();
        assert_eq!(rows.len(), 10);
        for (number, (shown, reason)) in (0..).zip(&rows) {
            for version in VERSIONS {
                let (got, _) =
                    knock(&knocker(&anchor, Some(shown), version), network([3, number]), world.address).await;
                let wanted = if reason.is_some() { DENIED } else { Told::In };
                assert_eq!(got, wanted, "{need}, {stale}: row {number} ({:?})", version.version);
            }
        }
        for (number, (_, reason)) in (0..).zip(&rows) {
            if let Some(reason) = reason {
                told(&world, [3, number], reason, 2).await;
            }
        }
        assert_eq!(health(&world).0, "degraded", "{need}, {stale}: two lists are out of date");
    }
}

#[tokio::test]
async fn where_a_list_is_required_an_anchor_without_one_is_not_loaded() {
    let mut world = world("");
    let root = Forger::root("Without a list", same);
    trust(&world, &[&root], "revocation = \"required\"");
    world.launch();
    eventually("the gateway gives up", || world.gateway().log().contains("whose lists are required")).await;
    assert!(world.gateway().log().contains("Without a list"), "{}", world.gateway().log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_goes_stale_cuts_nobody_who_is_there() {
    let mut world = world("");
    let root = Authority::root("Soon late").unwrap();
    let now = OffsetDateTime::now_utc();
    let from_to = |from: Duration, until: Duration| Validity::between(now + from, now + until);
    let list = root.crl(1, from_to(Duration::minutes(-5), Duration::hours(1)), &[]).unwrap();
    fs::write(world.path("tls/anchors.pem"), root.root_pem()).unwrap();
    let tls = format!("crl = [{}]\nrevocation = \"required\"", file(&world, "r.crl", &list));
    set(&world, TLS, &format!("{TLS}{tls}\n"));
    world.start().await;
    let own = world.credentials_of(&root, &Profile::collector(TRUST_DOMAIN, "site-a", "procmond-1"));
    let channel = own.channel(world.address).await.expect("the list is fresh");
    let (mut session, _) = Session::open(channel, vec![]).await.unwrap();
    // In force for as long as is left of three seconds; where none is, it comes stale.
    let due = root.crl(2, from_to(Duration::minutes(-4), Duration::seconds(3)), &[]).unwrap();
    fs::write(world.path("r.crl"), due).unwrap();
    eventually("the list is stale", || health(&world).1.contains("is out of date")).await;
    let late = root.issue(&Profile::collector(TRUST_DOMAIN, "site-a", "procmond-2")).unwrap();
    let late = Shown { chain: vec![late.der().to_vec().into()], key: late.key_der().to_vec() };
    let (got, _) =
        knock(&knocker(world.authority.root_pem(), Some(&late), &TLS13), network([4, 1]), world.address)
            .await;
    assert_eq!(got, DENIED);
    told(&world, [4, 1], "crl_stale", 1).await;
    // Nor does a newer list that is stale as well, by which all are judged again.
    let newer = root.crl(3, from_to(Duration::minutes(-3), Duration::minutes(-2)), &[]).unwrap();
    fs::write(world.path("r.crl"), newer).unwrap();
    loaded(&world, 3, "stale").await;
    session.say(link_request::Frame::Ping(Ping { nonce: 7 })).await;
    while !matches!(session.next().await.expect("it stays"), link_response::Frame::Pong(_)) {}
}

/// Waits until a list of this number is loaded and is called so.
async fn loaded(world: &World, number: u64, status: &str) {
    let mut certificates = Value::Null;
    let number = format!("{number:02x}");
    within(std::time::Duration::from_secs(5), "the list is loaded", || {
        certificates = world.json("/api/v1/certificates");
        certificates["lists"]
            .as_array()
            .unwrap()
            .iter()
            .any(|list| list["number"] == number && list["status"] == status)
    })
    .await;
}

/// Knocks as `shown` in TLS 1.3.
async fn tried(world: &World, shown: &Shown, from: [u8; 2]) -> Told {
    let config = knocker(world.authority.root_pem(), Some(shown), &TLS13);
    knock(&config, network(from), world.address).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_goes_back_or_is_of_the_future_or_forged_stays_out_and_the_old_one_in_force() {
    let mut world = world("");
    let root = Forger::root("Root of lists", same);
    let foreign = Forger::root("Root of lists", same);
    let good = root.list(5, [-60, 60], &[7]);
    let tls = format!("crl = [{}]", file(&world, "r.crl", &good));
    trust(&world, &[&root], &tls);
    world.start().await;
    let path = world.path("r.crl");
    let older = root.list(4, [-30, 60], &[]);
    let der = |pem: &str| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let mut forged = der(&root.list(6, [-30, 60], &[]));
    *forged.last_mut().unwrap() ^= 1;
    let about = path.display().to_string();
    let cases = [
        ("lower number", der(&older), "is older than the one in force (number 05)"),
        ("older thisUpdate", der(&root.list(6, [-90, 60], &[])), "is older than the one in force"),
        ("of the future", der(&root.list(6, [10, 60], &[])), "is of the future"),
        ("forged", forged, "its signature is not by the key of the issuer that it names"),
        ("foreign key", der(&foreign.list(6, [-30, 60], &[])), "which is in force, is gone"),
    ];
    let revoked = root.issue("revoked", serial(7));
    for (number, (what, list, why)) in (1..).zip(cases) {
        fs::write(&path, list).unwrap();
        eventually(&format!("health tells of {what}"), || {
            let (status, message) = health(&world);
            status == "degraded" && message.contains(&about) && message.contains(why)
        })
        .await;
        println!("{what}: {}", health(&world).1);
        let (code, said) = reload(&world, &[]);
        assert!(code == Some(1) && said.contains(why), "{what}: {said}");
        assert_eq!(tried(&world, &revoked, [5, number]).await, DENIED, "{what}");
        told(&world, [5, number], "certificate_revoked", 1).await;
        let other = root.issue(&format!("other-{number}"), same);
        assert_eq!(tried(&world, &other, [5, number]).await, Told::In, "{what}");
        fs::write(&path, &good).unwrap();
        eventually(&format!("health is well again after {what}"), || health(&world).0 == "healthy").await;
    }
    // Beside the good one, a list by a foreign key revokes nobody.
    fs::write(&path, [good.as_str(), &foreign.list(6, [-30, 60], &[8])].concat()).unwrap();
    loaded(&world, 6, "waiting").await;
    assert_eq!(tried(&world, &revoked, [5, 99]).await, DENIED);
    assert_eq!(tried(&world, &root.issue("other", serial(8)), [5, 99]).await, Told::In);
    assert_eq!(health(&world).0, "healthy");
    fs::write(&path, older).unwrap();
    let (code, said) = reload(&world, &["--force"]);
    assert_eq!(code, Some(0), "{said}");
    loaded(&world, 4, "fresh").await;
    assert_eq!(
        tried(&world, &revoked, [5, 100]).await,
        Told::In,
        "by the list that was forced it is not revoked"
    );
    eventually("health is well", || health(&world).0 == "healthy").await;
    let audit = fs::read_to_string(world.path("state/audit.jsonl")).unwrap();
    assert!(audit.contains("\"reload_forced\""), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_resumes_nothing() {
    let mut world = world("");
    let root = Forger::root("Root of resumption", same);
    let tls = format!("crl = [{}]", file(&world, "r.crl", &root.list(1, [-60, 60], &[])));
    let anchor = trust(&world, &[&root], &tls);
    world.start().await;
    let configs = [(1, &TLS12), (2, &TLS13)].map(|(number, version)| {
        let leaves =
            [number, number + 10].map(|number| root.issue(&format!("leaf-{number}"), serial(number)));
        leaves.map(|leaf| knocker(&anchor, Some(&leaf), version))
    });
    for (config, number) in configs.iter().flatten().zip(1..) {
        let first = knock(config, network([6, number]), world.address).await;
        assert_eq!(first, (Told::In, Some(HandshakeKind::Full)));
    }
    fs::write(world.path("r.crl"), root.list(2, [-30, 60], &[1, 2])).unwrap();
    loaded(&world, 2, "fresh").await;
    for ([revoked, other], number) in configs.iter().zip([1, 3]) {
        let again = knock(revoked, network([6, number]), world.address).await;
        assert_eq!(again, (DENIED, Some(HandshakeKind::Full)));
        told(&world, [6, number], "certificate_revoked", 1).await;
        let again = knock(other, network([6, number + 1]), world.address).await;
        assert_eq!(again, (Told::In, Some(HandshakeKind::Full)));
    }
}

#[tokio::test]
async fn over_the_cap_of_a_peer_and_of_a_site_each_is_told_why() {
    let mut world = world("");
    let cap = "max_connections = 2000\n";
    set(&world, cap, &format!("{cap}max_connections_per_peer = 1\nmax_connections_per_site = 2\n"));
    world.start().await;
    let open = async |site: &str, name: &str| {
        let channel = world.credentials(site, name).channel(world.address).await.unwrap();
        Session::open(channel, vec![]).await.map(|(session, _)| session)
    };
    let refused = async |name: &str, reason: &str, why: &str| {
        let status = open("site-a", name).await.map(drop).unwrap_err();
        assert!(status.code() == Code::ResourceExhausted && status.message().contains(why), "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
        let mut found = Value::Null;
        eventually("the refusal is told", || {
            let refusals = world.json("/api/v1/refusals");
            let mut recent = refusals["recent"].as_array().unwrap().iter();
            found = recent.find(|entry| entry["reason"] == reason).cloned().unwrap_or_default();
            !found.is_null()
        })
        .await;
        assert!(found["detail"].as_str().unwrap().contains(&format!("site-a/{name}")), "{found}");
        assert_eq!((&found["count"], &found["hint"]), (&1.into(), &hint(reason).into()), "{found}");
    };
    let _first = open("site-a", "procmond-1").await.unwrap();
    refused("procmond-1", "peer_full", "of this peer").await;
    let second = open("site-a", "procmond-2").await.unwrap();
    refused("procmond-3", "site_full", "of this site").await;
    let _elsewhere = open("site-b", "procmond-1").await.unwrap();
    drop(second);
    eventually("it has gone", || world.json("/api/v1/collectors")["live"].as_array().unwrap().len() == 2)
        .await;
    open("site-a", "procmond-3").await.expect("there is room again");
}
