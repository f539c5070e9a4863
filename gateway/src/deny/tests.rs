//! With a real state file, a real audit and chains made at run time.

use std::{fs, path::Path, time::Duration};

use daemoneye_bridge::trust::{Claim, Files, Material, Profile, Role, VerifiedChain};
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};

use super::*;
use crate::{
    identity::PeerId,
    pki::{self, Authority, Leaf},
    state::{self, audit},
};

const DOMAIN: &str = "td.test";

fn open(folder: &Path) -> Handle {
    let config = state::Config { directory: folder.to_owned(), ..state::Config::default() };
    let (state, _flusher) = State::open(config, state::Metrics::default()).unwrap();
    Handle::open(state, Audit::open(folder).unwrap(), watch::Sender::new(Arc::default())).unwrap()
}

fn denial(target: &str) -> Denial {
    Denial { target: target.parse().unwrap(), reason: "laptop stolen".to_owned(), until: None }
}

/// A peer and its verified chain of two certificates below an anchor.
fn admitted(folder: &Path) -> (PeerId, VerifiedChain) {
    let root = Authority::root("root").unwrap();
    let issuer = root.intermediate("issuer").unwrap();
    let own = pki::write_certificate(folder, "gateway", &issuer.issue(&Leaf::server("g").dns("g")).unwrap());
    let own = own.unwrap();
    let ca_file = folder.join("ca.crt");
    fs::write(&ca_file, root.root_pem()).unwrap();
    let files = Files { cert_file: own.certificate, key_file: own.key, ca_file };
    let material = Material::load(&files, Role::Server).unwrap();
    let leaf = issuer.issue(&Leaf::collector(DOMAIN, "site-a", "procmond-1")).unwrap().chain_pem();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.as_bytes()).map(Result::unwrap).collect();
    let claim =
        Claim { role: Role::Client, leaf: &chain[0], intermediates: &chain[1..], now: UnixTime::now() };
    let chain = material.verify(&claim, &Profile::default(), None).unwrap();
    (PeerId::new("site-a", "procmond-1").unwrap(), chain)
}

#[tokio::test]
async fn whoever_is_denied_in_any_of_the_ways_is_found_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, chain) = admitted(folder.path());
    let list = open(folder.path());
    let now = SystemTime::now();
    let all = targets(&peer, &chain);
    // Names, the anchor's key, and two certificates with their keys.
    assert_eq!(all.len(), 2 + 1 + 4);
    for target in all {
        assert!(list.list().find(&peer, &chain, now).is_none(), "{target}");
        list.add(denial(&target.to_string()), "anna").await.unwrap();
        let denials = list.list();
        let found = denials.find(&peer, &chain, now).unwrap();
        assert_eq!((found.target(), found.reason()), (&target, "laptop stolen"));
        list.remove(&target, "anna").await.unwrap();
    }
    let key = "ab".repeat(32);
    for other in ["identity:site-a/procmond-2", "site:site-b", &format!("spki:{key}")] {
        list.add(denial(other), "anna").await.unwrap();
    }
    assert!(list.list().find(&peer, &chain, now).is_none());
}

#[tokio::test]
async fn the_list_survives_a_restart_and_every_change_is_audited() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    let until = SystemTime::now() + Duration::from_hours(1);
    let stays = Denial { until: Some(until), ..denial("site:site-a") };
    let added = list.add(stays, "cli:anna").await.unwrap();
    list.add(denial("identity:site-b/x"), "cli:anna").await.unwrap();
    list.remove(&"identity:site-b/x".parse().unwrap(), "cli:otto").await.unwrap();
    drop(list);

    let list = open(folder.path());
    let kept: Vec<_> = list.list().entries().map(Arc::clone).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].reason(), kept[0].actor()), ("laptop stolen", "cli:anna"));
    assert_eq!(kept[0].since().to_string(), added.since().to_string());
    assert!(kept[0].holds(until - Duration::from_secs(1)) && !kept[0].holds(until));
    let log = folder.path().join("audit.jsonl");
    assert_eq!(audit::verify(&log).unwrap().head.sequence, 3);
    let log = fs::read_to_string(log).unwrap();
    let actions: Vec<_> =
        ["deny_added", "deny_removed"].iter().map(|action| log.matches(action).count()).collect();
    assert_eq!(actions, [2, 1]);
    assert!(log.contains("cli:otto") && log.contains("site:site-a"), "{log}");
}

#[tokio::test]
async fn serial_number_zero_is_kept_in_a_form_that_the_next_start_reads() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    let target = format!("certificate:{}:00", "ab".repeat(32));
    list.add(denial(&target), "anna").await.unwrap();
    drop(list);
    let list = open(folder.path());
    let kept: Vec<_> = list.list().entries().map(|entry| entry.target().to_string()).collect();
    assert_eq!(kept, [target]);
}

#[tokio::test]
async fn a_change_that_cannot_be_made_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    let mut changes = list.watch();
    let absent = list.remove(&"site:site-a".parse().unwrap(), "anna").await.unwrap_err();
    assert!(matches!(absent, ChangeError::Absent(_)), "{absent}");
    for reason in ["", "two\nlines", &"x".repeat(257)] {
        let denial = Denial { reason: reason.to_owned(), ..denial("site:site-a") };
        assert!(matches!(list.add(denial, "anna").await, Err(ChangeError::Reason)), "{reason:?}");
    }
    let over = Denial { until: Some(SystemTime::now()), ..denial("site:site-a") };
    assert!(matches!(list.add(over, "anna").await, Err(ChangeError::Over)));
    // Nothing that is too long to be recorded is done.
    let unrecorded = list.add(denial("site:site-a"), &"a".repeat(1000)).await.unwrap_err();
    assert!(matches!(unrecorded, ChangeError::Audit(_)), "{unrecorded}");
    assert!(list.list().is_empty() && !changes.has_changed().unwrap());
    drop(list);
    assert!(open(folder.path()).list().is_empty());
    assert!(!changes.borrow_and_update().entries().any(|_| true));
}

#[tokio::test]
async fn what_is_new_in_a_list_is_told_from_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    list.add(denial("site:site-a"), "anna").await.unwrap();
    let before = list.list();
    list.add(denial("site:site-b"), "anna").await.unwrap();
    let again = Denial { reason: "for another reason".to_owned(), ..denial("site:site-a") };
    let after = list.list();
    let new = |after: &Denials| -> Vec<String> {
        after.since(&before).map(|entry| entry.target().to_string()).collect()
    };
    assert_eq!(new(&after), ["site:site-b"]);
    list.add(again, "anna").await.unwrap();
    assert_eq!(new(&list.list()), ["site:site-a", "site:site-b"]);
    assert_eq!(list.list().len(), 2);
}
