//! The files in `deploy/` against the defaults, and what an operator is told.

use std::{fs, path::PathBuf};

use daemoneye_bridge::{bus::Unheard, settings, topic::Topic};

use crate::config::Config;

fn deploy(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(text: &str) -> Result<Config, String> {
    settings::parse(text, "gateway.toml").map_err(|error| error.to_string())
}

/// The keys that a section knows, as its complaint about an unknown one tells them.
fn known(section: &str) -> Vec<String> {
    let complaint =
        read(&format!("[{section}]\nqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1\n")).unwrap_err();
    let (_, keys) = complaint.split_once("known here: ").unwrap_or_else(|| panic!("{complaint}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_documented_file_is_the_default() {
    let documented = read(&deploy("gateway.toml")).unwrap();
    assert_eq!(format!("{documented:#?}"), format!("{:#?}", Config::default()));
}

#[test]
fn every_key_is_documented_in_its_section() {
    let text = deploy("gateway.toml");
    let tables = [
        "anchors",
        "tls_config",
        "issuer",
        "downlink",
        "http2",
        "foreign",
        "route",
        "rates",
        "flapping",
        "native",
        "proxy",
        "client",
    ];
    let sections = [
        "tcp",
        "tcp.rates",
        "tcp.flapping",
        "tcp.native",
        "tcp.proxy",
        "tcp.tls_config",
        "identity",
        "session",
        "session.http2",
        "session.downlink",
        "policy",
        "bus",
        "in_process",
        "unix_socket",
        "state",
        "admin",
        "drain",
        "log",
    ];
    for section in sections {
        let (_, rest) =
            text.split_once(&format!("\n[{section}]\n")).unwrap_or_else(|| panic!("no [{section}]"));
        let body = rest.split("\n[").next().unwrap();
        for key in known(section).iter().filter(|key| !tables.contains(&key.as_str())) {
            let documented = body.lines().any(|line| {
                line.trim_start_matches("# ").split_once(" = ").is_some_and(|(name, _)| name == key.as_str())
            });
            assert!(documented, "deploy/gateway.toml does not document {section}.{key}");
        }
    }
    let foreign =
        read("[bus]\nbroker = \"foreign\"\n[bus.foreign]\nqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1")
            .unwrap_err();
    let (_, keys) = foreign.split_once("known here: ").unwrap();
    for key in keys.split(", ") {
        assert!(
            text.contains(&format!("\n# {key} = ")),
            "deploy/gateway.toml does not document bus.foreign.{key}"
        );
    }
}

#[test]
fn the_documented_way_up_is_one() {
    let text = deploy("gateway.toml");
    let (_, section) = text.split_once("\n# [upstream]\n").unwrap();
    let section = section.split("\n\n").next().unwrap();
    let line = |line: &str| line.trim_start_matches("# ").trim_start_matches('#').to_owned();
    let is_toml = |line: &String| line.starts_with('[') || line.split_once(" = ").is_some();
    let lines: Vec<String> = section.lines().map(line).filter(is_toml).collect();
    let config = read(&format!("[upstream]\n{}", lines.join("\n"))).unwrap();
    let upstream = config.upstream.unwrap();
    assert_eq!((&*upstream.name, upstream.local.len()), ("region-1", 0));
    assert_eq!(config.bus.routes.of(&Topic::parse("events.x").unwrap()).unheard, Unheard::Discard);
    assert_eq!(config.bus.routes.of(&Topic::parse("alerts.x").unwrap()).unheard, Unheard::Hold);
    let refused = read("[upstream]\nname = \"a.b\"\n[upstream.spool]\ndirectory = \"/x\"\n[upstream.uplink]");
    assert!(refused.unwrap_err().contains("such as \"region-1\""));
}

#[test]
fn the_server_profile_is_read_and_raises_limits() {
    let server = read(&deploy("gateway.server.toml")).unwrap();
    let laptop = Config::default();
    assert!(server.tcp.limits.connections > laptop.tcp.limits.connections);
    assert!(!server.tcp.listener.bind_address.ip().is_loopback());
    assert!(server.admin.bind_address.ip().is_loopback());
}

#[test]
fn the_seeds_transport_keys_keep_their_names_and_defaults() {
    let seed = r#"
        [in_process]
        enabled = true
        buffer_size = 1000
        max_concurrent_tasks = 100
        [unix_socket]
        socket_path = "/var/run/daemoneye/broker.sock"
        max_connections = 100
        connection_timeout = "30s"
        file_permissions = "0600"
        directory_permissions = "0700"
        [tcp]
        bind_address = "127.0.0.1:8443"
        max_connections = 50
        connection_timeout = "30s"
        [tcp.tls_config]
        cert_file = "/etc/daemoneye/tls/tls.crt"
        key_file = "/etc/daemoneye/tls/tls.key"
        ca_file = "/etc/daemoneye/tls/ca.crt"
        verify_client = true
        min_tls_version = "1.2"
    "#;
    assert_eq!(format!("{:?}", read(seed).unwrap()), format!("{:?}", Config::default()));
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_file_key_value_and_remedy() {
    let long = "x".repeat(120);
    for (text, told) in [
        ("[tcp]\nmax_conections = 5", "unknown key `tcp.max_conections`; did you mean `max_connections`?"),
        ("[tcpp]", "unknown key `tcpp`; did you mean `tcp`?"),
        ("[tcp.tls_config]\nverify_client = false", "verify_client must be true"),
        ("[admin]\nbind_address = \"0.0.0.0:9090\"", "needs TLS and authentication"),
        ("[drain]\ndeadline = \"10s\"", "leaves no time"),
        ("[in_process]\nenabled = false", "set bus.broker = \"foreign\""),
        ("[bus.foreign]\nsocket_path = \"/run/x.sock\"", "needs broker = \"foreign\""),
        (
            "[bus]\nbroker = \"foreign\"\n[[bus.route]]\npattern = \"#\"\nunheard = \"hold\"",
            "use unheard = \"discard\"",
        ),
        ("[tcp]\nbind_address = \"127.0.0.1:9090\"", "choose another port"),
        ("[log]\nfilter = \"loud!\"", "is no log filter"),
        (&format!("[unix_socket]\nsocket_path = \"/{long}\""), "107"),
        ("[state]\nflush_interval = \"soon\"", "state.flush_interval = \"soon\""),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with("gateway.toml: ") && error.contains(told), "{text}\n{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
