//! A whole federation in a temporary folder: PKI, gateway, leaves, as the real programs.
//!
//! Ports are chosen free and then kept, so that a gateway that was killed comes back where its leaves look for it.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use daemoneye_gateway::pki::{self, Authority, Leaf as Profile};
use tempfile::TempDir;

use crate::{eventually, peer::Credentials, process::Program};

/// The programs under test; a test binary knows where they are, this crate does not.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The gateway.
    pub gateway: &'static str,
    /// The leaf.
    pub leaf: &'static str,
}

/// A policy under which the collectors of the tests may publish all events, at any rate.
pub const POLICY: &str = r#"
[[role]]
name = "collector"
match = { identity = "*-*" }
publish = ["events.#", "control.health.#"]
subscribe = ["control.collector.{name}"]
speaks_for = ["*"]
events_per_second = 10000000
bytes_per_second = "2 GiB"
max_message = "1 MiB"
connections = 4
"#;

/// A federation.
#[derive(Debug)]
pub struct World {
    /// What goes with it.
    pub folder: TempDir,
    /// Where the gateway hears collectors.
    pub address: SocketAddr,
    /// Where the gateway's admin API is.
    pub admin: SocketAddr,
    /// The authority that issues the collectors' certificates.
    pub authority: Authority,
    programs: Programs,
    gateway: Option<Program>,
}

impl World {
    /// Makes PKI, policy and configuration; nothing runs yet. `extra` is added to the gateway's configuration.
    pub fn new(programs: Programs, extra: &str) -> Self {
        let folder = TempDir::with_prefix("daemoneye-").expect("a temporary folder can be made");
        let root = Authority::root("Test root").expect("keys can be made");
        let authority = root.intermediate("Test issuer").expect("keys can be made");
        let server = Profile::server("gateway").dns("localhost").ip(Ipv4Addr::LOCALHOST.into());
        let server = authority.issue(&server).expect("keys can be made");
        let world = Self { folder, address: free(), admin: free(), authority, programs, gateway: None };
        pki::write_certificate(&world.path("tls"), "gateway", &server).expect("files can be written");
        fs::write(world.path("tls/anchors.pem"), world.authority.root_pem()).expect("files can be written");
        fs::write(world.path("policy.toml"), POLICY).expect("files can be written");
        world.configure(extra);
        world
    }

    /// Writes the gateway's configuration; it holds from its next start.
    pub fn configure(&self, extra: &str) {
        let at = |below: &str| self.path(below).display().to_string();
        let (extra, door) = extra.split_once("[unix_socket]").unwrap_or((extra, ""));
        let mut text = String::new();
        write!(
            text,
            r#"{extra}
[tcp]
bind_address = "{}"
max_connections = 2000

[tcp.tls_config]
cert_file = "{}"
key_file = "{}"
ca_file = "{}"

[identity]
trust_domain = "{TRUST_DOMAIN}"

[policy]
file = "{}"

[unix_socket]
socket_path = "{}"
{door}
[state]
directory = "{}"

[admin]
bind_address = "{}"
socket_path = "{}"
"#,
            self.address,
            at("tls/gateway.crt"),
            at("tls/gateway.key"),
            at("tls/anchors.pem"),
            at("policy.toml"),
            at("bus/gateway.sock"),
            at("state"),
            self.admin,
            at("run/admin.sock"),
        )
        .expect("a string can be written");
        fs::write(self.path("gateway.toml"), text).expect("files can be written");
    }

    /// A path in the folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The gateway's socket for local bus clients.
    pub fn socket(&self) -> PathBuf {
        self.path("bus/gateway.sock")
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Starts the gateway without waiting.
    pub fn launch(&mut self) {
        let config = self.path("gateway.toml");
        let args = ["run", "--config", config.to_str().expect("test paths are UTF-8")];
        self.gateway = Some(Program::start(self.programs.gateway, &args, self.folder.path()));
    }

    /// Waits until the gateway says that it is ready.
    pub async fn ready(&self) {
        eventually("the gateway is ready", || self.get("/readyz").is_some_and(|(status, _)| status == 200))
            .await;
    }

    /// The running gateway.
    pub fn gateway(&mut self) -> &mut Program {
        self.gateway.as_mut().expect("the gateway runs")
    }

    /// Ends the gateway as `kill -9` does.
    pub fn kill(&mut self) {
        self.gateway().kill();
        self.gateway = None;
    }

    /// Asks the admin API; none while nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.admin, path)
    }

