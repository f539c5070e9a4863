//! The policy as a whole, against the plainest statement of what it means.

mod change;
mod downlink;
mod random;
mod shipped;

use std::path::Path;

use daemoneye_bridge::topic::{Pattern, Topic};

use super::{
    metrics::Metrics,
    permit::Payload,
    rule::Role,
    verdict::{Denial, Rights},
};
use crate::identity::PeerId;

const POLICY: &str = r#"
[[role]]
name = "procmond"
match = { identity = "procmond-*", site = ["site-a"] }
publish = ["events.process.#", "control.health.heartbeat.{name}", "a.+.c"]
subscribe = ["control.collector.{name}", "events.+.dns", "a.#"]
deny = { publish = ["events.process.tree"], subscribe = ["a.b.c"] }
events_per_second = 5000
json = ["events.process.start"]

[[role]]
name = "leaf"
match = { identity = ["leaf-*", "*-1"] }
publish = ["{site}.{name}.#", "a"]
speaks_for = ["procmond-*", "netmond"]
deny = { publish = ["control.#"] }
connections = 4

[[role]]
name = "narrow"
match = { identity = "procmond-1" }
events_per_second = 10
"#;

fn roles() -> Vec<std::sync::Arc<Role>> {
    let contents = super::file::parse(POLICY, Path::new("policy.toml")).unwrap();
    contents.roles.into_iter().map(std::sync::Arc::new).collect()
}

fn rights(site: &str, name: &str) -> Result<Rights, Denial> {
    Rights::of(&PeerId::new(site, name).unwrap(), &roles(), 1, &std::sync::Arc::new(Metrics::default()))
}

/// Every topic of up to three segments over a few letters, and the real ones that the rules name.
fn topics() -> Vec<String> {
    let letters = ["a", "b", "c", "site-a", "leaf-1"];
    let mut all: Vec<String> = letters.map(str::to_owned).to_vec();
    let mut last = all.clone();
    for _ in 0..2 {
        last = last.iter().flat_map(|stem| letters.map(|letter| format!("{stem}.{letter}"))).collect();
        all.extend(last.iter().cloned());
    }
    let real = [
        "events.process",
        "events.process.start",
        "events.process.tree",
        "events.process.tree.x",
        "events.network.dns",
        "control.health.heartbeat.procmond-1",
        "control.health.heartbeat.procmond-2",
        "control.collector.lifecycle",
    ];
    all.extend(real.map(str::to_owned));
    all
}

/// What the policy above says, spelled out by hand for each role, without any of the machinery under test but the matching
/// of one pattern.
fn allowed(site: &str, name: &str, collector: &str, topic: &str) -> bool {
    let topic = Topic::parse(topic).unwrap();
    let any = |patterns: &[String]| patterns.iter().any(|text| Pattern::parse(text).unwrap().matches(&topic));
    let mut allow = Vec::new();
    let mut deny = Vec::new();
    let mut speaks = collector == name;
    if name.starts_with("procmond-") && site == "site-a" {
        allow.extend([
            "events.process.#".to_owned(),
            format!("control.health.heartbeat.{collector}"),
            "a.+.c".into(),
        ]);
        deny.push("events.process.tree".to_owned());
    }
    if name.starts_with("leaf-") || name.ends_with("-1") {
        allow.extend([format!("{site}.{collector}.#"), "a".to_owned()]);
        deny.push("control.#".to_owned());
        speaks |= collector.starts_with("procmond-") || collector == "netmond";
    }
    speaks && any(&allow) && !any(&deny)
}

#[test]
fn nothing_is_allowed_unless_a_rule_allows_it_and_none_denies_it() {
    let mut allowances = 0;
    let peers = [
        ("site-a", "procmond-1"),
        ("site-a", "procmond-2"),
        ("site-b", "procmond-1"),
        ("site-b", "procmond-2"),
        ("site-a", "leaf-1"),
        ("site-b", "leaf-x"),
        ("site-a", "netmond"),
    ];
    for (site, name) in peers {
        for collector in ["procmond-1", "procmond-2", "leaf-1", "netmond", "fsmond", name] {
            let mut speaker = rights(site, name).and_then(|rights| rights.speaker(collector)).ok();
            for topic in topics() {
                let wanted = allowed(site, name, collector, &topic);
                let mut permit = speaker.as_ref().map(super::Speaker::permit);
                // Asked twice, because the second answer comes from memory.
                for _ in 0..2 {
                    let given = speaker
                        .as_mut()
                        .zip(permit.as_mut())
                        .is_some_and(|(speaker, permit)| speaker.allow(permit, &topic).is_ok());
                    assert_eq!(given, wanted, "{site}/{name} as {collector}: {topic}");
                }
                let listed = permit.map(super::PublishPermit::spend).unwrap_or_default();
                assert_eq!(listed.len(), usize::from(wanted), "a topic stands once in its permit");
                allowances += u32::from(wanted);
            }
        }
    }
    assert!(allowances > 20, "the test allows too little to mean anything: {allowances}");
}

