//! A server of lists that does as it is told, once a connection.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time,
};

use crate::trust::{
    RefusalReason,
    revocation::{
        FetchError, ListsError, Need, Source, Stale, fetch,
        tests::{
            forge::Forge,
            site::{Site, refused},
        },
    },
    tests::pki::{Authority, numbered},
};

/// Answers, one a connection; the last again and again.
struct Server {
    listener: TcpListener,
    answers: Mutex<VecDeque<Vec<u8>>>,
}

impl Server {
    async fn new(answers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, answers: Mutex::new(answers.into_iter().collect()) }
    }

    fn source(&self) -> Source {
        format!("http://{}/root.crl", self.listener.local_addr().unwrap()).parse().unwrap()
    }

    async fn serve(&self) {
        loop {
            let (mut tcp, _) = self.listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = tcp.read(&mut asked).await.unwrap();
            assert!(asked[..length].starts_with(b"GET /root.crl HTTP/1.1\r\n"));
            let answer = {
                let mut answers = self.answers.lock().unwrap();
                let first = answers.pop_front().unwrap();
                if answers.is_empty() {
                    answers.push_back(first.clone());
                }
                first
            };
            // Whoever has heard enough may be gone.
            drop(tcp.write_all(&answer).await);
        }
    }

    /// Fetches once, as the answers have it.
    async fn fetch(&self, site: &Site) -> Result<(), FetchError> {
        let Source::Url(url) = self.source() else { panic!("it is a URL") };
        let copy = self.source().copy(&site.plan.revocation.directory).unwrap();
        let current = Arc::new(site.load().unwrap());
        tokio::select! {
            () = self.serve() => panic!("serving never ends"),
            done = fetch::fetch(&url, &copy, current) => done,
        }
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn site(root: &Authority, server: &Server) -> Site {
    let mut site = Site::new(&[root], Need::Required, Stale::Fail);
    site.plan.revocation.sources = vec![server.source()];
    site
}

#[tokio::test]
async fn what_was_fetched_is_in_force_and_outlives_the_server() {
    let root = Authority::root("root");
    let server = Server::new([answer("200 OK", &Forge::new(1, &[5]).by(&root))]).await;
    let site = site(&root, &server);
    let store = site.store();
    // Until it is there nobody is let in.
    let leaf = root.issue(&numbered(6));
    assert_eq!(refused(&store.current(), &leaf), Some(RefusalReason::RevocationUnknown));
    let mut generations = store.watch();
    generations.mark_unchanged();
    tokio::select! {
        () = server.serve() => panic!("serving never ends"),
        () = store.follow(Duration::from_millis(50), |_| {}) => panic!("following never ends"),
        changed = time::timeout(Duration::from_secs(20), generations.changed()) => changed.unwrap().unwrap(),
    }
    assert_eq!(refused(&store.current(), &leaf), None);
    assert_eq!(refused(&store.current(), &root.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
    drop((server, store));
    let after = site.load().unwrap();
    assert_eq!(refused(&after, &root.issue(&numbered(5))), Some(RefusalReason::CertificateRevoked));
}

#[tokio::test]
async fn what_may_not_replace_the_copy_does_not() {
    let (root, other) = (Authority::root("root"), Authority::root("root"));
    let mut ahead = Forge::new(9, &[]);
    ahead.this_update = SystemTime::now() + Duration::from_hours(1);
    let whole = answer("200 OK", &Forge::new(6, &[]).by(&root));
    let server = Server::new([
        answer("200 OK", &Forge::new(5, &[5]).by(&root)),
        answer("200 OK", &Forge::new(4, &[]).by(&root)),
        answer("200 OK", &ahead.by(&root)),
        answer("200 OK", &Forge::new(6, &[]).by(&other)),
        answer("200 OK", b"<html>welcome</html>"),
        answer("302 Found\r\nLocation: http://127.0.0.1/other", b""),
        answer("404 Not Found", b""),
        whole[..whole.len() - 9].to_vec(),
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n0", 65 << 20).into_bytes(),
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        whole,
    ])
    .await;
    let site = site(&root, &server);
    server.fetch(&site).await.unwrap();
    let kept = site.load().unwrap();
    let mut errors = Vec::new();
    for _ in 0..9 {
        errors.push(server.fetch(&site).await.unwrap_err());
        assert_eq!(site.load().unwrap(), kept);
    }
    assert!(matches!(errors[0], FetchError::Lists(ListsError::WentBack { .. })));
    assert!(matches!(errors[1], FetchError::Lists(ListsError::Future { .. })));
    assert!(matches!(errors[2], FetchError::Lists(ListsError::Withdrawn { .. })), "{:?}", errors[2]);
    assert!(matches!(errors[3], FetchError::NoList));
    assert!(matches!(errors[4], FetchError::Status(status) if status == 302));
    assert!(matches!(errors[5], FetchError::Status(status) if status == 404));
    assert!(matches!(errors[6], FetchError::Body(_)));
    assert!(matches!(errors[7], FetchError::Body(_)));
    assert!(matches!(errors[8], FetchError::Http(_)));
    server.fetch(&site).await.unwrap();
    assert_ne!(site.load().unwrap(), kept);
}

/// Lists are fetched in the clear, and who signs them is known only once a collector has shown its chain.
#[tokio::test]
async fn what_nobody_known_has_signed_never_displaces_the_good_copy() {
    let root = Authority::root("root");
    let between = root.intermediate("between", 2099);
    let forged = Forge { key_id: false, ..Forge::new(9, &[]) };
    let server = Server::new([
        answer("200 OK", &Forge::new(5, &[5]).by(&between)),
        answer("200 OK", &forged.signed(&between, &Authority::root("between"))),
        answer("200 OK", &Forge::new(1, &[]).by(&Authority::root("somebody"))),
        answer("200 OK", &Forge::new(6, &[5, 6]).by(&between)),
        answer("200 OK", &Forge::new(4, &[]).by(&between)),
    ])
    .await;
    let mut site = site(&root, &server);
    site.plan.revocation.rule.need = Need::IfPresent;
    let copy = server.source().copy(&site.plan.revocation.directory).unwrap();
    let verdict = |serial| {
        let fresh = site.load().unwrap();
        let verdict = refused(&fresh, &between.issue(&numbered(serial)));
        fetch::settle(&copy, &fresh).unwrap();
        verdict
    };
    server.fetch(&site).await.unwrap();
    assert!(!copy.exists(), "nobody known has signed it");
    assert_eq!(verdict(5), Some(RefusalReason::CertificateRevoked));
    assert!(copy.exists(), "its issuer was met");
    // Each time the process starts anew, and has met nobody.
    for _ in 0..2 {
        server.fetch(&site).await.unwrap();
        assert_eq!([verdict(5), verdict(6)], [Some(RefusalReason::CertificateRevoked), None]);
    }
    server.fetch(&site).await.unwrap();
    assert_eq!(verdict(6), Some(RefusalReason::CertificateRevoked));
    server.fetch(&site).await.unwrap();
    assert_eq!(verdict(6), Some(RefusalReason::CertificateRevoked), "the newest that was verified counts");
}

#[tokio::test]
async fn a_copy_that_is_damaged_is_passed_over_until_the_next_fetch() {
    let root = Authority::root("root");
    let list = Forge::new(1, &[5]).by(&root);
    let server = Server::new([answer("200 OK", &list)]).await;
    let site = site(&root, &server);
    let copy = server.source().copy(&site.plan.revocation.directory).unwrap();
    let mut ahead = Forge::new(9, &[]);
    ahead.this_update = SystemTime::now() + Duration::from_hours(1);
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    for damaged in [b"".to_vec(), b"\0\0\0".to_vec(), list[..list.len() - 9].to_vec(), ahead.by(&root)] {
        std::fs::write(&copy, damaged).unwrap();
        let material = site.load().unwrap();
        // As if it was never fetched.
        assert_eq!(refused(&material, &root.issue(&numbered(6))), Some(RefusalReason::RevocationUnknown));
        server.fetch(&site).await.unwrap();
        assert_eq!(refused(&site.load().unwrap(), &root.issue(&numbered(6))), None);
    }
}

#[tokio::test]
async fn a_server_that_hangs_holds_up_no_other() {
    let root = Authority::root("root");
    let (silent, server) =
        (Server::new([]).await, Server::new([answer("200 OK", &Forge::new(1, &[5]).by(&root))]).await);
    let mut site = site(&root, &server);
    site.plan.revocation.sources = vec![silent.source(), server.source()];
    let store = site.store();
    let mut generations = store.watch();
    generations.mark_unchanged();
    tokio::select! {
        () = server.serve() => panic!("serving never ends"),
        () = store.follow(Duration::from_millis(50), |_| {}) => panic!("following never ends"),
        changed = time::timeout(Duration::from_secs(20), generations.changed()) => changed.unwrap().unwrap(),
    }
    assert_eq!(refused(&store.current(), &root.issue(&numbered(6))), None);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let root = Authority::root("root");
    let server = Server::new([]).await;
    let site = site(&root, &server);
    let Source::Url(url) = server.source() else { panic!("it is a URL") };
    let copy = server.source().copy(&site.plan.revocation.directory).unwrap();
    let current = Arc::new(site.load().unwrap());
    // The kernel accepts, and nobody answers; the clock runs ahead while nothing else is to be done.
    time::pause();
    let silent = fetch::fetch(&url, &copy, current).await;
    assert!(matches!(silent, Err(FetchError::Slow)), "{silent:?}");
}
