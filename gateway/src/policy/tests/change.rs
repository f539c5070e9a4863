//! A policy that takes another's place: tried, held, applied, shadowed.

use std::{fs, path::Path};

use daemoneye_bridge::topic::Pattern;

use crate::{
    identity::{PeerId, VerifiedPeer},
    policy::{
        Action, Applied, Denial, Force, Judge, Metrics, Policy, Rights,
        command::{Asked, Candidate, Desk},
    },
};

fn policy(text: &str) -> Policy {
    Policy::parse(text, Path::new("p.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn role(name: &str, identity: &str, rest: &str) -> String {
    format!("[[role]]\nname = \"{name}\"\nmatch = {{ identity = \"{identity}\" }}\n{rest}\n")
}

fn judge(text: &str) -> Judge {
    Judge::new(policy(text), Metrics::default())
}

fn arrive(judge: &Judge, name: &str) -> Rights {
    let id = PeerId::new("site-a", name).unwrap();
    judge.rights(&VerifiedPeer::assume(id)).unwrap()
}

const ALL: &str = "publish = [\"events.#\"]\nsubscribe = [\"control.#\"]";

#[test]
fn a_policy_is_tried_against_those_who_are_connected_and_names_who_would_be_cut() {
    let judge = judge(&role("all", "*", ALL));
    let mut fleet: Vec<Rights> = (0..212).map(|number| arrive(&judge, &format!("c-{number}"))).collect();
    let extra = arrive(&judge, "c-0");
    // Three by name: one of them has two sessions, and is still one.
    let others: Vec<String> = (3..212).map(|number| format!("\"c-{number}\"")).collect();
    let new = format!(
        "[[role]]\nname = \"all\"\nmatch = {{ identity = [{}] }}\npublish = [\"events.process.#\"]\n\
         subscribe = [\"control.#\"]",
        others.join(", ")
    );
    let impact = judge.trial(&policy(&new));
    assert_eq!(impact.to_string(), "would cut 3 of 212: site-a/c-0, site-a/c-1, site-a/c-2");
    assert_eq!((impact.changed, impact.changes.len()), (209, 100));
    assert_eq!(impact.changes[0].loses, ["publish events.# (such as events)"]);
    assert!(!impact.needs_force());
    assert!(fleet.iter().all(|rights| judge.is_current(rights)), "a trial changes nothing");
    drop(extra);
    // Who has gone is not counted.
    drop(fleet.remove(0));
    assert_eq!(judge.trial(&policy(&new)).to_string(), "would cut 2 of 211: site-a/c-1, site-a/c-2");
    let applied = judge.apply(policy(&new), "an operator", Force::Ask).unwrap();
    assert!(matches!(applied, Applied::Changed { generation: 2, impact } if impact.cut.len() == 2));
    assert_eq!(judge.renew(&fleet[0]).unwrap_err(), Denial::Stranger);
    assert!(judge.renew(&fleet[2]).is_ok());
    let view = judge.view().borrow().clone();
    assert_eq!((view.generation, view.history[0].by.as_str(), view.history[0].cut), (2, "an operator", 2));
    assert_eq!(view.history.len(), 2);
}

#[test]
fn a_policy_that_would_cut_more_than_a_fifth_waits_for_a_word() {
    let judge = judge(&role("all", "*", ALL));
    let fleet: Vec<Rights> = (0..10).map(|number| arrive(&judge, &format!("c-{number}"))).collect();
    let spare = |cut: usize| {
        let kept: Vec<String> =
            (cut..10).map(|number| role(&format!("r{number}"), &format!("c-{number}"), ALL)).collect();
        policy(&kept.concat())
    };
    let held = judge.apply(spare(3), "x", Force::Ask).unwrap_err();
    assert!(
        held.to_string().contains("would cut 3 of 10: site-a/c-0, site-a/c-1, site-a/c-2, which"),
        "{held}"
    );
    assert!(judge.renew(&fleet[0]).is_ok() && judge.is_current(&fleet[0]));
    let shown = judge.view().borrow().refused.clone().unwrap();
    assert!(shown.cause.contains("apply it with force"), "{}", shown.cause);
    // A fifth is not more than a fifth.
    assert!(matches!(judge.apply(spare(2), "x", Force::Ask), Ok(Applied::Changed { .. })));
    assert!(judge.view().borrow().refused.is_none());
    assert!(judge.apply(spare(9), "x", Force::Ask).is_err());
    assert!(matches!(judge.apply(spare(9), "x", Force::Insist), Ok(Applied::Changed { generation: 3, .. })));
    assert!(judge.renew(&fleet[8]).is_err() && judge.renew(&fleet[9]).is_ok());
}

#[test]
fn a_policy_that_says_the_same_changes_nothing() {
    let text = role("all", "*", ALL);
    let judge = judge(&text);
    let rights = arrive(&judge, "c");
    assert_eq!(judge.apply(policy(&text), "x", Force::Ask), Ok(Applied::Unchanged { generation: 1 }));
    assert!(judge.is_current(&rights));
}

#[test]
fn a_subscription_that_would_end_is_a_cut_too() {
    let judge = judge(&role("all", "*", ALL));
    let listener = arrive(&judge, "c-0");
    drop(listener.subscribe(vec![Pattern::parse("control.health.#").unwrap()]).unwrap().spend());
    let _others: Vec<Rights> = (1..9).map(|number| arrive(&judge, &format!("c-{number}"))).collect();
    let new = policy(&role("all", "*", "publish = [\"#\"]\nsubscribe = [\"control.health\"]"));
    let impact = judge.trial(&new);
    assert_eq!(impact.to_string(), "would cut 1 of 9: site-a/c-0");
    assert!(impact.cut[0].reason.contains("may no longer hear `control.health.#`"));
    // It stays known as one that listens when its rights are renewed.
    let renewed = judge.renew(&listener).unwrap();
    drop(listener);
    assert_eq!(judge.trial(&new).cut.len(), 1);
    drop(renewed);
    assert_eq!(judge.trial(&new).to_string(), "would cut 0 of 8");
}

#[test]
fn a_shadow_counts_what_it_would_decide_otherwise_and_enforces_nothing() {
    let judge = judge(&role(
        "all",
        "*",
        "publish = [\"a.#\"]\nsubscribe = [\"a\"]\nspeaks_for = [\"y\"]\ncall = [\"engine\"]",
    ));
    let before = arrive(&judge, "x");
    assert!(judge.shadow().is_none());
    judge.set_shadow(Some(policy(&role("all", "x", "publish = [\"a.b\", \"c\"]"))), "an operator");
    assert!(!judge.is_current(&before), "rights are taken anew, to be judged twice");
    let rights = judge.renew(&before).unwrap();
    let mut speaker = rights.speaker("").unwrap();
    let mut permit = speaker.permit();
    for _ in 0..3 {
        assert!(speaker.allow(&mut permit, "a.b").is_ok());
        assert!(speaker.allow(&mut permit, "a.c").is_ok(), "not enforced");
        assert!(speaker.allow(&mut permit, "c").is_err(), "not enforced");
        assert!(speaker.allow(&mut permit, "d").is_err());
    }
    assert!(rights.speaker("y").is_ok());
    assert!(rights.subscribe(vec![Pattern::parse("a").unwrap()]).is_ok());
    assert!(rights.call("", "engine").is_ok());
    let _other = arrive(&judge, "z");
    let view = judge.shadow().unwrap();
    let mut rows: Vec<_> = view
        .differences
        .iter()
        .map(|row| (row.identity.as_str(), row.verb, row.object.as_str(), row.shadow, row.count))
        .collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        [
            ("site-a/x", "call", "engine", "deny", 1),
            ("site-a/x", "publish", "a.c", "deny", 3),
            ("site-a/x", "publish", "c", "allow", 3),
            ("site-a/x", "speak", "y", "deny", 1),
            ("site-a/x", "subscribe", "a", "deny", 1),
            ("site-a/z", "connect", "", "deny", 1),
        ]
    );
    assert_eq!((view.by.as_str(), view.others), ("an operator", 0));
    judge.set_shadow(None, "an operator");
    assert!(judge.shadow().is_none() && judge.view().borrow().generation == 1);
}

#[test]
fn a_shadow_remembers_no_more_than_it_may() {
    let judge = judge(&role("all", "*", "publish = [\"#\"]"));
    judge.set_shadow(Some(policy(&role("all", "*", "publish = [\"never\"]"))), "x");
    let mut speaker = arrive(&judge, "x").speaker("").unwrap();
    for number in 0..1500 {
        let mut permit = speaker.permit();
        assert!(speaker.allow(&mut permit, &format!("t.{number}")).is_ok());
    }
    let view = judge.shadow().unwrap();
    assert_eq!((view.differences.len(), view.others), (1024, 1500 - 1024));
}

#[test]
fn the_desk_tries_applies_compares_and_explains() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    let old = role("all", "*", ALL);
    fs::write(&file, &old).unwrap();
    let judge = Judge::new(Policy::load(&file).unwrap(), Metrics::default());
    let desk = Desk::new(judge.clone(), file.clone());
    let _here: Vec<Rights> = ["c-1", "c-2"].map(|name| arrive(&judge, name)).into();
    let asked = Asked {
        identity: "site-a/c-1",
        collector: "",
        action: Action::Publish,
        object: "events.process.start",
    };
    let told = desk.explain(&asked).unwrap();
    assert_eq!((told.allowed, told.rules[0].line, told.rules[0].rule.as_str()), (true, 4, "events.#"));
    assert!(desk.explain(&Asked { identity: "c-1", ..asked }).is_err());

    let new = role("all", "c-1", "publish = [\"events.process.#\", \"control.x\"]");
    fs::write(&file, &new).unwrap();
    assert_eq!(desk.dry_run(&Candidate::File).unwrap().to_string(), "would cut 1 of 2: site-a/c-2");
    let changes = desk.diff(&Candidate::Text(new), &[]).unwrap();
    let [first, second] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(first.gains, ["publish control.x"]);
    assert_eq!(first.loses, ["publish events.# (such as events)", "subscribe control.#"]);
    assert!(second.cut && second.to_string().contains("would be cut"));
    let named = desk.diff(&Candidate::File, &["site-b/c-1".to_owned()]).unwrap();
    assert_eq!(named.len(), 1);
    assert!(desk.diff(&Candidate::File, &["nobody".to_owned()]).is_err());

    assert!(desk.apply("me", Force::Ask).is_err());
    assert!(desk.status().policy.refused.is_some());
    assert!(matches!(desk.apply("me", Force::Insist), Ok(Applied::Changed { generation: 2, .. })));
    let status = serde_json::to_value(desk.status()).unwrap();
    assert_eq!((&status["generation"], &status["history"][0]["by"]), (&2.into(), &"me".into()));

    desk.shadow(&Candidate::Text(old), "me").unwrap();
    assert!(desk.shadow(&Candidate::Text("x".to_owned()), "me").is_err());
    assert!(desk.status().shadow.is_some(), "the last one stays");
    assert!(desk.end_shadow("me").is_some() && desk.end_shadow("me").is_none());

    fs::write(&file, "nonsense").unwrap();
    assert!(desk.apply("me", Force::Insist).unwrap_err().to_string().contains("policy.toml, line 1"));
    assert!(desk.status().policy.refused.unwrap().cause.contains("line 1"));
}
