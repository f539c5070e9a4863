//! C2SP/x509-limbo through the function behind `daemoneye-cli tls explain`.
//!
//! Runs where the cases are: beside this workspace, or where `DAEMONEYE_TEST_LIMBO` says. Every verdict that differs from
//! the suite's must stand in `docs/limbo.md` with its reason, and nothing may stand there that does not differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use daemoneye_bridge::trust::{
    NamePattern, Profile, Role,
    explain::{Case, Explanation, moment},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

/// Where the cases lie, if they are here.
fn cases() -> Option<Vec<Value>> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/limbo.json");
    let named = std::env::var_os("DAEMONEYE_TEST_LIMBO").map(PathBuf::from);
    // A place that is named must be right: a typing error must not look like a skip.
    let path = match named {
        Some(named) => named,
        None if beside.exists() => beside,
        None => {
            println!(
                "SKIPPED: {} is not there, and DAEMONEYE_TEST_LIMBO names no other place",
                beside.display()
            );
            return None;
        }
    };
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let whole: Value = serde_json::from_slice(&text).expect("the cases are JSON");
    Some(whole["testcases"].as_array().expect("there are cases").clone())
}

fn certificate(pem: &Value) -> CertificateDer<'static> {
    let pem = pem.as_str().expect("a certificate is a text");
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate is PEM")
}

fn certificates(pems: &Value) -> Vec<CertificateDer<'static>> {
    pems.as_array().expect("certificates are a list").iter().map(certificate).collect()
}

/// Puts the revocation lists of a case where they can be read.
fn lists(case: &Value, folder: &Path) -> Vec<PathBuf> {
    let lists = case["crls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let write = |(number, pem): (usize, &Value)| {
        let path = folder.join(format!("{number}.crl"));
        fs::write(&path, pem.as_str().expect("a list is a text")).expect("a list can be written");
        path
    };
    lists.iter().enumerate().map(write).collect()
}

/// What `tls explain` says of a case; `None` if its peer name is none that can be asked for.
fn explain(case: &Value) -> Option<Explanation> {
    let at = case["validation_time"].as_str().map(|text| moment(text).expect("a time is RFC 3339"));
    let name = case["expected_peer_name"]["value"].as_str().map(NamePattern::parse).transpose().ok()?;
    let mut profile = Profile::default();
    if let Some(depth) = case["max_chain_depth"].as_u64() {
        profile.max_depth = usize::try_from(depth).expect("a depth is small");
    }
    let mut chain = vec![certificate(&case["peer_certificate"])];
    chain.extend(certificates(&case["untrusted_intermediates"]));
    let folder = tempfile::tempdir().expect("a folder can be made");
    let lists = lists(case, folder.path());
    let case = Case {
        role: if case["validation_kind"] == "CLIENT" { Role::Client } else { Role::Server },
        chain: &chain,
        anchors: &certificates(&case["trusted_certs"]),
        at: at.unwrap_or_else(SystemTime::now),
        name: name.as_ref(),
        profile: &profile,
        lists: &lists,
        key: None,
    };
    Some(case.explain())
}

/// The cases that `docs/limbo.md` lists below each of its two headings.
fn listed(document: &str) -> BTreeMap<String, bool> {
    let mut accepting = None;
    let mut listed = BTreeMap::new();
    for line in document.lines() {
        match line {
            "## Accepted here, refused there" => accepting = Some(true),
            "## Refused here, accepted there" => accepting = Some(false),
            _ => {}
        }
        let row = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |"));
        if let (Some(accepting), Some((name, reason))) = (accepting, row) {
            assert!(reason.trim_matches([' ', '|']).len() > 10, "docs/limbo.md gives no reason for {name}");
            assert!(listed.insert(name.to_owned(), accepting).is_none(), "docs/limbo.md lists {name} twice");
        }
    }
    listed
}

#[test]
fn limbo_is_agreed_with_but_for_what_the_page_lists() {
    let Some(cases) = cases() else { return };
    let mut differing = BTreeMap::new();
    let mut verdicts = Vec::new();
    for case in &cases {
        let name = case["id"].as_str().expect("a case has a name").to_owned();
        let explanation = explain(case);
        let accepted = explanation.as_ref().is_some_and(Explanation::is_accepted);
        let wanted = case["expected_result"] == "SUCCESS";
        if accepted != wanted {
            let refused = explanation.and_then(|explanation| explanation.refused);
            let why = refused
                .map_or_else(String::new, |refused| format!(" ({}: {})", refused.reason, refused.detail));
            verdicts.push(format!("{name}: {}{why}", if accepted { "accepted" } else { "refused" }));
            differing.insert(name, accepted);
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limbo.md");
    let page = listed(&fs::read_to_string(page).expect("docs/limbo.md is there"));
    println!(
        "limbo: {} cases, {} agreed with\n{}",
        cases.len(),
        cases.len() - differing.len(),
        verdicts.join("\n")
    );
    assert!(cases.len() >= 208, "only {} cases", cases.len());
    assert_eq!(differing, page, "left: what differs; right: what docs/limbo.md lists; true: accepted here");
}

#[test]
fn what_must_be_refused_is() {
    let Some(cases) = cases() else { return };
    let parts = [
        "crl::revoked-certificate-with-crl",
        "crl::crlnumber-missing",
        "crl::crlnumber-critical",
        "crl::issuer-missing-crlsign",
        "leaf-ku-keycertsign",
        "expired-root",
        "webpki::eku::ee-without-eku",
        "forbidden-weak-rsa",
        "forbidden-p192",
        "forbidden-dsa-leaf",
        "max-chain-depth-0-exhausted",
        "max-chain-depth-1-exhausted",
    ];
    let mut seen = BTreeSet::new();
    for case in &cases {
        let name = case["id"].as_str().expect("a case has a name");
        if let Some(part) = parts.iter().find(|part| name.contains(**part)) {
            seen.insert(part);
            assert!(
                !explain(case).is_some_and(|explanation| explanation.is_accepted()),
                "{name} is accepted"
            );
        }
    }
    assert_eq!(seen.len(), parts.len(), "{seen:?}");
}
