//! What a full mutual handshake of TLS 1.3 costs: the gateway with and without much on its revocation lists, and others who
//! do the same, under the same load.
//!
//! `cargo bench --bench handshake [-- NAME]` runs the servers whose name contains NAME. This process is the collectors, and
//! the service behind the servers that forward. Each collector connects, proves itself, speaks the preface of HTTP/2, waits
//! until the server has spoken, and goes. The servers take turns, so that what disturbs the machine disturbs all of them;
//! the key exchange is the one that each server chose.

use std::{
    env, fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use daemoneye_tests::{
    eventually::within,
    measure::{RUN, RUNS, WARM_UP, cpu},
    process::Program,
    world::{Programs, TRUST_DOMAIN, World, free},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs::{default_provider, kx_group},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::TlsConnector;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAMS: Programs = Programs {
    gateway: env!("CARGO_BIN_EXE_gateway-under-test"),
    leaf: env!("CARGO_BIN_EXE_leaf-under-test"),
};

/// Handshakes that are under way at once.
const CLIENTS: usize = 16;

/// Collectors that take turns, so that none of them comes so often that it is told to wait.
const COLLECTORS: usize = 1000;

/// Entries of a long revocation list.
const ENTRIES: usize = 100_000;

/// How long a server that has had its turn before is warmed up.
const AGAIN: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() {
    let mut args: Vec<String> = env::args().skip(1).collect();
    // Without it, this is `cargo test --all-targets`, which has no patience for measuring.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    args.retain(|arg| arg != "--bench");
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| name.contains(arg.as_str()));
    let pki = Pki::new();
    let collectors = pki.collectors();
    let [any, classic] = [None, Some(kx_group::X25519)].map(|group| clients(&pki, &collectors, group));
    let (mut servers, mut worlds, mut programs) = (Vec::new(), Vec::new(), Vec::new());
    if wanted("gateway") {
        for entries in [0, ENTRIES] {
            let mut world = gateway(&pki, entries).await;
            let (process, address) = (world.gateway().id(), world.address);
            servers.push(Server::new("gateway", entries, process, address, &any).await);
            if entries == 0 {
                servers.push(Server::new("gateway", entries, process, address, &classic).await);
            }
            worlds.push(world);
        }
    }
    let site = Site::new(&pki).await;
    for other in OTHERS.iter().filter(|other| wanted(other.name)) {
        match other.start(&site).await {
            Some((program, address)) => {
                servers.push(Server::new(other.name, 0, program.id(), address, &any).await);
                programs.push(program);
            }
            None => {
                println!("SKIPPED server={}: {} is not installed", other.name, other.programs.join(" or "));
            }
        }
    }
    for round in 0..RUNS {
        for server in &mut servers {
            server.run(if round == 0 { WARM_UP } else { AGAIN }).await;
        }
    }
    for server in &servers {
        println!("{server}");
    }
    for mut program in programs {
        // In order: one that is killed leaves its workers behind.
        program.terminate();
        program.ended(Duration::from_secs(10)).await;
    }
}

/// The gateway as it is delivered, with required revocation lists of which one has so many entries.
async fn gateway(pki: &Pki, entries: usize) -> World {
    let mut world = World::new(PROGRAMS, "");
    let write = |file: &str, text: &str| {
        let path = world.path("tls").join(file);
        fs::write(&path, text).expect("files can be written");
        format!("\"{}\"", path.display())
    };
    let (chain, key) = &pki.server;
    write("gateway.crt", chain);
    write("gateway.key", key);
    write("anchors.pem", &pki.root_pem);
    let issuer = write("issuer.crt", &pki.issuer_pem);
    let lists = [write("root.crl", &list(&pki.root, 0)), write("issuer.crl", &list(&pki.issuer, entries))];
    let path = world.path("gateway.toml");
    let text = fs::read_to_string(&path).expect("the configuration can be read");
    let lists = lists.join(", ");
    let section = format!("[tcp.tls_config]\ncrl = [{lists}]\nrevocation = \"required\"\n");
    let issuer =
        format!("[[tcp.tls_config.issuer]]\nissuer_file = {issuer}\nrevocation = \"required\"\n\n[identity]");
    let text = text.replacen("[tcp.tls_config]\n", &section, 1).replacen("[identity]", &issuer, 1);
    fs::write(&path, text).expect("the configuration can be written");
    world.start().await;
    world
}

/// One row: a server, who comes to it, and what that cost.
struct Server {
    name: &'static str,
    crl: usize,
    process: u32,
    address: SocketAddr,
    clients: Clients,
    next: Arc<AtomicUsize>,
    exchange: NamedGroup,
    runs: Vec<Run>,
}

/// One run.
struct Run {
    per_second: f64,
    cpu_per_thousand: f64,
}

impl Server {
    async fn new(
        name: &'static str,
        crl: usize,
        process: u32,
        address: SocketAddr,
        clients: &Clients,
    ) -> Self {
        let first = handshake(address, &clients[0]).await;
        let exchange = first.unwrap_or_else(|error| panic!("{name} takes no collector: {error}"));
        let (next, clients) = (Arc::default(), Arc::clone(clients));
        Self { name, crl, process, address, clients, next, exchange, runs: Vec::new() }
    }

    async fn run(&mut self, warm_up: Duration) {
        let done = Arc::new(AtomicU64::new(0));
        let mut load = JoinSet::new();
        for _ in 0..CLIENTS {
            let (clients, next) = (Arc::clone(&self.clients), Arc::clone(&self.next));
            load.spawn(come_and_go(self.address, clients, next, Arc::clone(&done)));
        }
        tokio::time::sleep(warm_up).await;
        let (begun, before, used) = (Instant::now(), done.load(Relaxed), cpu_of_all(self.process));
        tokio::time::sleep(RUN).await;
        let (time, used) = (begun.elapsed(), cpu_of_all(self.process).saturating_sub(used));
        let handshakes = done.load(Relaxed) - before;
        if let Some(ended) = load.try_join_next() {
            panic!("{} failed a collector: {ended:?}", self.name);
        }
        load.shutdown().await;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let handshakes = handshakes as f64;
        self.runs.push(Run {
            per_second: handshakes / time.as_secs_f64(),
            cpu_per_thousand: used.as_secs_f64() * 1e3 / handshakes,
        });
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        runs.sort_by(|a, b| a.cpu_per_thousand.total_cmp(&b.cpu_per_thousand));
        let (median, least, most) = (runs[RUNS / 2], runs[0], runs[RUNS - 1]);
        write!(
            f,
            "bench=handshake server={} crl={} kx={:?} per_s={:.0} cpu_s_per_1000={:.3} cpu_least={:.3} cpu_most={:.3}",
            self.name,
            self.crl,
            self.exchange,
            median.per_second,
            median.cpu_per_thousand,
            least.cpu_per_thousand,
            most.cpu_per_thousand,
        )
    }
}

/// Processor time of a process and of all that descend from it.
fn cpu_of_all(root: u32) -> Duration {
    let entries = fs::read_dir("/proc").expect("processes are listed").filter_map(Result::ok);
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> =
        processes.filter_map(|process| Some((process, parent(process)?))).collect();
    let mut all = vec![root];
    let mut next = 0;
    while let Some(process) = all.get(next).copied() {
        all.extend(parents.iter().filter(|(_, parent)| *parent == process).map(|(child, _)| *child));
        next += 1;
    }
    all.into_iter().map(cpu).sum()
}

/// Who started a process; none if it is gone.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What each collector is configured with.
type Clients = Arc<[Arc<ClientConfig>]>;

/// Configures collectors that resume nothing, and that offer what leaves do, or one key exchange only.
fn clients(
    pki: &Pki,
    collectors: &[(String, String)],
    group: Option<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> Clients {
    let mut provider = default_provider();
    if let Some(group) = group {
        provider.kx_groups = vec![group];
    }
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(pki.root_pem.as_bytes()).expect("our PEM is well-formed");
    roots.add(root).expect("our root is a certificate");
    let roots = Arc::new(roots);
    let configure = |(chain, key): &(String, String)| {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("our PEM is well-formed");
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.expect("our PEM is well-formed"), key)
            .expect("our keys match");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Arc::new(config)
    };
    collectors.iter().map(configure).collect()
}

/// One collector after the other, until one fails.
async fn come_and_go(
    address: SocketAddr,
    clients: Clients,
    next: Arc<AtomicUsize>,
    done: Arc<AtomicU64>,
) -> io::Error {
    loop {
        let turn = next.fetch_add(1, Relaxed) % clients.len();
        match handshake(address, &clients[turn]).await {
            Ok(_) => done.fetch_add(1, Relaxed),
            Err(error) => return error,
        };
    }
}

/// The preface of HTTP/2 with empty settings: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A full handshake, and the server's first word, which it says when it has judged the client's certificate.
async fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<NamedGroup> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    // Else its port is of no use for a minute.
    tcp.set_zero_linger()?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    tls.write_all(PREFACE).await?;
    if tls.read(&mut [0; 64]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let connection = tls.get_ref().1;
    assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let exchange = connection.negotiated_key_exchange_group().expect("a full handshake has a key exchange");
    Ok(exchange.name())
}

/// A program of somebody else's that does mutual TLS.
struct Other {
    name: &'static str,
    programs: &'static [&'static str],
    /// Writes what configuration it needs, and returns its arguments: where it listens, and what it forwards to.
    arguments: fn(&Site, SocketAddr) -> Vec<String>,
}