    /// Asks the admin API for JSON.
    pub fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path).expect("the admin API answers");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// The value of a metric whose line begins with `name`; 0 if there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, body) = self.get("/metrics").expect("the admin API answers");
        let line = body.lines().filter(|line| !line.starts_with('#')).find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// What a collector of this world shows.
    pub fn credentials(&self, site: &str, name: &str) -> Credentials {
        self.credentials_of(&self.authority, &Profile::collector(TRUST_DOMAIN, site, name))
    }

    /// What a peer with a certificate of any authority shows; it trusts this world's gateway.
    pub fn credentials_of(&self, authority: &Authority, profile: &Profile) -> Credentials {
        let own = authority.issue(profile).expect("keys can be made");
        Credentials {
            anchors: self.authority.root_pem().to_owned(),
            own: Some((own.chain_pem(), own.key_pem().to_owned())),
        }
    }

    /// Makes a leaf for `site/name`; nothing runs yet. `extra` is added to its configuration.
    pub fn leaf(&self, site: &str, name: &str, extra: &str) -> Leaf {
        let folder = self.path(&format!("{site}-{name}"));
        fs::create_dir_all(&folder).expect("folders can be made");
        let own =
            self.authority.issue(&Profile::collector(TRUST_DOMAIN, site, name)).expect("keys can be made");
        let files = pki::write_certificate(&folder, "leaf", &own).expect("files can be written");
        let leaf = Leaf {
            config: folder.join("bridge.toml"),
            socket: folder.join("bus/leaf.sock"),
            spool: folder.join("spool"),
            health: free(),
            exe: self.programs.leaf,
            folder,
            program: None,
        };
        let text = format!(
            r#"{extra}
[uplink]
gateways = ["{}"]

[uplink.tls_config]
cert_file = "{}"
key_file = "{}"
ca_file = "{}"

[unix_socket]
socket_path = "{}"

[health]
bind_address = "{}"
"#,
            self.address,
            files.certificate.display(),
            files.key.display(),
            self.path("tls/anchors.pem").display(),
            leaf.socket.display(),
            leaf.health,
        );
        let text = if extra.contains("[spool]") {
            text.replacen("[spool]", &format!("[spool]\ndirectory = \"{}\"", leaf.spool.display()), 1)
        } else {
            format!("{text}\n[spool]\ndirectory = \"{}\"\n", leaf.spool.display())
        };
        fs::write(&leaf.config, text).expect("files can be written");
        leaf
    }
}

/// A leaf of a [`World`].
#[derive(Debug)]
pub struct Leaf {
    /// Its folder.
    pub folder: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its socket for local bus clients.
    pub socket: PathBuf,
    /// Its spool.
    pub spool: PathBuf,
    /// Its health page.
    pub health: SocketAddr,
    exe: &'static str,
    program: Option<Program>,
}

impl Leaf {
    /// Starts it and waits until its local bus answers.
    pub async fn start(&mut self) {
        self.launch();
        let socket = self.socket.clone();
        eventually("the leaf's door opens", || std::os::unix::net::UnixStream::connect(&socket).is_ok())
            .await;
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) {
        let args = ["--config", self.config.to_str().expect("test paths are UTF-8")];
        self.program = Some(Program::start(self.exe, &args, &self.folder));
    }

    /// The running leaf.
    pub fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("the leaf runs")
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.program().kill();
        self.program = None;
    }

    /// Asks its health page; none while nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.health, path)
    }

    /// The sum of a metric over its labels; none while nobody answers.
    pub fn sum(&self, name: &str) -> Option<usize> {
        let (_, body) = self.get("/metrics")?;
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        body.lines().filter(is_it).map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    }
}

/// The trust domain of every test.
pub const TRUST_DOMAIN: &str = "test.daemoneye.test";

/// An address on loopback that nobody uses now.
pub fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address")
}

/// A plain HTTP/1.1 GET; none if nobody answers.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    whole
}

/// A program of somebody else that a test needs, named by a variable that `.ci/run` sets. Says SKIPPED if it is missing.
pub fn tool(variable: &str, test: &str) -> Option<String> {
    let found = std::env::var(variable).ok().filter(|path| Path::new(path).exists());
    if found.is_none() {
        skipped(test, &format!("{variable} does not name a program"));
    }
    found
}

/// A program of the system that a test needs. Says SKIPPED if it is not installed.
pub fn installed(name: &str, test: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|place| place.is_file());
    if found.is_none() {
        skipped(test, &format!("{name} is not installed"));
    }
    found.map(|place| place.display().to_string())
}

/// Says that a test did not run, past the capture of the test runner.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write as _;
    let line = format!("SKIPPED {test}: {why}\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
}