#[test]
fn a_subscription_is_allowed_if_the_rules_cover_it_and_no_denial_meets_it() {
    let rights = rights("site-a", "procmond-1").unwrap();
    let may = |text: &str| rights.subscribe(vec![Pattern::parse(text).unwrap()]).is_ok();
    assert!(may("control.collector.procmond-1"));
    assert!(!may("control.collector.procmond-2"));
    assert!(!may("control.collector.+"));
    assert!(!may("#"));
    assert!(may("events.network.dns"));
    assert!(!may("events.network.#"));
    assert!(may("a.b"));
    assert!(may("a.x.#"));
    for meets_a_denial in ["a.#", "a.b.#", "a.+.c", "a.b.c"] {
        assert!(!may(meets_a_denial), "{meets_a_denial}");
    }
    let mixed = ["a.b", "#"].map(|text| Pattern::parse(text).unwrap());
    let Denial::Pattern(unheard) = rights.subscribe(mixed.to_vec()).unwrap_err() else {
        panic!("no pattern")
    };
    assert_eq!(*unheard.wanted(), Pattern::all());
    let told = |text: &str| rights.subscribe(vec![Pattern::parse(text).unwrap()]).unwrap_err().to_string();
    assert!(
        told("a.#").contains("`a.#`, of which a rule denies `a.b.c`; ask for patterns"),
        "{}",
        told("a.#")
    );
    assert!(told("a.b.c").contains("which a rule denies"), "{}", told("a.b.c"));
    assert!(told("events.+").contains("which no rule allows"), "{}", told("events.+"));
    assert!(told("events.network.#").contains("of which no rule allows `events.network`"));
}

#[test]
fn bounds_of_matching_roles_add_up_to_the_widest() {
    let limits = *rights("site-a", "procmond-1").unwrap().limits();
    assert_eq!(limits.events_per_second.get(), 5000);
    assert_eq!(limits.connections.get(), 4);
    assert_eq!(limits.max_message, super::Limits::DEFAULT.max_message);
}

#[test]
fn who_has_no_role_has_no_rights() {
    assert_eq!(rights("site-b", "procmond-2").unwrap_err(), Denial::Stranger);
    assert_eq!(rights("site-a", "fsmond").unwrap_err(), Denial::Stranger);
}

#[test]
fn a_hostile_topic_is_denied_and_not_remembered_for_ever() {
    let mut speaker = rights("site-a", "procmond-1").unwrap().speaker("").unwrap();
    let mut permit = speaker.permit();
    let long = "a".repeat(1 << 20);
    for topic in
        ["", ".broker.info", "a\0b", "events/process/start", "a.b.c.d.e.f", "events.process.#", &long]
    {
        assert!(matches!(speaker.allow(&mut permit, topic), Err(Denial::Malformed(_))));
    }
    for number in 0..10_000 {
        assert_eq!(speaker.allow(&mut permit, &format!("x.{number}")), Err(Denial::Topic));
    }
    assert_eq!(permit.topics(), 0);
    let place = speaker.allow(&mut permit, "events.process.start").unwrap();
    assert_eq!((place.index, place.payload), (0, Payload::Json));
}

#[test]
fn a_permit_of_one_collector_is_no_use_to_another() {
    let rights = rights("site-a", "leaf-1").unwrap();
    let mut own = rights.speaker("").unwrap();
    let other = rights.speaker("netmond").unwrap();
    let mut foreign = other.permit();
    assert_eq!(own.allow(&mut foreign, "a"), Err(Denial::Collector));
    assert_eq!(rights.speaker("fsmond").unwrap_err(), Denial::Collector);
    assert_eq!(rights.speaker("site-b/netmond").unwrap_err(), Denial::Collector);
}

#[test]
fn a_call_is_allowed_by_name_and_never_to_the_broker_or_a_collector() {
    let text = r#"
        [[role]]
        name = "r"
        match = { identity = "*" }
        call = ["*", "engine.{site}"]
        deny = { call = ["secret.*"] }
    "#;
    let policy = super::Policy::parse(text, Path::new("p.toml")).unwrap();
    let id = PeerId::new("site-a", "procmond-1").unwrap();
    let metrics = std::sync::Arc::new(Metrics::default());
    let rights = Rights::of(&id, policy.rules(), 1, &metrics).unwrap();
    let (collector, client) = rights.call("", "engine.main").unwrap().spend();
    assert_eq!((collector.name(), &*client), ("procmond-1", "engine.main"));
    for client in ["secret.x", ".broker", "collector.site-a.netmond-1", "collector"] {
        assert_eq!(rights.call("", client).unwrap_err(), Denial::Client, "{client}");
    }
    assert_eq!(rights.call("netmond-1", "engine").unwrap_err(), Denial::Collector);
}

