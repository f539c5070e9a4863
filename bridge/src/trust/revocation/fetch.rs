//! Fetches lists from URLs, and keeps the last good copy of each in a file, from where a generation takes it.
//!
//! Plain HTTP, because lists are signed (RFC 5280, section 8) and whoever checks TLS of a list's server needs a list first.
//!
//! Kept true: a copy is replaced only by what is signed, newer and whole; a server can cost no more than [`DEADLINE`] and
//! the longest file, and can send nobody elsewhere.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task,
    time::{self, Instant},
};

use crate::trust::{
    Material,
    revocation::{Config, ListsError, Source, source},
};

/// How long one fetch may take, from resolving the name to the last octet.
const DEADLINE: Duration = Duration::from_secs(30);

/// The first wait after a failed fetch; it doubles up to the usual interval.
const FIRST_RETRY: Duration = Duration::from_secs(10);

/// A URL and when it is fetched next.
struct Errand {
    url: Uri,
    copy: PathBuf,
    due: Instant,
    failures: u32,
}

/// Fetches the URLs of `config` again and again; `current` gives the material in force and `report` is told what became of
/// each fetch. Never ends, and does nothing where there is no URL.
///
/// Cancel safe: a fetch that is cut leaves the old copy.
pub(in crate::trust) async fn keep(
    config: &Config,
    current: impl Fn() -> Arc<Material>,
    report: impl Fn(&Uri, Result<(), FetchError>),
) {
    let mut errands: Vec<Errand> = config
        .sources
        .iter()
        .filter_map(|source| match (source, source.copy(&config.directory)) {
            (Source::Url(url), Some(copy)) => {
                Some(Errand { url: url.clone(), copy, due: Instant::now(), failures: 0 })
            }
            _ => None,
        })
        .collect();
    while let Some(errand) = errands.iter_mut().min_by_key(|errand| errand.due) {
        time::sleep_until(errand.due).await;
        let fetched = fetch(&errand.url, &errand.copy, current()).await;
        errand.failures = if fetched.is_ok() { 0 } else { errand.failures.saturating_add(1) };
        let retry = FIRST_RETRY.saturating_mul(1 << errand.failures.saturating_sub(1).min(16));
        let wait = if fetched.is_ok() { config.refresh } else { retry.min(config.refresh) };
        errand.due = Instant::now() + wait;
        report(&errand.url, fetched);
    }
    std::future::pending::<()>().await;
}

/// Fetches `url` once, judges what came by the lists in force, and keeps it as `copy`.
pub(super) async fn fetch(url: &Uri, copy: &Path, current: Arc<Material>) -> Result<(), FetchError> {
    let bytes = time::timeout(DEADLINE, get(url)).await.map_err(|_elapsed| FetchError::Slow)??;
    let copy = copy.to_owned();
    let kept = task::spawn_blocking(move || {
        let lists = source::lists(bytes.clone()).ok_or(FetchError::NoList)?;
        current.lists().admits(&lists, &copy, SystemTime::now())?;
        keep_copy(&copy, &bytes).map_err(|source| FetchError::Keep { path: copy, source })
    });
    // The runtime is shutting down: the old copy stays.
    kept.await.unwrap_or(Ok(()))
}

async fn get(url: &Uri) -> Result<Vec<u8>, FetchError> {
    let host = url.host().unwrap_or_default();
    let address = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80));
    let tcp = TcpStream::connect(address).await.map_err(FetchError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::NoList)?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => {}
            status => return Err(FetchError::Status(status)),
        }
        let most = usize::try_from(source::MAX_BYTES).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), most).collect().await;
        body.map(|body| body.to_bytes().to_vec()).map_err(FetchError::Body)
    };
    // The connection moves only while it is polled, and has nothing to say that the answer does not.
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}

/// Writes beside the copy and renames, so that whoever reads it reads the whole.
fn keep_copy(copy: &Path, bytes: &[u8]) -> io::Result<()> {
    if std::fs::read(copy).is_ok_and(|kept| kept == bytes) {
        return Ok(());
    }
    let folder = copy.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = copy.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, copy)
}

/// Why a list was not fetched. The copy that was kept stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The answer broke off or was too long.
    #[error("the answer broke off, or is longer than {} bytes", source::MAX_BYTES)]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody listens there.
    #[error("could not connect: check the address")]
    Connect(#[source] io::Error),
    /// Not HTTP.
    #[error("the server does not speak HTTP/1.1")]
    Http(#[from] hyper::Error),
    /// The copy cannot be written.
    #[error("could not keep a copy as {}: check crl_directory", path.display())]
    Keep {
        /// Where.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The list is not one that may replace the one in force.
    #[error(transparent)]
    Lists(#[from] ListsError),
    /// The answer is something else.
    #[error("the answer is no revocation list: check the path")]
    NoList,
    /// It took too long.
    #[error("no whole answer came within {} s", DEADLINE.as_secs())]
    Slow,
    /// Not what was asked for; redirects are not followed.
    #[error("the server answered {0}: give the URL where the list itself lies")]
    Status(StatusCode),
}