const OTHERS: [Other; 4] = [
    Other { name: "ghostunnel", programs: &["ghostunnel"], arguments: ghostunnel },
    Other { name: "haproxy", programs: &["haproxy"], arguments: haproxy },
    Other { name: "nginx", programs: &["nginx"], arguments: nginx },
    Other { name: "stunnel", programs: &["stunnel4", "stunnel"], arguments: stunnel },
];

impl Other {
    /// None if it is not installed.
    async fn start(&self, site: &Site) -> Option<(Program, SocketAddr)> {
        let path = env::var("PATH").unwrap_or_default();
        let folders: Vec<&str> = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]).collect();
        let places = self
            .programs
            .iter()
            .flat_map(|name| folders.iter().map(move |folder| Path::new(folder).join(name)));
        let found = places.into_iter().find(|place| place.is_file())?;
        let address = free();
        let arguments = (self.arguments)(site, address);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = Program::start(found.to_str()?, &arguments, site.folder.path());
        let answers = || std::net::TcpStream::connect(address).is_ok();
        within(Duration::from_secs(10), &format!("{} answers", self.name), answers).await;
        Some((program, address))
    }
}

fn ghostunnel(site: &Site, address: SocketAddr) -> Vec<String> {
    let at = |file: &str| site.at(file).display().to_string();
    let pairs = [
        ("--listen", address.to_string()),
        ("--target", site.sink.to_string()),
        ("--cert", at("server.crt")),
        ("--key", at("server.key")),
        ("--cacert", at("root.crt")),
        ("--quiet", "all".to_owned()),
    ];
    let pairs = pairs.into_iter().map(|(key, value)| format!("{key}={value}"));
    ["server".to_owned(), "--allow-all".to_owned()].into_iter().chain(pairs).collect()
}