#[test]
fn a_role_may_ask_for_an_authority_and_a_key() {
    let pin = "ab".repeat(32);
    let text = format!(
        r#"
        [[role]]
        name = "r"
        match = {{ identity = "*", anchor = ["CN=Site A*"], spki = "{}" }}
        publish = ["a"]
        "#,
        pin.to_uppercase()
    );
    let policy = super::Policy::parse(&text, Path::new("p.toml")).unwrap();
    let named = super::Subject::named(PeerId::new("site-a", "x").unwrap());
    let metrics = std::sync::Arc::new(Metrics::default());
    let has = |subject: &super::Subject| Rights::of(subject, policy.rules(), 1, &metrics).is_ok();
    let (key, other) = (super::pin(&pin).unwrap(), [0; 32]);
    assert!(has(&named.clone().vouched_by("CN=Site A CA").with_key(key)));
    assert!(!has(&named.clone().vouched_by("CN=Site B CA").with_key(key)));
    assert!(!has(&named.clone().vouched_by("CN=Site A CA").with_key(other)));
    assert!(!has(&named.clone().vouched_by("CN=Site A CA")) && !has(&named.with_key(key)));
    assert!(super::pin("ab").is_none() && super::pin(&"g".repeat(64)).is_none());
}

#[test]
fn an_authority_goes_by_its_configured_name_else_by_its_subject() {
    use daemoneye_bridge::trust;
    use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};

    use crate::{identity::Directory, pki};

    let folder = tempfile::tempdir().unwrap();
    let [corp, plain] = ["Corp CA", "Plain CA"].map(|name| pki::Authority::root(name).unwrap());
    let own = corp.issue(&pki::Leaf::server("gateway").dns("gateway")).unwrap();
    let own = pki::write_certificate(folder.path(), "gateway", &own).unwrap();
    let [limited, ca_file] = [("corp.crt", &corp), ("ca.crt", &plain)].map(|(file, authority)| {
        let file = folder.path().join(file);
        std::fs::write(&file, authority.root_pem()).unwrap();
        file
    });
    let files = trust::Files { cert_file: own.certificate, key_file: own.key, ca_file };
    let rights = trust::Rights::new("corp", &["site-a".to_owned()], &[]).unwrap().into();
    let anchors = vec![trust::AnchorFile { ca_file: limited, rights }];
    let whole = trust::Plan { anchors, ..trust::Plan::new(files, trust::Role::Server) };
    let material = trust::Material::load_all(&whole).unwrap();
    let directory = Directory::new(crate::identity::Config::default(), crate::identity::Metrics::default());
    let roles = |authority: &pki::Authority| {
        let leaf = pki::Leaf::collector("daemoneye.internal", "site-a", "x");
        let leaf =
            CertificateDer::from_pem_slice(authority.issue(&leaf).unwrap().chain_pem().as_bytes()).unwrap();
        let now = UnixTime::now();
        let claim = trust::Claim { role: trust::Role::Client, leaf: &leaf, intermediates: &[], now };
        let chain = material.verify(&claim, &trust::Profile::default(), None).unwrap();
        let subject = super::Subject::from(&directory.identify(&chain).unwrap());
        ["corp", "*Corp CA*", "*Plain CA*"].map(|anchor| {
            let text = format!(
                "[[role]]\nname = \"r\"\nmatch = {{ identity = \"*\", anchor = \"{anchor}\" }}\npublish = [\"a\"]\n"
            );
            let policy = super::Policy::parse(&text, Path::new("p.toml")).unwrap();
            Rights::of(&subject, policy.rules(), 1, &std::sync::Arc::new(Metrics::default())).is_ok()
        })
    };
    assert_eq!(roles(&corp), [true, false, false]);
    assert_eq!(roles(&plain), [false, false, true]);
}

#[test]
fn what_is_reserved_cannot_be_published_whatever_a_policy_says() {
    let text = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\nspeaks_for = [\"*\"]\npublish = [\"#\", \"control.collector.{name}\"]";
    let policy = super::Policy::parse(text, Path::new("p.toml")).unwrap();
    let id = PeerId::new("site-a", "procmond-1").unwrap();
    let rights = Rights::of(&id, policy.rules(), 1, &std::sync::Arc::new(Metrics::default())).unwrap();
    for collector in ["", "lifecycle"] {
        let mut speaker = rights.speaker(collector).unwrap();
        let mut permit = speaker.permit();
        assert_eq!(speaker.allow(&mut permit, "control.collector.lifecycle"), Err(Denial::Topic));
        assert!(speaker.allow(&mut permit, "control.collector.other").is_ok());
    }
}
