//! The command line, as an operator uses it: a PKI, who is there, who was refused, who may no longer be there.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use daemoneye_gateway::pki::{Authority, Leaf as Profile};
use daemoneye_tests::{
    eventually,
    peer::{Credentials, Session},
    world::{POLICY, TRUST_DOMAIN, World},
};
use serde_json::Value;

use crate::{CLI, world};

/// Runs the command line with both ways to the gateway of `world`.
fn cli(world: &World, args: &[&str]) -> Output {
    let socket = world.path("run/admin.sock");
    let address = world.admin.to_string();
    let place = ["--socket", socket.to_str().expect("test paths are UTF-8"), "--address", &address];
    Command::new(CLI).args(args).args(place).output().expect("the command line can be run")
}

/// What it prints; it must succeed.
fn says(world: &World, args: &[&str]) -> String {
    let output = cli(world, args);
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{args:?}: {out}{err}");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{args:?}: {out}");
    assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "{args:?}: {out:?}");
    out
}

/// Runs `pki`, which needs no gateway.
fn pki(args: &[&str]) -> Output {
    Command::new(CLI).arg("pki").args(args).output().expect("the command line can be run")
}

fn made(args: &[&str]) {
    let output = pki(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A world whose certificates `pki` has made, and the folder that they are in.
fn world_of_pki() -> (World, String) {
    let world = world("");
    let folder = world.path("pki").display().to_string();
    made(&["init", &folder, "--trust-domain", TRUST_DOMAIN]);
    made(&["issue", "server", &folder, "gateway", "--dns", "localhost", "--ip", "127.0.0.1"]);
    made(&["issue", "collector", &folder, "site-a/procmond-1"]);
    for (from, to) in [
        ("root.crt", "tls/anchors.pem"),
        ("servers/gateway.crt", "tls/gateway.crt"),
        ("servers/gateway.key", "tls/gateway.key"),
    ] {
        fs::copy(Path::new(&folder).join(from), world.path(to)).unwrap();
    }
    (world, folder)
}

/// What a collector shows that `pki` has issued.
fn credentials(folder: &str, name: &str) -> Credentials {
    let read = |file: String| fs::read_to_string(Path::new(folder).join(file)).unwrap();
    let own = ["crt", "key"].map(|kind| read(format!("collectors/{name}.{kind}")));
    let [chain, key] = own;
    Credentials { anchors: read("root.crt".to_owned()), own: Some((chain, key)) }
}

async fn connect(world: &World, credentials: &Credentials) -> Option<Session> {
    let channel = credentials.channel(world.address).await.ok()?;
    Session::open(channel, vec![]).await.ok().map(|(session, _)| session)
}

#[tokio::test]
async fn a_token_takes_a_change_over_the_network_and_stands_in_the_audit() {
    let mut world = world("");
    let (tokens, secret) = (world.path("tokens"), world.path("secret"));
    let [file, secret_text] = [&tokens, &secret].map(|path| path.display().to_string());
    let new = |name: &str| {
        let args = ["token", "new", name, "--role", "operator", "--file", &file];
        Command::new(CLI).args(args).output().expect("the command line can be run")
    };
    let made = new("ops");
    assert!(made.status.success(), "{made:?}");
    let printed = String::from_utf8(made.stdout).unwrap();
    let token = printed.lines().next().unwrap();
    assert!(token.starts_with("daemoneye_") && !fs::read_to_string(&tokens).unwrap().contains(token));
    assert!(!new("ops").status.success(), "a name is there once");
    assert!(new("bot").status.success());
    fs::write(&secret, token).unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();

    let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
    let config = config.replace("[admin]\n", &format!("[admin]\ntoken_file = \"{file}\"\n"));
    fs::write(world.path("gateway.toml"), config).unwrap();
    world.start().await;
    let address = world.admin.to_string();
    let ask = |more: &[&str]| {
        let deny = ["deny", "add", "--site", "site-x", "--reason", "lost", "--address", &address];
        Command::new(CLI).args(deny).args(more).output().expect("the command line can be run")
    };
    let without = ask(&[]);
    assert!(!without.status.success() && String::from_utf8_lossy(&without.stderr).contains("--token-file"));
    let with = ask(&["--token-file", &secret_text]);
    assert!(with.status.success(), "{with:?}");
    let list = says(&world, &["deny", "list"]);
    assert!(list.contains("site:site-x") && list.contains("token ops"), "{list}");
}

#[tokio::test]
async fn what_pki_makes_connects_is_shown_and_is_denied_within_a_second() {
    let (mut world, folder) = world_of_pki();
    world.start().await;
    let own = credentials(&folder, "site-a/procmond-1");
    let mut session = connect(&world, &own).await.expect("a certificate of `pki` gets in");

    let shown = || says(&world, &["certs"]);
    eventually("the collector's certificate is shown", || shown().contains("site-a/procmond-1")).await;
    assert!(shown().contains("FORECAST") && shown().contains("29d 23h"), "{}", shown());
    let json: Value = serde_json::from_str(&says_json(&world, &["certs"])).unwrap();
    assert_eq!(json["forecast"]["collectors"]["in_30d"], 1, "{json}");
    for (within, code) in [("14d", 0), ("40d", 3)] {
        let output = cli(&world, &["certs", "--fail-if-expiring", within]);
        assert_eq!(output.status.code(), Some(code), "{within}: {output:?}");
    }

    says(
        &world,
        &["deny", "add", "--identity", "site-a/procmond-1", "--reason", "laptop lost", "--for", "2h"],
    );
    let cut = tokio::time::timeout(Duration::from_secs(1), session.ended()).await;
    assert!(cut.is_ok(), "it was cut within a second of the command's end");
    let list = says(&world, &["deny", "list"]);
    assert!(list.contains("identity:site-a/procmond-1") && list.contains("laptop lost"), "{list}");
    assert!(list.contains("uid "), "who did it is told: {list}");
    assert!(connect(&world, &own).await.is_none(), "who is denied stays out");
    eventually("the refusal is told", || says(&world, &["refusals"]).contains("denied")).await;

    says(&world, &["deny", "remove", "--identity", "site-a/procmond-1"]);
    assert!(connect(&world, &own).await.is_some(), "who is denied no more gets in");
    let again = cli(&world, &["deny", "remove", "--identity", "site-a/procmond-1"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("404"), "{again:?}");

    let audit = world.path("state/audit.jsonl");
    let audit = audit.to_str().unwrap();
    assert!(says(&world, &["audit", "verify", audit]).starts_with("whole: 2 entries"));
    let text = fs::read_to_string(audit).unwrap();
    fs::write(world.path("edited.jsonl"), text.replace("laptop lost", "laptop left")).unwrap();
    let edited = cli(&world, &["audit", "verify", world.path("edited.jsonl").to_str().unwrap()]);
    assert!(
        !edited.status.success() && String::from_utf8_lossy(&edited.stderr).contains("line 1"),
        "{edited:?}"
    );
}

fn says_json(world: &World, args: &[&str]) -> String {
    let output = cli(world, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_reload_is_told_part_by_part_and_what_is_wrong_stays_out() {
    let (mut world, folder) = world_of_pki();
    world.start().await;
    let same = says(&world, &["reload"]);
    assert_eq!(same.matches("unchanged").count(), 2, "{same}");
    made(&["renew", &folder, "gateway"]);
    for kind in ["crt", "key"] {
        let from = Path::new(&folder).join(format!("servers/gateway.{kind}"));
        fs::copy(from, world.path(&format!("tls/gateway.{kind}"))).unwrap();
    }
    let changed = says(&world, &["reload"]);
    // The gateway may have seen the files before it was told to look.
    assert!(changed.contains("chain, key") || changed.contains("unchanged"), "{changed}");
    fs::write(world.path("policy.toml"), "[[role]]\nname = 1\n").unwrap();
    let refused = cli(&world, &["reload"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stdout);
    assert!(text.contains("refused") && text.contains("policy.toml"), "{text}");
}

/// How often the audit has `action`.
fn recorded(world: &World, action: &str) -> usize {
    let text = fs::read_to_string(world.path("state/audit.jsonl")).unwrap_or_default();
    text.matches(&format!("\"{action}\"")).count()
}

/// How the command ends, and what it prints.
fn ends(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = cli(world, args);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn a_policy_is_explained_tried_shadowed_held_back_and_forced() {
    let mut world = world("");
    world.start().await;
    let mut leaver = connect(&world, &world.credentials("site-a", "netmond-1")).await.unwrap();
    let _stayer = connect(&world, &world.credentials("site-a", "procmond-1")).await.unwrap();
    let (topic, who) = ("events.process.start", "site-a/netmond-1");
    let explained = says(&world, &["policy", "explain", who, "publish", topic]);
    assert!(explained.starts_with("allowed: ") && explained.contains("line "), "{explained}");
    let (code, denied) = ends(&world, &["policy", "explain", who, "publish", "control.nobody.may"]);
    assert!(code == Some(3) && denied.starts_with("denied: "), "{denied}");

    let next = world.path("next.toml");
    fs::write(&next, POLICY.replace("\"*-*\"", "\"procmond-*\"")).unwrap();
    let file = next.to_str().unwrap();
    let tried = says(&world, &["policy", "try", file]);
    assert!(tried.starts_with("would cut 1 of 2 connected") && tried.contains(who), "{tried}");
    assert!(says(&world, &["policy", "shadow", "show"]).starts_with("no policy"));
    says(&world, &["policy", "shadow", file]);
    let shown = || says(&world, &["policy", "shadow", "show"]);
    eventually("the shadow tells who could not connect", || shown().contains(who)).await;
    assert!(shown().contains("deny"), "{}", shown());
    says(&world, &["policy", "shadow", "off"]);
    assert!(shown().starts_with("no policy"));

    fs::copy(&next, world.path("policy.toml")).unwrap();
    let (code, held) = ends(&world, &["policy", "apply"]);
    assert!(code == Some(1) && held.contains("would cut 1 of 2"), "{held}");
    assert_eq!((recorded(&world, "policy_applied"), recorded(&world, "reload_forced")), (0, 0));
    let applied = says(&world, &["policy", "apply", "--force"]);
    assert!(applied.contains("changed") && applied.contains("generation 2"), "{applied}");
    let cut = tokio::time::timeout(Duration::from_secs(1), leaver.ended()).await;
    assert!(cut.is_ok(), "it was cut within a second of the command's end");
    eventually("it is in the audit", || recorded(&world, "policy_applied") > 0).await;
    // Whatever is written next comes after a second entry, if there were one.
    says(&world, &["deny", "add", "--identity", "site-a/x", "--reason", "later"]);
    assert_eq!((recorded(&world, "policy_applied"), recorded(&world, "reload_forced")), (1, 1));
    assert_eq!(world.json("/api/v1/policy")["history"][0]["cut"], 1);
}

#[tokio::test]
async fn anchors_that_cut_too_many_wait_for_force_and_are_recorded_once() {
    let mut world = world("");
    let other = Authority::root("Another root").unwrap();
    let anchors = fs::read_to_string(world.path("tls/anchors.pem")).unwrap();
    fs::write(world.path("tls/anchors.pem"), [anchors.as_str(), other.root_pem()].concat()).unwrap();
    world.start().await;
    let of_other = Profile::collector(TRUST_DOMAIN, "site-a", "procmond-2");
    let of_other = world.credentials_of(&other, &of_other);
    let mut leaver = connect(&world, &of_other).await.unwrap();
    let _stayer = connect(&world, &world.credentials("site-a", "procmond-1")).await.unwrap();
    fs::write(world.path("tls/anchors.pem"), anchors).unwrap();
    let (code, held) = ends(&world, &["reload"]);
    assert!(code == Some(1) && held.contains("would cut 1 of 2 connected"), "{held}");
    let health = || world.json("/api/v1/health").to_string();
    eventually("health says so", || health().contains("degraded") && health().contains("would cut 1 of 2"))
        .await;
    assert!(connect(&world, &of_other).await.is_some(), "the old anchors are in force");
    let forced = says(&world, &["reload", "--force"]);
    assert!(forced.contains("anchors"), "{forced}");
    let cut = tokio::time::timeout(Duration::from_secs(1), leaver.ended()).await;
    assert!(cut.is_ok(), "it was cut within a second of the command's end");
    assert!(connect(&world, &of_other).await.is_none());
    eventually("it is in the audit", || recorded(&world, "material_reloaded") > 0).await;
    says(&world, &["deny", "add", "--identity", "site-a/x", "--reason", "later"]);
    assert_eq!((recorded(&world, "material_reloaded"), recorded(&world, "reload_forced")), (1, 1));
    let text = fs::read_to_string(world.path("state/audit.jsonl")).unwrap();
    let entry = text.lines().find(|line| line.contains("material_reloaded")).unwrap();
    assert!(entry.contains("uid "), "who did it is told: {entry}");
    eventually("health recovers", || !health().contains("would cut")).await;
}

#[tokio::test]
async fn a_hostile_certificate_comes_out_escaped_everywhere() {
    let mut world = world("");
    world.start().await;
    let name = "\u{1b}]0;owned\u{7}\u{202e}<script>alert(1)</script>";
    let hostile = Profile::client(name).dns("nobody.example");
    let refused = connect(&world, &world.credentials_of(&world.authority, &hostile)).await;
    assert!(refused.is_none(), "a certificate without an identity stays out");
    // `says` holds every line against control characters and the width of a terminal.
    eventually("the refusal is told", || says(&world, &["refusals"]).contains("no_identity")).await;
    let text = says(&world, &["refusals"]);
    assert!(text.contains("\\u{1b}]0;owned\\u{7}") && text.contains("\\u{202e}"), "{text}");
    assert!(text.contains("hint") && text.contains("SPIFFE"), "{text}");
    assert!(text.contains("possession was proven"), "{text}");
    // The API tells it as it is, as JSON that a browser takes for nothing else; the page makes text of it, never markup.
    let (_, body) = world.get("/api/v1/refusals").unwrap();
    let json: Value = serde_json::from_str(&body).unwrap();
    let subject = json.pointer("/recent/0/chain/0/subject").and_then(Value::as_str).unwrap();
    assert!(subject.contains("<script>"), "{subject}");
    let (_, script) = world.get("/ui.js").unwrap();
    assert!(script.contains("textContent") && !script.contains("innerHTML"), "{script}");
}

#[test]
fn what_cannot_be_reached_is_said_with_what_was_tried() {
    let free = daemoneye_tests::world::free().to_string();
    let output = Command::new(CLI).args(["health", "--address", &free]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&free) && told.contains("refused"), "{told}");
    let change = Command::new(CLI).args(["reload", "--socket", "/nonexistent/admin.sock"]).output().unwrap();
    let told = String::from_utf8_lossy(&change.stderr).into_owned();
    assert!(told.contains("/nonexistent/admin.sock") && told.contains("admin.socket_path"), "{told}");
    let usage = Command::new(CLI).args(["deny", "add", "--reason", "x"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn pki_overwrites_nothing_and_says_what_it_is_not() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("pki").display().to_string();
    made(&["init", &folder]);
    let again = pki(&["init", &folder]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"), "{again:?}");
    made(&["issue", "collector", &folder, "site-a/procmond-1"]);
    made(&["revoke", &folder, "site-a/procmond-1", "--reason", "key-compromise"]);
    let list = String::from_utf8(pki(&["list", &folder]).stdout).unwrap();
    assert!(list.contains("key-compromise"), "{list}");
    let help = String::from_utf8(pki(&["--help"]).stdout).unwrap();
    assert!(help.contains("no substitute for a real CA"), "{help}");
}
