//! The accepting side: mandatory client certificates, judged with a recorder per connection.
//!
//! A rustls verifier does not know which connection it serves, so each handshake gets a `ServerConfig` of its own; it is
//! made of shared parts in well under a microsecond. A refusal is held back until the signature over the handshake was
//! checked: so it is known whether the stranger holds the key of the certificate that is blamed.
//!
//! Kept true: [`Recorder::outcome`] is `Ok` only after chain, judge and signature agreed; whatever the reason of a refusal,
//! the peer sees `access_denied`.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::trust::{
    Claim, Finding, Floor, Judge, MAX_CHAIN, Material, Profile, RefusalReason, Role, VerifiedChain, provider,
};

/// On which terms connections are accepted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Protocols of ALPN, the preferred first.
    pub protocols: Vec<Vec<u8>>,
    /// Lowest version of TLS.
    pub floor: Floor,
    /// What the chain profile leaves to the operator.
    pub profile: Profile,
    /// Asked about each chain that was verified.
    pub judge: Arc<dyn Judge>,
}

/// One generation of material, ready to accept handshakes.
#[derive(Clone, Debug)]
pub struct Admission {
    material: Arc<Material>,
    /// Own chain and key, shared by all handshakes.
    resolver: Arc<dyn ResolvesServerCert>,
    terms: Terms,
}

impl Admission {
    /// Makes `material` ready to accept on `terms`.
    #[must_use]
    pub fn new(material: Arc<Material>, terms: Terms) -> Self {
        let resolver: Arc<dyn ResolvesServerCert> = material.resolver();
        Self { material, resolver, terms }
    }

    /// The generation in use.
    #[must_use]
    pub const fn material(&self) -> &Arc<Material> {
        &self.material
    }

    /// Settings for one handshake, and the recorder that will know how it was judged.
    #[must_use]
    pub fn handshake(&self) -> (Arc<ServerConfig>, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let verifier = ClientVerifier {
            material: Arc::clone(&self.material),
            judge: Arc::clone(&self.terms.judge),
            profile: self.terms.profile.clone(),
            recorder: Arc::clone(&recorder),
        };
        let builder = self.terms.floor.accepting();
        let mut config = builder
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&self.resolver));
        // A resumed session never meets the verifier: a revoked peer would come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.require_ems = true;
        config.ignore_client_order = true;
        config.alpn_protocols.clone_from(&self.terms.protocols);
        (Arc::new(config), recorder)
    }
}

/// How one handshake was judged.
#[derive(Debug, Default)]
pub struct Recorder {
    /// What was presented, if anything was.
    presented: OnceLock<Presented>,
    /// Whether the stranger proved to hold the key.
    possession: OnceLock<bool>,
}

/// What a stranger presented.
#[derive(Clone, Debug)]
pub struct Presented {
    /// How the chain was judged.
    pub verdict: Verdict,
    /// The first [`MAX_CHAIN`] certificates.
    pub chain: Vec<CertificateDer<'static>>,
}

/// How a chain was judged.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It leads to an anchor and names somebody.
    Accepted(Arc<VerifiedChain>),
    /// It does not.
    Refused(Finding),
}

impl Recorder {
    /// The chain, if it was accepted and its key proven to be held.
    ///
    /// # Errors
    ///
    /// The reason to refuse; [`RefusalReason::NoCertificate`] if none was presented.
    pub fn outcome(&self) -> Result<Arc<VerifiedChain>, RefusalReason> {
        match (self.presented.get().map(|presented| &presented.verdict), self.possession.get()) {
            (None, _) => Err(RefusalReason::NoCertificate),
            (Some(Verdict::Refused(finding)), _) => Err(finding.reason()),
            (Some(Verdict::Accepted(chain)), Some(true)) => Ok(Arc::clone(chain)),
            (Some(Verdict::Accepted(_)), Some(false)) => Err(RefusalReason::PossessionNotProven),
            (Some(Verdict::Accepted(_)), None) => Err(RefusalReason::Aborted),
        }
    }

    /// What was presented.
    #[must_use]
    pub fn presented(&self) -> Option<&Presented> {
        self.presented.get()
    }

    /// What exactly is wrong with what was presented.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        match &self.presented.get()?.verdict {
            Verdict::Accepted(_) => None,
            Verdict::Refused(finding) => Some(finding),
        }
    }

    /// Whether the stranger proved to hold the key of what was presented.
    #[must_use]
    pub fn possession_proven(&self) -> bool {
        self.possession.get().is_some_and(|proven| *proven)
    }
}

/// Judges the client of one connection.
#[derive(Debug)]
struct ClientVerifier {
    material: Arc<Material>,
    judge: Arc<dyn Judge>,
    profile: Profile,
    recorder: Arc<Recorder>,
}

impl ClientVerifier {
    fn weigh(&self, claim: &Claim<'_>) -> Result<VerifiedChain, Finding> {
        self.material.verify(claim, &self.profile, Some(&*self.judge))
    }

    /// The end of the judgement: the signature's answer, then the one that was held back.
    fn settle(
        &self,
        signature: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        // A second answer for one connection would be rustls asking twice; the first stands.
        let proven = *self.recorder.possession.get_or_init(|| signature.is_ok());
        match (signature, self.recorder.outcome()) {
            (Ok(valid), Ok(_)) if proven => Ok(valid),
            _ => Err(denied()),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Naming the authorities would tell every scanner whose fleet this is.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let judged = self.weigh(&Claim { role: Role::Client, leaf: end_entity, intermediates, now });
        // These are refused before anything costly is done for them, a signature check included.
        let reason = judged.as_ref().err().map(Finding::reason);
        let at_once = matches!(reason, Some(RefusalReason::TooManyCertificates | RefusalReason::Malformed));
        let verdict = judged.map_or_else(Verdict::Refused, |chain| Verdict::Accepted(Arc::new(chain)));
        let chain = std::iter::once(end_entity)
            .chain(intermediates)
            .take(MAX_CHAIN)
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let first = self.recorder.presented.set(Presented { verdict, chain }).is_ok();
        if first && !at_once { Ok(ClientCertVerified::assertion()) } else { Err(denied()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider::provider().signature_verification_algorithms;
        self.settle(crypto::verify_tls12_signature(message, cert, dss, &algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider::provider().signature_verification_algorithms;
        self.settle(crypto::verify_tls13_signature(message, cert, dss, &algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The one error that becomes the alert `access_denied`.
const fn denied() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
