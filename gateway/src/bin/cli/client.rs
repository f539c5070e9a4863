//! The way to a running gateway: over its UNIX socket, or plain HTTP to its admin listener.
//!
//! The socket is asked first, because a flood of the listener does not reach it, and because changes need no token there.
//!
//! Kept true: a command ends in its time, however slowly a gateway answers; a change is sent once; a token, which goes in clear,
//! leaves neither this host nor for whoever happens to listen where nobody was named.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use daemoneye_bridge::settings;
use daemoneye_gateway::config::Config;
use serde_json::Value;
use tokio::time::Instant;

use crate::cli::output::{printable, text_of};

/// Where a gateway is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Gateway {
    /// Where the gateway's admin listener is. If neither this nor --socket is said: where the configuration says, else the
    /// usual socket, else 127.0.0.1:9090.
    #[arg(long, global = true)]
    address: Option<SocketAddr>,
    /// The gateway's admin socket. /var/run/daemoneye/admin.sock if not said.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The gateway's configuration, which says where it is. If not said: /etc/daemoneye/gateway.toml, then ./gateway.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file that holds a token, as `token new` made it: with it changes are taken at --address, or where --config says. The
    /// token goes in clear, so to loopback only.
    #[arg(long, global = true, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// How long the whole command may take.
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = humantime_serde::re::humantime::parse_duration)]
    timeout: Duration,
    /// When it began.
    #[arg(skip = Instant::now())]
    begun: Instant,
}

/// Where one request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Listener(SocketAddr),
    Socket(PathBuf),
}

/// Why there is no answer.
#[derive(Debug)]
enum Silence {
    /// Nobody took the request.
    Unreached(io::Error),
    /// Somebody took it, and the answer broke off.
    Broken(io::Error),
}

impl Gateway {
    /// The same, with all the time there is from now on: for commands that ask again and again, or that were typed in.
    pub(crate) fn anew(&self) -> Self {
        Self { begun: Instant::now(), ..self.clone() }
    }

    /// Asks for a resource below `/api/v1`.
    ///
    /// # Errors
    ///
    /// Nobody answers in time, or the answer is a problem or no JSON.
    pub(crate) fn get(&self, resource: &str) -> anyhow::Result<Value> {
        let head = format!("GET /api/v1/{resource} HTTP/1.1\r\n");
        let (place, answer) = self.ask(&head, "")?;
        read(&place, &answer, ADMIN)
    }

