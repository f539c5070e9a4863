//! Why an uplink is not up, whose fault that is, and when to try again.

use std::{error::Error, io, time::Duration};

use rustls::AlertDescription;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    event::Class,
    spool::SpoolError,
    trust,
    uplink::{Gateway, backoff::Severity},
};

/// Why an attempt, or a session, came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No TCP connection.
    #[error("could not connect to {gateway}")]
    Connect {
        /// Where.
        gateway: Gateway,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The gateway ended the session.
    #[error("{gateway} ended the session: {}: {message}", code_name(*code))]
    Ended {
        /// Which.
        gateway: Gateway,
        /// The gRPC code.
        code: Code,
        /// What it said, shortened and escaped.
        message: String,
        /// When it wants us back.
        retry: Option<Duration>,
    },
    /// The spool left out events.
    #[error("the spool of {class} events left some out; the session begins anew")]
    Hole {
        /// Of which class.
        class: Class,
    },
    /// TLS was agreed on, HTTP/2 was not.
    #[error("could not open an HTTP/2 connection to {gateway}")]
    Http {
        /// Where.
        gateway: Gateway,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The gateway's name has no address.
    #[error("{gateway} has no address")]
    NoAddress {
        /// Which.
        gateway: Gateway,
    },
    /// The gateway broke the protocol.
    #[error("{gateway} broke the protocol: {what}")]
    Protocol {
        /// Which.
        gateway: Gateway,
        /// How.
        what: &'static str,
    },
    /// The gateway does not accept our certificate.
    #[error(
        "{gateway} refused this end's certificate ({alert}); its list of refusals says why, or its policy does"
    )]
    Refused {
        /// Which.
        gateway: Gateway,
        /// The alert it sent.
        alert: String,
    },
    /// The name could not be looked up.
    #[error("could not resolve {gateway}")]
    Resolve {
        /// Which.
        gateway: Gateway,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nothing was heard for too long.
    #[error("{gateway} was silent for {} s", silence.as_secs())]
    Silent {
        /// Which.
        gateway: Gateway,
        /// How long.
        silence: Duration,
    },
    /// The spool cannot go on.
    #[error("could not read on in the spool")]
    Spool {
        /// Why not.
        #[source]
        source: SpoolError,
    },
    /// No TLS session.
    #[error("could not agree on TLS with {gateway}")]
    Tls {
        /// With whom.
        gateway: Gateway,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A step took too long.
    #[error("{gateway} did not answer within {} ms while {doing}", patience.as_millis())]
    TimedOut {
        /// Which.
        gateway: Gateway,
        /// What was tried.
        doing: &'static str,
        /// The deadline.
        patience: Duration,
    },
    /// The gateway is not one we trust.
    #[error("{gateway} is not trusted: {reason}")]
    Untrusted {
        /// Which.
        gateway: Gateway,
        /// Why not.
        reason: trust::RefusalReason,
    },
}

impl Failure {
    /// A TLS handshake that failed, at whichever end.
    pub(super) fn of_handshake(gateway: &Gateway, source: io::Error) -> Self {
        let gateway = gateway.clone();
        if let Some(reason) = trust::refusal_of(&source) {
            return Self::Untrusted { gateway, reason };
        }
        match alert_in(&source) {
            Some(alert) => Self::Refused { gateway, alert },
            None => Self::Tls { gateway, source },
        }
    }

    /// An HTTP/2 connection that failed. With TLS 1.3 a refused certificate shows only here.
    pub(super) fn of_transport(gateway: &Gateway, source: tonic::transport::Error) -> Self {
        let gateway = gateway.clone();
        match alert_in(&source) {
            Some(alert) => Self::Refused { gateway, alert },
            None => Self::Http { gateway, source },
        }
    }

    /// A call that ended with `status`.
    pub(super) fn of_status(gateway: &Gateway, status: &Status) -> Self {
        let gateway = gateway.clone();
        if let Some(alert) = alert_in(status) {
            return Self::Refused { gateway, alert };
        }
        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Self::Ended { gateway, code: status.code(), message: for_people(status.message()), retry }
    }

    /// Whether it passes by itself.
    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::Ended {
                code:
                    Code::PermissionDenied
                    | Code::FailedPrecondition
                    | Code::InvalidArgument
                    | Code::Unauthenticated
                    | Code::Unimplemented,
                ..
            }
            | Self::Protocol { .. }
            | Self::Refused { .. }
            | Self::Spool { .. }
            | Self::Untrusted { .. } => Severity::Lasting,
            _ => Severity::Passing,
        }
    }

    /// When the gateway wants us back.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Ended { retry, .. } => *retry,
            _ => None,
        }
    }
}

/// The fatal TLS alert somewhere among the causes.
///
/// Alerts that say nothing about a certificate are left alone: a gateway that goes away sends them too.
fn alert_in(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(here) = cause {
        let tls = here.downcast_ref::<rustls::Error>().or_else(|| {
            let io = here.downcast_ref::<io::Error>()?;
            io.get_ref()?.downcast_ref::<rustls::Error>()
        });
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return is_about_certificates(*alert).then(|| format!("alert {alert:?}"));
        }
        cause = here.source();
    }
    None
}

const fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

/// What a gateway says, fit to be shown: one line, no control characters, not too long.
pub(super) fn for_people(text: &str) -> String {
    text.escape_debug().take(256).collect()
}

fn code_name(code: Code) -> String {
    format!("{code:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> Gateway {
        "gw.test:8443".parse().unwrap()
    }

    #[test]
    fn what_somebody_must_change_first_is_not_retried_at_once() {
        let severity = |code| Failure::of_status(&gateway(), &Status::new(code, "x")).severity();
        assert_eq!(severity(Code::PermissionDenied), Severity::Lasting);
        assert_eq!(severity(Code::InvalidArgument), Severity::Lasting);
        assert_eq!(severity(Code::Unavailable), Severity::Passing);
        assert_eq!(severity(Code::Aborted), Severity::Passing);
        assert_eq!(severity(Code::Unknown), Severity::Passing);
    }

    #[test]
    fn the_time_to_come_back_is_read_from_the_status() {
        let delay = Duration::from_secs(9);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(delay));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        assert_eq!(Failure::of_status(&gateway(), &status).retry_after(), Some(delay));
    }

    #[test]
    fn a_gateways_words_are_shown_on_one_line() {
        let status = Status::unavailable(format!("a\nb\u{1b}[31m{}", "x".repeat(1000)));
        let text = Failure::of_status(&gateway(), &status).to_string();
        assert!(!text.contains(['\n', '\u{1b}']) && text.len() < 400, "{text}");
    }

    #[test]
    fn an_alert_about_our_certificate_is_found_among_the_causes() {
        let alert = rustls::Error::AlertReceived(AlertDescription::AccessDenied);
        let failure = Failure::of_handshake(&gateway(), io::Error::new(io::ErrorKind::InvalidData, alert));
        assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
    }
}
