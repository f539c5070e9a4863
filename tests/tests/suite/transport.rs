//! `daemoneye-cli transport`: every subcommand, against real gateways, and what it says when there is none.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use daemoneye_gateway::pki::Authority;
use daemoneye_tests::{
    eventually,
    peer::{Credentials, Session},
    world::{World, free},
};
use serde_json::Value;

use crate::{CLI, world};

fn transport(args: &[&str]) -> Output {
    Command::new(CLI).arg("transport").args(args).output().expect("the command line can be run")
}

/// Exit code, standard output and standard error.
fn ends(args: &[&str]) -> (Option<i32>, String, String) {
    let output = transport(args);
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), out, err)
}

fn says(args: &[&str]) -> String {
    let (code, out, err) = ends(args);
    assert_eq!(code, Some(0), "{args:?}: {out}{err}");
    let fits = |line: &str| line.chars().count() <= 100;
    assert!(args.contains(&"--json") || out.lines().all(fits), "{args:?}: {out}");
    out
}

fn tells(args: &[&str]) -> Value {
    let out = says(&[args, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
}

fn number(value: &Value, at: &str) -> f64 {
    value.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {at} in {value}"))
}

/// The report of a trial in which everything arrived, once.
fn whole(args: &[&str], proof: &str) -> Value {
    let report = tells(args);
    assert_eq!((&report["status"], &report["proof"]), (&"healthy".into(), &proof.into()), "{report}");
    assert!((number(&report, "/success_percent") - 100.0).abs() < f64::EPSILON, "{report}");
    assert_eq!(
        (report["arrived"].as_u64(), report["duplicates"].as_u64()),
        (report["sent"].as_u64(), Some(0))
    );
    for time in ["set_up", "latency"] {
        let at = |quantile: &str| number(&report, &format!("/{time}/{quantile}_ms"));
        assert!(at("p50") <= at("p90") && at("p90") <= at("p99") && at("p99") <= at("max"), "{report}");
    }
    report
}

#[test]
fn every_transport_that_needs_nobody_carries_everything_once() {
    for kind in ["in-process", "unix-socket", "tcp-mtls"] {
        let args = ["test", "--type", kind, "--self", "--messages", "3000", "--connections", "2"];
        let report = whole(&args, "heard");
        assert_eq!(report["transport"], kind);
        assert_eq!((report["sent"].as_u64(), report["connections"].as_u64()), (Some(3300), Some(2)));
        assert!(
            number(&report, "/messages_per_second") > 0.0 && number(&report, "/megabytes_per_second") > 0.0
        );
        let text = says(&args);
        assert!(text.contains("success       100.000 %") && text.contains(" msg/s"), "{text}");
    }
}

#[test]
fn an_analysis_shows_the_spread_and_what_dominates_it() {
    for kind in ["in-process", "unix-socket", "tcp-mtls"] {
        let args = ["analyze", "--type", kind, "--self", "--messages", "1000", "--size", "1024"];
        let report = whole(&args, "heard");
        let counted: u64 =
            report["histogram"].as_array().unwrap().iter().map(|bar| bar["count"].as_u64().unwrap()).sum();
        assert_eq!(counted, 100, "every message sent alone is in a bar: {report}");
        let stages = report["stages"].as_array().unwrap();
        let dominant = report["dominated_by"].as_str().unwrap();
        assert!(
            stages.iter().any(|stage| stage["name"] == dominant && stage["per"] == "message"),
            "{report}"
        );
        let text = says(&args);
        assert!(text.contains("dominated by: ") && text.contains('#') && text.contains(" µs"), "{text}");
    }
}

/// What a collector of the world shows, as files: certificate, key, authorities.
fn files(world: &World, credentials: &Credentials, stem: &str) -> [String; 3] {
    use std::os::unix::fs::OpenOptionsExt;
    let (chain, key) = credentials.own.clone().expect("it has a certificate");
    let write = |name: &str, text: &str| {
        use std::io::Write;
        let path: PathBuf = world.path(&format!("{stem}-{name}"));
        let mut file =
            fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path.display().to_string()
    };
    [write("cert.pem", &chain), write("key.pem", &key), write("ca.pem", &credentials.anchors)]
}

const DISCARD: &str = "[[bus.route]]\npattern = \"events.#\"\nunheard = \"discard\"\n";

#[tokio::test]
async fn a_running_gateway_is_found_by_its_configuration_and_tried() {
    let mut world = world(DISCARD);
    world.start().await;
    let config = world.path("gateway.toml").display().to_string();
    let report =
        whole(&["test", "--type", "unix-socket", "--config", &config, "--messages", "2000"], "heard");
    assert_eq!(report["place"], world.socket().display().to_string());
    let by_name = world.socket().display().to_string();
    whole(&["test", "--type", "unix-socket", "--socket", &by_name, "--messages", "100"], "heard");

    let [cert, key, ca] = files(&world, &world.credentials("site-a", "procmond-1"), "ours");
    let own = ["--cert", &cert, "--key", &key, "--ca", &ca, "--config", &config];
    let pinged = whole(&[&["test", "--type", "tcp-mtls", "--messages", "500"], &own[..]].concat(), "pinged");
    assert_eq!(pinged["place"], world.address.to_string());
    let publish = ["test", "--type", "tcp-mtls", "--topic", "events.process.start", "--messages", "2000"];
    whole(&[&publish, &own[..], &["--connections", "2"]].concat(), "acknowledged");

    let (code, _, error) =
        ends(&[&["test", "--type", "tcp-mtls", "--topic", "alarms.all"], &own[..]].concat());
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("alarms.all") && error.contains("site-a/procmond-1"), "{error}");
}

/// The health of one transport.
fn health(status: &Value, kind: &str) -> Value {
    let all = status["transports"].as_array().expect("transports are listed");
    all.iter().find(|each| each["transport"] == kind).expect("each is listed").clone()
}

#[tokio::test]
async fn the_status_of_each_transport_follows_what_it_carries() {
    let mut world = world(DISCARD);
    world.start().await;
    let config = world.path("gateway.toml").display().to_string();
    let status = || tells(&["status", "--config", &config]);
    let before = status();
    for kind in ["in-process", "unix-socket", "tcp-mtls"] {
        let health = health(&before, kind);
        assert_eq!((&health["enabled"], &health["status"]), (&true.into(), &"healthy".into()), "{health}");
        for key in ["connection_count", "message_rate", "error_rate"] {
            assert!(health[key].is_number(), "{key}: {health}");
        }
        assert!(health["last_error"].is_null(), "{health}");
    }
    let pipe = health(&before, "named-pipe");
    assert_eq!(pipe["enabled"], false);
    assert!(pipe["cause"].as_str().unwrap().contains("not available on this platform"), "{pipe}");
    let text = says(&["status", "--config", &config]);
    assert!(text.contains("unix-socket") && text.contains("named-pipe: not available"), "{text}");

    whole(&["test", "--type", "unix-socket", "--config", &config, "--messages", "1000"], "heard");
    let (session, _) = Session::open(
        world.credentials("site-a", "procmond-1").channel(world.address).await.unwrap(),
        vec![],
    )
    .await
    .unwrap();
    eventually("the door and the session show", || {
        let status = status();
        let door = health(&status, "unix-socket");
        let gone = door["totals"]["connections_closed"].as_u64() == Some(3);
        let passed = door["totals"]["messages_received"].as_u64() >= Some(1100)
            && door["totals"]["messages_sent"].as_u64() >= Some(1100)
            && door["totals"]["latency_count"].as_u64() > Some(0)
            && door["message_rate"].as_f64() > Some(0.0)
            && door["average_latency_ms"].as_f64() > Some(0.0);
        gone && passed && health(&status, "tcp-mtls")["connection_count"] == 1
    })
    .await;
    drop(session);
    assert!(
        world.metric(
            "daemoneye_gateway_transport_messages_total{transport=\"unix-socket\",direction=\"sent\"}"
        ) >= 1100.0
    );
    let (code, out, error) =
        ends(&["monitor", "--config", &config, "--duration", "1s", "--interval", "250ms", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["transport"] == kind).count();
    assert!(of("tcp-mtls") >= 2 && of("tcp-mtls") == of("unix-socket") && of("named-pipe") == 0, "{out}");
    // A time limit is for each look, not for all of them.
    let table = says(&[
        "monitor",
        "--config",
        &config,
        "--timeout",
        "1s",
        "--duration",
        "1500ms",
        "--interval",
        "100ms",
    ]);
    assert!(table.contains("CONNECTIONS") && table.contains("unix-socket"), "{table}");
}

#[tokio::test]
async fn a_refused_certificate_is_told_at_both_ends() {
    let mut world = world("");
    world.start().await;
    let stranger = Authority::root("Nobody's root").unwrap();
    let profile = daemoneye_gateway::pki::Leaf::collector("test.daemoneye.test", "site-a", "procmond-1");
    let [cert, key, ca] = files(&world, &world.credentials_of(&stranger, &profile), "theirs");
    let at = world.address.to_string();
    let args = ["test", "--type", "tcp-mtls", "--address", &at, "--cert", &cert, "--key", &key, "--ca", &ca];
    let (code, out, error) = ends(&args);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains(&at) && error.contains("refused this end's certificate"), "{error}");
    let config = world.path("gateway.toml").display().to_string();
    let refused = || health(&tells(&["status", "--config", &config]), "tcp-mtls");
    eventually("the refusal shows, and is no fault of the transport", || {
        let health = refused();
        let cause = health["last_error"]["cause"].as_str().unwrap_or_default().to_owned();
        health["totals"]["connections_refused"] == 1
            && health["status"] == "healthy"
            && cause.contains("refused")
    })
    .await;
}

#[test]
fn who_cannot_be_reached_is_named_with_a_remedy() {
    let nowhere = free().to_string();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no.sock").display().to_string();
    let config = folder.path().join("gateway.toml");
    fs::write(&config, format!("[admin]\nbind_address = \"{nowhere}\"\nsocket_path = \"{missing}\"\n"))
        .unwrap();
    let config = config.display().to_string();
    let plain = folder.path().join("plain.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&plain).unwrap();
    let plain = plain.display().to_string();
    for (args, named) in [
        (&["status", "--config", &config][..], [&nowhere, &missing, "--config"]),
        (
            &["monitor", "--config", &config, "--duration", "1s"],
            [&nowhere, &missing, "is the gateway running"],
        ),
        (&["test", "--type", "unix-socket", "--socket", &missing], [&missing, "No such file", "socket_path"]),
        (
            &["test", "--type", "unix-socket", "--socket", &plain, "--timeout", "1s"],
            [&plain, "unix_socket.socket_path", "allowed_uids"],
        ),
        (&["test", "--type", "tcp-mtls"], ["--cert", "--ca", "--self"]),
        (&["test", "--type", "named-pipe"], ["not available on this platform", "Windows", "unix-socket"]),
        (
            &["status", "--config", "/nonexistent/gateway.toml"],
            ["/nonexistent/gateway.toml", "could not", "No such"],
        ),
    ] {
        let (code, out, error) = ends(args);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}: {error}");
        assert!(named.iter().all(|each| error.contains(each)), "{args:?}: {error}");
    }
    for wrong in [&["test", "--type", "smoke"][..], &["test", "--type", "in-process", "--size", "10"]] {
        assert_eq!(transport(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_tree_leads_to_one_transport_and_asks_nobody_who_is_not_there() {
    for (flags, transport, said) in [
        (&["--same-process"][..], "in-process", "ticket"),
        (&["--same-host", "--os", "linux", "--confirm", "none"], "unix-socket", "QoS No"),
        (&["--same-host", "--os", "windows"], "named-pipe", "Processed"),
        (&["--remote", "--confirm", "subscriber"], "tcp-mtls", "every subscriber"),
    ] {
        let advice = tells(&[&["select"], flags].concat());
        assert_eq!(advice["transport"], transport, "{advice}");
        assert!(advice["confirmation"].as_str().unwrap().contains(said), "{advice}");
        assert!(says(&[&["select"], flags].concat()).contains("because"));
    }
    let nobody =
        Command::new(CLI).args(["transport", "select"]).stdin(std::process::Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(error.contains("--same-host"), "{error}");
    assert_eq!(transport_conflict(), Some(2));
}

fn transport_conflict() -> Option<i32> {
    transport(&["select", "--same-host", "--remote"]).status.code()
}