    /// Asks for a change below `/api/v1`.
    ///
    /// # Errors
    ///
    /// Nobody answers in time, the change is refused, or the answer is no JSON.
    pub(crate) fn post(&self, resource: &str, body: &Value) -> anyhow::Result<Value> {
        if let (Some(address), None, None) = (self.address, &self.socket, &self.token_file) {
            bail!(
                "changes are taken at {address} with a token only; name its file with --token-file, or the gateway's socket with --socket"
            );
        }
        let body = body.to_string();
        let head = format!(
            "POST /api/v1/{resource} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        let (place, answer) = self
            .ask(&head, &body)
            .context("could not reach the gateway for a change; are you root or its user? name its admin.socket_path with --socket")?;
        read(&place, &answer, ADMIN)
    }

    /// Asks at one place after the other until one takes the request, and waits for the whole answer.
    fn ask(&self, head: &str, body: &str) -> anyhow::Result<(String, Vec<u8>)> {
        let token = self.token()?;
        let (mut places, mut silent) = self.places()?;
        // A change without a token is for the socket alone.
        places
            .retain(|place| head.starts_with("GET ") || token.is_some() || matches!(place, Place::Socket(_)));
        if token.is_none() && self.token_file.is_some() && !head.starts_with("GET ") {
            let hint = "no listener was asked: a token is shown only to one that is named with --address or --config";
            silent.push(hint.to_owned());
        }
        for place in places {
            let request = place.request(head, token.as_deref(), body);
            let name = place.to_string();
            let left = self.timeout.saturating_sub(self.begun.elapsed());
            let (asked, answered) = mpsc::sync_channel(1);
            // Not every step of an operating system takes a deadline; a thread that is left behind ends with the command.
            thread::spawn(move || asked.send(place.exchange(&request)));
            match answered.recv_timeout(left) {
                Ok(Ok(answer)) => return Ok((name, answer)),
                Ok(Err(Silence::Unreached(error))) => silent.push(format!("no answer from {name}: {error}")),
                Ok(Err(Silence::Broken(error))) => {
                    return Err(error).with_context(|| format!("the answer of {name} broke off"));
                }
                Err(_late) => bail!(
                    "no whole answer from {name} within {}; is the gateway overloaded? give it longer with --timeout",
                    humantime_serde::re::humantime::format_duration(self.timeout)
                ),
            }
        }
        bail!(
            "{}; is the gateway running? name its configuration with --config, or its place with --address or --socket",
            silent.join(", and ")
        )
    }

    /// The token, if there is one and a listener that may see it: whoever listens at an address that nobody named would have it.
    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(None) };
        if let Some(address) = self.address.filter(|address| !address.ip().to_canonical().is_loopback()) {
            bail!(
                "the token in {} would go to {address} in clear; name the loopback end of a tunnel (ssh -L, kubectl port-forward) with --address, or the gateway's socket with --socket",
                path.display()
            );
        }
        let is_named = self.address.is_some() || self.config.is_some();
        is_named.then(|| token(path)).transpose()
    }

    /// Where a request may go, the best first, and what went wrong in finding out.
    fn places(&self) -> anyhow::Result<(Vec<Place>, Vec<String>)> {
        let (mut places, mut trouble) = (Vec::new(), Vec::new());
        let mut add = |socket: Option<PathBuf>, address: Option<SocketAddr>| {
            for place in socket.map(Place::Socket).into_iter().chain(address.map(Place::Listener)) {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        };
        if self.socket.is_some() || self.address.is_some() {
            add(self.socket.clone(), self.address);
            return Ok((places, trouble));
        }
        match self.settings() {
            Ok(Some((_, settings))) => {
                // Port 0 is any that was free.
                let address = Some(settings.admin.bind_address).filter(|address| address.port() != 0);
                add(settings.admin.socket_path, address);
            }
            Ok(None) => {}
            Err(error) if self.config.is_some() => return Err(error),
            // It may be for the gateway's eyes only.
            Err(error) => trouble.push(format!("{error:#}")),
        }
        if self.config.is_none() {
            add(Some(SOCKET.into()), Some(usual()));
        }
        Ok((places, trouble))
    }

    /// The gateway's configuration, and where it stands: what was named, or else what is in one of the usual places.
    ///
    /// # Errors
    ///
    /// It cannot be read, or no gateway could run with it.
    pub(crate) fn settings(&self) -> anyhow::Result<Option<(PathBuf, Config)>> {
        let found = CONFIGS.iter().map(PathBuf::from).find(|path| path.exists());
        let Some(path) = self.config.clone().or(found) else { return Ok(None) };
        let settings = Config::load(&path)
            .with_context(|| format!("could not learn from {} where the gateway is", path.display()))?;
        Ok(Some((path, settings)))
    }

    /// The address that was named.
    pub(crate) const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The socket that was named.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }
}

/// Asks a leaf's page for JSON.
///
/// # Errors
///
/// Nobody answers in time, or the answer is no success or no JSON.
pub(crate) fn ask_leaf(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let place = Place::Listener(address);
    let request = place.request(&format!("GET {path} HTTP/1.1\r\n"), None, "");
    let (asked, answered) = mpsc::sync_channel(1);
    thread::spawn(move || asked.send(place.exchange(&request)));
    let answer = match answered.recv_timeout(PATIENCE) {
        Ok(Ok(answer)) => answer,
        Ok(Err(Silence::Unreached(error) | Silence::Broken(error))) => {
            return Err(error).with_context(|| format!("no answer from {LEAF} at {address}"));
        }
        Err(_late) => bail!("no whole answer from {LEAF} at {address} within {PATIENCE:?}"),
    };
    read(&address.to_string(), &answer, LEAF)
}

