//! The demonstration, as a stranger would run it.

use std::{path::Path, time::Duration};

use daemoneye_tests::{eventually, process::Program, within};

use crate::PROGRAMS;

/// Every process that the demo says to have started.
fn children(log: &str) -> Vec<u32> {
    let after = |mark: &str| log.split_once(mark).map_or("", |(_, rest)| rest.lines().next().unwrap_or(""));
    let texts = [after("gateway       pid ").split(',').next().unwrap_or(""), after("pids ")];
    texts.iter().flat_map(|text| text.split(", ")).filter_map(|pid| pid.trim().parse().ok()).collect()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}

#[tokio::test]
async fn the_demo_loses_nothing_and_shows_who_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let args = ["demo", "--for", "3s", "--keep", kept.to_str().unwrap()];
    let mut demo = Program::start(PROGRAMS.gateway, &args, folder.path());
    let status = demo.ended(Duration::from_mins(2)).await;
    let log = demo.log();
    assert!(status.success(), "{log}");
    assert!(log.lines().all(|line| line.chars().count() <= 110), "{log}");
    for refusal in ["site-c/procmond-1 is refused", "site-d/procmond-1 is refused", "unknown_issuer"] {
        assert!(log.contains(refusal), "{refusal}: {log}");
    }
    for site in ["site-a", "site-b"] {
        let row = log.lines().rfind(|line| line.starts_with(&format!("{site}/procmond-1"))).unwrap();
        let numbers: Vec<u64> =
            row.split_whitespace().skip(1).take(5).map(|word| word.parse().unwrap()).collect();
        let [sent, acked, received, lost, duplicates] = numbers[..] else { panic!("{row}") };
        assert!(sent > 30, "{row}");
        assert_eq!((acked, received, lost, duplicates), (sent, sent, 0, 0), "{row}");
    }
    let children = children(&log);
    assert_eq!(children.len(), 5, "{log}");
    assert!(!children.into_iter().any(is_alive), "{log}");
    assert!(kept.join("tls/gateway.key").exists());
}

#[tokio::test]
async fn nothing_of_the_demo_outlives_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let args = ["demo", "--keep", kept.to_str().unwrap()];
    let mut demo = Program::start(PROGRAMS.gateway, &args, folder.path());
    eventually("the demo runs", || demo.log().contains("site-d/procmond-1 is refused")).await;
    let children = children(&demo.log());
    assert!(children.len() == 5 && children.iter().all(|child| is_alive(*child)), "{children:?}");
    demo.kill();
    let patience = Duration::from_mins(1);
    within(patience, "its processes end", || !children.iter().any(|child| is_alive(*child))).await;
}
