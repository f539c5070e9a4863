//! Fetches lists from URLs, and keeps the last good copy of each in a file, from where a generation takes it.
//!
//! Plain HTTP, because lists are signed (RFC 5280, section 8) and whoever checks TLS of a list's server needs a list first.
//!
//! Kept true: a copy is replaced only by what is newer, whole, and verified under its issuer's key; while that key is not
//! known, what comes lies beside the copy, and takes its place once the key was met. A server can cost no more than
//! [`DEADLINE`] and the longest file, and can send nobody elsewhere; one that hangs holds up none of the others before
//! [`AT_ONCE`] do.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task,
    time::{self, Instant},
};

use crate::trust::{
    Material,
    revocation::{Config, ListsError, Source, load::Standing, source},
};

/// How long one fetch may take, from resolving the name to the last octet.
const DEADLINE: Duration = Duration::from_secs(30);

/// The first wait after a failed fetch; it doubles up to the usual interval.
const FIRST_RETRY: Duration = Duration::from_secs(10);

/// Most fetches at a time: each may hold the longest file in memory.
const AT_ONCE: usize = 4;

/// How often it is looked whether the issuer of a list that lies beside its copy was met.
const LOOK: Duration = Duration::from_secs(10);

/// Fetches the URLs of `config` again and again; `current` gives the material in force and `report` is told what became of
/// each fetch. Never ends, and does nothing where there is no URL.
///
/// Cancel safe: a fetch that is cut leaves the old copy.
pub(in crate::trust) async fn keep(
    config: &Config,
    current: impl Fn() -> Arc<Material> + Send + Sync,
    report: impl Fn(&Uri, Result<(), FetchError>) + Send + Sync,
) {
    let turns = Semaphore::new(AT_ONCE);
    let errands: Vec<Errand<'_>> = config
        .sources
        .iter()
        .filter_map(|source| match (source, source.copy(&config.directory)) {
            (Source::Url(url), Some(copy)) => {
                Some(Errand { url, copy, refresh: config.refresh, turns: &turns })
            }
            _ => None,
        })
        .collect();
    future::join_all(errands.iter().map(|errand| errand.run(&current, &report))).await;
    future::pending::<()>().await;
}

/// A URL that is fetched again and again.
struct Errand<'a> {
    url: &'a Uri,
    copy: PathBuf,
    refresh: Duration,
    /// Shared by all URLs.
    turns: &'a Semaphore,
}

impl Errand<'_> {
    async fn run(
        &self,
        current: &(impl Fn() -> Arc<Material> + Sync),
        report: &(impl Fn(&Uri, Result<(), FetchError>) + Sync),
    ) {
        let mut failures = 0_u32;
        loop {
            let fetched = {
                // The semaphore is never closed.
                let _turn = self.turns.acquire().await;
                fetch(self.url, &self.copy, current()).await
            };
            failures = if fetched.is_ok() { 0 } else { failures.saturating_add(1) };
            let retry = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
            let wait = if fetched.is_ok() { self.refresh } else { retry.min(self.refresh) };
            report(self.url, fetched);
            self.rest(Instant::now() + wait, current).await;
        }
    }

    /// Waits until `due`, and meanwhile puts what lies beside the copy in its place once its issuer was met.
    async fn rest(&self, due: Instant, current: &(impl Fn() -> Arc<Material> + Sync)) {
        loop {
            let look = Instant::now() + LOOK;
            time::sleep_until(look.min(due)).await;
            if look >= due {
                return;
            }
            if !current().lists().waits_for(&source::beside(&self.copy)) {
                let (copy, material) = (self.copy.clone(), current());
                let settled = task::spawn_blocking(move || settle(&copy, &material)).await;
                if let Ok(Err(error)) = settled {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a revocation list stays beside its copy"
                    );
                }
            }
        }
    }
}

/// Fetches `url` once, judges what came by the lists in force, and keeps it as `copy`, or beside it while nobody known has
/// signed it.
pub(super) async fn fetch(url: &Uri, copy: &Path, current: Arc<Material>) -> Result<(), FetchError> {
    let bytes = time::timeout(DEADLINE, get(url)).await.map_err(|_elapsed| FetchError::Slow)??;
    let copy = copy.to_owned();
    let kept = task::spawn_blocking(move || {
        let lists = source::lists(bytes.clone()).ok_or(FetchError::NoList)?;
        let standing = current.lists().admits(&lists, &copy, SystemTime::now())?;
        settle(&copy, &current)?;
        let beside = source::beside(&copy);
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| FetchError::Keep { path, source }
        };
        match standing {
            Standing::Verified => {
                keep_copy(&copy, &bytes).map_err(fault(&copy))?;
                // What waited is older than this, or nobody's.
                match std::fs::remove_file(&beside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(&beside)(error)),
                    _ => Ok(()),
                }
            }
            Standing::Unknown if holds(&copy, &bytes) => Ok(()),
            Standing::Unknown => keep_copy(&beside, &bytes).map_err(fault(&beside)),
        }
    });
    // The runtime is shutting down: the old copy stays.
    kept.await.unwrap_or(Ok(()))
}

/// Puts what lies beside `copy` in its place if all of it is in force, so that nothing which comes later and was signed by
/// nobody known can take it away.
pub(super) fn settle(copy: &Path, current: &Material) -> Result<(), FetchError> {
    let beside = source::beside(copy);
    let verified = beside.exists()
        && source::read(&beside).is_ok_and(|lists| lists.iter().all(|der| current.lists().has_in_force(der)));
    if verified {
        let renamed = std::fs::rename(&beside, copy).and_then(|()| sync_folder(copy));
        renamed.map_err(|source| FetchError::Keep { path: copy.to_owned(), source })?;
    }
    Ok(())
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

/// Writes another file and renames it, so that whoever reads `copy` reads the whole.
fn keep_copy(copy: &Path, bytes: &[u8]) -> io::Result<()> {
    if holds(copy, bytes) {
        return Ok(());
    }
    std::fs::create_dir_all(copy.parent().unwrap_or_else(|| Path::new(".")))?;
    let part = copy.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(part, copy)?;
    sync_folder(copy)
}

fn holds(copy: &Path, bytes: &[u8]) -> bool {
    std::fs::read(copy).is_ok_and(|kept| kept == bytes)
}

/// A rename is on the disk when its folder is.
fn sync_folder(file: &Path) -> io::Result<()> {
    if cfg!(unix) {
        std::fs::File::open(file.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    Ok(())
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