impl Place {
    fn request(&self, head: &str, token: Option<&str>, body: &str) -> String {
        let host = match self {
            Self::Listener(address) => address.to_string(),
            Self::Socket(_) => "localhost".to_owned(),
        };
        // The kernel says who asks over the socket.
        let token = token.filter(|_| matches!(self, Self::Listener(_)));
        let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        format!("{head}Host: {host}\r\n{token}Connection: close\r\n\r\n{body}")
    }

    fn exchange(&self, request: &str) -> Result<Vec<u8>, Silence> {
        match self {
            Self::Listener(address) => {
                exchange(TcpStream::connect(address).map_err(Silence::Unreached)?, request)
            }
            Self::Socket(path) => exchange(UnixStream::connect(path).map_err(Silence::Unreached)?, request),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listener(address) => write!(f, "the admin listener at {address}"),
            Self::Socket(path) => write!(f, "the admin socket {}", path.display()),
        }
    }
}

/// One request a connection, so that the answer ends where the connection does.
fn exchange(mut stream: impl Read + Write, request: &str) -> Result<Vec<u8>, Silence> {
    stream.write_all(request.as_bytes()).map_err(Silence::Broken)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(Silence::Broken)?;
    Ok(answer)
}

/// The token in a file.
fn token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("could not read the token in {}", path.display()))?;
    if let Some(mode) = settings::exposed(path).unwrap_or_default() {
        bail!("the token in {0} can be read by others (mode {mode:04o}): chmod 600 {0}", path.display());
    }
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{} holds no token; it must hold one line, as `token new` printed it", path.display());
    }
    Ok(token.to_owned())
}

/// Takes an answer apart; what is no success becomes an error in the gateway's own words.
fn read(place: &str, answer: &[u8], what: &str) -> anyhow::Result<Value> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = end
        .and_then(|end| answer.split_at_checked(end + 4))
        .with_context(|| format!("{place} answered with something that is not HTTP; is that {what}?"))?;
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    let value: Option<Value> = serde_json::from_slice(body).ok();
    if !status.starts_with('2') {
        let mut why = format!("{place} answered {status}");
        if let Some(problem) = &value {
            for part in
                ["title", "detail"].map(|key| text_of(problem, key)).iter().filter(|text| !text.is_empty())
            {
                write!(why, ": {part}").context("a string can be written")?;
            }
        }
        bail!("{}", printable(&why));
    }
    value.with_context(|| format!("the answer of {place} is not JSON; is that {what}?"))
}

/// Where the admin listener is unless it was configured elsewhere.
const fn usual() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090)
}

/// Where a gateway's configuration is, unless somebody knows better.
const CONFIGS: [&str; 2] = ["/etc/daemoneye/gateway.toml", "gateway.toml"];

/// Where the admin socket is unless it was configured elsewhere.
const SOCKET: &str = "/var/run/daemoneye/admin.sock";

/// What is asked, as errors name it.
const ADMIN: &str = "a gateway's admin listener";
const LEAF: &str = "a leaf's health page";

