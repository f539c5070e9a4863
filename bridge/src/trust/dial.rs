//! The dialling side: the server's chain and name are checked, the own certificate is always presented.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::trust::{Claim, Finding, Floor, Material, Profile, RefusalReason, Role, ServerNames, provider};

impl Material {
    /// Settings to dial with: `protocols` for ALPN, `names` that the server may have.
    #[must_use]
    pub fn client_config(
        self: &Arc<Self>,
        protocols: &[&[u8]],
        floor: Floor,
        names: &ServerNames,
    ) -> ClientConfig {
        let verifier = ServerVerifier { material: Arc::clone(self), names: names.clone() };
        let mut config = floor
            .dialling()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.resolver());
        // A resumed session never meets the verifier.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.require_ems = true;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Judges again what a server presented when `host` was dialled: as long as it is trusted, until when its path is valid.
    /// A revocation list that went stale or is missing ends nothing that lives.
    ///
    /// # Errors
    ///
    /// Why it would not be.
    pub fn judge_server(
        &self,
        presented: &[CertificateDer<'_>],
        host: &str,
        names: &ServerNames,
        now: UnixTime,
    ) -> Result<SystemTime, RefusalReason> {
        let (leaf, intermediates) = presented.split_first().ok_or(RefusalReason::NoCertificate)?;
        let claim = Claim { role: Role::Server, leaf, intermediates, now };
        let chain = match self.verify(&claim, &Profile::default(), None).map_err(|finding| finding.reason()) {
            Err(RefusalReason::CrlStale | RefusalReason::RevocationUnknown) => self.verify_live(&claim)?,
            judged => judged?,
        };
        let host = ServerName::try_from(host).map_err(|_| RefusalReason::WrongServerName)?;
        names.check(&chain, &host)?;
        Ok(chain.not_after())
    }
}

/// Judges the server that was dialled.
#[derive(Debug)]
struct ServerVerifier {
    material: Arc<Material>,
    names: ServerNames,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let claim = Claim { role: Role::Server, leaf: end_entity, intermediates, now };
        self.material
            .verify(&claim, &Profile::default(), None)
            .and_then(|chain| self.names.check(&chain, server_name).map_err(Finding::from))
            .map(|()| ServerCertVerified::assertion())
            .map_err(|finding| {
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(finding))))
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider::provider().signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider::provider().signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Why the server was refused, if a failed handshake was this end's refusal.
#[must_use]
pub fn refusal_of(error: &std::io::Error) -> Option<RefusalReason> {
    finding_of(error).map(Finding::reason)
}

/// What exactly was wrong with the server's chain, if a failed handshake was this end's refusal.
#[must_use]
pub fn finding_of(error: &std::io::Error) -> Option<&Finding> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(finding))) => finding.downcast_ref(),
        _ => None,
    }
}
