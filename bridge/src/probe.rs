//! The answers of `/livez`, `/readyz` and the like, as Kubernetes' own components give them; gateway and leaf share them.
//!
//! `200` and `ok`, or `503` and the list of checks. `?verbose` always lists; `?exclude=NAME` leaves a check out of the
//! verdict, any number of times.

use std::fmt::Write as _;

use axum::http::StatusCode;

/// One condition of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, as in `?exclude=`.
    pub name: &'static str,
    /// Why it fails; `None` if it does not.
    pub failure: Option<String>,
}

/// Status and body of a probe's answer to `query`, which is what stands behind the `?`.
#[must_use]
pub fn verdict(probe: &str, checks: &[Check], query: &str) -> (StatusCode, String) {
    let pairs: Vec<_> = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    let verbose = pairs.iter().any(|(key, _)| *key == "verbose");
    let excluded: Vec<_> = pairs.iter().filter(|(key, _)| *key == "exclude").map(|(_, name)| *name).collect();
    let mut body = String::new();
    let mut passed = true;
    for check in checks {
        // Writing to a string does not fail.
        let _written = match &check.failure {
            _ if excluded.contains(&check.name) => writeln!(body, "[+]{} excluded: ok", check.name),
            None => writeln!(body, "[+]{} ok", check.name),
            Some(reason) => {
                passed = false;
                writeln!(body, "[-]{} failed: {reason}", check.name)
            }
        };
    }
    if excluded.iter().any(|name| checks.iter().all(|check| check.name != *name)) {
        body.push_str("warn: some checks to exclude are not known here\n");
    }
    match (passed, verbose) {
        (true, false) => (StatusCode::OK, "ok".to_owned()),
        (true, true) => (StatusCode::OK, format!("{body}{probe} check passed\n")),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{body}{probe} check failed\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        let failure = Some("the broker is gone".to_owned());
        vec![Check { name: "tls", failure: None }, Check { name: "bus", failure }]
    }

    #[test]
    fn a_failed_check_is_listed_and_can_be_excluded() {
        let (status, body) = verdict("readyz", &checks(), "");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "[+]tls ok\n[-]bus failed: the broker is gone\nreadyz check failed\n");
        assert_eq!(verdict("readyz", &checks(), "exclude=bus"), (StatusCode::OK, "ok".to_owned()));
        let (status, body) = verdict("readyz", &checks(), "verbose&exclude=bus");
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, "[+]tls ok\n[+]bus excluded: ok\nreadyz check passed\n");
    }

    #[test]
    fn excluding_what_is_not_there_excludes_nothing() {
        let (status, body) = verdict("readyz", &checks(), "exclude=moon&exclude=&exclude");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("warn: "), "{body}");
    }
}
