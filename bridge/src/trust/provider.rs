//! Which cryptography is offered.
//!
//! TLS 1.3 first, 1.2 as the floor with ECDHE and AEAD only. AES-128-GCM comes first because it is the fastest where AES
//! is in hardware, which is where gateways run; X25519MLKEM768 is offered against who records today and decrypts later.

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, ConfigBuilder, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, WantsVerifier,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite as suite, kx_group},
    },
    version,
};

/// The lowest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    /// TLS 1.2, with extended master secret.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

impl Floor {
    /// The number, as configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    /// Begins the settings of an accepting end.
    pub(super) fn accepting(self) -> ConfigBuilder<ServerConfig, WantsVerifier> {
        let builder = ServerConfig::builder_with_provider(provider());
        builder.with_protocol_versions(self.versions()).expect(SUITES_EXIST)
    }

    /// Begins the settings of a dialling end.
    pub(super) fn dialling(self) -> ConfigBuilder<ClientConfig, WantsVerifier> {
        let builder = ClientConfig::builder_with_provider(provider());
        builder.with_protocol_versions(self.versions()).expect(SUITES_EXIST)
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => &ONE,
        }
    }
}

impl std::str::FromStr for Floor {
    type Err = FloorError;

    fn from_str(text: &str) -> Result<Self, FloorError> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(FloorError),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Floor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Not a version of TLS that may be the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lowest version of TLS is \"1.2\" or \"1.3\"; older ones are not spoken")]
pub struct FloorError;

/// The one provider of cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: SUITES.to_vec(),
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

const SUITES_EXIST: &str = "the provider has suites for every version that may be the floor";

static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

static ONE: [&SupportedProtocolVersion; 1] = [&version::TLS13];

const SUITES: [SupportedCipherSuite; 9] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_have_suites_and_the_hybrid_group_comes_first() {
        let provider = provider();
        assert!(provider.cipher_suites.iter().any(|suite| suite.version() == &version::TLS12));
        assert_eq!(provider.cipher_suites[0], suite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(provider.kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn a_version_below_the_floor_is_refused() {
        assert_eq!("1.1".parse::<Floor>(), Err(FloorError));
        assert_eq!("1.3".parse::<Floor>(), Ok(Floor::Tls13));
    }
}
