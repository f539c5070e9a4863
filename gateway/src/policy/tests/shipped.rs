//! The policies that we ship.

use std::path::Path;

use crate::{
    identity::PeerId,
    policy::{Action, Policy, Question, Subject},
};

const DEPLOYED: &str = include_str!("../../../../deploy/policy.toml");

const CHARTED: &str = include_str!("../../../../helm/daemoneye-gateway/files/policy.toml");

fn may(policy: &Policy, name: &str, collector: &str, action: Action, object: &str) -> bool {
    let subject = Subject::named(PeerId::new("site-a", name).unwrap());
    policy.explain(&Question { subject: &subject, collector, action, object }).allowed
}

#[test]
fn the_chart_ships_what_is_deployed() {
    assert_eq!(DEPLOYED, CHARTED);
}

#[test]
fn the_policy_we_ship_lets_each_collector_do_its_own_and_no_more() {
    let policy = Policy::parse(DEPLOYED, Path::new("policy.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(policy.roles(), ["procmond", "netmond", "fsmond", "perfmond", "leaf"]);
    assert_eq!(policy.downlink_count(), 0, "nobody by default");
    let own = [
        ("procmond-1", "process"),
        ("netmond", "network"),
        ("fsmond-x", "filesystem"),
        ("perfmond-2", "performance"),
    ];
    for (name, domain) in own {
        for (_, other) in own {
            let topic = format!("events.{other}.anomaly");
            assert_eq!(may(&policy, name, "", Action::Publish, &topic), domain == other, "{name} {topic}");
            assert!(may(&policy, "leaf-1", name, Action::Publish, &topic), "{name} {topic}");
        }
        let alive = format!("control.health.heartbeat.{name}");
        assert!(may(&policy, name, "", Action::Publish, &alive));
        assert!(may(&policy, name, "", Action::Subscribe, &format!("control.collector.{name}")));
        assert!(!may(&policy, name, "", Action::Publish, "control.health.heartbeat.other"));
        for reserved in ["control.collector.lifecycle", "control.agent.policy", "control.shutdown"] {
            assert!(!may(&policy, name, "", Action::Publish, reserved), "{name} {reserved}");
            assert!(!may(&policy, "leaf", name, Action::Publish, reserved), "{name} {reserved}");
        }
        assert!(!may(&policy, name, "", Action::Subscribe, "control.#"));
    }
    assert!(!may(&policy, "stranger", "", Action::Publish, "events.process.start"));
}
