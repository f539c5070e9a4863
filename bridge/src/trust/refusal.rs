//! Why a stranger was refused: a closed list of stable codes.
//!
//! A peer is told one and the same alert whatever the reason, because TLS's own alerts tell a revoked certificate from an
//! expired and an unknown one. The operator is told the code and what to do.

use std::fmt;

/// Makes the list out of one table: what it means, its code, and what to do.
macro_rules! reasons {
    ($(#[doc = $meaning:literal] $name:ident = $code:literal, $hint:literal;)*) => {
        /// Why a connection was refused. The codes are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum RefusalReason {
            $(#[doc = $meaning] $name,)*
        }

        impl RefusalReason {
            /// Every reason, for metrics that begin at zero.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning.trim_ascii(),)*
                }
            }

            /// What an operator can do about it.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self {
                    $(Self::$name => $hint,)*
                }
            }
        }
    };
}

reasons! {
    /// The stranger hung up or sent an alert.
    Aborted = "aborted", "look at the log of the other end: it ended the handshake, often because it refused this one's certificate";
    /// The certificate names two identities.
    AmbiguousIdentity = "ambiguous_identity", "issue a certificate with one SPIFFE URI, or with names that all map to the same site and name";
    /// The anchor of the path is not valid now.
    AnchorExpired = "anchor_expired", "renew the authority's certificate and put it into ca_file";
    /// The anchor of the path may not speak for the trust domain of a SPIFFE URI in the certificate.
    AnchorNotForDomain = "anchor_not_for_domain", "the authority is limited to other trust domains: issue the certificate under the right one, or widen trust_domains of the anchor";
    /// The anchor of the path may not speak for the peer's site.
    AnchorNotForSite = "anchor_not_for_site", "the authority is limited to other sites: issue the certificate under the right one, or widen sites of the anchor";
    /// The anchor of the path is not valid yet.
    AnchorNotYetValid = "anchor_not_yet_valid", "check this host's clock; if it is right, take the authority into ca_file only once it is valid";
    /// More authorities stand in the path than the anchor allows.
    AnchorPathLength = "anchor_path_length", "issue from an authority right below the anchor, or replace the anchor by one with a higher path length";
    /// A name in the certificate has the form of an identity with a part that cannot be one.
    BadName = "bad_name", "site and name are 1 to 63 characters of a-z, 0-9, `_` and `-`; wildcards are no identity";
    /// A proxy did not say for whom it connects.
    BadProxyHeader = "bad_proxy_header", "let the load balancer send PROXY protocol version 2, or take its address out of tcp.proxy.from";
    /// A signature of the path does not check out.
    BadSignature = "bad_signature", "the chain was put together from certificates of different authorities, or two authorities share a name";
    /// The certificate is one of an authority.
    CaAsLeaf = "ca_as_leaf", "connect with the collector's own certificate, not with the authority's";
    /// An authority's certificate does not allow it to sign certificates.
    CaKeyUsage = "ca_key_usage", "issue the authority's certificate again with key usage keyCertSign";
    /// An authority's extended key usage leaves out what its certificates are used for.
    CaPurpose = "ca_purpose", "issue the authority's certificate again without extended key usage, or with clientAuth (above collectors) and serverAuth (above gateways)";
    /// The peer's own certificate is past its validity.
    CertificateExpired = "certificate_expired", "renew the certificate, and check the clocks of both hosts";
    /// The peer's own certificate is not valid yet.
    CertificateNotYetValid = "certificate_not_yet_valid", "check the clocks of both hosts";
    /// The peer's own certificate is revoked.
    CertificateRevoked = "certificate_revoked", "issue a new certificate with a new key, if the revocation was meant for another";
    /// Building a path would cost too much.
    ChainTooComplex = "chain_too_complex", "present the leaf and its intermediates only";
    /// A peer that was proven connects again and again, and has to wait.
    CoolingDown = "cooling_down", "its process or network fails again and again: look at its log; see tcp.flapping";
    /// The revocation list of an issuer is out of date.
    CrlStale = "crl_stale", "publish a new list of that issuer, or set what stale lists do";
    /// The longest silent one made room while too many had yet to say who they are.
    Crowded = "crowded", "many connect and say nothing: look who they are, or raise tcp.max_waiting";
    /// The deny-list names the peer.
    Denied = "denied", "take the entry off the deny-list with `daemoneye-cli deny remove`, if it is no longer meant";
    /// As many peers are connected as may be.
    Full = "full", "raise tcp.max_connections, or add a gateway";
    /// No protocol in common.
    Incompatible = "incompatible", "the other end must offer ALPN h2 and a group and signature in common";
    /// A certificate between leaf and anchor is past its validity.
    IntermediateExpired = "intermediate_expired", "renew the intermediate, and let the other end present the new one";
    /// A certificate between leaf and anchor is not valid yet.
    IntermediateNotYetValid = "intermediate_not_yet_valid", "check this host's clock; if it is right, issue under an authority that is valid already";
    /// A certificate between leaf and anchor is revoked.
    IntermediateRevoked = "intermediate_revoked", "everything below that authority is revoked: issue anew under another";
    /// The key usage of the peer's certificate does not suit a leaf.
    KeyUsage = "key_usage", "issue it with key usage digitalSignature and without keyCertSign";
    /// A certificate of an end entity was used as an authority's.
    LeafAsCa = "leaf_as_ca", "every certificate between leaf and anchor must be an authority's (basic constraints CA)";
    /// The peer's certificate is valid for longer than is allowed.
    LifetimeTooLong = "lifetime_too_long", "issue it for a shorter time, or raise max_leaf_lifetime";
    /// A certificate cannot be read.
    Malformed = "malformed", "the certificate cannot be read: issue it again";
    /// The stranger broke the rules of TLS.
    Misbehaved = "misbehaved", "the other end does not follow TLS; check for a middlebox or a faulty client";
    /// A known intermediate was not presented.
    MissingIntermediate = "missing_intermediate", "let the other end present its intermediates after its own certificate";
    /// An authority may not speak for a name in the certificate.
    NameConstraint = "name_constraint", "the authority is constrained to other names: issue the certificate under one that is not";
    /// An authority is constrained by URI, e-mail address or directory name.
    NameConstraintUri = "name_constraint_uri", "constrain the authority by DNS names or addresses: other constraints always refuse; limit the anchor by sites and trust_domains instead";
    /// No certificate was presented.
    NoCertificate = "no_certificate", "configure cert_file and key_file on the collector: mutual TLS is mandatory";
    /// The certificate names nobody.
    NoIdentity = "no_identity", "issue a certificate with a SPIFFE URI or DNS name of a form listed in [identity]";
    /// The certificate says not at all what it is for.
    NoPurpose = "no_purpose", "issue it with extended key usage clientAuth (for a collector) or serverAuth (for a gateway)";
    /// No role of the policy matches the peer.
    NoRole = "no_role", "add a role whose match fits this peer to the policy, or leave it outside";
    /// A certificate breaks a rule of RFC 5280.
    NonConforming = "non_conforming", "issue the certificate again with a tool that follows RFC 5280";
    /// What was sent is not TLS.
    NotTls = "not_tls", "something that speaks no TLS connected: a scanner, a load balancer's health check, or a client without TLS";
    /// More authorities stand in the path than an intermediate allows.
    PathLength = "path_length", "issue from an authority higher up, or raise the path length of the one that forbids it";
    /// More authorities stand in the path than are allowed at all.
    PathTooDeep = "path_too_deep", "issue from an authority nearer to the anchor, or trust an authority further down";
    /// As many connections of the peer are open as may be.
    PeerFull = "peer_full", "a copy of the collector runs, or its old connections hang: look there, or raise tcp.max_connections_per_peer";
    /// The key of the certificate was not proven to be held.
    PossessionNotProven = "possession_not_proven", "the key that signed is not the certificate's: check key_file, or somebody borrows the certificate";
    /// Too many connections of a network, or of all, prove nothing.
    RateExceeded = "rate_exceeded", "somebody scans or floods, or the certificates of a whole site are refused: look at the other reasons from there; see tcp.rates";
    /// An issuer demands a revocation list and none is there.
    RevocationUnknown = "revocation_unknown", "put the list of that issuer among the revocation lists, or set what its absence means";
    /// As many peers of the site are connected as may be.
    SiteFull = "site_full", "raise tcp.max_connections_per_site, or look who of that site connects";
    /// The handshake took too long.
    TimedOut = "timed_out", "the network is slow or the stranger silent; see tcp.greeting_timeout, tcp.handshake_timeout";
    /// TLS 1.2 without the extended master secret.
    TlsMasterSecret = "tls_master_secret", "the other end must speak TLS 1.3, or TLS 1.2 with the extended master secret (RFC 7627)";
    /// No cipher suite or group in common.
    TlsSuite = "tls_suite", "the other end must offer ECDHE with AEAD: AES-GCM or ChaCha20-Poly1305, on X25519, P-256 or P-384";
    /// No version of TLS in common.
    TlsVersion = "tls_version", "the other end must speak TLS 1.2 or 1.3; see tcp.tls_config.min_tls_version";
    /// More certificates than are looked at.
    TooManyCertificates = "too_many_certificates", "present the leaf and its intermediates only, five at most";
    /// The issuer is not among the anchors.
    UnknownIssuer = "unknown_issuer", "put the issuing authority into ca_file, and let the other end present its intermediates";
    /// A signature or key algorithm that is not accepted.
    UnsupportedAlgorithm = "unsupported_algorithm", "use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more, with SHA-256 or better";
    /// A critical extension that is not understood.
    UnsupportedExtension = "unsupported_extension", "issue the certificate without that critical extension";
    /// The key of an authority in the path is too weak.
    WeakCaKey = "weak_ca_key", "everything below that authority is open to forgery: replace it by one with ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more";
    /// The key of the peer's certificate is too weak.
    WeakKey = "weak_key", "use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more";
    /// A signature of the path is of a kind that can be forged.
    WeakSignature = "weak_signature", "sign with SHA-256 or better";
    /// The certificate is not for this end of a connection.
    WrongPurpose = "wrong_purpose", "issue it with extended key usage clientAuth (for a collector) or serverAuth (for a gateway)";
    /// The server's certificate is not for the name that was wanted.
    WrongServerName = "wrong_server_name", "the gateway's certificate has other names: check the address, or the configured server names";
}

impl RefusalReason {
    /// The reason behind an answer of webpki.
    pub(super) const fn of(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::CertificateExpired,
            E::CertNotValidYet { .. } => Self::CertificateNotYetValid,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::CaUsedAsEndEntity => Self::CaAsLeaf,
            E::EndEntityUsedAsCa => Self::LeafAsCa,
            E::PathLenConstraintViolated => Self::PathLength,
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
