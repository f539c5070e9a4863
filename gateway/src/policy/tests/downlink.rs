//! The way down.

use std::path::Path;

use crate::{
    identity::{PeerId, VerifiedPeer},
    policy::{Denial, Judge, LocalClient, Metrics, Policy, Way},
};

const ROLE: &str = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\npublish = [\"#\"]\n";

const DOWNLINKS: &str = r#"
[[downlink]]
client = ["agent", "agent.*"]
uid = [1000, 1001]
call = ["site-a/procmond-*", "site-b/*"]
send = ["*/netmond"]

[[downlink]]
client = "watcher"
call = ["*/*"]
"#;

fn judge(rest: &str) -> Judge {
    let text = format!("{ROLE}{rest}");
    Judge::new(Policy::parse(&text, Path::new("p.toml")).unwrap(), Metrics::default())
}

#[test]
fn nobody_reaches_a_collector_by_default() {
    let client = LocalClient { name: "agent", uid: Some(0) };
    let collector = PeerId::new("site-a", "procmond-1").unwrap();
    for way in [Way::Call, Way::Send] {
        assert_eq!(judge("").downlink(client, way, &collector).unwrap_err(), Denial::Downlink);
    }
}

#[test]
fn a_client_reaches_whom_its_name_and_user_allow_and_nobody_else() {
    let judge = judge(DOWNLINKS);
    let may = |name: &str, uid: Option<u32>, way: Way, collector: &str| {
        judge.downlink(LocalClient { name, uid }, way, &collector.parse().unwrap()).is_ok()
    };
    assert!(may("agent", Some(1000), Way::Call, "site-a/procmond-1"));
    assert!(may("agent.main", Some(1001), Way::Call, "site-b/anything"));
    assert!(may("agent", Some(1000), Way::Send, "site-c/netmond"));
    assert!(!may("agent", Some(1000), Way::Send, "site-a/procmond-1"), "calling is not sending");
    assert!(!may("agent", Some(1000), Way::Call, "site-a/netmond"));
    assert!(!may("agent", Some(0), Way::Call, "site-a/procmond-1"), "not even root");
    assert!(!may("agent", None, Way::Call, "site-a/procmond-1"), "a user nobody knows is none");
    assert!(!may("agents", Some(1000), Way::Call, "site-a/procmond-1"));
    assert!(may("watcher", None, Way::Call, "site-a/procmond-1"));
    assert!(!may("watcher", None, Way::Send, "site-a/netmond"));
}

#[test]
fn a_permit_says_whom_and_how_and_which_rule() {
    let client = LocalClient { name: "watcher", uid: None };
    let collector: PeerId = "site-a/procmond-1".parse().unwrap();
    let permit = judge(DOWNLINKS).downlink(client, Way::Call, &collector).unwrap();
    assert_eq!(permit.by(), 2);
    assert_eq!(permit.spend(), (collector, Way::Call));
}

#[test]
fn a_right_to_relay_is_none_to_the_names_of_those_relayed() {
    let text = format!("{ROLE}relays = [\"*/*\"]\nspeaks_for = [\"proc*\"]\n");
    let judge = Judge::new(Policy::parse(&text, Path::new("p.toml")).unwrap(), Metrics::default());
    let rights = judge.rights(&VerifiedPeer::assume("regions/region-1".parse().unwrap())).unwrap();
    assert!(rights.collector("procmond-1").is_ok());
    for name in ["site-a/procmond-1", "regions/region-2", "regions/region-1", "/", "site-a/"] {
        assert_eq!(rights.collector(name).unwrap_err(), Denial::Collector, "{name}");
    }
}