/// How long a leaf may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of an answer: some hundred thousand sessions.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_in_the_gateways_words_and_escaped() {
        let answer = b"HTTP/1.1 403 Forbidden\r\n\r\n{\"title\":\"Forbidden\",\"detail\":\"no\\u001b[2J\"}";
        let error = read("here", answer, ADMIN).unwrap_err().to_string();
        assert_eq!(error, "here answered 403: Forbidden: no\\u{1b}[2J");
        assert!(read("here", b"hello", ADMIN).unwrap_err().to_string().contains("not HTTP"));
        assert!(
            read("here", b"HTTP/1.1 200 OK\r\n\r\n<p>", ADMIN).unwrap_err().to_string().contains("not JSON")
        );
        assert_eq!(read("here", b"HTTP/1.1 201 Created\r\n\r\n{}", ADMIN).unwrap(), serde_json::json!({}));
    }

    fn gateway(address: Option<SocketAddr>, socket: Option<PathBuf>) -> Gateway {
        Gateway {
            address,
            socket,
            config: None,
            token_file: None,
            timeout: Duration::from_millis(300),
            begun: Instant::now(),
        }
    }

    /// Hears a request, and answers it.
    fn answer(mut stream: impl Read + Write, who: &str) {
        // What was not read would reset the connection.
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n{{\"by\":\"{who}\"}}").unwrap();
    }

    #[test]
    fn a_change_is_not_tried_where_it_cannot_be_taken() {
        let error = gateway(Some(usual()), None).post("reload", &Value::Null).unwrap_err().to_string();
        assert!(error.contains("--socket") && error.contains("--token-file"), "{error}");
    }

    #[test]
    fn a_token_leaves_neither_this_host_nor_for_who_was_not_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "daemoneye_1\n").unwrap();
        let mode = |mode| {
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let with = |address: Option<&str>, config: Option<PathBuf>| {
            let address = address.map(|address| address.parse().unwrap());
            Gateway { token_file: Some(file.clone()), config, ..gateway(address, None) }
        };
        mode(0o644);
        let open = with(Some("127.0.0.1:9090"), None).token().unwrap_err().to_string();
        assert!(open.contains("(mode 0644): chmod 600"), "{open}");
        mode(0o600);
        for loopback in ["127.0.0.1:9090", "[::1]:9090", "[::ffff:127.0.0.2]:9090"] {
            assert_eq!(with(Some(loopback), None).token().unwrap().unwrap(), "daemoneye_1", "{loopback}");
        }
        let far = with(Some("192.0.2.1:9090"), None).post("reload", &Value::Null).unwrap_err();
        let far = format!("{far:#}");
        assert!(far.contains("192.0.2.1:9090 in clear") && far.contains("tunnel"), "{far}");
        assert!(with(None, Some("gateway.toml".into())).token().unwrap().is_some());
        assert_eq!(with(None, None).token().unwrap(), None, "nobody was named");
    }

    #[test]
    fn the_socket_is_asked_first_and_the_listener_if_nobody_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, tcp) = (folder.path().join("s"), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = tcp.local_addr().unwrap();
        thread::spawn(move || answer(tcp.accept().unwrap().0, "listener"));
        let asked = gateway(Some(address), Some(path.clone())).get("health").unwrap();
        assert_eq!(asked["by"], "listener");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        thread::spawn(move || answer(unix.accept().unwrap().0, "socket"));
        assert_eq!(gateway(Some(address), Some(path)).get("health").unwrap()["by"], "socket");
    }

    #[test]
    fn a_configuration_says_where_the_gateway_is_and_is_asked_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gateway.toml");
        let place = |text: &str| {
            fs::write(&config, text).unwrap();
            Gateway { config: Some(config.clone()), ..gateway(None, None) }.places()
        };
        let (places, trouble) =
            place("[admin]\nbind_address = '127.0.0.1:9191'\nsocket_path = '/run/x.sock'\n").unwrap();
        let named = [Place::Socket("/run/x.sock".into()), Place::Listener("127.0.0.1:9191".parse().unwrap())];
        assert_eq!((places.as_slice(), trouble.len()), (&named[..], 0));
        let wrong = format!("{:#}", place("[admn]\n").unwrap_err());
        assert!(wrong.contains("gateway.toml") && wrong.contains("admn"), "{wrong}");
    }

    #[test]
    fn a_gateway_that_drips_or_says_nothing_does_not_hold_a_command_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Each octet comes in time, and the whole never does.
            while stream.write_all(b" ").is_ok() {
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        for _ in 0..2 {
            let error = gateway(None, Some(path.clone())).get("health").unwrap_err().to_string();
            assert!(error.contains("within 300ms") && error.contains("--timeout"), "{error}");
        }
    }
}
