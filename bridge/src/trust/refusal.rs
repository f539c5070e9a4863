//! Why a stranger was refused: a closed list of stable codes.
//!
//! A peer is told one and the same alert whatever the reason, because TLS's own alerts tell a revoked certificate from an
//! expired and an unknown one. The operator is told the code and what to do.

use std::fmt;

/// Why a connection was refused. The codes are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The stranger hung up or sent an alert.
    Aborted,
    /// The certificate names two identities.
    AmbiguousIdentity,
    /// The anchor of the path is not valid now.
    AnchorExpired,
    /// A name in the certificate has the form of an identity with a part that cannot be one.
    BadName,
    /// A proxy did not say for whom it connects.
    BadProxyHeader,
    /// A signature of the path does not check out.
    BadSignature,
    /// The certificate is one of an authority.
    CaAsLeaf,
    /// The leaf or an intermediate is past its validity.
    CertificateExpired,
    /// The leaf or an intermediate is not valid yet.
    CertificateNotYetValid,
    /// A certificate of an end entity was used as an authority's, or a path is too long.
    ChainBroken,
    /// Building a path would cost too much.
    ChainTooComplex,
    /// A peer that was proven connects again and again, and has to wait.
    CoolingDown,
    /// The longest silent one made room while too many had yet to say who they are.
    Crowded,
    /// As many peers are connected as may be.
    Full,
    /// No protocol in common.
    Incompatible,
    /// A certificate cannot be read.
    Malformed,
    /// The stranger broke the rules of TLS.
    Misbehaved,
    /// An authority may not speak for a name in the certificate.
    NameConstraint,
    /// No certificate was presented.
    NoCertificate,
    /// The certificate names nobody.
    NoIdentity,
    /// No role of the policy matches the peer.
    NoRole,
    /// What was sent is not TLS.
    NotTls,
    /// The key of the certificate was not proven to be held.
    PossessionNotProven,
    /// Too many connections of a network, or of all, prove nothing.
    RateExceeded,
    /// The handshake took too long.
    TimedOut,
    /// TLS 1.2 without the extended master secret.
    TlsMasterSecret,
    /// No cipher suite or group in common.
    TlsSuite,
    /// No version of TLS in common.
    TlsVersion,
    /// More certificates than are looked at.
    TooManyCertificates,
    /// The issuer is not among the anchors.
    UnknownIssuer,
    /// A signature or key algorithm that is not accepted.
    UnsupportedAlgorithm,
    /// A critical extension that is not understood.
    UnsupportedExtension,
    /// The certificate is not for this end of a connection.
    WrongPurpose,
    /// The server's certificate is not for the name that was wanted.
    WrongServerName,
}