/// `HAProxy` speaks HTTP/2 itself.
fn haproxy(site: &Site, address: SocketAddr) -> Vec<String> {
    let text = format!(
        "global\n  maxconn 4096\n  tune.ssl.cachesize 0\n  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets\n\
         defaults\n  mode http\n  timeout client 30s\n  timeout http-request 30s\n\
         frontend door\n  bind {address} ssl crt {} ca-file {} verify required alpn h2\n  \
         http-request return status 204\n",
        site.at("both.pem").display(),
        site.at("root.crt").display(),
    );
    vec!["-db".to_owned(), "-f".to_owned(), site.write("haproxy.cfg", &text)]
}

/// nginx speaks HTTP/2 itself.
fn nginx(site: &Site, address: SocketAddr) -> Vec<String> {
    let at = |file: &str| site.at(file).display().to_string();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = kinds.map(|kind| format!("  {kind}_temp_path {};\n", at(kind))).concat();
    let text = format!(
        "daemon off;\nworker_processes auto;\npid {};\nerror_log /dev/null crit;\nevents {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n{folders}  server {{\n    listen {address} ssl http2;\n    ssl_certificate {};\n    \
         ssl_certificate_key {};\n    ssl_client_certificate {};\n    ssl_verify_client on;\n    ssl_verify_depth 3;\n    \
         ssl_protocols TLSv1.3;\n    ssl_session_tickets off;\n    ssl_session_cache off;\n    location / {{ return 204; }}\n  \
         }}\n}}\n",
        at("nginx.pid"),
        at("server.crt"),
        at("server.key"),
        at("root.crt"),
    );
    vec!["-c".to_owned(), site.write("nginx.conf", &text)]
}

fn stunnel(site: &Site, address: SocketAddr) -> Vec<String> {
    let at = |file: &str| site.at(file).display().to_string();
    let text = format!(
        "foreground = yes\ndebug = 0\npid =\n[door]\naccept = {address}\nconnect = {}\ncert = {}\nkey = {}\nCAfile = {}\n\
         verifyChain = yes\nrequireCert = yes\nsslVersion = TLSv1.3\noptions = NO_TICKET\nsessionResume = no\n",
        site.sink,
        at("server.crt"),
        at("server.key"),
        at("root.crt"),
    );
    vec![site.write("stunnel.conf", &text)]
}

