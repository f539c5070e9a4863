//! Whoever is refused, refused for a reason of its own: each through the real port, and told nothing but one alert.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, process::Command};

use daemoneye_bridge::trust::RefusalReason;
use daemoneye_tests::{
    eventually,
    forge::{Forger, Shown, spiffe, uri, valid},
    knock::{Told, knock, knocker},
    peer::Session,
    world::{TRUST_DOMAIN, World},
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::{
    AlertDescription, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use serde_json::Value;

use crate::{CLI, world};

pub(crate) const DENIED: Told = Told::Alert(AlertDescription::AccessDenied);

pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// One row: what is shown, and the code of its refusal; none where it gets in.
struct Row {
    what: &'static str,
    shown: Option<Shown>,
    reason: Option<&'static str>,
}

fn no(what: &'static str, reason: &'static str, shown: Shown) -> Row {
    Row { what, shown: Some(shown), reason: Some(reason) }
}

/// As it is.
pub(crate) fn same(_: &mut CertificateParams) {}

/// Adds roots to those that `world` trusts, and settings to its TLS; returns the root of the gateway.
fn trust(world: &World, roots: &[&Forger], tls: &str, tables: &str) -> String {
    let file = world.path("tls/anchors.pem");
    let own = fs::read_to_string(&file).unwrap();
    let all: String = std::iter::once(own.as_str()).chain(roots.iter().map(|root| root.pem())).collect();
    fs::write(file, all).unwrap();
    let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
    let config = config.replace("[tcp.tls_config]\n", &format!("[tcp.tls_config]\n{tls}\n"));
    let config = config.replace("[identity]\n", &format!("{tables}\n[identity]\n"));
    fs::write(world.path("gateway.toml"), config).unwrap();
    own
}

/// Shows every row at the door in both versions, from a network of its own, with a good collector after each.
async fn show(world: &World, anchor: &str, rows: &[Row]) {
    for (number, row) in rows.iter().enumerate() {
        let source = Ipv4Addr::new(127, 1, u8::try_from(number).unwrap(), 1);
        for version in VERSIONS {
            let (told, _) = knock(&knocker(anchor, row.shown.as_ref(), version), source, world.address).await;
            let wanted = match (row.reason, &row.shown) {
                (None, _) => Told::In,
                (Some(_), Some(_)) => DENIED,
                // Who shows nothing knows it: rustls says so, and it tells nothing of any certificate.
                (Some(_), None) => Told::Alert(AlertDescription::CertificateRequired),
            };
            assert_eq!(told, wanted, "{} ({:?})", row.what, version.version);
        }
        // A name of its own: who comes and goes has to wait.
        let good = world.credentials("site-a", &format!("good-{number}"));
        let channel = good.channel(world.address).await.expect(row.what);
        Session::open(channel, vec![]).await.expect(row.what);
    }
}

/// Where the refusals of `rows` stand: each with its reason from its network, a hint, and the count of both versions.
async fn told(world: &World, rows: &[Row]) {
    let entry = |number: usize| -> Option<Value> {
        let refusals = world.json("/api/v1/refusals");
        let address = format!("127.1.{number}.1");
        let found = refusals["recent"].as_array()?.iter().find(|entry| entry["address"] == *address)?;
        (found["count"] == 2).then(|| found.clone())
    };
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let Some(reason) = row.reason else { continue };
        let mut found = Value::Null;
        eventually(row.what, || {
            found = entry(number).unwrap_or_default();
            !found.is_null()
        })
        .await;
        println!("{:44} {:24} {}", row.what, reason, found["detail"]);
        if found["reason"] != reason || found["hint"] != hint(reason) {
            wrong.push(format!("{}: {} instead of {reason}", row.what, found["reason"]));
        }
        // What is told of a certificate says which, and what it names.
        if TOLD.contains(&reason) {
            assert!(found["detail"].as_str().unwrap().contains('`'), "{}: {}", row.what, found["detail"]);
        }
        assert_eq!(found["chain"].as_array().unwrap().is_empty(), row.shown.is_none(), "{}", row.what);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Reasons whose detail must quote what the certificate says.
const TOLD: [&str; 9] = [
    "ambiguous_identity",
    "anchor_not_for_domain",
    "anchor_not_for_site",
    "bad_name",
    "ca_as_leaf",
    "certificate_revoked",
    "denied",
    "intermediate_revoked",
    "no_identity",
];

/// What an operator is told to do about it.
pub(crate) fn hint(reason: &str) -> &'static str {
    let all = RefusalReason::ALL.iter();
    let hint = all.copied().find(|known| known.as_str() == reason).expect("the code is a known one").hint();
    assert!(!hint.is_empty());
    hint
}

/// Runs the command line.
fn cli(world: &World, args: &[&str]) -> String {
    let (socket, address) = (world.path("run/admin.sock"), world.admin.to_string());
    let place = ["--socket", socket.to_str().unwrap(), "--address", &address];
    let output = Command::new(CLI).args(args).args(place).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Holds what the command line prints against the rows: every code at the head of an entry, and its hint.
fn printed(world: &World, rows: &[Row]) {
    let text = cli(world, &["refusals"]);
    let heads: BTreeSet<&str> = text.lines().filter_map(|line| line.split("  ").next()).collect();
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for reason in rows.iter().filter_map(|row| row.reason) {
        assert!(heads.contains(reason), "{reason}: {text}");
        assert!(joined.contains(&format!("hint {}", hint(reason))), "{reason}: {text}");
    }
}

fn usages(usages: &[KeyUsagePurpose]) -> impl Fn(&mut CertificateParams) {
    move |params| params.key_usages = usages.to_vec()
}

fn purposes(purposes: &[ExtendedKeyUsagePurpose]) -> impl Fn(&mut CertificateParams) {
    move |params| params.extended_key_usages = purposes.to_vec()
}

fn names(names: Vec<SanType>) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.subject_alt_names = names
}

fn depth(most: u8) -> impl Fn(&mut CertificateParams) {
    move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(most))
}

pub(crate) fn serial(serial: u64) -> impl Fn(&mut CertificateParams) {
    move |params| params.serial_number = Some(serial.into())
}

/// A critical extension that nobody knows.
fn unknown(params: &mut CertificateParams) {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

fn by_dns(params: &mut CertificateParams) {
    let permitted_subtrees = vec![GeneralSubtree::DnsName("elsewhere.example".to_owned())];
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
}

/// Permits URIs of one host.
fn by_uri(params: &mut CertificateParams) {
    let host = TRUST_DOMAIN.as_bytes();
    let length = u8::try_from(host.len()).unwrap();
    let mut der = vec![0x30, length + 6, 0xa0, length + 4, 0x30, length + 2, 0x86, length];
    der.extend(host);
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

/// Chains with something wrong in the leaf.
fn leaves(root: &Forger, between: &Forger) -> Vec<Row> {
    use ExtendedKeyUsagePurpose as Purpose;
    use KeyUsagePurpose as Usage;
    let of = |what, reason, shown: Shown| no(what, reason, shown.with(&[between]));
    let garbled = Shown { chain: vec![vec![0x30, 1, 0].into()], ..between.issue("garbled", same) };
    let borrowed = Shown { key: between.issue("thief", same).key, ..between.issue("borrowed", same) };
    let twofold = names(vec![spiffe("site-a", "one"), spiffe("site-a", "two")]);
    let wild = spiffe("*", "wild");
    let dns = SanType::DnsName("leaf.site-a.collectors.example.com".try_into().unwrap());
    let constrained = root.below("Constrained by DNS", by_dns);
    let by_uris = root.below("Constrained by URI", by_uri);
    let long = valid(-1, 24 * 60);
    vec![
        Row { what: "no certificate", shown: None, reason: Some("no_certificate") },
        of("expired leaf", "certificate_expired", between.issue("expired", valid(-48, -1))),
        of("leaf not yet valid", "certificate_not_yet_valid", between.issue("early", valid(1, 48))),
        of("leaf valid for too long", "lifetime_too_long", between.issue("long", long)),
        of("wrong EKU", "wrong_purpose", between.issue("server", purposes(&[Purpose::ServerAuth]))),
        of("any EKU", "wrong_purpose", between.issue("any", purposes(&[Purpose::Any]))),
        of("no EKU", "no_purpose", between.issue("useless", purposes(&[]))),
        of("keyUsage without signature", "key_usage", between.issue("ku", usages(&[Usage::KeyEncipherment]))),
        of(
            "keyUsage of a CA on a leaf",
            "key_usage",
            between.issue("ku-ca", usages(&[Usage::DigitalSignature, Usage::KeyCertSign])),
        ),
        of("CA as leaf", "ca_as_leaf", between.issue("authority", depth(0))),
        of("unknown critical extension, leaf", "unsupported_extension", between.issue("critical", unknown)),
        of("weak key, leaf", "weak_key", between.issue_weakly("weak")),
        of("no SAN", "no_identity", between.issue("nobody", names(Vec::new()))),
        of("two identities", "ambiguous_identity", between.issue("twofold", twofold)),
        of("wildcard name", "bad_name", between.issue("wild", names(vec![wild]))),
        of("foreign trust domain", "no_identity", between.issue("alien", names(vec![uri("spiffe://b/c")]))),
        of("identity denied", "denied", between.issue("denied", same)),
        of("certificate borrowed", "possession_not_proven", borrowed),
        of("unreadable", "malformed", garbled),
        of(
            "not by RFC 5280",
            "non_conforming",
            between.issue("loose", |params| {
                params.use_authority_key_identifier_extension = false;
            }),
        ),
        no(
            "name constraint, DNS",
            "name_constraint",
            constrained.issue("dns", names(vec![dns])).with(&[&constrained]),
        ),
        no("name constraint, URI", "name_constraint_uri", by_uris.issue("uri", same).with(&[&by_uris])),
        no("revoked leaf", "certificate_revoked", root.issue("revoked", serial(7))),
    ]
}

/// Chains with something wrong above the leaf.
fn above(root: &Forger, between: &Forger) -> Vec<Row> {
    use KeyUsagePurpose as Usage;
    let below = |what, reason, change: &dyn Fn(&mut CertificateParams)| {
        let authority = root.below(what, change);
        no(what, reason, authority.issue("leaf", same).with(&[&authority]))
    };
    let imposter = Forger::root("Root of the rows", same);
    let stranger = Forger::root("Another root", same);
    let leaf = root.below("Leaf as CA", |params| params.is_ca = IsCa::ExplicitNoCa);
    let (short, second) = (root.below("Short", depth(0)), |above: &Forger| above.below("Second", same));
    let lower = second(&short);
    let weak = root.weakly_below("Weak issuer");
    let unseen = root.below("Never presented", same);
    let many = [between; 5];
    vec![
        no("other CA", "unknown_issuer", stranger.issue("stranger", same)),
        no("other CA of the same name", "bad_signature", imposter.issue("imposter", same)),
        below("expired intermediate", "intermediate_expired", &valid(-48, -1)),
        below("intermediate not yet valid", "intermediate_not_yet_valid", &valid(1, 48)),
        below("wrong keyUsage, intermediate", "ca_key_usage", &usages(&[Usage::DigitalSignature])),
        below("wrong EKU, intermediate", "ca_purpose", &purposes(&[ExtendedKeyUsagePurpose::ServerAuth])),
        below("unknown critical extension, intermediate", "unsupported_extension", &unknown),
        below("revoked intermediate", "intermediate_revoked", &serial(8)),
        no("leaf as CA", "leaf_as_ca", leaf.issue("leaf", same).with(&[&leaf])),
        no("path length", "path_length", lower.issue("deep", same).with(&[&lower, &short])),
        no("weak key, intermediate", "weak_ca_key", weak.issue("leaf", same).with(&[&weak])),
        no("missing intermediate", "missing_intermediate", between.issue("alone", same)),
        no("missing intermediate, never seen", "unknown_issuer", unseen.issue("alone", same)),
        no("six certificates", "too_many_certificates", between.issue("many", same).with(&many)),
    ]
}

/// Roots with something wrong, and what a leaf below each is told.
fn roots() -> Vec<(Forger, Row)> {
    let of = |what, reason, change: &dyn Fn(&mut CertificateParams)| {
        let root = Forger::root(what, change);
        let row = no(what, reason, root.issue("leaf", same));
        (root, row)
    };
    let short = Forger::root("Short root", depth(0));
    let below = short.below("Below it", same);
    let long =
        no("path length of the anchor", "anchor_path_length", below.issue("deep", same).with(&[&below]));
    let rsa = Forger::rsa_root("RSA root");
    let weakly = no("weak signature", "weak_signature", rsa.issue("sha1", same).by_sha1());
    let strong = Row { what: "RSA signature", shown: Some(rsa.issue("sha256", same)), reason: None };
    let other = Forger::root("RSA in order", same);
    vec![
        of("expired anchor", "anchor_expired", &valid(-48, -1)),
        of("anchor not yet valid", "anchor_not_yet_valid", &valid(1, 48)),
        of("wrong keyUsage, anchor", "ca_key_usage", &usages(&[KeyUsagePurpose::DigitalSignature])),
        of("unknown critical extension, anchor", "unsupported_extension", &unknown),
        (short, long),
        (rsa, weakly),
        (other, strong),
    ]
}

/// Two authorities of one name, each with a list: what the other revoked is not revoked.
fn twins(name: &str, first: &'static str, second: &'static str) -> ([Forger; 2], Vec<Row>) {
    let twins = [Forger::root(name, same), Forger::root(name, same)];
    let [one, two] = &twins;
    let rows = vec![
        no(first, "certificate_revoked", one.issue("twin-1-21", serial(21))),
        Row { what: first, shown: Some(one.issue("twin-1-22", serial(22))), reason: None },
        no(second, "certificate_revoked", two.issue("twin-2-22", serial(22))),
        Row { what: second, shown: Some(two.issue("twin-2-21", serial(21))), reason: None },
    ];
    (twins, rows)
}

/// A file for `tls_config`, as TOML.
pub(crate) fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.path(name);
    fs::write(&path, text).unwrap();
    format!("\"{}\"", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_refused_for_its_own_reason_and_told_one_thing() {
    let mut world = world("");
    let root = Forger::root("Root of the rows", same);
    let between = root.below("Issuer of the rows", same);
    let limited = Forger::root("Limited to a site", same);
    let foreign = Forger::root("Limited to a domain", same);
    let mut rows = vec![Row {
        what: "in order",
        shown: Some(between.issue("in-order", same).with(&[&between])),
        reason: None,
    }];
    rows.extend(leaves(&root, &between));
    rows.extend(above(&root, &between));
    let site_b = |name: &str| limited.issue(name, names(vec![spiffe("site-b", name)]));
    rows.extend([
        Row { what: "its own site", shown: Some(limited.issue("at-home", same)), reason: None },
        no("SAN of another site", "anchor_not_for_site", site_b("abroad")),
        no("anchor without right to the domain", "anchor_not_for_domain", foreign.issue("abroad", same)),
    ]);
    let (mut trusted, mut lists) =
        (vec![&root], vec![file(&world, "r.crl", &root.list(1, [-5, 60], &[7, 8]))]);
    let (odd, wrong): (Vec<_>, Vec<_>) = roots().into_iter().unzip();
    trusted.extend(&odd);
    rows.extend(wrong);
    let (ab, told_ab) = twins("Twin", "first of two lists", "second of two lists");
    let (ba, told_ba) = twins("Other twin", "second, listed first", "first, listed second");
    for (number, twin) in ab.iter().chain(ba.iter().rev()).enumerate() {
        let revoked = if number == 0 || number == 3 { 21 } else { 22 };
        lists.push(file(&world, &format!("{number}.crl"), &twin.list(1, [-5, 60], &[revoked])));
        trusted.push(twin);
    }
    rows.extend(told_ab.into_iter().chain(told_ba));
    let tls = format!("crl = [{}]\nmax_leaf_lifetime = \"40d\"", lists.join(", "));
    let tables = format!(
        "[[tcp.tls_config.anchors]]\nname = \"limited\"\nca_file = {}\nsites = [\"site-a\"]\n\
         [[tcp.tls_config.anchors]]\nname = \"foreign\"\nca_file = {}\ntrust_domains = [\"elsewhere\"]\n",
        file(&world, "limited.pem", limited.pem()),
        file(&world, "foreign.pem", foreign.pem()),
    );
    let anchor = trust(&world, &trusted, &tls, &tables);
    world.start().await;
    cli(&world, &["deny", "add", "--identity", "site-a/denied", "--reason", "a test"]);
    show(&world, &anchor, &rows).await;
    told(&world, &rows).await;
    printed(&world, &rows);
}