impl RefusalReason {
    /// Every reason, for metrics that begin at zero.
    pub const ALL: [Self; 34] = [
        Self::Aborted,
        Self::AmbiguousIdentity,
        Self::AnchorExpired,
        Self::BadName,
        Self::BadProxyHeader,
        Self::BadSignature,
        Self::CaAsLeaf,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::ChainBroken,
        Self::ChainTooComplex,
        Self::CoolingDown,
        Self::Crowded,
        Self::Full,
        Self::Incompatible,
        Self::Malformed,
        Self::Misbehaved,
        Self::NameConstraint,
        Self::NoCertificate,
        Self::NoIdentity,
        Self::NoRole,
        Self::NotTls,
        Self::PossessionNotProven,
        Self::RateExceeded,
        Self::TimedOut,
        Self::TlsMasterSecret,
        Self::TlsSuite,
        Self::TlsVersion,
        Self::TooManyCertificates,
        Self::UnknownIssuer,
        Self::UnsupportedAlgorithm,
        Self::UnsupportedExtension,
        Self::WrongPurpose,
        Self::WrongServerName,
    ];

    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::AmbiguousIdentity => "ambiguous_identity",
            Self::AnchorExpired => "anchor_expired",
            Self::BadName => "bad_name",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::BadSignature => "bad_signature",
            Self::CaAsLeaf => "ca_as_leaf",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::ChainBroken => "chain_broken",
            Self::ChainTooComplex => "chain_too_complex",
            Self::CoolingDown => "cooling_down",
            Self::Crowded => "crowded",
            Self::Full => "full",
            Self::Incompatible => "incompatible",
            Self::Malformed => "malformed",
            Self::Misbehaved => "misbehaved",
            Self::NameConstraint => "name_constraint",
            Self::NoCertificate => "no_certificate",
            Self::NoIdentity => "no_identity",
            Self::NoRole => "no_role",
            Self::NotTls => "not_tls",
            Self::PossessionNotProven => "possession_not_proven",
            Self::RateExceeded => "rate_exceeded",
            Self::TimedOut => "timed_out",
            Self::TlsMasterSecret => "tls_master_secret",
            Self::TlsSuite => "tls_suite",
            Self::TlsVersion => "tls_version",
            Self::TooManyCertificates => "too_many_certificates",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnsupportedExtension => "unsupported_extension",
            Self::WrongPurpose => "wrong_purpose",
            Self::WrongServerName => "wrong_server_name",
        }
    }

    /// What an operator can do about it.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table, an entry a reason")]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Aborted => {
                "look at the log of the other end: it ended the handshake, often because it refused this one's certificate"
            }
            Self::AmbiguousIdentity => {
                "issue a certificate with one SPIFFE URI, or with names that all map to the same site and name"
            }
            Self::AnchorExpired => "renew the authority's certificate and put it into ca_file",
            Self::BadName => {
                "site and name are 1 to 63 characters of a-z, 0-9, `_` and `-`; wildcards are no identity"
            }
            Self::BadProxyHeader => {
                "let the load balancer send PROXY protocol version 2, or take its address out of tcp.proxy.from"
            }
            Self::BadSignature => {
                "the chain was put together from certificates of different authorities, or two authorities share a name"
            }
            Self::CaAsLeaf => "connect with the collector's own certificate, not with the authority's",
            Self::CertificateExpired => "renew the certificate, and check the clocks of both hosts",
            Self::CertificateNotYetValid => "check the clocks of both hosts",
            Self::ChainBroken => {
                "every certificate between leaf and anchor must be an authority's, within its path length"
            }
            Self::ChainTooComplex => "present the leaf and its intermediates only",
            Self::CoolingDown => {
                "its process or network fails again and again: look at its log; see tcp.flapping"
            }
            Self::Crowded => "many connect and say nothing: look who they are, or raise tcp.max_waiting",
            Self::Full => "raise tcp.max_connections, or add a gateway",
            Self::Incompatible => "the other end must offer ALPN h2",
            Self::Malformed => "the certificate cannot be read: issue it again",
            Self::Misbehaved => "the other end does not follow TLS; check for a middlebox or a faulty client",
            Self::NameConstraint => {
                "the authority is constrained to other names; URI constraints always refuse"
            }
            Self::NoCertificate => {
                "configure cert_file and key_file on the collector: mutual TLS is mandatory"
            }
            Self::NoIdentity => {
                "issue a certificate with a SPIFFE URI or DNS name of a form listed in [identity]"
            }
            Self::NoRole => "add a role whose match fits this peer to the policy, or leave it outside",
            Self::NotTls => {
                "something that speaks no TLS connected: a scanner, a load balancer's health check, or a client without TLS"
            }
            Self::PossessionNotProven => {
                "the key that signed is not the certificate's: check key_file, or somebody borrows the certificate"
            }
            Self::RateExceeded => {
                "somebody scans or floods, or the certificates of a whole site are refused: look at the other reasons from there; see tcp.rates"
            }
            Self::TimedOut => {
                "the network is slow or the stranger silent; see tcp.greeting_timeout, tcp.handshake_timeout"
            }
            Self::TlsMasterSecret => {
                "the other end must speak TLS 1.3, or TLS 1.2 with the extended master secret (RFC 7627)"
            }
            Self::TlsSuite => {
                "the other end must offer ECDHE with AEAD: AES-GCM or ChaCha20-Poly1305, on X25519, P-256 or P-384"
            }
            Self::TlsVersion => "the other end must speak TLS 1.2 or 1.3; see tcp.tls_config.min_tls_version",
            Self::TooManyCertificates => "present the leaf and its intermediates only, five at most",
            Self::UnknownIssuer => {
                "put the issuing authority into ca_file, and let the other end present its intermediates"
            }
            Self::UnsupportedAlgorithm => {
                "use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more, with SHA-256 or better"
            }
            Self::UnsupportedExtension => "issue the certificate without that critical extension",
            Self::WrongPurpose => {
                "issue it with extended key usage clientAuth (for a collector) or serverAuth (for a gateway)"
            }
            Self::WrongServerName => {
                "the gateway's certificate has other names: check the address, or the configured server names"
            }
        }
    }

    /// The reason behind an answer of webpki.
    pub(super) const fn of(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::CertificateExpired,
            E::CertNotValidYet { .. } => Self::CertificateNotYetValid,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::CaUsedAsEndEntity => Self::CaAsLeaf,
            E::EndEntityUsedAsCa | E::PathLenConstraintViolated => Self::ChainBroken,
            E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => Self::BadSignature,
            E::EmptyEkuExtension | E::RequiredEkuNotFoundContext(_) => Self::WrongPurpose,
            E::NameConstraintViolation | E::MalformedNameConstraint | E::InvalidNetworkMaskConstraint => {
                Self::NameConstraint
            }
            E::MaximumNameConstraintComparisonsExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumPathDepthExceeded
            | E::MaximumSignatureChecksExceeded => Self::ChainTooComplex,
            E::UnsupportedCriticalExtension => Self::UnsupportedExtension,
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::UnsupportedAlgorithm,
            E::CertNotValidForName(_) => Self::WrongServerName,
            _ => Self::Malformed,
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for RefusalReason {}

impl serde::Serialize for RefusalReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own() {
        let codes: BTreeSet<&str> = RefusalReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes.len(), RefusalReason::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())));
    }
}
