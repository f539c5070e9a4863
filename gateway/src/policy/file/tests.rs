//! What a policy file may say, and how it is complained of.

use super::*;

fn complaint(text: &str) -> String {
    parse(text, Path::new("p.toml")).unwrap_err().to_string()
}

fn role(rest: &str) -> String {
    format!("[[role]]\nname = \"r\"\nmatch = {{ identity = \"*\" }}\npublish = [\"events.#\"]\n{rest}\n")
}

#[test]
fn a_policy_without_an_allowing_role_is_refused() {
    assert!(complaint("").contains("nobody could do anything"));
    let only_deny = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\" }\ndeny = { publish = [\"#\"] }";
    assert!(complaint(only_deny).contains("nobody could do anything"));
    assert!(parse(&role(""), Path::new("p.toml")).is_ok());
}

#[test]
fn a_complaint_names_file_role_and_key() {
    for (rest, key, word) in [
        ("subscribe = [\"a.*\"]", "subscribe", "'*'"),
        ("publsh = []", "role", "publsh"),
        ("events_per_second = 0", "events_per_second", "1 to"),
        ("events_per_second = \"x\"", "events_per_second", "whole number"),
        ("bytes_per_second = \"4 Gallons\"", "bytes_per_second", ""),
        ("max_message = \"2 MiB\"", "max_message", "1 MiB"),
        ("connections = -1", "connections", "1 to"),
        ("same_identity = \"newest-wins\"", "same_identity", "\"allow\" or \"newest\""),
        ("same_identity = 1", "same_identity", "\"allow\" or \"newest\""),
        ("json = 3", "json", "true, false"),
        ("deny = { hear = [] }", "deny", "hear"),
        ("speaks_for = [\"A\"]", "speaks_for", "'A'"),
        ("deny = []", "deny", "table"),
        ("speaks_for = [1]", "speaks_for", "list of texts"),
        ("use = \"agent\"", "use", "procmond, netmond, fsmond, perfmond"),
        ("call = [\"\"]", "call", "empty"),
        ("call = [\"{id}\"]", "call", "{name}"),
        ("deny = { call = [\"a\\u0000\"] }", "call", "cannot stand"),
        ("deny = { publish = [\"a..b\"] }", "publish", "empty"),
    ] {
        let complaint = complaint(&role(rest));
        assert!(complaint.starts_with("policy p.toml, line 5: role `r`, key `"), "{complaint}");
        assert!(complaint.contains(&format!("key `{key}`")), "{complaint}");
        assert!(complaint.contains(word), "{complaint}");
        assert!(!complaint.contains('\n'), "{complaint}");
    }
}

#[test]
fn only_a_regular_file_of_bounded_length_is_read() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(text(folder.path()), Err(PolicyError::NoFile { .. })));
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Nobody ever writes to it.
    assert!(matches!(text(&pipe), Err(PolicyError::NoFile { .. })));
    // A device says that it is empty, and never ends.
    assert!(matches!(text(Path::new("/dev/zero")), Err(PolicyError::NoFile { .. })));
    let long = folder.path().join("long");
    File::create(&long).unwrap().set_len(LONGEST_FILE + 1).unwrap();
    assert!(matches!(text(&long), Err(PolicyError::TooLong { .. })));
}

#[test]
fn a_role_must_say_whom_it_means() {
    let nobody = "[[role]]\nname = \"r\"\npublish = [\"#\"]";
    assert!(complaint(nobody).contains("key `match`"));
    let nobody = "[[role]]\nname = \"r\"\nmatch = { site = \"a\" }\npublish = [\"#\"]";
    assert!(complaint(nobody).contains("says nobody"));
    for whom in ["identity = \"*\", anchor = []", "identity = \"*\", spki = []", "identity = []"] {
        let nobody = format!("[[role]]\nname = \"r\"\nmatch = {{ {whom} }}\npublish = [\"#\"]");
        assert!(complaint(&nobody).contains("says nobody"), "{whom}");
    }
    let pin = "[[role]]\nname = \"r\"\nmatch = { identity = \"*\", spki = \"00\" }\npublish = [\"#\"]";
    assert!(complaint(pin).contains("key `spki`: `00` is not the SHA-256"));
    assert!(complaint("[[role]]\npublish = [\"#\"]").contains("role `number 1`, key `name`"));
    assert!(complaint(&(role("") + &role(""))).contains("another role has this name"));
}

#[test]
fn what_is_no_policy_is_refused_in_one_line() {
    assert!(complaint("[[rule]]\nname = \"r\"").contains("unknown key `rule`"));
    assert!(complaint("role = 3").contains("unknown key `role`"));
    let syntax = complaint("\n\n[[role]\n");
    assert!(syntax.starts_with("policy p.toml, line 3:"), "{syntax}");
}

#[test]
fn a_built_in_role_is_taken_over_by_name() {
    let text = "[[role]]\nname = \"p\"\n# Ours.\nuse = \"procmond\"\nevents_per_second = 7\n\
                [[role]]\nname = \"q\"\nuse = [\"netmond\", \"fsmond\"]\nmatch = { identity = \"x\" }\njson = false";
    let contents = parse(text, Path::new("p.toml")).unwrap();
    let [p, q] = contents.roles.as_slice() else { panic!("two roles") };
    assert!(p.matching.identities.iter().any(|glob| glob.matches("procmond-3")));
    assert_eq!(p.bounds.events_per_second.unwrap().get(), 7);
    assert_eq!(p.bounds.bytes_per_second.unwrap().get(), 16 << 20);
    let rule = p.publish.iter().find(|entry| *entry.text == *"events.process.#").unwrap();
    assert_eq!((rule.line, rule.builtin), (4, Some("procmond")));
    assert!(!p.json.is_empty() && q.json.is_empty());
    assert!(q.matching.identities.iter().all(|glob| !glob.matches("netmond")));
    let texts: Vec<_> = q.publish.iter().map(|entry| &*entry.text).collect();
    assert!(texts.contains(&"events.network.#") && texts.contains(&"events.filesystem.#"), "{texts:?}");
}

#[test]
fn the_signal_to_begin_cannot_be_allowed() {
    let complaint = complaint(&role("").replace("events.#", "control.collector.lifecycle"));
    assert!(complaint.contains("line 4: role `r`, key `publish`: `control.collector.lifecycle` is reserved"));
}

#[test]
fn a_downlink_is_complained_of_by_its_number() {
    let with = |rest: &str| complaint(&format!("{}[[downlink]]\nclient = \"engine\"\n{rest}", role("")));
    for (rest, key, word) in [
        ("call = [\"site-a\"]", "call", "site-a/procmond-*"),
        ("send = [\"A/b\"]", "send", "not a site and a name"),
        ("", "call", "allows nothing"),
        ("call = [\"*/*\"]\nuid = \"root\"", "uid", "number of a user"),
        ("call = [\"*/*\"]\nuid = []", "uid", "number of a user"),
        ("call = [\"*/*\"]\nwhat = 1", "downlink", "what"),
    ] {
        let complaint = with(rest);
        assert!(complaint.contains(&format!("downlink `number 1`, key `{key}`")), "{complaint}");
        assert!(complaint.contains(word), "{complaint}");
    }
    let nobody = complaint(&format!("{}[[downlink]]\ncall = [\"*/*\"]", role("")));
    assert!(nobody.contains("key `client`: is missing"), "{nobody}");
}
