//! Who may import whom: the table of ARCHITECTURE.md, held against the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which modules of the gateway a module may name. `bridge` and `proto` are crates and judged by Cargo.
const GATEWAY: &[(&str, &[&str])] = &[
    ("snapshot", &[]),
    ("telemetry", &[]),
    ("identity", &[]),
    ("pki", &[]),
    ("listener", &[]),
    ("tls", &["listener", "snapshot"]),
    ("deny", &["identity", "state", "snapshot"]),
    ("held", &["identity", "state", "snapshot"]),
    ("ingress", &["listener", "tls", "identity", "deny", "session"]),
    ("policy", &["identity", "snapshot"]),
    // The way up takes what is permitted beside the bus.
    ("upstream", &[]),
    ("bus", &["policy", "identity", "upstream"]),
    ("state", &["identity", "snapshot"]),
    ("session", &["identity", "deny", "held", "policy", "bus", "state", "snapshot", "ingress"]),
    ("admin", &["identity", "snapshot", "telemetry", "deny", "held", "policy"]),
    (
        "config",
        &[
            "listener",
            "tls",
            "identity",
            "ingress",
            "session",
            "policy",
            "bus",
            "state",
            "admin",
            "telemetry",
            "upstream",
        ],
    ),
    ("demo", &["pki", "snapshot", "config"]),
    // Measures transports from outside; its distribution of times is the demo's.
    ("trial", &["demo", "snapshot"]),
    (
        "app",
        &[
            "listener",
            "tls",
            "identity",
            "ingress",
            "session",
            "policy",
            "bus",
            "state",
            "deny",
            "held",
            "snapshot",
            "telemetry",
            "admin",
            "config",
            "upstream",
        ],
    ),
];

/// Which modules of the bridge a module may name.
const BRIDGE: &[(&str, &[&str])] = &[
    ("topic", &[]),
    // What every carrier of messages counts, for who shows it.
    ("transport", &[]),
    ("lifecycle", &[]),
    ("settings", &[]),
    ("trust", &["settings"]),
    ("event", &["topic"]),
    ("native", &["topic", "event"]),
    ("bus", &["event", "lifecycle", "native", "settings", "topic", "transport"]),
    ("spool", &["event", "settings", "topic"]),
    ("uplink", &["event", "lifecycle", "settings", "spool", "topic", "trust"]),
    ("client", &["event", "lifecycle", "settings", "spool", "topic", "trust", "uplink"]),
    ("log", &[]),
    ("probe", &[]),
    ("reception", &["lifecycle"]),
    (
        "leaf",
        &[
            "bus",
            "client",
            "event",
            "lifecycle",
            "log",
            "probe",
            "reception",
            "settings",
            "spool",
            "topic",
            "trust",
            "uplink",
        ],
    ),
];

#[test]
fn the_gateway_keeps_its_import_table() {
    judge("gateway", GATEWAY);
}

#[test]
fn the_bridge_keeps_its_import_table() {
    judge("bridge", BRIDGE);
}

fn judge(package: &str, table: &[(&str, &[&str])]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("src");
    let named = imports(&source);
    let allowed: BTreeMap<&str, &[&str]> = table.iter().copied().collect();
    let mut wrong = Vec::new();
    for (stage, names) in &named {
        let Some(allowed) = allowed.get(stage.as_str()) else {
            wrong.push(format!("module `{stage}` is not in the table"));
            continue;
        };
        let sideways = names.iter().filter(|name| *name != stage && !allowed.contains(&name.as_str()));
        wrong.extend(sideways.map(|name| format!("`{stage}` names `{name}`")));
    }
    assert!(wrong.is_empty(), "{package}: {}", wrong.join("; "));
    assert!(named.len() > table.len() / 2, "{package}: the walk found only {named:?}");
}

/// What each top-level module names behind `crate::`, its unit tests left out.
fn imports(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files(source) {
        let below = file.strip_prefix(source).expect("it was found below");
        let stage =
            below.components().next().map(|first| first.as_os_str().to_string_lossy().replace(".rs", ""));
        let stage = stage.expect("a file has a name");
        if ["lib", "main", "bin", "tests"].contains(&stage.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("source can be read");
        named.entry(stage).or_default().extend(product(&text).split("crate::").skip(1).flat_map(heads));
    }
    named
}

/// The code without comments and without what only tests have.
fn product(text: &str) -> String {
    let mut code = String::new();
    let mut end_of_test: Option<String> = None;
    for line in text.lines() {
        if let Some(end) = &end_of_test {
            let only_line = line.ends_with(';') && line.find(|c| c != ' ') == Some(end.len() - 1);
            if line == end || only_line {
                end_of_test = None;
            }
        } else if line.trim_start() == "#[cfg(test)]" || line.trim_start() == "#[cfg(all(test, unix))]" {
            // rustfmt closes an item where its attribute began.
            end_of_test = Some(format!("{}}}", &line[..line.len() - line.trim_start().len()]));
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The first names behind a `crate::`: one, or those of a use-group.
fn heads(rest: &str) -> Vec<String> {
    let word =
        |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let mut depth = 0_u32;
    let mut heads = vec![word(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .flat_map(|entry| {
            let path = entry.expect("a folder can be read").path();
            match path.file_stem() {
                Some(stem) if stem == "tests" => Vec::new(),
                _ if path.is_dir() => files(&path),
                _ => vec![path],
            }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn nested_use_groups_are_seen() {
    assert_eq!(heads("{a::{b, c}, d, e::f};"), ["a", "d", "e"]);
    assert_eq!(heads("bus::Port"), ["bus"]);
}