/// What the others need: their files, and something to forward to. Goes when dropped.
struct Site {
    folder: TempDir,
    sink: SocketAddr,
    _serving: JoinSet<()>,
}

impl Site {
    async fn new(pki: &Pki) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let sink = listener.local_addr().expect("a bound socket has an address");
        let mut serving = JoinSet::new();
        serving.spawn(swallow(listener));
        let folder = TempDir::with_prefix("daemoneye-").expect("a temporary folder can be made");
        let site = Self { folder, sink, _serving: serving };
        let (chain, key) = &pki.server;
        site.write("server.crt", chain);
        site.write("server.key", key);
        site.write("both.pem", &format!("{chain}{key}"));
        site.write("root.crt", &pki.root_pem);
        site
    }

    fn at(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, text: &str) -> String {
        let path = self.at(file);
        fs::write(&path, text).expect("files can be written");
        path.display().to_string()
    }
}

/// Says one byte to whoever comes, and hears it out.
async fn swallow(listener: TcpListener) {
    let mut guests = JoinSet::new();
    loop {
        let (mut guest, _) = listener.accept().await.expect("a forwarder is accepted");
        guests.spawn(async move {
            // A forwarder that has gone wants no answer.
            if guest.write_all(b"!").await.is_ok() {
                let mut heard = [0; 256];
                while guest.read(&mut heard).await.is_ok_and(|length| length > 0) {}
            }
        });
        while guests.try_join_next().is_some() {}
    }
}

/// A root, an intermediate, and what it issues: P-256 all of them. The keys of the authorities sign revocation lists.
struct Pki {
    root: Issuer<'static, KeyPair>,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
    issuer_pem: String,
    /// Chain and key.
    server: (String, String),
}

impl Pki {
    fn new() -> Self {
        let key = || KeyPair::generate().expect("keys can be made");
        let (root_key, root) = (key(), authority("Bench root", 1));
        let root_pem = root.self_signed(&root_key).expect("certificates can be made").pem();
        let root = Issuer::new(root, root_key);
        let (issuer_key, issuer) = (key(), authority("Bench issuer", 0));
        let issuer_pem = issuer.signed_by(&issuer_key, &root).expect("certificates can be made").pem();
        let issuer = Issuer::new(issuer, issuer_key);
        let mut pki = Self { root, root_pem, issuer, issuer_pem, server: <(String, String)>::default() };
        let name = SanType::DnsName("localhost".try_into().expect("it is a name"));
        pki.server = pki.issue("gateway", ExtendedKeyUsagePurpose::ServerAuth, name);
        pki
    }

    fn collectors(&self) -> Vec<(String, String)> {
        let collector = |number| {
            let uri = format!("spiffe://{TRUST_DOMAIN}/site/site-a/collector/load-{number}");
            let name = SanType::URI(uri.try_into().expect("it is a URI"));
            self.issue(&format!("load-{number}"), ExtendedKeyUsagePurpose::ClientAuth, name)
        };
        (0..COLLECTORS).map(collector).collect()
    }

    /// A chain and its key.
    fn issue(&self, subject: &str, usage: ExtendedKeyUsagePurpose, name: SanType) -> (String, String) {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = named(subject);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = vec![name];
        let own = params.signed_by(&key, &self.issuer).expect("certificates can be made").pem();
        (format!("{own}{}", self.issuer_pem), key.serialize_pem())
    }
}

fn authority(subject: &str, depth: u8) -> CertificateParams {
    let mut params = named(subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(subject: &str) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = now - time::Duration::minutes(5);
    params.not_after = now + time::Duration::days(30);
    params
}

/// 16 random bytes, positive and never shortened.
fn serial() -> SerialNumber {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A revocation list, as PEM, of certificates that nobody has.
fn list(issuer: &Issuer<'_, KeyPair>, entries: usize) -> String {
    let now = OffsetDateTime::now_utc();
    let revoked = || RevokedCertParams {
        serial_number: serial(),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: now - time::Duration::hours(1),
        next_update: now + time::Duration::days(1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: std::iter::repeat_with(revoked).take(entries).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).and_then(|list| list.pem()).expect("revocation lists can be made")
}
