//! What every request passes: the check of its `Host`, and the headers that keep a browser honest.
//!
//! A web page can point a name of its own at 127.0.0.1 and so talk to this listener from the operator's browser (DNS
//! rebinding). Such a request carries the page's name as its host, and is refused.

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use daemoneye_bridge::settings::Chain;
use tokio::task;

use crate::admin::{
    caller::Caller,
    problem::Problem,
    token::{Role, Tokens},
};

/// Names that a request may be sent to, besides loopback addresses and `localhost`.
pub(super) type Hosts = Arc<BTreeSet<String>>;

/// Refuses a request that was sent to another name than ours.
pub(super) async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if is_sent_to_us(&hosts, request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let detail = "this listener answers to localhost, loopback addresses and admin.allowed_hosts only";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// Lets what changes something pass only from who may change it, and from no page of another origin.
///
/// Reading is open to this host. Changes are not: containers of one pod share the loopback, and a browser on it can be led
/// there. The UNIX socket cannot be reached by either, and the kernel says who is at its other end; a token neither has.
pub(super) async fn check_change(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    if !is_of_our_origin(&hosts, request.headers()) {
        let detail = "a page of another origin may change nothing here";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    let detail = match request.extensions().get::<Caller>() {
        Some(caller) if caller.role() >= Role::Operator => return next.run(request).await,
        Some(Caller::Token(_)) => "this token may read only; changes need the role operator or admin",
        _ => {
            "changes are taken over the UNIX socket of admin.socket_path (use daemoneye-cli there), or with a token of \
             admin.token_file"
        }
    };
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}

/// Looks whose token a request shows, if it shows one; a wrong one is refused, even where none is needed.
pub(super) async fn recognise(
    State(file): State<Option<Arc<Path>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else { return next.run(request).await };
    let mut shown = request.headers().get_all(header::AUTHORIZATION).iter();
    // The kernel's word is better than a token.
    let (Some(first), Caller::Remote) = (shown.next(), &caller) else { return next.run(request).await };
    let token = first.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let (Some(token), None, Some(file)) = (token.map(str::to_owned), shown.next(), file) else {
        return unauthorized(
            "one `Authorization: Bearer` with a token of admin.token_file is understood, and nothing else",
        );
    };
    let found = task::spawn_blocking(move || Tokens::load(&file).map(|tokens| tokens.find(&token).cloned()));
    match found.await {
        Ok(Ok(Some(owner))) => {
            request.extensions_mut().insert(Caller::Token(owner));
            next.run(request).await
        }
        Ok(Ok(None)) => unauthorized("this token is not among those of admin.token_file"),
        Ok(Err(error)) => {
            tracing::error!(error = %Chain(&error), "no token is taken");
            let detail = "the tokens of this gateway cannot be read; its log says why";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
        }
        Err(_gone) => Problem::internal("the gateway is going away").into_response(),
    }
}

fn unauthorized(detail: &str) -> Response {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Adds the headers that forbid a browser to embed, guess or keep what is served here.
pub(super) async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Whether `host` could be the host of a URL: letters, digits, dots and hyphens.
pub(super) fn is_host_name(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
}

fn is_sent_to_us(hosts: &BTreeSet<String>, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return false };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    // A request target with an authority of its own outranks the header; both must be ours.
    is_ours(hosts, &host) && uri.authority().is_none_or(|authority| is_ours(hosts, authority))
}

/// Whether the page that sends a request, if a page does, is ours. Browsers say so with every change.
fn is_of_our_origin(hosts: &BTreeSet<String>, headers: &HeaderMap) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        origin.as_ref().and_then(Uri::authority).is_some_and(|authority| is_ours(hosts, authority))
    })
}

fn is_ours(hosts: &BTreeSet<String>, authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host().to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || hosts.contains(&host) || address.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The page loads its own script and style and talks to its own API; nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(target: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let allowed = BTreeSet::from(["gateway.example".to_owned()]);
        is_sent_to_us(&allowed, &target.parse().unwrap(), &headers)
    }

    #[test]
    fn loopback_localhost_and_configured_names_pass() {
        for host in
            ["localhost", "localhost:9090", "127.0.0.1:9090", "[::1]:9090", "LOCALHOST", "gateway.example:80"]
        {
            assert!(passes("/", &[host]), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_known_by_what_its_browser_says() {
        let from = |origins: &[&str]| {
            let mut headers = HeaderMap::new();
            for origin in origins {
                headers.append(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            is_of_our_origin(&BTreeSet::from(["gateway.example".to_owned()]), &headers)
        };
        for ours in [&[][..], &["http://127.0.0.1:9090"], &["http://gateway.example"], &["http://[::1]:9090"]]
        {
            assert!(from(ours), "{ours:?}");
        }
        for other in
            [&["null"][..], &["http://evil.example"], &["http://localhost", "http://evil.example"], &[""]]
        {
            assert!(!from(other), "{other:?}");
        }
    }

    #[test]
    fn a_rebound_name_is_refused_however_it_is_told() {
        for host in
            ["evil.example", "evil.example:9090", "10.0.0.1", "127.0.0.1.evil.example", "a@localhost", ""]
        {
            assert!(!passes("/", &[host]), "{host}");
        }
        assert!(!passes("/", &[]));
        assert!(!passes("/", &["localhost", "evil.example"]));
        assert!(!passes("http://evil.example/", &["localhost"]));
    }
}
