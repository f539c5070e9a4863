//! What others do the same with: their programs, configured alike, and what the forwarding ones forward to.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use daemoneye_tests::{eventually::within, process::Program, world::free};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use crate::pki::Pki;

/// A program of somebody else's that does mutual TLS.
pub(crate) struct Other {
    pub(crate) name: &'static str,
    pub(crate) programs: &'static [&'static str],
    /// Writes what configuration it needs, and returns its arguments: where it listens, and what it forwards to.
    arguments: fn(&Site, SocketAddr) -> Vec<String>,
}

pub(crate) const OTHERS: [Other; 4] = [
    Other { name: "ghostunnel", programs: &["ghostunnel"], arguments: ghostunnel },
    Other { name: "haproxy", programs: &["haproxy"], arguments: haproxy },
    Other { name: "nginx", programs: &["nginx"], arguments: nginx },
    Other { name: "stunnel", programs: &["stunnel4", "stunnel"], arguments: stunnel },
];

impl Other {
    /// None if it is not installed.
    pub(crate) async fn start(&self, site: &Site) -> Option<(Program, SocketAddr)> {
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
pub(crate) struct Site {
    folder: TempDir,
    sink: SocketAddr,
    _serving: JoinSet<()>,
}

impl Site {
    pub(crate) async fn new(pki: &Pki) -> Self {
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
